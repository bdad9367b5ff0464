"""Which gateways can't stand beside which. The older one keeps working; the younger one says why
it doesn't, and names the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address
from typing import NamedTuple, Self

from nat64_dataplane import config
from nat64_operator.api.gateway import Gateway
from nat64_operator.reconcile.world import World
from nat64_operator.render.gateway import node_selector

Range = tuple[int, int, int, int]
"""First and last address, first and last port."""


class Claim(NamedTuple):
    """What a gateway takes for itself, ready to be compared with many others."""

    gateway: Gateway
    translator: config.Config
    prefix: tuple[int, int]
    host_ports: dict[int, str]
    node_pools: tuple[tuple[int, int], ...]
    """First and last port of each pool on the node's own address."""
    ranges: tuple[Range, ...]
    """Each pool with addresses of its own."""
    static: tuple[Range, ...]
    """Each static mapping."""

    @classmethod
    def of(cls, gateway: Gateway, translator: config.Config) -> Self:
        """Read a gateway's."""
        node_pools, ranges = [], []
        for pool in translator.pools:
            network, ports = pool.network, pool.port_range
            if network is None:
                node_pools.append((ports.first, ports.last))
            else:
                first, last = int(network.network_address), int(network.broadcast_address)
                ranges.append((first, last, ports.first, ports.last))
        prefix = translator.prefix
        return cls(
            gateway,
            translator,
            (int(prefix.network_address), int(prefix.broadcast_address)),
            {port: field for field, port in gateway.ports.all().items()},
            tuple(node_pools),
            tuple(ranges),
            tuple(
                (int(mapping.address), int(mapping.address), mapping.port, mapping.port)
                for mapping in translator.static_mappings
            ),
        )


def between_gateways(
    gateways: Iterable[tuple[Gateway, config.Config]], world: World
) -> dict[str, tuple[str, str]]:
    """For each gateway that must give way, the reason and a sentence."""
    standing: list[Claim] = []
    losers: dict[str, tuple[str, str]] = {}
    for gateway, translator in sorted(gateways, key=lambda g: g[0].meta.age_order):
        claim = Claim.of(gateway, translator)
        found = next(filter(None, (_conflict(claim, other, world) for other in standing)), None)
        if found is None:
            standing.append(claim)
        else:
            losers[gateway.name] = found
    return losers


def _conflict(claim: Claim, other: Claim, world: World) -> tuple[str, str] | None:
    if shared := _shared(claim.ranges, other.ranges):
        return "PoolConflict", f"spec.pools: {_name(other)} has {shared} too: {_ONE_POOL}"
    if shared := _shared(claim.static, (*other.ranges, *other.static)):
        return "PoolConflict", f"spec.staticMappings: {_name(other)} has {shared}: {_ONE_POOL}"
    if shared := _shared(claim.ranges, other.static):
        return (
            "PoolConflict",
            f"spec.pools: {_name(other)} has a static mapping of {shared}: {_ONE_POOL}",
        )
    found = _conflict_on_one_node(claim, other)
    # Nodes are compared last: there are few conflicts and there may be thousands of nodes.
    if found and not _apart(claim, other, world):
        return found
    return _conflict_at_a_node(claim, other, world)


def _conflict_at_a_node(claim: Claim, other: Claim, world: World) -> tuple[str, str] | None:
    """One has a node's own address by the word `node`, the other has it written down."""
    for spelt, by_word in ((claim, other), (other, claim)):
        candidates = [
            (first, last)
            for first, last, low, high in (*spelt.ranges, *spelt.static)
            if any(_overlap((low, high), ports) for ports in by_word.node_pools)
        ]
        if not candidates:
            continue
        both = world.select(node_selector(spelt.gateway.spec.node_selector)) & world.select(
            node_selector(by_word.gateway.spec.node_selector)
        )
        for name in sorted(both):
            for address in world.nodes[name].ipv4:
                if any(first <= int(address) <= last for first, last in candidates):
                    return (
                        "PoolConflict",
                        f"spec.pools: {_name(other)} has {address}, which is node {name!r}'s "
                        f"own address, with some of these ports too: {_ONE_POOL}",
                    )
    return None


def _conflict_on_one_node(claim: Claim, other: Claim) -> tuple[str, str] | None:
    if _overlap(claim.prefix, other.prefix):
        return (
            "PrefixConflict",
            f"spec.prefix: {_name(other)} translates {other.translator.prefix} on the same nodes; "
            "set another prefix, or a nodeSelector that keeps the two apart",
        )
    for mine in claim.node_pools:
        for theirs in other.node_pools:
            if _overlap(mine, theirs):
                return (
                    "PoolConflict",
                    f"spec.pools: {_name(other)} has the node's address with ports "
                    f"{theirs[0]}-{theirs[1]} too: {_ONE_POOL}",
                )
    if claim.translator.interface == other.translator.interface:
        return (
            "InterfaceConflict",
            f"spec.interfaceName: {_name(other)} has the interface "
            f"{other.translator.interface!r} on the same nodes",
        )
    for port, field in claim.host_ports.items():
        if port in other.host_ports:
            return (
                "HostPortConflict",
                f"spec.hostPorts.{field}: {_name(other)} has port {port} "
                f"({other.host_ports[port]}) on the same nodes; set another",
            )
    return None


_ONE_POOL = "a port may be in one only"


def _name(claim: Claim) -> str:
    return f"NAT64Gateway {claim.gateway.name!r}, which is older,"


def _apart(claim: Claim, other: Claim, world: World) -> bool:
    """Two selectors that could select one node are not apart before such a node exists, but two
    that select nodes and share none are.
    """
    mine, theirs = claim.gateway.spec.node_selector, other.gateway.spec.node_selector
    if any(theirs.get(key, value) != value for key, value in mine.items()):
        return True
    a, b = world.select(mine), world.select(theirs)
    return bool(a) and bool(b) and a.isdisjoint(b)


def _shared(mine: Iterable[Range], theirs: Sequence[Range]) -> str | None:
    for first, last, low, high in mine:
        for start, end, bottom, top in theirs:
            if _overlap((first, last), (start, end)) and _overlap((low, high), (bottom, top)):
                if (start, bottom) == (end, top):
                    return f"{IPv4Address(start)} port {bottom}"
                return f"{IPv4Address(start)}-{IPv4Address(end)} with ports {bottom}-{top}"
    return None


def _overlap(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a[0] <= b[1] and b[0] <= a[1]
