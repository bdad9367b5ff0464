"""What a node of topology Gateway has beside a translator's link: the tunnel, and the routes to
router nodes. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address, IPv6Network
from types import MappingProxyType

from nat64_dataplane.config import Config, Role, Transport
from nat64_dataplane.errors import HostError
from nat64_dataplane.topology import TUNNEL_OVERHEAD, tunnel_interface
from nat64_dataplane.translator.membership import Membership
from nat64_dataplane.translator.node import peer_table
from nat64_dataplane.translator.node.actions import (
    LINK_MTU,
    NEXT_HOP,
    AddRule,
    ConfigureTunnel,
    CreateTunnel,
    DeleteLink,
    DeleteRule,
    SetNeighbour,
    WritePeerRoutes,
)
from nat64_dataplane.translator.node.facts import IFF_NOARP, Facts, Link, PeerRoute, PeerRule

SMALLEST_MTU = 1280
PeerAction = (
    CreateTunnel
    | ConfigureTunnel
    | DeleteLink
    | SetNeighbour
    | AddRule
    | DeleteRule
    | WritePeerRoutes
)


@dataclass(frozen=True, slots=True)
class PeerWays:
    """How a node reaches the nodes of the other role."""

    table: int
    tunnel: str = ""
    """The tunnel's link; empty for none."""
    port: int = 0
    alias: str = ""
    """Of the tunnel's link, as it should be."""
    aliases: tuple[str, ...] = ()
    """All that it may have; also where there is none, so that one of before is known."""
    rule: PeerRule | None = None
    ranges: tuple[tuple[IPv6Network, IPv6Address], ...] = ()
    """What is behind which router node, on a gateway node."""
    mtu: int = 0
    """Of a packet to any node of the other role."""
    mtus: Mapping[IPv6Address, int] = field(default_factory=dict)
    """Of a packet in the tunnel to each router node, where it is known."""
    direct: bool = False
    """Whether this node sends without the tunnel. It has the tunnel all the same, as the other end
    may still use it, or use it already.
    """

    def without_tunnel(self) -> PeerWays:
        """The same where the tunnel can't be."""
        return replace(self, tunnel="", port=0)


NO_PEERS = PeerWays(0)


_SPARE = "nat64-operator spare tunnel "
"""Begins the alias of a tunnel's link that another translator may take away, if it needs the port:
the kernel has one such link for each.
"""


def tunnel_aliases(instance: str) -> tuple[str, str]:
    """The aliases by which a tunnel's link is known to be ours: with Tunnel, and with Direct."""
    return f"nat64-operator tunnel {instance}", f"{_SPARE}{instance}"


def wanted(
    config: Config,
    membership: Membership,
    underlay_mtu: int,
    underlay_mtus: Mapping[IPv6Address, int] = MappingProxyType({}),
) -> PeerWays:
    """What the config asks for on this node; nothing for topology Node.

    `underlay_mtu`: of the narrowest way to another node, in bytes; `underlay_mtus`: of each way.
    """
    table, aliases = peer_table.table_of(config.name), tunnel_aliases(config.name)
    if config.topology is None:
        return PeerWays(table, aliases=aliases)
    direct = config.topology.transport is Transport.DIRECT
    gateway = config.topology.role is Role.GATEWAY
    rule = PeerRule(config.interface, table, peer_table.RULE_PRIORITY)
    return PeerWays(
        table,
        tunnel=tunnel_interface(config.name),
        port=config.topology.tunnel_port,
        alias=aliases[direct],
        aliases=aliases,
        rule=rule if gateway else None,
        ranges=tuple(membership.peers(config).items()) if gateway else (),
        mtus={address: tunnel_mtu(mtu) for address, mtu in underlay_mtus.items()},
        mtu=direct_mtu(underlay_mtu) if direct else tunnel_mtu(underlay_mtu),
        direct=direct,
    )


