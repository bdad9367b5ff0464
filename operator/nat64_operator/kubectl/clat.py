"""The pods' CLAT in what the commands show: counts, pods without one, one pod's way. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Network
from typing import Any

from nat64_dataplane import pref64
from nat64_operator.kubectl.agents import Report
from nat64_operator.kubectl.checks import Step, note, ok, stop
from nat64_operator.kubectl.exec_output import Json
from nat64_operator.kubectl.output import Cell, Tone
from nat64_operator.render import names

MOST_NAMED = 5

WHY = {
    "no_ipv6_route": "no IPv6 route to the CLAT prefix",
    "no_ipv6_address": "no global IPv6 address that may be used",
    "has_ipv4": "an IPv4 address of its own",
    "no_next_hop": "an IPv6 route without a next hop, which an IPv4 route can't have either",
    "link_kind": "a link without an Ethernet header",
    "low_mtu": "a link with an MTU below 1280",
    "opted_out": "the annotation nat64-operator.io/clat",
    "other_gateway": "a CLAT of another NAT64Gateway",
}
"""Reasons of nat64_dataplane.clat.plan.LeftAlone; docs/clat.md has them all."""

WITHOUT_NAME = "IPv4 literals don't work in it; names do"


def counts(report: Report) -> dict[str, Any]:
    """A node's numbers, as `status -o json` prints them."""
    data = report.data or {}
    return {
        "node": report.agent.node,
        "gateway": report.agent.gateway,
        "ready": bool(data.get("ready")),
        "reason": report.error or data.get("reason") or "",
        "prefix": data.get("prefix"),
        "setUp": data.get("setUp"),
        "failed": data.get("failed") or {},
        "leftAlone": data.get("leftAlone") or {},
    }


def row(entry: dict[str, Any]) -> Sequence[str | Cell]:
    """A node's line of `status`."""
    failed = sum(entry["failed"].values())
    alone = ", ".join(f"{count} {reason}" for reason, count in sorted(entry["leftAlone"].items()))
    return (
        entry["node"],
        entry["gateway"],
        "-" if entry["setUp"] is None else str(entry["setUp"]),
        Cell(str(failed), Tone.CAREFUL if failed else Tone.PLAIN),
        alone or "-",
        entry["reason"],
    )


COLUMNS = ("NODE", "GATEWAY", "CLAT PODS", "FAILED", "LEFT ALONE", "REASON")


def examine(report: Report) -> Iterator[Step]:
    """What `doctor` says about a node's pods."""
    agent, data = report.agent, report.data
    log = f"`kubectl -n {agent.namespace} logs {agent.pod} -c {names.CLAT}` says more"
    if report.error:
        yield stop("CLAT", f"its agent can't be asked: {report.error}", log)
        return
    if not data["ready"]:
        yield stop("CLAT", data["reason"], log)
    yield ok("CLAT", f"{data['setUp']} pods have one, towards {data['prefix']}")
    failed = [pod for pod in data["pods"] if pod["state"] == "Failed"]
    for pod in failed[:MOST_NAMED]:
        why = f"{pod['reason']}: {pod['message']}" if pod.get("message") else pod["reason"]
        yield stop("CLAT", f"{_name(pod)} could not be given one: {why}", log)
    if failed[MOST_NAMED:]:
        yield stop("CLAT", f"{len(failed) - MOST_NAMED} more could not be given one", log)
    for reason, count in sorted(data["leftAlone"].items()):
        alone = (pod for pod in data["pods"] if pod["state"] == "LeftAlone")
        pods = [_name(pod) for pod in alone if pod["reason"] == reason]
        some = ", ".join(pods[:MOST_NAMED]) + (" and others" if pods[MOST_NAMED:] else "")
        yield note("CLAT", f"{count} without one, for {_why(reason)}: {some}", _SEE)


_SEE = "docs/clat.md says what each reason means"


def of_pod(report: Report | None, pod: Json, literal: str, instead: str) -> Step:
    """The step of `trace` in which a literal leaves the pod. `instead` is the address that stands
    for it without a CLAT.
    """
    use = f"use a name, or the address that stands for it: [{instead}]"
    if report is None:
        return stop(
            "CLAT",
            f"{literal} is an IPv4 address: the pod has no IPv4, and DNS64 never sees a name",
            f"{use}; or set spec.clat.mode to Pods in the NAT64Gateway",
        )
    if report.error:
        return stop("CLAT", f"the agent that gives pods a CLAT can't be asked: {report.error}", use)
    found = _find(report.data["pods"], pod)
    if found is None:
        return stop(
            "CLAT",
            f"the agent on {report.agent.node} knows of no CLAT of this pod ({WITHOUT_NAME})",
            f"{use}; `kubectl nat64 doctor` lists the pods without one, and why",
        )
    if found["state"] == "SetUp":
        to = literal_in(report, literal)
        way = f"192.0.0.2 to {literal} becomes {found['address']} to {to}"
        return ok("CLAT", f"the pod has one: {way}")
    if found["state"] == "Failed":
        why = f"{found['reason']}: {found.get('message', '')}".rstrip(": ")
        return stop("CLAT", f"the pod could not be given one: {why}", use)
    return stop("CLAT", f"the pod has none, because it has {_why(found['reason'])}", use)


def literal_in(report: Report, literal: str) -> str:
    """The address that stands for a literal under the prefix of the node's CLAT."""
    return str(pref64.embed(IPv6Network(report.data["prefix"]), IPv4Address(literal)))


def _find(pods: Iterable[Json], pod: Json) -> Json | None:
    """The pod by its name, or by its address where the runtime's data has no names."""
    metadata = pod["metadata"]
    addresses = {entry["ip"] for entry in (pod.get("status") or {}).get("podIPs") or ()}
    wanted = metadata["namespace"], metadata["name"]
    known = list(pods)
    for one in known:
        if (one.get("namespace"), one.get("name")) == wanted:
            return one
    return next((one for one in known if one.get("address") in addresses), None)


def _name(pod: Json) -> str:
    return f"{pod['namespace']}/{pod['name']}" if pod.get("name") else f"a pod ({pod['netns']})"


def _why(reason: str) -> str:
    return WHY.get(reason, reason)
