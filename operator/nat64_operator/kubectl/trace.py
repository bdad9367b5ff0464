"""`kubectl nat64 trace`: judges, step by step, what was gathered about a pod's path to a host.
Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any, NamedTuple

from nat64_dataplane import pref64
from nat64_operator.kubectl import clat, cluster_dns, network_policies, topology, trace_egress
from nat64_operator.kubectl.agents import Report
from nat64_operator.kubectl.checks import Step, note, ok, stop
from nat64_operator.kubectl.exec_output import Json
from nat64_operator.kubectl.status import condition


class Facts(NamedTuple):
    """What was gathered. Lists that the user may not read are None."""

    pod: Json
    host: str
    port: int
    server: str
    """The cluster's DNS; empty if the pod doesn't ask it, or the host is an address."""
    report: Report | None
    """The facts from the agent on the pod's node; None if the node has no agent."""
    policies: list[Json] | None
    """DNS64Policies."""
    network_policies: list[Json] | None
    """Those of the pod's namespace."""
    other_policies: Mapping[str, list[str] | None] = {}
    """Names of objects of OTHER_KINDS by kind, without the kinds that the cluster doesn't know."""
    clat: Report | None = None
    """What the agent for the pods' CLAT on the pod's node knows, where the host is an IPv4 address;
    None if there is none."""
    gateway: Report | None = None
    """What the gateway node says about the packet, if the pod's node gives it to one; None if it
    can't be found.
    """
    explained: tuple[str, ...] = ()
    """How the sidecar on the pod's node answers the name, if that matters."""


def literal(host: str) -> IPv4Address | IPv6Address | None:
    """The host as an address; None for a name."""
    try:
        return ip_address(host.strip("[]"))
    except ValueError:
        return None


def addresses(pod: Json, version: int) -> list[str]:
    """A pod's addresses of one IP version."""
    entries = (pod.get("status") or {}).get("podIPs") or ()
    return [e["ip"] for e in entries if ip_address(e["ip"]).version == version]


def judge(facts: Facts) -> list[Step]:
    """All steps up to the one where the path ends."""
    steps: list[Step] = []
    for step in _walk(facts):
        steps.append(step)
        if step.result.value == "stop":
            break
    return steps


def _walk(facts: Facts) -> Iterator[Step]:
    yield _pod(facts)
    yield _translator(facts)
    assert facts.report is not None, "the step before ends without one"
    found: dict[str, Any] = facts.report.data
    yield _names(facts, found)
    node = facts.report.agent.node
    if (steered := topology.steered(found)) is not None:
        yield _network_policy(facts, IPv6Address(steered["address"]))
        yield from _other_policies(facts)
        yield trace_egress.route(node, found, steered)
        yield from topology.walk(node, steered, facts.gateway)
        assert facts.gateway is not None, "the step before ends without one"
        node, found = facts.gateway.agent.node, facts.gateway.data
        yield _gateway_node(node, found)
    way = _translated(found)
    if way is None:
        native = [d["address"] for d in found["destinations"]]
        yield stop(
            "translation",
            f"{', '.join(native)} is not under {found['prefix']}: the pod reaches it, or doesn't, "
            "over plain IPv6, and NAT64 has no part in it",
            "look at the pod's IPv6 connectivity; to translate although the name has IPv6, set "
            "translateAll in the DNS64Policy",
        )
        return
    if steered is None:
        yield _network_policy(facts, IPv6Address(way["address"]))
        yield from _other_policies(facts)
    else:
        yield from topology.way_back(node, way, found["interface"])
    yield from trace_egress.walk(node, found, way)
    yield from trace_egress.last_link(facts.report.agent.node, steered or way)


def _translated(found: dict[str, Any]) -> dict[str, Any] | None:
    for way in found["destinations"]:
        if way["translated"]:
            one: dict[str, Any] = way
            return one
    return None


def _pod(facts: Facts) -> Step:
    pod, metadata = facts.pod, facts.pod["metadata"]
    name = f"{metadata['namespace']}/{metadata['name']}"
    phase = (pod.get("status") or {}).get("phase", "Unknown")
    if phase != "Running":
        return stop("pod", f"{name} is {phase}", "trace a pod that runs")
    six, four = addresses(pod, 6), addresses(pod, 4)
    if not six:
        return stop(
            "pod",
            f"{name} has no IPv6 address, only {', '.join(four) or 'none at all'}",
            "NAT64 is for pods with IPv6: this one uses IPv4 by itself",
        )
    where = f"{name} is {six[0]} on {pod['spec']['nodeName']}"
    if pod["spec"].get("hostNetwork"):
        return note(
            "pod", f"{where}, on the host network: it uses the node's own IPv4 where it can"
        )
    if four:
        return note("pod", f"{where} and has IPv4 {four[0]} too: it may not need NAT64")
    return ok("pod", where)


def _translator(facts: Facts) -> Step:
    node = facts.pod["spec"]["nodeName"]
    if facts.report is None:
        return stop(
            "translator",
            f"{node} has no translator",
            "apply a NAT64Gateway whose nodeSelector and tolerations fit the node; "
            "`kubectl get nat64gateway -o wide` shows those there are",
        )
    if facts.report.error:
        return stop(
            "translator",
            f"the translator on {node} can't be asked: {facts.report.error}",
            "`kubectl nat64 doctor` and the pod's log say more",
        )
    found = facts.report.data
    if not found["programmed"]:
        return stop(
            "translator",
            f"{node} does not translate: {found['reason']}",
            f"`kubectl nat64 doctor` looks for what {node} lacks",
        )
    if facts.report.agent.router:
        return ok("router", f"{found['name']} steers {found['prefix']} on {node}")
    return ok("translator", f"{found['name']} translates {found['prefix']} on {node}")


