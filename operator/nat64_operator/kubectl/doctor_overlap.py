"""Other NAT64s and DNS64s in the cluster, and resolvers in front of CoreDNS. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from nat64_operator.kubectl.checks import Step, note, stop
from nat64_operator.kubectl.exec_output import Json

MODULES = {
    "jool": "it is a NAT64 of its own",
    "jool_siit": "it is a stateless NAT64 of its own",
    "nat46": "it is a NAT64 of its own",
}
"""Kernel modules that translate."""

_OTHER_NAT64 = (
    "use one NAT64 for a prefix: remove it, or give the NAT64Gateway a prefix that it doesn't have"
)
_IMAGES = (
    (r"(^|/)tayga\b", "Tayga, a NAT64", _OTHER_NAT64),
    (r"(^|/)jool\b", "Jool, a NAT64", _OTHER_NAT64),
    (r"(^|/)(kubernetes-sigs/)?nat64(-agent)?([:@]|$)", "another NAT64", _OTHER_NAT64),
    (r"ebpf-nat64", "another NAT64", _OTHER_NAT64),
    (
        # kind's own kindest/kindnetd has no NAT64.
        r"(^|(?<!kindest)/)kindnetd?\b",
        "kindnet, which may translate 64:ff9b::/96 itself in IPv6 clusters",
        "turn its NAT64 off, or give the NAT64Gateway another prefix",
    ),
    (
        r"node-cache|nodelocaldns|node-local-dns",
        "NodeLocal DNSCache, which pods ask before CoreDNS",
        "its Corefile must send external names to CoreDNS, not to the upstreams: docs/cni.md",
    ),
)
_CILIUM_FIRST_PORT = 32768
"""Of its masquerade, which ends at 65535."""


def workloads(found: Iterable[Json], ours: str) -> Iterator[Step]:
    """DaemonSets and Deployments whose images are known to overlap; `ours` is our namespace."""
    for obj in found:
        metadata = obj["metadata"]
        if metadata["namespace"] == ours:
            continue
        spec = obj["spec"]["template"]["spec"]
        images = [container["image"] for container in spec.get("containers") or ()]
        for pattern, what, remedy in _IMAGES:
            if any(re.search(pattern, image) for image in images):
                where = f"{obj['kind']} {metadata['namespace']}/{metadata['name']}"
                yield note("overlap", f"{where} is {what}", remedy)
                break


def cilium(config: Json | None, gateways: Iterable[Json]) -> Iterator[Step]:
    """Cilium's ConfigMap, where it runs, and what the gateways take of the nodes' addresses."""
    data = (config or {}).get("data") or {}
    if data.get("enable-nat46x64-gateway") == "true":
        yield note(
            "overlap",
            "Cilium has enable-nat46x64-gateway: it translates 64:ff9b::/96 itself",
            "turn it off, or give the NAT64Gateway another prefix",
        )
    ipv4 = data.get("enable-ipv4", "true") == "true"
    if data.get("enable-host-firewall") == "true" and not ipv4:
        yield stop(
            "overlap",
            "Cilium's host firewall is on and its IPv4 is off: it drops every IPv4 packet and ARP "
            "on the nodes' uplinks, so no answer comes back",
            "turn on Cilium's IPv4 (ipv4.enabled), or turn its host firewall off",
        )
    if (
        ipv4
        and data.get("enable-bpf-masquerade") == "true"
        and any(_takes_ports_of_masquerade(gateway) for gateway in gateways)
    ):
        yield note(
            "overlap",
            "Cilium masquerades IPv4 by BPF with ports 32768-65535 of the node's address, and does "
            "not know which of them are ours: where both use one port towards one server and port, "
            "one of the two connections stalls",
            "give the gateway an address of its own, or ports below 32768 (spec.pools)",
        )


def calico(felix: Json | None, pools: Iterable[Json], gateways: Iterable[Json]) -> Iterator[Step]:
    """Calico's default FelixConfiguration, its IP pools, and whose links its eBPF doesn't know.

    Its program at a pod's link forwards past the node's routing, and then drops a new connection
    to a link that is none of Calico's. What its pool masquerades it leaves to the node.
    """
    spec = (felix or {}).get("spec") or {}
    if not spec.get("bpfEnabled"):
        return
    plain = [pool["metadata"]["name"] for pool in pools if _leaves_past_routing(pool["spec"])]
    links = [f"nat64-{gateway['metadata']['name']}" for gateway in gateways]
    unknown = [link for link in links if not _matches(spec.get("bpfDataIfacePattern"), link)]
    if plain and unknown:
        yield note(
            "overlap",
            f"Calico's eBPF data plane drops what pods of IP pool {', '.join(sorted(plain))} send "
            f"to {', '.join(sorted(unknown))}: the pool has natOutgoing off, and Calico does not "
            "know the link",
            "turn on natOutgoing for the pool (packets to the prefix keep their source), or add "
            "the link to bpfDataIfacePattern in the default FelixConfiguration",
        )


def _leaves_past_routing(pool: Json) -> bool:
    return ":" in pool["cidr"] and not pool.get("natOutgoing") and not pool.get("disabled")


def _matches(pattern: str | None, link: str) -> bool:
    """Whether felix would, by Go's syntax, which differs in what nobody needs for a link."""
    try:
        return bool(pattern and re.search(pattern, link))
    except re.error:
        return False


def _takes_ports_of_masquerade(gateway: Json) -> bool:
    pools = gateway["spec"].get("pools") or [{}]
    nodes_own = [pool for pool in pools if pool.get("source", "Node") == "Node"]
    ends = [(pool.get("ports") or {}).get("to", 65535) for pool in nodes_own]
    return any(end >= _CILIUM_FIRST_PORT for end in ends)
