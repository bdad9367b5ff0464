"""The node's links, addresses and routes, read by netlink into plain values."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, NamedTuple

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from nat64_dataplane.translator.node import policy_rules, route_dump
from nat64_dataplane.translator.node.address_dump import Address, ipv4_addresses
from nat64_dataplane.translator.node.policy_rules import Rule

ROUTE_PROTOCOL = 64
"""Marks our routes, to distinguish them from those of others (rtm_protocol)."""

IFF_UP, IFF_LOOPBACK, IFF_POINTOPOINT, IFF_NOARP = 0x1, 0x8, 0x10, 0x80
MAIN_TABLE, LOCAL_TABLE = 254, 255
_SKIP_STATS = 1 << 3  # RTEXT_FILTER_SKIP_STATS: half of a link's message
_RTN_UNICAST, _RTN_LOCAL = 1, 2
_LOCAL_KINDS = frozenset({route_dump.RTN_LOCAL, route_dump.RTN_BROADCAST, route_dump.RTN_ANYCAST})
REST_OF_THE_WORLD = IPv4Address("192.88.99.1")
"""A sample of the addresses that only a default route covers: its use has ended (RFC 7526), so
nobody has a more specific route to it. It is only looked up; nothing is sent there."""
_WITH_ETHERNET_HEADER = frozenset({1, 772})  # ARPHRD_ETHER, ARPHRD_LOOPBACK


class Devconf(NamedTuple):
    """The IPv4 settings of a link that the kernel path depends on."""

    forwarding: int
    accept_local: int
    rp_filter: int


@dataclass(frozen=True, slots=True)
class Link:
    """One interface of the node."""

    index: int
    name: str
    mtu: int
    flags: int
    mac: bytes
    kind: str = ""
    alias: str = ""
    peer: int = 0
    elsewhere: bool = False
    """Whether its other end is in another network namespace."""
    no_link_local: bool = False
    devconf: Devconf | None = None
    ethernet: bool = True
    """Whether its packets have Ethernet headers."""

    @property
    def up(self) -> bool:
        """Whether it is set up; carrier is another matter."""
        return bool(self.flags & IFF_UP)


class DefaultRoute(NamedTuple):
    """A hop of an IPv4 default route in the main table."""

    ifindex: int
    metric: int = 0
    source: IPv4Address | None = None


class WayOut(NamedTuple):
    """What the kernel answers about the way to the rest of the world, policy rules included."""

    ifindex: int
    source: IPv4Address
    """The address that the node itself would use."""


class Hop(NamedTuple):
    """One way that some route takes, whichever; routes that differ in no more are one."""

    ifindex: int
    """0 where a nexthop object has it and the kernel doesn't tell."""
    gateway: IPv4Address | None = None
    source: IPv4Address | None = None
    """The route's preferred source."""
    network: IPv4Network | None = None
    """Where a link's own subnet is routed: that subnet."""


class PrefixRoute(NamedTuple):
    """A route of ours in the main table: to Pref64, or to what the kernel fragments for us."""

    prefix: IPv6Network | IPv4Network
    ifindex: int
    gateway: IPv6Address | None
    mtu: int
    mtu_locked: bool


class RangeRoute(NamedTuple):
    """A local-table route of ours: the node owns these addresses though no link holds them."""

    network: IPv4Network
    ifindex: int


@dataclass(frozen=True, slots=True)
class Facts:
    """One reading of the node."""

    links: tuple[Link, ...] = ()
    addresses: tuple[Address, ...] = ()
    defaults: tuple[DefaultRoute, ...] = ()
    prefix_routes: frozenset[PrefixRoute] = frozenset()
    range_routes: frozenset[RangeRoute] = frozenset()
    local_ranges: frozenset[IPv4Network] = frozenset()
    """The node's own addresses according to the kernel's local table, whoever added them."""
    way_out: WayOut | None = None
    """None if the kernel has no route to the rest of the world."""
    hops: frozenset[Hop] = frozenset()
    """Of all routes that policy rules lead to."""
    rules: tuple[Rule, ...] = ()
    """Policy rules, save those that ask for nothing."""
    ipv6_default_links: frozenset[int] = frozenset()
    """Links with an IPv6 default route."""

    def link(self, name: str) -> Link | None:
        """The link of that name, if there is one."""
        return next((link for link in self.links if link.name == name), None)

    def link_at(self, index: int) -> Link | None:
        """The link with that interface index, if there is one."""
        return next((link for link in self.links if link.index == index), None)


def read(ipr: IPRoute) -> Facts:
    """Read the node. `ipr` must be opened with `strict_check=True`: the kernel then filters."""
    rules = policy_rules.read(ipr)
    main = route_dump.routes(socket.AF_INET, MAIN_TABLE)
    return Facts(
        links=tuple(map(_link, ipr.link("dump", ext_mask=_SKIP_STATS))),
        addresses=tuple(ipv4_addresses()),
        defaults=tuple(_defaults(main)),
        prefix_routes=frozenset(
            _prefix_route(own, family)
            for family in (socket.AF_INET6, socket.AF_INET)
            for own in route_dump.of_protocol(family, MAIN_TABLE, ROUTE_PROTOCOL)
        ),
        range_routes=frozenset(
            RangeRoute(IPv4Network((own.destination, own.length)), own.links[0])
            for own, _, _ in route_dump.of_protocol(socket.AF_INET, LOCAL_TABLE, ROUTE_PROTOCOL)
            if own.kind == _RTN_LOCAL and own.links
        ),
        local_ranges=frozenset(
            IPv4Network((int.from_bytes(route.destination, "big"), route.length))
            for route in route_dump.routes(socket.AF_INET, LOCAL_TABLE)
            if route.kind in _LOCAL_KINDS
        ),
        way_out=_way_out(ipr),
        hops=frozenset(_hops(rules, main)),
        rules=rules,
        ipv6_default_links=frozenset(
            index
            for route in route_dump.routes(socket.AF_INET6, MAIN_TABLE, only_default=True)
            if route.kind == route_dump.RTN_UNICAST
            for index in route.links
        ),
    )


def _way_out(ipr: IPRoute) -> WayOut | None:
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


def way_to(ipr: IPRoute, address: IPv6Address) -> int:
    """The link, by interface index, by which the node itself reaches an address; 0 for none."""
    try:
        answers = ipr.route("get", dst=str(address), family=socket.AF_INET6)
    except NetlinkError:
        return 0
    return next((answer.get("oif") or 0 for answer in answers), 0)


def _hops(rules: Iterable[Rule], main: list[route_dump.Route]) -> Iterator[Hop]:
    for table in sorted({MAIN_TABLE} | {rule.table for rule in rules} - {0, LOCAL_TABLE}):
        seen = set()
        routes = main if table == MAIN_TABLE else route_dump.routes(socket.AF_INET, table)
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
        no_link_local=generation == 1,  # IN6_ADDR_GEN_MODE_NONE
        devconf=conf and Devconf(conf["forwarding"], conf["accept_local"], conf["rp_filter"]),
        ethernet=message["ifi_type"] in _WITH_ETHERNET_HEADER,
    )


def _defaults(routes: Iterable[route_dump.Route]) -> Iterator[DefaultRoute]:
    for route in routes:
        if route.length or route.kind != _RTN_UNICAST:
            continue
        source = IPv4Address(route.source) if route.source else None
        for index in route.links or (0,):
            yield DefaultRoute(index, route.priority, source)


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
