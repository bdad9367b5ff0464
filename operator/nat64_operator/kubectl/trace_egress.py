"""The second half of a trace: from the packet on its node to the server's answer. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nat64_operator.kubectl.checks import Step, note, ok, stop

_VERDICTS = {
    "DENIED": (
        "spec.policy.deniedDestinations contains it",
        "remove the range from the NAT64Gateway's deniedDestinations",
    ),
    "NOT_GLOBAL": (
        "it is not globally reachable, and 64:ff9b::/96 must not stand for such addresses "
        "(RFC 6052 section 3.1)",
        "give the NAT64Gateway a prefix of your own, as 64:ff9b:1::/96, or set allowNonGlobal",
    ),
    "SPECIAL": (
        "it is loopback, link-local (as metadata services are), multicast or reserved",
        "this is on purpose; NAT64Gateway spec.policy.allowedDestinations lifts it range by range",
    ),
    "LOCAL": (
        "it is an IPv4 address of the node itself",
        "reach the node over IPv6, or list the address in spec.policy.allowedDestinations",
    ),
}
_OPENING = {"V6_INIT", "V4_INIT"}


def walk(node: str, found: dict[str, Any], way: dict[str, Any]) -> Iterator[Step]:
    """The steps; the caller ends at the first that stops."""
    yield route(node, found, way)
    yield _policy(way)
    yield _ipv4_route(node, way)
    if "decision" in way:  # agents before this version have none
        yield _decision(node, way)
    yield _state(way)
    yield _packets(node, way)


def last_link(node: str, way: dict[str, Any]) -> Iterator[Step]:
    """That the pod's node doesn't find the pod on its link, where the agent says so."""
    found = way.get("neighbour")
    if not found or found["found"]:
        return
    yield stop(
        "neighbour",
        f"{node} asks for the pod on {found['interface']} and gets no answer (its neighbour entry "
        f"is {found['state']}): nothing reaches the pod, answers of DNS neither",
        "something drops the pod's neighbour advertisements, as some releases of kube-router do "
        "with pods under an egress NetworkPolicy (docs/cni.md); or the pod's network is broken: "
        "look at `ip -6 neigh` on the node",
    )


def route(node: str, found: dict[str, Any], way: dict[str, Any]) -> Step:
    """Whether the node's kernel gives the packet to the translator's interface."""
    taken, wanted = way["route"], found["interface"]
    if taken["error"]:
        return stop(
            "route",
            f"{node} has no route for {way['address']}: {taken['error']}",
            "the translator puts its route back by itself; `kubectl nat64 doctor` looks for what "
            "is in its way",
        )
    if taken["interface"] != wanted:
        return stop(
            "route",
            f"{node} sends {way['address']} to {taken['interface']} and not to {wanted}",
            "remove the more specific route or the routing rule, as another NAT64's; `kubectl "
            "nat64 doctor` names it",
        )
    return ok("route", f"{node} routes {way['address']} to {wanted}")


def _policy(way: dict[str, Any]) -> Step:
    if not way["sourceAllowed"]:
        return stop(
            "policy",
            "the pod's address is not in the NAT64Gateway's spec.policy.allowedSources",
            "add the pod's range there, or leave the list empty",
        )
    if way["verdict"] != "ALLOWED":
        why, remedy = _VERDICTS[way["verdict"]]
        return stop("policy", f"{way['ipv4']} may not be reached: {why}", remedy)
    return ok("policy", f"the pod may reach {way['ipv4']}")


def _ipv4_route(node: str, way: dict[str, Any]) -> Step:
    route = way["ipv4Route"]
    if route["error"]:
        return stop(
            "IPv4 route",
            f"{node} has no route to {way['ipv4']}: {route['error']}",
            "give the node an IPv4 default route: it translates for its own pods",
        )
    via = f" via {route['gateway']}" if route["gateway"] else ""
    return ok("IPv4 route", f"{node} reaches {way['ipv4']} by {route['interface']}{via}")


def _decision(node: str, way: dict[str, Any]) -> Step:
    """What the program on the node does with the first packet of the pod's own connection."""
    decision = way["decision"]
    packet = f"a TCP packet of the pod that comes in on {decision['link'] or 'no link'}"
    if decision["outcome"] == "translated":
        how = {"fast": "straight to the next link", "kernel": "through the node's kernel"}
        return ok(
            "program",
            f"{node} translates {packet}: it leaves from {decision['source']}, "
            f"{how[decision['way']]}",
        )
    if decision["outcome"] == "dropped":
        return stop(
            "program",
            f"{node} drops {packet}: {decision['reason']}, {decision['meaning']}",
            "docs/metrics.md has each reason to drop, docs/troubleshooting.md what to do",
        )
    return stop(
        "program",
        f"{node} does not translate {packet}: it is left to the node's kernel",
        "`kubectl nat64 doctor` says whether the translator is configured",
    )


