"""The cluster's own IPv6 ranges, which no gateway's prefix may overlap.

A prefix is a route on every node. A prefix that covers a node, a pod or a Service sends their
packets to the translator; a prefix within such a range does so for a part of it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from ipaddress import IPv6Network, ip_network
from types import MappingProxyType

from nat64_operator.reconcile.nodes import Node

BITS = 128


class ClusterRanges:
    """Ranges with a description each. Two networks are disjoint, or one contains the other."""

    def __init__(self, ranges: Iterable[tuple[str, str]]) -> None:
        """`ranges` has each range as text, and its description, as in `pods of node 'a'`."""
        self._known: dict[tuple[int, int], str] = {}
        for text, meaning in ranges:
            if network := _ipv6(text):
                self._known.setdefault(network, meaning)
        self._sorted = sorted(self._known)

    @classmethod
    def of(
        cls,
        nodes: Iterable[Node],
        services: Iterable[str],
        pods: Mapping[str, Iterable[str]] = MappingProxyType({}),
    ) -> ClusterRanges:
        """The ranges of nodes and their pods, and those of Services. `pods`: by node, the ranges
        that a CNI gives pods.
        """
        of_cni = ((text, f"pods of node {n!r}") for n, texts in pods.items() for text in texts)
        return cls((*_of_nodes(nodes), *of_cni, *((text, "Services") for text in services)))

    def overlap(self, prefix: IPv6Network) -> str | None:
        """The first range that overlaps a prefix, with its description; None if none does."""
        first, length = int(prefix.network_address), prefix.prefixlen
        for shorter in range(length + 1):
            start = first >> (BITS - shorter) << (BITS - shorter)
            if (start, shorter) in self._known:
                return self._text(start, shorter)
        index = bisect_left(self._sorted, (first, length))
        if index < len(self._sorted) and self._sorted[index][0] <= int(prefix.broadcast_address):
            return self._text(*self._sorted[index])
        return None

    def _text(self, start: int, length: int) -> str:
        return f"{IPv6Network((start, length))} ({self._known[start, length]})"


def _of_nodes(nodes: Iterable[Node]) -> Iterator[tuple[str, str]]:
    for node in nodes:
        for text in node.ranges:
            what = "an address" if text.endswith("/128") else "pods"
            yield text, f"{what} of node {node.name!r}"


@lru_cache(maxsize=1 << 16)
def _ipv6(text: str) -> tuple[int, int] | None:
    """The first address and the length of an IPv6 range; None for IPv4 and for other text."""
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        return None
    if not isinstance(network, IPv6Network):
        return None
    return int(network.network_address), network.prefixlen
