"""Which gateways can't stand beside which. The older one keeps working; the younger one says why
it doesn't, and names the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nat64_dataplane import config
from nat64_operator.api.gateway import Gateway
from nat64_operator.reconcile.world import Node


class NodeIndex:
    """Which nodes a selector selects, without walking all of them for each gateway."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self.all: frozenset[str] = frozenset()
        self._by_label: dict[tuple[str, str], set[str]] = {}
        self._known: dict[tuple[tuple[str, str], ...], frozenset[str]] = {}
        every = []
        for node in nodes:
            every.append(node.name)
            for label in node.labels.items():
                self._by_label.setdefault(label, set()).add(node.name)
        self.all = frozenset(every)

    def select(self, selector: Mapping[str, str]) -> frozenset[str]:
        """The names of the nodes."""
        key = tuple(sorted(selector.items()))
        if key not in self._known:
            chosen = self.all
            for label in key:
                chosen = chosen & self._by_label.get(label, set())
            self._known[key] = chosen
        return self._known[key]


def between_gateways(
    gateways: Iterable[tuple[Gateway, config.Config]], nodes: NodeIndex
) -> dict[str, tuple[str, str]]:
    """For each gateway that must give way, the reason and a sentence."""
    standing: list[tuple[Gateway, config.Config]] = []
    losers: dict[str, tuple[str, str]] = {}
    for gateway, translator in sorted(gateways, key=lambda g: g[0].meta.age_order):
        for other, others in standing:
            found = _conflict(gateway, translator, other, others, nodes)
            if found:
                losers[gateway.name] = found
                break
        else:
            standing.append((gateway, translator))
    return losers


def _conflict(
    gateway: Gateway,
    translator: config.Config,
    other: Gateway,
    others: config.Config,
    nodes: NodeIndex,
) -> tuple[str, str] | None:
    name = f"NAT64Gateway {other.name!r}, which is older,"
    shared = _shared_range(translator, others)
    if shared:
        return "PoolConflict", f"spec.pools: {name} has {shared} too: a port may be in one only"
    found = _conflict_on_one_node(gateway, translator, other, others, name)
    # Nodes are compared last: there are few conflicts and there may be thousands of nodes.
    if found and not _apart(gateway.spec.node_selector, other.spec.node_selector, nodes):
        return found
    return None


def _conflict_on_one_node(
    gateway: Gateway, translator: config.Config, other: Gateway, others: config.Config, name: str
) -> tuple[str, str] | None:
    if translator.prefix.overlaps(others.prefix):
        return (
            "PrefixConflict",
            f"spec.prefix: {name} translates {others.prefix} on the same nodes; set another "
            "prefix, or a nodeSelector that keeps the two apart",
        )
    if ports := _shared_node_ports(translator, others):
        return (
            "PoolConflict",
            f"spec.pools: {name} has the node's address with ports {ports} too: a port may be in "
            "one only",
        )
    if translator.interface == others.interface:
        return (
            "InterfaceConflict",
            f"spec.interfaceName: {name} has the interface {others.interface!r} on the same nodes",
        )
    taken = {port: field for field, port in other.ports.all().items()}
    for field, port in gateway.ports.all().items():
        if port in taken:
            return (
                "HostPortConflict",
                f"spec.hostPorts.{field}: {name} has port {port} ({taken[port]}) on the same "
                "nodes; set another",
            )
    return None


def _apart(mine: Mapping[str, str], theirs: Mapping[str, str], nodes: NodeIndex) -> bool:
    """Two selectors that could select one node are not apart before such a node exists, but two
    that select nodes and share none are.
    """
    if any(theirs.get(key, value) != value for key, value in mine.items()):
        return True
    a, b = nodes.select(mine), nodes.select(theirs)
    return bool(a) and bool(b) and a.isdisjoint(b)


def _shared_range(mine: config.Config, theirs: config.Config) -> str | None:
    for pool in mine.pools:
        for other in theirs.pools:
            a, b = pool.network, other.network
            if a and b and a.overlaps(b) and pool.port_range.overlaps(other.port_range):
                return f"{other.addresses} with ports {other.ports}"
    return None


def _shared_node_ports(mine: config.Config, theirs: config.Config) -> str | None:
    for pool in mine.pools:
        for other in theirs.pools:
            on_node = pool.network is None and other.network is None
            if on_node and pool.port_range.overlaps(other.port_range):
                return other.ports
    return None