def _state(way: dict[str, Any]) -> Step:
    sessions, bindings = way["sessions"], way["bindings"]
    details = [
        f"{s['protocol']} {s['client']} -> {s['address']} -> {s['remote']} {s['state']}, "
        f"{s['age']} old"
        for s in sessions[:5]
    ]
    if len(sessions) > 5:
        details.append(f"and {len(sessions) - 5} more")
    held = f"the pod holds {_count(len(bindings), 'port')}"
    if not sessions:
        return ok("BIB", f"{held}, and has no session with {way['ipv4']} now")
    text = f"{held}, and has {_count(len(sessions), 'session')} with {way['ipv4']}"
    if all(s["state"] in _OPENING for s in sessions if s["protocol"] == "tcp") and any(
        s["protocol"] == "tcp" for s in sessions
    ):
        return note("BIB", f"{text}; no TCP one was answered yet", "", details)
    return ok("BIB", text, details)


def _packets(node: str, way: dict[str, Any]) -> Step:
    probe = way["probe"]
    target = f"{way['ipv4']} port {probe['port']}"
    counted = tuple(
        f"{name}: {count}"
        for name, count in probe["counters"].items()
        if name.startswith(("translated_", "dropped_"))
    )
    if probe["outcome"] == "connected":
        took = f"{probe['milliseconds']} ms"
        return ok("packets", f"{node} itself opened TCP to {target} in {took}", counted)
    if probe["outcome"] == "refused":
        return stop(
            "packets",
            f"packets get through, and {target} refuses a connection of {node} itself",
            "nothing listens there: look at the port, and at the server",
            counted,
        )
    if not probe["sourceAllowed"]:
        return note(
            "packets",
            f"not tried: {node}'s own address {probe['source']} is not in allowedSources",
            "try from the pod",
            counted,
        )
    if probe["outcome"] != "timeout":
        return stop(
            "packets",
            f"{node} itself got an error from TCP to {target}: {probe['outcome']}",
            "an ICMP error came back from the IPv4 side, or from the node's own routing",
            counted,
        )
    names = [c for c in probe["counters"] if c.startswith("dropped_")]
    if names:
        return stop(
            "packets",
            f"{node} itself got no answer from {target}, and the translator dropped packets",
            "`kubectl nat64 status` says what each reason means",
            counted,
        )
    if not probe["counters"].get("translated_6to4"):
        return stop(
            "packets",
            f"{node}'s own packets to {way['address']} never reached the translator",
            "a firewall on the node drops them: look at `nft list ruleset` for the OUTPUT and "
            "FORWARD chains",
            counted,
        )
    if not probe["counters"].get("translated_4to6"):
        return stop(
            "packets",
            f"packets of {node} itself to {target} leave it as IPv4, and no answer comes back",
            "look on the IPv4 side: a firewall or cloud security group that drops the ports of "
            "the NAT64Gateway's spec.pools, a route back, the server itself",
            counted,
        )
    return stop(
        "packets",
        f"answers of {target} are translated, but {node} itself gets no connection",
        "a stateful firewall on the node may drop untracked packets: allow `ct state untracked` "
        "from the translator's interface",
        counted,
    )


def _count(number: int, thing: str) -> str:
    return f"{number or 'no'} {thing}" + ("" if number == 1 else "s")