def _gateway_node(node: str, found: dict[str, Any]) -> Step:
    if not found["programmed"]:
        return stop(
            "gateway node",
            f"{node} does not translate: {found['reason']}",
            f"`kubectl nat64 doctor` looks for what {node} lacks",
        )
    return ok("gateway node", f"{found['name']} translates {found['prefix']} on {node}")


def _unasked(facts: Facts) -> Step:
    spec = facts.pod["spec"]
    policy = spec.get("dnsPolicy", "ClusterFirst")
    if policy == "ClusterFirstWithHostNet" or (
        policy == "ClusterFirst" and not spec.get("hostNetwork")
    ):
        return stop(
            "DNS", cluster_dns.UNKNOWN, "name the resolver that pods ask: --dns-server ADDRESS"
        )
    return stop(
        "DNS",
        f"the pod does not ask the cluster's DNS (dnsPolicy {policy}), so nothing is synthesized "
        "for it",
        "dnsPolicy ClusterFirst (ClusterFirstWithHostNet on the host network)",
    )


def _names(facts: Facts, found: dict[str, Any]) -> Step:
    address, prefix = literal(facts.host), IPv6Network(found["prefix"])
    if isinstance(address, IPv4Address):
        instead = str(pref64.embed(prefix, address))
        return clat.of_pod(facts.clat, facts.pod, str(address), instead)
    if address is not None:
        return ok("DNS", f"{address} is an address: no name is resolved")
    dns = found["dns"]
    if not facts.server or dns is None:
        return _unasked(facts)
    six, four = dns["AAAA"], dns["A"]
    if six["error"]:
        return stop(
            "DNS",
            f"the cluster's DNS {facts.server} does not answer: {six['error']}",
            cluster_dns.list_pods(),
        )
    ours = [a for a in six["addresses"] if IPv6Address(a) in prefix]
    if ours:
        from_ = f", synthesized from {', '.join(four['addresses'])}" if four["addresses"] else ""
        return ok("DNS", f"{facts.host} is {', '.join(ours)}{from_}")
    if six["addresses"]:
        return note("DNS", f"{facts.host} has IPv6 of its own: {', '.join(six['addresses'])}")
    if four["addresses"]:
        return stop(
            "DNS",
            f"{facts.host} has IPv4 {', '.join(four['addresses'])}, and the cluster's DNS "
            "synthesizes no IPv6 address for it",
            _why_unsynthesized(facts.policies),
            facts.explained,
        )
    return stop(
        "DNS",
        f"{facts.host} has no address at all ({six['rcode']})",
        "look at the name's spelling and at the upstream resolvers",
        facts.explained,
    )


def _why_unsynthesized(policies: Iterable[Json] | None) -> str:
    if policies is None:
        return "look at the DNS64Policies, which you may not read"
    known = list(policies)
    if not known:
        return "apply a DNS64Policy: without one, CoreDNS does not ask the sidecars"
    for policy in known:
        ready = condition(policy, "Ready")
        if ready.get("status") != "True":
            message = ready.get("message", "the operator has not looked at it yet")
            return f"DNS64Policy {policy['metadata']['name']} is not ready: {message}"
    return (
        "below is how the sidecar answers; where that is synthesized, CoreDNS still has an older "
        "answer in its cache (30 s at most with kubeadm's Corefile), or a resolver in between "
        "does not ask it"
    )


def _other_policies(facts: Facts) -> Iterator[Step]:
    """Policies of other kinds than Kubernetes' own are named: nothing here evaluates them."""
    for kind, names in facts.other_policies.items():
        if names == []:
            continue
        what = ", ".join(names[:5]) + (", ..." if names[5:] else "") if names else "unread"
        yield note(
            kind,
            f"not evaluated: {what}",
            "the CNI's own tools say whether it drops the packet: with Cilium `cilium-dbg monitor "
            "--type drop` on the pod's node, with Calico a rule with action Log",
        )


def _network_policy(facts: Facts, address: IPv6Address) -> Step:
    if facts.network_policies is None:
        return note("NetworkPolicy", "not looked at: you may not list NetworkPolicies here")
    labels = facts.pod["metadata"].get("labels") or {}
    restricting = network_policies.restricting(facts.network_policies, labels)
    if not restricting:
        return ok("NetworkPolicy", "no NetworkPolicy restricts what the pod sends")
    names = ", ".join(policy["metadata"]["name"] for policy in restricting)
    allowing = network_policies.allowing(restricting, address, facts.port)
    if allowing:
        return ok("NetworkPolicy", f"{', '.join(allowing)} lets TCP {facts.port} to {address} pass")
    rule = f"egress: [{{to: [{{ipBlock: {{cidr: {address}/128}}}}]}}]"
    return stop(
        "NetworkPolicy",
        f"{names} restricts what the pod sends, and nothing lets TCP {facts.port} to {address} "
        "pass",
        f"allow the IPv6 address, as in `{rule}`: "
        "a NetworkPolicy sees packets before they are translated",
    )
