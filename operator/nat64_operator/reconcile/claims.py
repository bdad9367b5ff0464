"""Which node has which address and which pod ranges, where several say that they have it.

Whoever has a node may write its annotations, and its addresses too. So nothing that a node says
takes away what another one has: what the nodes are told already stays with whom it is; what
Kubernetes or the CNI has given to a node comes before what an annotation says; then the older node
comes first.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network

from nat64_dataplane import members
from nat64_dataplane.members import GatewayEntry, RouterEntry
from nat64_operator.reconcile import pod_ranges
from nat64_operator.reconcile.nodes import Node
from nat64_operator.reconcile.world import World

_NOBODY = ""


class Claims:
    """No address and no range is of two nodes. `told` is what the nodes know now, by node."""

    def __init__(self, world: World, told: Mapping[str, GatewayEntry | RouterEntry]) -> None:
        self._world, self._told = world, told
        self._spans: list[tuple[int, int, str]] = []
        self._owners: dict[str, str] = {}
        self._ranges: dict[str, list[IPv6Network]] = {}
        self.refused: list[str] = []
        """What was not believed, for people."""

    def reserve(self, owner: str, networks: Iterable[IPv6Network]) -> None:
        """Keep ranges from all nodes."""
        for network in networks:
            self._claim(owner, network, ())

    def take(self, translating: Collection[Node], steering: Collection[Node]) -> None:
        """Decide about all nodes. Gateway nodes are trusted, and come first."""
        for nodes in (translating, steering):
            for node in sorted(nodes, key=self._age_of_address):
                self._take_address(node)
        known = _addresses(self._world.nodes.values())
        settled = _addresses([*translating, *filter(self._is_settled, steering)])
        for node in translating:
            for network in self.known_ranges(node):
                self._claim(node.name, network, settled)
        for declared in (False, True):
            among = [node for node in steering if (node.declared is not None) is declared]
            for node, network in sorted(self._all_ranges(among), key=self._age_of_range):
                if self._claim(node.name, network, known if declared else settled):
                    self._ranges.setdefault(node.name, []).append(network)
        for node in steering:
            if not self._is_settled(node):
                self._give_up_address_within_ranges(node)

    def has_address(self, node: Node) -> bool:
        """Whether a node's address is its own."""
        return bool(node.internal) and self._owners.get(node.internal) == node.name

    def ranges(self, node: Node) -> list[IPv6Network]:
        """The ranges that are a router node's own, sorted."""
        return sorted(self._ranges.get(node.name, ()))

    def known_ranges(self, node: Node) -> tuple[IPv6Network, ...]:
        """What a node's pods have: as its annotation says, else its CNI's, else those of the
        Node.
        """
        if node.declared is not None:
            return _networks(node.declared)
        if of_cni := self._world.cni_ranges.get(node.name):
            return _networks(of_cni)
        return tuple(sorted(set(pod_ranges.of_node(node))))

    def _all_ranges(self, nodes: Iterable[Node]) -> Iterator[tuple[Node, IPv6Network]]:
        most = members.MAX_RANGES_OF_A_ROUTER
        for node in nodes:
            found = self.known_ranges(node)
            if len(found) > most:
                self.refused.append(f"{node.name} has {len(found)} ranges, {most} at most count")
            yield from ((node, network) for network in found[:most])

    def _is_settled(self, node: Node) -> bool:
        """Whether the others are told this address of the node already."""
        told = self._told.get(node.name)
        return told is not None and str(told.address) == node.internal

    def _age_of_address(self, node: Node) -> tuple[bool, float, str]:
        return not self._is_settled(node), node.created, node.name

    def _age_of_range(
        self, claim: tuple[Node, IPv6Network]
    ) -> tuple[bool, float, str, IPv6Network]:
        node, network = claim
        told = self._told.get(node.name)
        is_told = isinstance(told, RouterEntry) and network in told.pod_ranges
        return not is_told, node.created, node.name, network

    def _take_address(self, node: Node) -> None:
        if not node.internal:
            return
        other = self._owners.setdefault(node.internal, node.name)
        if other != node.name:
            self.refused.append(f"{node.internal} of {node.name} is the address of {other}")

    def _give_up_address_within_ranges(self, node: Node) -> None:
        if not self.has_address(node):
            return
        value = int(IPv6Address(node.internal))
        other = next((o for _, _, o in self._overlapping(value, value) if o != node.name), "")
        if other:
            self._owners[node.internal] = _NOBODY
            self.refused.append(f"{node.internal} of {node.name} is within what {other} has")

    def _claim(
        self, owner: str, network: IPv6Network, addresses: Sequence[tuple[int, str]]
    ) -> bool:
        """Give a range to a node, if nobody has any part of it, and none of these addresses of
        other nodes is in it.
        """
        first, last = int(network.network_address), int(network.broadcast_address)
        at = bisect_left(addresses, (first, ""))
        inside = [name for value, name in addresses[at : at + 2] if value <= last and name != owner]
        if inside:
            self.refused.append(f"{network} of {owner} has the address of node {inside[0]}")
            return False
        for _, _, other in self._overlapping(first, last):
            self.refused.append(f"{network} of {owner} overlaps what {other} has")
            return False
        insort(self._spans, (first, last, owner))
        return True

    def _overlapping(self, first: int, last: int) -> Iterator[tuple[int, int, str]]:
        at = bisect_left(self._spans, (first, 0, ""))
        for span in self._spans[max(at - 1, 0) : at + 1]:
            if span[0] <= last and first <= span[1]:
                yield span


def _addresses(nodes: Iterable[Node]) -> list[tuple[int, str]]:
    return sorted((int(IPv6Address(n.internal)), n.name) for n in nodes if n.internal)


@lru_cache(maxsize=1 << 14)
def _networks(texts: tuple[str, ...]) -> tuple[IPv6Network, ...]:
    return tuple(sorted({IPv6Network(text) for text in texts}))
