"""From a Config and a reading of the node to what the maps need. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network

from nat64_dataplane.config import Config, Transport
from nat64_dataplane.errors import HostError
from nat64_dataplane.topology import tunnel_interface
from nat64_dataplane.translator.host_view import (
    ANY_SOURCE,
    DUMMY_ADDRESS,
    ArpAnswer,
    HostView,
    Uplink,
)
from nat64_dataplane.translator.node import policy_rules, pools, ways_out
from nat64_dataplane.translator.node.facts import (
    IFF_LOOPBACK,
    IFF_POINTOPOINT,
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


def uplinks(config: Config, facts: Facts) -> tuple[Uplink, ...]:
    """The links over which IPv4 leaves: those named, else those found.

    Found are links with an IPv4 default route or an address of a pool, behind which strangers are,
    and those of other ways out that have a pool. Raises HostError where there is none, or a named
    one is missing.
    """
    if config.uplinks:
        found = [_named(name, facts) for name in config.uplinks]
    else:
        found = [link for link in facts.links if link.index in _outward(config, facts)]
    zones = _zones_of_links(config, facts)
    others = [
        link
        for link in facts.links
        if link.index in zones and link not in found and not config.uplinks
    ]
    beyond = {hop.ifindex for hop in facts.hops if not hop.network}
    if not found and not others:
        raise HostError(
            "NoUplink",
            "no link has an IPv4 default route or a pool address: name `uplinks` in the config",
        )
    return tuple(
        Uplink(
            link.index,
            link.mtu,
            link.name,
            link.ethernet,
            link in found,
            zones.get(link.index, ANY_SOURCE),
            link not in found and link.index not in beyond,
        )
        for link in (*found, *others)
    )


def _outward(config: Config, facts: Facts) -> set[int]:
    """Links with strangers behind them."""
    networks = [pool.network for pool in config.pools if pool.network]
    indexes = {route.ifindex for route in facts.defaults}
    if facts.way_out:
        indexes.add(facts.way_out.ifindex)
    indexes |= {
        address.ifindex
        for address in facts.addresses
        if any(address.address in network for network in networks)
    }
    return {
        link.index
        for link in facts.links
        if link.index in indexes and not link.flags & IFF_LOOPBACK and link.name != config.interface
    }


def _zones_of_links(config: Config, facts: Facts) -> dict[int, IPv4Address]:
    """The zone of what leaves by a link, where it has a pool."""
    ways = ways_out.ways(config, facts)
    try:
        pooled = {each.zone for each in pools.ranges_by_zone(config, facts, ways)}
    except HostError:
        return {}  # said by whoever needs the pools
    found: dict[int, IPv4Address] = {}
    for way in ways:
        for index in way.links if way.source in pooled else ():
            found.setdefault(index, way.source)
    if facts.way_out and facts.way_out.source in pooled:
        found[facts.way_out.ifindex] = facts.way_out.source
    return found


def route_mtu(found: tuple[Uplink, ...]) -> int:
    """The MTU of the route to Pref64, in bytes: what fits the widest uplink once translated.

    A packet too large for a narrower one gets its packet-too-big from that uplink. Never less than
    1280: IPv6 asks that of every link (RFC 8200 section 5), and the kernel's own errors, which are
    up to that long, would become fragments that no translator takes (RFC 7915 section 1.2). What
    doesn't fit the uplink then is without DF (section 5.1), so the kernel fragments it.
    """
    external = [uplink.mtu for uplink in found if uplink.external]
    widest = max(external or [uplink.mtu for uplink in found]) + IPV6_OVERHEAD
    return max(SMALLEST_IPV6_MTU, min(widest, LARGEST_MTU))


def arp_answers(config: Config, facts: Facts, found: tuple[Uplink, ...]) -> Iterator[ArpAnswer]:
    """For every claimed pool address on every uplink with Ethernet addresses, or its own LAN."""
    subnets = {(hop.ifindex, hop.network) for hop in facts.hops if hop.network}
    for network in pools.owned_ranges(config, facts):
        near = {index for index, subnet in subnets if subnet and network.subnet_of(subnet)}
        links = [
            link
            for uplink in found
            if (uplink.external or uplink.ifindex in near)
            and (link := facts.link_at(uplink.ifindex))
            and link.ethernet
            and len(link.mac) == 6
        ]
        for address in network:
            for link in links:
                yield ArpAnswer(link.index, address, link.mac)


def host_view(
    config: Config, facts: Facts, interface: Link | None, tunnel_index: int = 0
) -> HostView:
    """What `Datapath.apply` needs; indexes are 0 without the link. Raises HostError."""
    found = uplinks(config, facts)
    return HostView(
        interface_index=interface.index if interface else 0,
        interface_mac=interface.mac if interface else b"",
        uplinks=found,
        pool=pools.pool_ranges(config, facts),
        # One reading follows another: an address may be there before its route is.
        local_ranges=facts.local_ranges
        | {IPv4Network(address.address) for address in facts.addresses}
        | {IPv4Network(DUMMY_ADDRESS)},
        outside=outside_links(config, facts),
        arp_answers=frozenset(arp_answers(config, facts, found)),
        links_of_zones=tuple((way.source, way.links) for way in ways_out.ways(config, facts)),
        route_mtu=route_mtu(found),
        marks=policy_rules.marks(facts.rules),
        tunnel_index=tunnel_index,
    )


def router_view(
    config: Config, facts: Facts, interface: Link | None, tunnel_index: int = 0
) -> HostView:
    """`host_view` of a router node, which needs no IPv4."""
    return HostView(
        interface_index=interface.index if interface else 0,
        interface_mac=interface.mac if interface else b"",
        uplinks=(),
        pool=(),
        local_ranges=frozenset(),
        outside=outside_links(config, facts),
        tunnel_index=tunnel_index,
    )


def outside_links(config: Config, facts: Facts) -> tuple[int, ...]:
    """Links behind which strangers are, beside the uplinks: IPv6 ways out, and tunnels.

    A pod's packets never come in on these.
    """
    external = _external(config, facts)
    own = (config.interface, _tunnel(config))
    return tuple(
        link.index
        for link in facts.links
        if link.index not in external
        and link.name not in own
        and not link.flags & IFF_LOOPBACK
        and (
            link.index in facts.ipv6_default_links
            or link.flags & IFF_POINTOPOINT
            or link.kind in _TUNNELS
        )
    )


def pod_links(config: Config, facts: Facts) -> frozenset[int]:
    """Links that lead into another network namespace, as CNIs make them for a pod each, and the
    tunnel to router nodes: what comes from their pods comes in there only.

    Where pods share a bridge, or the CNI routes them by a link of its own (Cilium), routes to pods
    don't name these, and nothing is known of the link that a source belongs to.
    """
    outside = _external(config, facts) | set(outside_links(config, facts))
    tunnel = facts.link(_tunnel(config))
    return frozenset([tunnel.index] if tunnel else []) | frozenset(
        link.index
        for link in facts.links
        if link.elsewhere and link.kind in _POD_LINKS and link.index not in outside
    )


def ways_in(config: Config, facts: Facts) -> tuple[Link, ...]:
    """The links by which packets of this node's pods reach its IPv6 stack: their own, or the
    bridges that these are ports of. Not the tunnel: see `tunnel_in`. None where flow offload is
    off.
    """
    if not config.offload_flows:
        return ()
    found = set()
    for link in facts.links:
        if link.index in pod_links(config, facts) and link.name != _tunnel(config):
            bridge = facts.link_at(link.master)
            if not link.master:
                found.add(link.index)
            elif bridge and bridge.kind == "bridge":
                found.add(bridge.index)
    found -= _external(config, facts) | set(outside_links(config, facts))
    return tuple(link for link in facts.links if link.index in found and link.up)


def ways_from_routers(config: Config, facts: Facts) -> tuple[Link, ...]:
    """The links by which packets of router nodes' pods come in without the tunnel, on a gateway
    node. None where flow offload is off.
    """
    topology = config.topology
    if not (config.offload_flows and topology) or topology.transport is not Transport.DIRECT:
        return ()
    indexes = {route.ifindex for route in facts.peer_routes}
    indexes -= {link.index for link in facts.links if link.name == _tunnel(config)}
    return tuple(
        link for link in facts.links if link.index in indexes and link.up and link.ethernet
    )


def tunnel_in(config: Config, facts: Facts) -> tuple[Link, ...]:
    """The tunnel's link, whose own program checks what comes in before it offloads any of it. None
    where flow offload is off.
    """
    link = facts.link(_tunnel(config)) if config.offload_flows else None
    return (link,) if link and link.up else ()


def ways_to_one_pod(config: Config, facts: Facts) -> tuple[Link, ...]:
    """Those of `ways_in` that lead straight into a pod: a veth whose other end the pod has."""
    return tuple(
        link
        for link in ways_in(config, facts)
        if link.kind == "veth" and link.elsewhere and link.ethernet
    )


def _tunnel(config: Config) -> str:
    """The name of the tunnel's link; empty where there is none."""
    return tunnel_interface(config.name) if config.topology else ""


def _external(config: Config, facts: Facts) -> set[int]:
    if config.is_router:
        return set()
    return {uplink.ifindex for uplink in uplinks(config, facts) if uplink.external}


def _named(name: str, facts: Facts) -> Link:
    link = facts.link(name)
    if link is None:
        raise HostError("UplinkMissing", f"uplink {name!r} is not a link of this node")
    return link
