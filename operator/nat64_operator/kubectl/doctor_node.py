"""`kubectl nat64 doctor`, one node: kernel, sysctls, links, routes, ports and sessions. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from nat64_operator.kubectl.agents import TRANSLATOR, Agent
from nat64_operator.kubectl.checks import Step, note, ok, stop
from nat64_operator.kubectl.doctor_overlap import MODULES
from nat64_operator.kubectl.status import FULL_PERCENT

OLDEST_KERNEL = (6, 1)
"""The oldest kernel on which the tests load the programs."""
TCX_KERNEL = (6, 6)
LEAST_UPLINK_MTU = 1260

_DROP_REMEDIES = {
    "ports_exhausted": "add addresses or ports to spec.pools",
    "client_port_share": "a pod holds as many ports as are left for all others: `kubectl nat64 bib "
    "--node` says which; add addresses or ports to spec.pools if it may",
    "client_session_limit": "a pod has spec.limits.sessionsPerClient connections open: raise "
    "it, or look at `kubectl nat64 bib --node` for the pod",
    "session_table_full": "raise spec.limits.sessions",
    "client_port_limit": "a pod holds spec.limits.portsPerClient ports: raise it, or look at "
    "`kubectl nat64 bib --node` for the pod",
    "client_session_rate": "a pod opens connections faster than "
    "spec.limits.newSessionsPerSecondPerClient",
    "inbound_session_limit": "IPv4 hosts flood a mapped port, or spec.limits.sessions is too low: "
    "`nat64-translator sessions` on the node says which",
    "not_configured": "packets came before the first config: harmless unless it goes on",
    "internal": "a kernel helper failed: look at the node's memory, then report it",
    "source_denied": "senders outside spec.policy.allowedSources",
    "source_behind_uplink": "machines outside of the cluster use this node as a translator, or "
    "try to; list them in spec.policy.allowedSources if that is meant",
}


def examine(found: dict[str, Any], agent: Agent) -> Iterator[Step]:
    """Judge what `nat64-translator inspect` says about a node."""
    yield _kernel(found["kernel"])
    if not found["bpffs"]:
        yield stop(
            "kernel",
            "no bpffs at /sys/fs/bpf: sessions would not outlive the agent",
            "`mount -t bpf bpf /sys/fs/bpf` on the node, then delete the translator's pod",
        )
    sysctls = found["sysctls"]
    if sysctls.get("net.ipv6.conf.all.disable_ipv6") == "1":
        yield stop("sysctls", "net.ipv6.conf.all.disable_ipv6 is 1", "set it to 0 on the node")
    yield from _sysctls(found, sysctls)
    if not agent.router:  # which needs no IPv4
        for problem in found["problems"]:
            yield stop("IPv4 uplink", f"{problem['reason']}: {problem['message']}", _UPLINK_REMEDY)
        if not found["problems"]:
            yield from _uplinks(found)
    yield from _routes(found, _log_of(agent))
    for module in found["modules"]:
        if module in MODULES:
            yield stop(
                "overlap",
                f"the kernel module {module} is loaded: {MODULES[module]}",
                f"`rmmod {module}` on the node, unless it serves another prefix on purpose",
            )


def room(status: dict[str, Any], agent: Agent) -> Iterator[Step]:
    """Judge what `nat64-translator status` says about a node."""
    if not status["programmed"]:
        yield stop("translator", status["reason"] or "not programmed", _log_of(agent))
        return
    yield ok("translator", "programmed")
    if links := status.get("advertised"):
        yield ok("advertisement", f"hosts on {', '.join(links)} are told of the prefix")
    for warning in status.get("warnings") or ():
        yield note("warning", f"{warning['reason']}: {warning['message']}", warning["remedy"])
    for pool in status.get("pools") or ():
        if pool["used"] * 100 >= pool["available"] * FULL_PERCENT:
            yield note(
                "ports",
                f"{pool['used']} of {pool['available']} {pool['protocol']} ports of "
                f"{pool['address']} are taken",
                _DROP_REMEDIES["ports_exhausted"],
            )
    sessions, limit = status.get("sessions") or 0, status.get("sessionLimit") or 0
    if limit and sessions * 100 >= limit * FULL_PERCENT:
        yield note(
            "sessions",
            f"{sessions} of {limit} sessions are taken",
            _DROP_REMEDIES["session_table_full"],
        )
    for drop in status.get("drops") or ():
        if remedy := _DROP_REMEDIES.get(drop["reason"]):
            packets = f"{drop['packets']} packets were dropped"
            yield note("drops", f"{packets}: {drop['reason']}, {drop['meaning']}", remedy)


_UPLINK_REMEDY = (
    "give the node IPv4: an address and a default route; or name spec.uplinks and spec.pools; or "
    "keep the gateway off this node by spec.nodeSelector"
)


def _log_of(agent: Agent) -> str:
    log = f"kubectl -n {agent.namespace} logs {agent.pod} -c {TRANSLATOR}"
    return f"the pod's log says more: `{log}`"


def _kernel(release: str) -> Step:
    numbers = tuple(int(part) for part in re.findall(r"\d+", release)[:2])
    if numbers < OLDEST_KERNEL:
        oldest = ".".join(map(str, OLDEST_KERNEL))
        text = f"Linux {release} is older than {oldest}, the oldest that is tested"
        return note("kernel", text, f"Linux {oldest} or newer")
    if numbers < TCX_KERNEL:
        return ok("kernel", f"Linux {release}; programs are attached by clsact, not by tcx (6.6)")
    return ok("kernel", f"Linux {release}")


def _sysctls(found: dict[str, Any], sysctls: dict[str, str | None]) -> Iterator[Step]:
    if sysctls.get("net.ipv6.conf.all.forwarding") != "1":
        yield stop(
            "sysctls",
            f"net.ipv6.conf.all.forwarding is {sysctls.get('net.ipv6.conf.all.forwarding')}: "
            "the node doesn't forward the pods' packets",
            "something turned it off after the translator's init container had set it: find that, "
            "then delete the translator's pod so that the init container runs again",
        )
    elif found["unreservedPorts"]:
        yield note(
            "sysctls",
            f"the pool's ports {found['unreservedPorts']} are not in "
            "net.ipv4.ip_local_reserved_ports: the node's own sockets may be given them",
            "something overwrote the sysctl: add the ports there too, then delete the "
            "translator's pod",
        )
    else:
        yield ok("sysctls", "IPv6 forwarding is on, the pool's ports are reserved")
    if sysctls.get("net.core.bpf_jit_enable") == "0":
        yield note(
            "sysctls",
            "net.core.bpf_jit_enable is 0: the programs are interpreted, slowly",
            "set it to 1 on the node",
        )


def _uplinks(found: dict[str, Any]) -> Iterator[Step]:
    names = ", ".join(uplink["name"] for uplink in found["uplinks"])
    pool = found["pool"]
    first = f"{pool[0]['address']} ports {pool[0]['first']}-{pool[0]['last']}" if pool else "none"
    more = f" and {len(pool) - 1} more" if len(pool) > 1 else ""
    if found["defaultRoutes"]:
        yield ok("IPv4 uplink", f"{names}, pool {first}{more}")
    else:
        yield note(
            "IPv4 uplink",
            f"{names}, pool {first}{more}, but the node has no IPv4 default route",
            "give it one, unless only some IPv4 networks are to be reached",
        )
    links = {link["name"]: link for link in found["links"]}
    for uplink in found["uplinks"]:
        if uplink["mtu"] < LEAST_UPLINK_MTU:
            yield note(
                "IPv4 uplink",
                f"{uplink['name']} has an MTU of {uplink['mtu']}: IPv6 packets of 1280 bytes, "
                "1260 as IPv4, are fragmented on their way out",
                "raise its MTU if the network allows it",
            )
        if not links.get(uplink["name"], {}).get("up", True):
            yield stop("IPv4 uplink", f"{uplink['name']} is down", "set it up")


def _routes(found: dict[str, Any], log: str) -> Iterator[Step]:
    link = next((one for one in found["links"] if one["name"] == found["interface"]), None)
    if link is None or not link["up"]:
        state = "is not there" if link is None else "is down"
        yield stop("routes", f"the interface {found['interface']} {state}", log)
    ours = {route["destination"] for route in found["prefixRoutes"] if route["ours"]}
    for prefix in filter(None, (found["prefix"], found.get("clatPrefix"))):
        if prefix in ours:
            yield ok("routes", f"{prefix} leads to {found['interface']}")
        else:
            yield stop("routes", f"the translator has no route for {prefix}", log)
    for route in found["prefixRoutes"]:
        if not route["ours"]:
            yield note(
                "overlap",
                f"another route for {route['destination']} leads to {route['interface']} (table "
                f"{route['table']})",
                "another NAT64 or a router has it: remove it, or give the NAT64Gateway another "
                "prefix",
            )
