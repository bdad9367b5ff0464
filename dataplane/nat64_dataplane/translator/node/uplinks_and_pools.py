"""From a Config and a reading of the node to what the maps need. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network

from nat64_dataplane.config import Config, Pool
from nat64_dataplane.errors import HostError
from nat64_dataplane.port_range import PortRange
from nat64_dataplane.translator.host_view import (
    DUMMY_ADDRESS,
    ArpAnswer,
    HostView,
    PoolRange,
    Uplink,
)
from nat64_dataplane.translator.node.facts import (
    IFF_LOOPBACK,
    IFF_POINTOPOINT,
    DefaultRoute,
    Facts,
    Link,
)

IPV6_OVERHEAD = 20
"""An IPv6 header is 20 bytes longer than the IPv4 header it becomes."""

SMALLEST_IPV6_MTU, LARGEST_MTU = 1280, 65535

_TUNNELS = frozenset(
    [
        "wireguard",
        "ipip",
        "sit",
        "gre",
        "gretap",
        "erspan",
        "ip6tnl",
        "ip6gre",
        "ip6gretap",
        "ip6erspan",
        "vti",
        "vti6",
        "xfrm",
        "vxlan",
        "geneve",
        "bareudp",
        "gtp",
    ]
)
_POD_LINKS = frozenset({"veth", "netkit"})


def node_address(facts: Facts) -> IPv4Address:
    """The address the node's IPv4 default route uses: what a pool `node` stands for.

    Raises HostError where the node has no IPv4 default route or no address for it.
    """
    if facts.way_out:
        return facts.way_out.source
    if not facts.defaults:
        raise HostError(
            "NoIPv4DefaultRoute",
            "this node has no IPv4 default route, so the pool `node` stands for no address: "
            "name pool addresses, or give the node IPv4",
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
    """Every address of the pools with its ports, in the config's order. Raises HostError."""
    return tuple(
        PoolRange(address, pool.port_range.first, pool.port_range.last)
        for pool in config.pools
        for address in _addresses(pool, facts)
    )


def pool_networks(config: Config, facts: Facts) -> tuple[tuple[IPv4Network, PortRange], ...]:
    """Each pool as a range of addresses and one of ports. Raises HostError."""
    return tuple(
        (pool.network or IPv4Network(node_address(facts)), pool.port_range) for pool in config.pools
    )


def uplinks(config: Config, facts: Facts) -> tuple[Uplink, ...]:
    """The links over which IPv4 leaves: those named, else those found.

    Found are links with an IPv4 default route or an address of a pool. Raises HostError where
    there is none, or a named one is missing.
    """
    if config.uplinks:
        found = [_named(name, facts) for name in config.uplinks]
    else:
        pools = [pool.network for pool in config.pools if pool.network]
        indexes = {route.ifindex for route in facts.defaults}
        if facts.way_out:
            indexes.add(facts.way_out.ifindex)
        indexes |= {
            address.ifindex
            for address in facts.addresses
            if any(address.address in network for network in pools)
        }
        found = [
            link
            for link in facts.links
            if link.index in indexes
            and not link.flags & IFF_LOOPBACK
            and link.name != config.interface
        ]
    if not found:
        raise HostError(
            "NoUplink",
            "no link has an IPv4 default route or a pool address: name `uplinks` in the config",
        )
    return tuple(Uplink(link.index, link.mtu, link.name, link.ethernet) for link in found)


def route_mtu(found: tuple[Uplink, ...]) -> int:
    """The MTU of the route to Pref64, in bytes: what fits the widest uplink once translated.

    A packet too large for a narrower one gets its packet-too-big from that uplink. Never less than
    1280: IPv6 asks that of every link (RFC 8200 section 5), and the kernel's own errors, which are
    up to that long, would become fragments that no translator takes (RFC 7915 section 1.2). What
    doesn't fit the uplink then is without DF (section 5.1), so the kernel fragments it.
    """
    widest = max(uplink.mtu for uplink in found) + IPV6_OVERHEAD
    return max(SMALLEST_IPV6_MTU, min(widest, LARGEST_MTU))


def owned_ranges(config: Config, facts: Facts) -> frozenset[IPv4Network]:
    """Pool ranges that no link holds: the node must claim them, so that it takes their packets."""
    held = {address.address for address in facts.addresses}
    networks = [pool.network for pool in config.pools if pool.network]
    whole = {net for net in networks if held.isdisjoint(net)}
    rest = {IPv4Network(address) for net in networks if net not in whole for address in net}
    return frozenset(whole | {net for net in rest if net.network_address not in held})


def arp_answers(config: Config, facts: Facts, found: tuple[Uplink, ...]) -> Iterator[ArpAnswer]:
    """For every claimed pool address on every uplink with Ethernet addresses."""
    links = [link for link in (facts.link_at(uplink.ifindex) for uplink in found) if link]
    links = [link for link in links if link.ethernet and len(link.mac) == 6]
    for network in owned_ranges(config, facts):
        for address in network:
            for link in links:
                yield ArpAnswer(link.index, address, link.mac)


def host_view(config: Config, facts: Facts, interface: Link | None) -> HostView:
    """What `Datapath.apply` needs; indexes are 0 without the link. Raises HostError."""
    found = uplinks(config, facts)
    return HostView(
        interface_index=interface.index if interface else 0,
        interface_mac=interface.mac if interface else b"",
        uplinks=found,
        pool=pool_ranges(config, facts),
        # One reading follows another: an address may be there before its route is.
        local_ranges=facts.local_ranges
        | {IPv4Network(address.address) for address in facts.addresses}
        | {IPv4Network(DUMMY_ADDRESS)},
        outside=outside_links(config, facts),
        arp_answers=frozenset(arp_answers(config, facts, found)),
    )


def outside_links(config: Config, facts: Facts) -> tuple[int, ...]:
    """Links behind which strangers are, beside the uplinks: IPv6 ways out, and tunnels.

    A pod's packets never come in on these.
    """
    ways_out = {uplink.ifindex for uplink in uplinks(config, facts)}
    return tuple(
        link.index
        for link in facts.links
        if link.index not in ways_out
        and link.name != config.interface
        and not link.flags & IFF_LOOPBACK
        and (
            link.index in facts.ipv6_default_links
            or link.flags & IFF_POINTOPOINT
            or link.kind in _TUNNELS
        )
    )


def pod_links(config: Config, facts: Facts) -> frozenset[int]:
    """Links that lead into another network namespace, as CNIs make them for a pod each.

    Where pods share a bridge, or the CNI routes them by a link of its own (Cilium), routes to pods
    don't name these, and nothing is known of the link that a source belongs to.
    """
    outside = {uplink.ifindex for uplink in uplinks(config, facts)}
    outside |= set(outside_links(config, facts))
    return frozenset(
        link.index
        for link in facts.links
        if link.elsewhere and link.kind in _POD_LINKS and link.index not in outside
    )


def _best_default(facts: Facts) -> DefaultRoute:
    return min(facts.defaults, key=lambda route: route.metric)


def _addresses(pool: Pool, facts: Facts) -> Iterator[IPv4Address]:
    if pool.network is None:
        yield node_address(facts)
    else:
        yield from pool.network


def _named(name: str, facts: Facts) -> Link:
    link = facts.link(name)
    if link is None:
        raise HostError("UplinkMissing", f"uplink {name!r} is not a link of this node")
    return link
