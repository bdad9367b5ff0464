"""The node's links, addresses and routes as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NamedTuple

from nat64_dataplane.translator.node.address_dump import Address
from nat64_dataplane.translator.node.policy_rules import Rule

ROUTE_PROTOCOL = 64
"""Marks our routes, to distinguish them from those of others (rtm_protocol)."""

IFF_UP, IFF_LOOPBACK, IFF_POINTOPOINT, IFF_NOARP = 0x1, 0x8, 0x10, 0x80
IFF_LOWER_UP = 0x10000
MAIN_TABLE, LOCAL_TABLE = 254, 255
REST_OF_THE_WORLD = IPv4Address("192.88.99.1")
"""A sample of the addresses that only a default route covers: its use has ended (RFC 7526), so
nobody has a more specific route to it. It is only looked up; nothing is sent there."""


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
    master: int = 0
    """The bridge, or other link, that it is a port of."""
    no_link_local: bool = False
    devconf: Devconf | None = None
    ethernet: bool = True
    """Whether its packets have Ethernet headers."""
    max_mtu: int = 0
    """The largest MTU that it may have; 0 if the kernel names none."""
    vxlan_port: int = 0
    """Of a VXLAN device in external mode; 0 for all other links."""
    learns: bool = False
    """Whether it is a VXLAN device that notes where link-layer addresses are."""

    @property
    def carrier(self) -> bool:
        """Whether something is at the other end of its cable."""
        return bool(self.flags & IFF_LOWER_UP)

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


class PeerRoute(NamedTuple):
    """A route of ours in the table for what comes out of the translator: to a router node."""

    prefix: IPv6Network
    gateway: IPv6Address | None
    ifindex: int
    """0: whichever link leads to the gateway."""
    mtu: int = 0
    """Locked; 0 where it has none."""


class PeerRule(NamedTuple):
    """The rule that leads to this table."""

    iif: str
    table: int
    priority: int


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
    peer_routes: frozenset[PeerRoute] = frozenset()
    """Of the table that the cache was asked for."""
    peer_rules: frozenset[PeerRule] = frozenset()
    """Those that lead there."""

    def link(self, name: str) -> Link | None:
        """The link of that name, if there is one."""
        return next((link for link in self.links if link.name == name), None)

    def link_at(self, index: int) -> Link | None:
        """The link with that interface index, if there is one."""
        return next((link for link in self.links if link.index == index), None)
