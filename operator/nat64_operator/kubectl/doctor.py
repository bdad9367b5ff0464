"""`kubectl nat64 doctor`: judges what was gathered about the whole cluster. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_address
from typing import Any, NamedTuple

from nat64_operator.kubectl import (
    clat,
    cluster_dns,
    doctor_coredns,
    doctor_node,
    doctor_overlap,
    topology,
)
from nat64_operator.kubectl.agents import Report
from nat64_operator.kubectl.checks import Result, Step, note, ok, render, stop
from nat64_operator.kubectl.exec_output import Json
from nat64_operator.kubectl.output import Paint, Tone
from nat64_operator.kubectl.status import condition

PROBE_NAME = "ipv4only.arpa"
"""It has two IPv4 addresses and no IPv6 one (RFC 7050): an IPv6 answer is synthesized."""


class Facts(NamedTuple):
    """What was gathered. `unread` has what the user may not read, with the reason."""

    gateways: list[Json]
    policies: list[Json]
    operator: list[Json]
    """The operator's Deployments."""
    nodes: list[Json]
    workloads: list[Json]
    cilium: Json | None
    corefiles: Mapping[tuple[str, str], Mapping[str, str]]
    """The data of CoreDNS's ConfigMaps, by namespace and name: those that the policies name."""
    inspections: list[Report]
    statuses: list[Report]
    probe: Report | None
    """A node's questions to the cluster's DNS."""
    namespace: str
    """The operator's."""
    unread: Mapping[str, str]
    clats: Sequence[Report] = ()
    """Of the agents that give pods a CLAT."""
    standings: Sequence[Report] = ()
    """How nodes stand to those of the other role, where there are two."""
    felix: Json | None = None
    """Calico's default FelixConfiguration."""
    ip_pools: Sequence[Json] = ()
    """Calico's."""


class Section(NamedTuple):
    """Checks about one thing."""

    title: str
    steps: list[Step]


def judge(facts: Facts) -> list[Section]:
    """All checks."""
    sections = [Section("cluster", [*_objects(facts), *_unread(facts)])]
    sections.append(Section("CoreDNS", list(_coredns(facts))))
    statuses = {report.agent: report for report in facts.statuses}
    clats = {report.agent: report for report in facts.clats}
    standings = {report.agent: report for report in facts.standings}
    for report in facts.inspections:
        steps = list(_node(report, statuses.get(report.agent)))
        if (of_pods := clats.get(report.agent)) and not report.error:
            steps += clat.examine(of_pods)
        if (standing := standings.get(report.agent)) and not report.error:
            steps += topology.examine(standing)
        sections.append(Section(f"node {report.agent.node}, {report.agent.gateway}", steps))
    return [section for section in sections if section.steps]


def is_well(sections: Iterable[Section]) -> bool:
    """Whether nothing is broken. A note doesn't count."""
    return all(step.result is not Result.STOP for section in sections for step in section.steps)


def plain(sections: Iterable[Section]) -> list[dict[str, Any]]:
    """As `-o json` prints it."""
    return [
        {"subject": section.title, **step.plain()} for section in sections for step in section.steps
    ]


def text(sections: Iterable[Section], paint: Paint) -> str:
    """For people."""
    parts = [
        f"{paint(section.title, Tone.TITLE)}\n{render(section.steps, paint)}"
        for section in sections
    ]
    return "\n\n".join(parts)


def _objects(facts: Facts) -> Iterator[Step]:
    if "operator" not in facts.unread:
        yield _operator(facts)
    if not facts.gateways and "gateways" not in facts.unread:
        yield stop("gateways", "there is no NAT64Gateway", "apply one: `spec: {}` is complete")
    if not facts.policies and "policies" not in facts.unread:
        yield note(
            "policies",
            "there is no DNS64Policy: names with only IPv4 don't resolve to IPv6",
            "apply one: `spec: {}` is complete",
        )
    for obj in (*facts.gateways, *facts.policies):
        yield _ready(obj)
    yield from _uncovered(facts)
    yield from doctor_overlap.workloads(facts.workloads, facts.namespace)
    yield from doctor_overlap.cilium(facts.cilium, facts.gateways)
    yield from doctor_overlap.calico(facts.felix, facts.ip_pools, facts.gateways)


