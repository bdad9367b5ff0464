"""Reads the node by netlink, part by part: links, addresses, rules, the routes of each table."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, NamedTuple

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from nat64_dataplane.translator.node import peer_facts, policy_rules, route_dump
from nat64_dataplane.translator.node.address_dump import Address, ipv4_addresses
from nat64_dataplane.translator.node.facts import (
    LOCAL_TABLE,
    MAIN_TABLE,
    REST_OF_THE_WORLD,
    ROUTE_PROTOCOL,
    DefaultRoute,
    Devconf,
    Facts,
    Hop,
    Link,
    PrefixRoute,
    RangeRoute,
    WayOut,
)
from nat64_dataplane.translator.node.peer_facts import learns, vxlan_port
from nat64_dataplane.translator.node.policy_rules import Rule

_SKIP_STATS = 1 << 3  # RTEXT_FILTER_SKIP_STATS: half of a link's message
_RTN_UNICAST, _RTN_LOCAL = 1, 2
_LOCAL_KINDS = frozenset({route_dump.RTN_LOCAL, route_dump.RTN_BROADCAST, route_dump.RTN_ANYCAST})
_WITH_ETHERNET_HEADER = frozenset({1, 772})  # ARPHRD_ETHER, ARPHRD_LOOPBACK


class MainRoutes(NamedTuple):
    """What is of interest of the IPv4 routes in the main table."""

    defaults: tuple[DefaultRoute, ...]
    hops: frozenset[Hop]
    own: frozenset[PrefixRoute]


class LocalRoutes(NamedTuple):
    """What is of interest of the IPv4 routes in the local table."""

    own: frozenset[RangeRoute]
    ranges: frozenset[IPv4Network]


class IPv6Routes(NamedTuple):
    """What is of interest of the IPv6 routes in the main table."""

    own: frozenset[PrefixRoute]
    default_links: frozenset[int]


def read(ipr: IPRoute, table: int = 0) -> Facts:
    """Read the node. `ipr` must be opened with `strict_check=True`: the kernel then filters.

    `table` is that of the routes to router nodes; 0: none is read.
    """
    rules = policy_rules.read(ipr)
    return assemble(
        links=links(ipr),
        addresses=tuple(ipv4_addresses()),
        rules=rules,
        main=main_routes(),
        local=local_routes(),
        others=hops_of_tables(rules),
        ipv6=ipv6_routes(),
        way_out=way_out(ipr),
        peers=peer_facts.peers(ipr, table),
    )


def assemble(
    *,
    links: tuple[Link, ...],
    addresses: tuple[Address, ...],
    rules: tuple[Rule, ...],
    main: MainRoutes,
    local: LocalRoutes,
    others: frozenset[Hop],
    ipv6: IPv6Routes,
    way_out: WayOut | None,
    peers: peer_facts.Peers,
) -> Facts:
    """Put one reading together of its parts."""
    return Facts(
        links=links,
        addresses=addresses,
        defaults=main.defaults,
        prefix_routes=main.own | ipv6.own,
        range_routes=local.own,
        local_ranges=local.ranges,
        way_out=way_out,
        hops=main.hops | others,
        rules=rules,
        ipv6_default_links=ipv6.default_links,
        peer_routes=peers.routes,
        peer_rules=peers.rules,
    )


def links(ipr: IPRoute) -> tuple[Link, ...]:
    """All interfaces."""
    return tuple(map(_link, ipr.link("dump", ext_mask=_SKIP_STATS)))


def link_again(ipr: IPRoute, link: Link) -> Link | None:
    """The same interface as it is now: some of its settings change without an event."""
    try:
        return next(map(_link, ipr.link("get", index=link.index, ext_mask=_SKIP_STATS)), None)
    except NetlinkError:
        return None


def main_routes() -> MainRoutes:
    """Of the main table, IPv4."""
    routes = route_dump.routes(socket.AF_INET, MAIN_TABLE)
    return MainRoutes(
        tuple(_defaults(routes)), frozenset(_hops(routes)), _prefix_routes(socket.AF_INET)
    )


def local_routes() -> LocalRoutes:
    """Of the local table, IPv4."""
    return LocalRoutes(
        own=frozenset(
            RangeRoute(IPv4Network((own.destination, own.length)), own.links[0])
            for own, _, _ in route_dump.of_protocol(socket.AF_INET, LOCAL_TABLE, ROUTE_PROTOCOL)
            if own.kind == _RTN_LOCAL and own.links
        ),
        ranges=frozenset(
            IPv4Network((int.from_bytes(route.destination, "big"), route.length))
            for route in route_dump.routes(socket.AF_INET, LOCAL_TABLE)
            if route.kind in _LOCAL_KINDS
        ),
    )


def hops_of_tables(rules: Iterable[Rule]) -> frozenset[Hop]:
    """Of the other tables that policy rules lead to."""
    tables = {rule.table for rule in rules} - {0, LOCAL_TABLE, MAIN_TABLE}
    return frozenset(
        hop for table in tables for hop in _hops(route_dump.routes(socket.AF_INET, table))
    )


def ipv6_routes() -> IPv6Routes:
    """Of the main table, IPv6: default routes and our own."""
    return IPv6Routes(
        own=_prefix_routes(socket.AF_INET6),
        default_links=frozenset(
            index
            for route in route_dump.routes(socket.AF_INET6, MAIN_TABLE, only_default=True)
            if route.kind == route_dump.RTN_UNICAST
            for index in route.links
        ),
    )


def way_out(ipr: IPRoute) -> WayOut | None:
    """Ask the kernel, never imitate it: which address it takes depends on more than a dump shows.

    That is the order of a link's subnets, its /32 addresses, policy rules and nexthop objects.
    """
    try:
        answers = ipr.route("get", dst=str(REST_OF_THE_WORLD), family=socket.AF_INET)
    except NetlinkError:
        return None
    for answer in answers:
        source, link = answer.get("prefsrc"), answer.get("oif")
        if source and link and answer["type"] == _RTN_UNICAST:
            return WayOut(link, IPv4Address(source))
    return None


def _hops(routes: Iterable[route_dump.Route]) -> Iterator[Hop]:
    seen = set()
    for route in routes:
        if route.kind != _RTN_UNICAST:
            continue
        subnet = route.source and len(route.gateways) == 1 and not route.gateways[0]
        where = (route.destination, route.length) if subnet else None
        what = route.links, route.gateways, route.source, where
        if what not in seen:
            seen.add(what)
            yield from _hops_of(route, subnet=bool(subnet and 0 < route.length < 32))


def _hops_of(route: route_dump.Route, *, subnet: bool) -> Iterator[Hop]:
    source = IPv4Address(route.source) if route.source else None
    network = IPv4Network((route.destination, route.length)) if subnet else None
    if not route.links:
        yield Hop(0, None, source)
    for link, gateway in zip(route.links, route.gateways, strict=True):
        yield Hop(link, IPv4Address(gateway) if gateway else None, source, network)


def way_to(ipr: IPRoute, address: IPv6Address) -> int:
    """The link, by interface index, by which the node itself reaches an address; 0 for none."""
    try:
        answers = ipr.route("get", dst=str(address), family=socket.AF_INET6)
    except NetlinkError:
        return 0
    return next((answer.get("oif") or 0 for answer in answers), 0)


def neighbour(ipr: IPRoute, link: Link | None, address: IPv6Address) -> bytes | None:
    """The link-layer address of a permanent neighbour on `link`, or None."""
    for entry in ipr.neigh("dump", family=socket.AF_INET6, ifindex=link.index) if link else ():
        if entry.get("dst") == str(address) and entry["state"] & 0x80:  # NUD_PERMANENT
            return _mac(entry.get("lladdr"))
    return None


def _link(message: Any) -> Link:
    conf = message.get_nested("IFLA_AF_SPEC", "AF_INET")
    generation = message.get_nested("IFLA_AF_SPEC", "AF_INET6", "IFLA_INET6_ADDR_GEN_MODE")
    return Link(
        index=message["index"],
        name=message.get("ifname"),
        mtu=message.get("mtu"),
        flags=message["flags"],
        mac=_mac(message.get("address")),
        kind=message.get(("linkinfo", "kind")) or "",
        alias=message.get("ifalias") or "",
        # A peer in another namespace has an index there, which means nothing here.
        peer=0 if message.get("link_netnsid") is not None else message.get("link") or 0,
        elsewhere=message.get("link_netnsid") is not None,
        master=message.get("master") or 0,
        no_link_local=generation == 1,  # IN6_ADDR_GEN_MODE_NONE
        devconf=conf and Devconf(conf["forwarding"], conf["accept_local"], conf["rp_filter"]),
        ethernet=message["ifi_type"] in _WITH_ETHERNET_HEADER,
        max_mtu=message.get("max_mtu") or 0,
        vxlan_port=vxlan_port(message),
        learns=learns(message),
    )


def _defaults(routes: Iterable[route_dump.Route]) -> Iterator[DefaultRoute]:
    for route in routes:
        if route.length or route.kind != _RTN_UNICAST:
            continue
        source = IPv4Address(route.source) if route.source else None
        for index in route.links or (0,):
            yield DefaultRoute(index, route.priority, source)


def _prefix_routes(family: int) -> frozenset[PrefixRoute]:
    own = route_dump.of_protocol(family, MAIN_TABLE, ROUTE_PROTOCOL)
    return frozenset(_prefix_route(each, family) for each in own)


def _prefix_route(own: route_dump.OwnRoute, family: int) -> PrefixRoute:
    route, network = own.route, IPv6Network if family == socket.AF_INET6 else IPv4Network
    gateway = route.gateways[0] if route.gateways else b""
    return PrefixRoute(
        prefix=network((route.destination or 0, route.length)),
        ifindex=route.links[0] if route.links else 0,
        gateway=IPv6Address(gateway) if gateway else None,
        mtu=own.mtu,
        mtu_locked=own.mtu_locked,
    )


def _mac(text: str | None) -> bytes:
    return bytes.fromhex(text.replace(":", "")) if text else b""
