"""The cluster's pod ranges, where they are truly known.

Node.spec.podCIDRs is what the controller manager hands out, not what the CNI uses: Calico, Cilium
and AWS's CNI may have ranges of their own. So it counts only where every node has a range and pods
were seen in the range of their own node, and none elsewhere. Anything less is taken for nothing:
to refuse a pod's packets is worse than to believe a source that the kernel has a way back to.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network, collapse_addresses, ip_address, ip_network

from nat64_dataplane.config import MAX_POLICY_RANGES
from nat64_operator.reconcile.nodes import Node

WITHOUT_SECONDS = 180
"""How long a node that has just joined may have no range. It has no pods then, either."""


def known(
    nodes: Collection[Node], pods: Iterable[tuple[str, str]], now: float
) -> tuple[IPv6Network, ...]:
    """The ranges; none where they are not known for sure, or are too many for the data path.
    `pods`: addresses of pods, each with the name of its node.
    """
    ranges = {node.name: of_node(node) for node in nodes}
    if any(not ranges[n.name] for n in nodes if now - n.created >= WITHOUT_SECONDS):
        return ()
    seen = 0
    for text, node in pods:
        address = ip_address(text)
        if not isinstance(address, IPv6Address) or any(text in n.addresses for n in nodes):
            continue  # a pod on its node's own network
        if not any(address in network for network in ranges.get(node, ())):
            return ()
        seen += 1
    if not seen:
        return ()
    found = tuple(collapse_addresses(net for nets in ranges.values() for net in nets))
    return found if len(found) <= MAX_POLICY_RANGES else ()


def of_node(node: Node) -> tuple[IPv6Network, ...]:
    """The IPv6 ranges of a node's pods."""
    return _ipv6(node.ranges, node.addresses)


@lru_cache(maxsize=1 << 14)
def _ipv6(ranges: tuple[str, ...], own: tuple[str, ...]) -> tuple[IPv6Network, ...]:
    addresses = {str(ip_network(text)) for text in own}
    found = (ip_network(text) for text in ranges if text not in addresses)
    return tuple(net for net in found if isinstance(net, IPv6Network))