def _uncovered(facts: Facts) -> Iterator[Step]:
    """DNS64 is for the whole cluster, so every node that runs pods should translate."""
    covered = {report.agent.node for report in facts.inspections}
    without = sorted({node["metadata"]["name"] for node in facts.nodes} - covered)
    if without and facts.gateways and "agents" not in facts.unread:
        named = ", ".join(without[:10]) + (f" and {len(without) - 10} more" if without[10:] else "")
        yield note(
            "nodes",
            f"no translator on {named}: pods there are given addresses that lead nowhere",
            "make the gateway's nodeSelector and tolerations match them, or keep pods off them",
        )


def _operator(facts: Facts) -> Step:
    if not facts.operator:
        return stop(
            "operator",
            f"namespace {facts.namespace} has no nat64-operator",
            "install the chart, or name its namespace by --operator-namespace",
        )
    for obj in facts.operator:
        if not (obj.get("status") or {}).get("availableReplicas"):
            return stop(
                "operator",
                f"{obj['metadata']['name']} is not available: nothing is reconciled, translation "
                "goes on",
                f"`kubectl -n {facts.namespace} describe pods` and its log",
            )
    return ok("operator", "available")


def _ready(obj: Json) -> Step:
    what = f"{obj['kind']} {obj['metadata']['name']}"
    ready = condition(obj, "Ready")
    if ready.get("status") == "True":
        return ok("objects", f"{what}: {ready['message']}")
    message = ready.get("message", "the operator has not looked at it yet: does it run?")
    return stop(
        "objects",
        f"{what} is not ready: {ready.get('reason', 'NotSeen')}: {message}",
        "docs/troubleshooting.md has a row for each reason",
    )


def _unread(facts: Facts) -> Iterator[Step]:
    for what, why in facts.unread.items():
        yield note("not checked", f"{what}: {why}")


def _coredns(facts: Facts) -> Iterator[Step]:
    gateways = {obj["metadata"]["name"]: obj for obj in facts.gateways}
    for policy in facts.policies:
        place = doctor_coredns.place_of(policy)
        if place in facts.corefiles:
            gateway = gateways.get(doctor_coredns.gateway_of(policy), {})
            yield from doctor_coredns.judge(policy, gateway.get("status") or {}, facts.corefiles)
    if facts.probe is not None:
        yield synthesis(facts.probe, {doctor_coredns.place_of(policy) for policy in facts.policies})
    elif facts.policies and not all(report.error for report in facts.inspections):
        yield note(
            "synthesis",
            f"not asked for {PROBE_NAME}: {cluster_dns.UNKNOWN}",
            "look at the Service of the DNS that pods ask",
        )


def synthesis(report: Report, places: Iterable[tuple[str, str]]) -> Step:
    """Whether the cluster's DNS synthesizes, as asked from a node. `places` has its ConfigMaps."""
    namespace = min((namespace for namespace, _ in places), default="kube-system")
    node = report.agent.node
    if report.error:
        return note("synthesis", f"{node} could not ask the cluster's DNS: {report.error}")
    six = report.data["dns"]["AAAA"]
    if six["error"]:
        return stop(
            "synthesis",
            f"the cluster's DNS {six['server']} does not answer {node}: {six['error']}",
            cluster_dns.list_pods(namespace),
        )
    if six["addresses"]:
        found = ", ".join(sorted(six["addresses"], key=ip_address))
        return ok("synthesis", f"the cluster's DNS answers {found} for {PROBE_NAME}")
    return stop(
        "synthesis",
        f"the cluster's DNS has no IPv6 address for {PROBE_NAME} ({six['rcode']})",
        "where the wiring above is good, CoreDNS has not read its new Corefile yet (a minute or "
        f"two), or has no `reload`: `kubectl -n {namespace} rollout restart deployment coredns`",
    )


def _node(report: Report, status: Report | None) -> Iterator[Step]:
    if report.error:
        agent = report.agent
        describe = f"`kubectl -n {agent.namespace} describe pod {agent.pod}`"
        yield stop("agent", report.error, describe)
        return
    if status is not None and not status.error:
        yield from doctor_node.room(status.data[0], report.agent)
    yield from doctor_node.examine(report.data, report.agent)
