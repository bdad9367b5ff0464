"""Which addresses and ports the pools are on this node, and for which way out each is. Pure."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network

from nat64_dataplane.config import Config, Pool
from nat64_dataplane.errors import HostError
from nat64_dataplane.port_range import PortRange
from nat64_dataplane.translator.host_view import ANY_SOURCE, PoolRange
from nat64_dataplane.translator.node import ways_out
from nat64_dataplane.translator.node.facts import DefaultRoute, Facts

Ways = tuple[ways_out.Way, ...]


def node_address(facts: Facts) -> IPv4Address:
    """The address the node's IPv4 default route uses: what a pool `node` stands for.

    Raises HostError where the node has no IPv4 default route or no address for it.
    """
    if facts.way_out:
        return facts.way_out.source
    if not facts.defaults:
        raise HostError(
            "NoIPv4DefaultRoute",
            "this node has no IPv4 default route, so pods reach its own networks only: give it "
            "one, name pool addresses, or name `uplinks` if that is all that they are to reach",
        )
    best = _best_default(facts)
    if best.source:
        return best.source
    for address in facts.addresses:
        if address.ifindex == best.ifindex and address.is_global and not address.secondary:
            return address.address
    # An unnumbered uplink: the kernel then takes any global address, the first it finds.
    for address in facts.addresses:
        if address.is_global and not address.secondary:
            return address.address
    raise HostError("NoIPv4Address", "this node has an IPv4 default route but no global address")


def pool_ranges(config: Config, facts: Facts) -> tuple[PoolRange, ...]:
    """Every address of the pools with its ports, those of one zone together. Raises HostError.

    Within a zone they are in the config's order. The first zone stands for all ways out that have
    no addresses of their own.
    """
    return ranges_by_zone(config, facts, ways_out.ways(config, facts))


def require_default(config: Config, facts: Facts) -> None:
    """Raises HostError where a node has lost its way to the rest of the world, or never had one.

    Its own networks are reached all the same. A node that is meant to reach nothing else names its
    `uplinks`.
    """
    if not config.uplinks and any(pool.network is None for pool in config.pools):
        node_address(facts)


def has_way_out(config: Config, facts: Facts) -> bool:
    """Whether what router nodes send to this node can leave it over IPv4.

    That is, by the way to the rest of the world, whose link has a carrier. A node that is to reach
    some networks only, and names its `uplinks`, needs a carrier on one of these.
    """
    if config.is_router:
        return True
    if facts.way_out:
        link = facts.link_at(facts.way_out.ifindex)
        return link is not None and link.carrier
    named = [facts.link(name) for name in config.uplinks]
    reached = {hop.ifindex for hop in facts.hops}
    private = bool(config.policy.allowed_destinations)
    return private and any(link and link.carrier and link.index in reached for link in named)


def left_out(config: Config, facts: Facts) -> list[IPv4Address]:
    """Source addresses of ways out for which there is no zone any more."""
    if all(pool.network for pool in config.pools):
        return []
    with contextlib.suppress(HostError):
        return _all_node_addresses(facts, ways_out.ways(config, facts))[ways_out.MOST :]
    return []


def pool_networks(config: Config, facts: Facts) -> tuple[tuple[IPv4Network, PortRange], ...]:
    """Each pool as a range of addresses and one of ports. Raises HostError."""
    ways = ways_out.ways(config, facts)
    return tuple(
        (network, pool.port_range)
        for pool in config.pools
        for network in (
            [pool.network] if pool.network else map(IPv4Network, _node_addresses(facts, ways))
        )
    )


def owned_ranges(config: Config, facts: Facts) -> frozenset[IPv4Network]:
    """Pool ranges that no link holds: the node must claim them, so that it takes their packets."""
    held = {address.address for address in facts.addresses}
    networks = [pool.network for pool in config.pools if pool.network]
    whole = {net for net in networks if held.isdisjoint(net)}
    rest = {IPv4Network(address) for net in networks if net not in whole for address in net}
    return frozenset(whole | {net for net in rest if net.network_address not in held})


def ranges_by_zone(config: Config, facts: Facts, ways: Ways) -> tuple[PoolRange, ...]:
    """`pool_ranges`, for who knows the ways out already. Raises HostError."""
    rest = _zone_of_the_rest(config, facts, ways)
    ranges = [
        PoolRange(address, pool.port_range.first, pool.port_range.last, zone)
        for pool in config.pools
        for zone, addresses in _zoned(pool, facts, ways, rest)
        for address in addresses
    ]
    names = list(dict.fromkeys([rest, *(each.zone for each in ranges)]))
    return tuple(sorted(ranges, key=lambda each: names.index(each.zone)))


def _zoned(
    pool: Pool, facts: Facts, ways: Ways, rest: IPv4Address
) -> Iterator[tuple[IPv4Address, Iterable[IPv4Address]]]:
    """The addresses of a pool, by the zone that they are for. Raises HostError."""
    if pool.network:
        yield _zone_of(pool.network, ways) or rest, pool.network
        return
    first, *others = _node_addresses(facts, ways)
    yield rest, [first]
    yield from ((address, [address]) for address in others)


def _zone_of(network: IPv4Network, ways: Ways) -> IPv4Address | None:
    """The way out in whose subnet a pool is. None: it is for no way in particular."""
    for way in ways:
        if any(network.subnet_of(subnet) for subnet in way.networks):
            return way.source
    return None


def _zone_of_the_rest(config: Config, facts: Facts, ways: Ways) -> IPv4Address:
    """The name of the zone of the way to the rest of the world.

    Its address, save where it has pools that don't depend on that.
    """
    if any(pool.network and not _zone_of(pool.network, ways) for pool in config.pools):
        return ANY_SOURCE
    with contextlib.suppress(HostError):
        return _node_addresses(facts, ways)[0]
    return ANY_SOURCE


def _node_addresses(facts: Facts, ways: Ways) -> list[IPv4Address]:
    """What a pool `node` stands for: a source address for each way out. Raises HostError."""
    return _all_node_addresses(facts, ways)[: ways_out.MOST]


def _all_node_addresses(facts: Facts, ways: Ways) -> list[IPv4Address]:
    others = [way.source for way in ways]
    try:
        first = [node_address(facts)]
    except HostError:
        if not others:
            raise
        first = []
    return list(dict.fromkeys([*first, *others]))


def _best_default(facts: Facts) -> DefaultRoute:
    return min(facts.defaults, key=lambda route: route.metric)