def tunnel_mtu(underlay_mtu: int) -> int:
    """The largest packet that fits the tunnel; 1280 at least, as IPv6 asks of every link."""
    return max(SMALLEST_MTU, min(underlay_mtu, LINK_MTU) - TUNNEL_OVERHEAD)


def direct_mtu(underlay_mtu: int) -> int:
    """The largest packet to a neighbour."""
    return max(SMALLEST_MTU, min(underlay_mtu, LINK_MTU))


def own_tunnel(facts: Facts, ways: PeerWays) -> Link | None:
    """The tunnel's link, None where it isn't there yet or isn't as it must be made.

    Raises HostError where a link of that name belongs to someone else: it isn't touched.
    """
    link = facts.link(ways.tunnel) if ways.tunnel else None
    if link is None:
        return None
    # The alias is set after creation; until then it is known by what it is.
    if link.alias not in ways.aliases and not (link.vxlan_port == ways.port and not link.alias):
        raise HostError(
            "InterfaceTaken",
            f"link {link.name!r} exists and is not this translator's tunnel: rename it",
        )
    return link if link.vxlan_port == ways.port and not link.learns else None


def link_actions(facts: Facts, ways: PeerWays, neighbour: bytes | None) -> Iterator[PeerAction]:
    """What the tunnel's link needs, to be done before the maps are told of it."""
    tunnel = own_tunnel(facts, ways)
    for link in facts.links:
        ours = link.alias in ways.aliases and (tunnel is None or link.index != tunnel.index)
        if ours or (not ways.direct and _is_spare(link, ways)):
            yield DeleteLink(link.index, link.name)
    if not ways.tunnel:
        return
    if tunnel is None:
        yield CreateTunnel(ways.tunnel, ways.port)
        return
    if not _configured(tunnel, ways):
        yield ConfigureTunnel(tunnel.index, tunnel.name, ways.alias, ways.port)
    if neighbour != tunnel.mac:
        yield SetNeighbour(tunnel.index, tunnel.mac)


def _is_spare(link: Link, ways: PeerWays) -> bool:
    """Whether it is another translator's, which uses Direct, and has the port."""
    return (
        link.alias.startswith(_SPARE)
        and link.alias not in ways.aliases
        and bool(ways.port)
        and link.vxlan_port == ways.port
    )


def route_actions(
    facts: Facts, ways: PeerWays, refused: Iterable[PeerRoute] = ()
) -> Iterator[PeerAction]:
    """What the table needs. `refused`: what the kernel wouldn't take, which isn't tried again."""
    routes = peer_routes(facts, ways) - frozenset(refused)
    there = {_comparable(route, ways): route for route in facts.peer_routes}
    new = frozenset(route for route in routes if route not in there)
    kept = {route.prefix for route in routes}
    old = frozenset(there[route] for route in there.keys() - routes if route.prefix not in kept)
    if new or old:
        yield WritePeerRoutes(ways.table, new, old)
    if ways.rule and ways.rule not in facts.peer_rules:
        yield AddRule(ways.rule)
    for stale in sorted(facts.peer_rules):
        if stale != ways.rule:
            yield DeleteRule(stale)


def peer_routes(facts: Facts, ways: PeerWays) -> frozenset[PeerRoute]:
    """The routes to router nodes, as they should be."""
    if ways.direct:
        return frozenset(
            # A node is a neighbour on its link: no gateway, or the kernel would want one to it.
            PeerRoute(network, router, 0)
            for network, router in ways.ranges
        )
    link = own_tunnel(facts, ways)
    if link is None:
        return frozenset()
    return frozenset(
        PeerRoute(network, NEXT_HOP, link.index, ways.mtus.get(router, ways.mtu))
        for network, router in ways.ranges
    )


def _comparable(route: PeerRoute, ways: PeerWays) -> PeerRoute:
    return route._replace(ifindex=0) if ways.direct else route


def _configured(link: Link, ways: PeerWays) -> bool:
    return (
        link.up
        and bool(link.flags & IFF_NOARP)
        and link.mtu == LINK_MTU
        and link.alias == ways.alias
        and link.no_link_local
    )
