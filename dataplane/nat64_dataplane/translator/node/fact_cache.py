"""Remembers what was read of the node, and reads again only what netlink says has changed.

A node with 100,000 routes costs half a second of CPU to read. The kernel tells of most changes, and
the others follow from those: it drops the routes of a link that goes down, and those that have a
source address that goes, without a word about the routes.
"""

from __future__ import annotations

import enum
import errno
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from pyroute2 import IPRoute

from nat64_dataplane.translator.node import fact_parts, peer_facts, policy_rules
from nat64_dataplane.translator.node.address_dump import ipv4_addresses
from nat64_dataplane.translator.node.facts import (
    LOCAL_TABLE,
    MAIN_TABLE,
    ROUTE_PROTOCOL,
    Facts,
    Link,
)
from nat64_dataplane.translator.node.netlink_dump import attributes

LONGEST = 300.0
"""Seconds after which everything is read anew, should the kernel have kept a change to itself."""

_GROUPS = (
    0x1  # links
    | 0x10  # IPv4 addresses
    | 0x40  # IPv4 routes
    | 0x80  # IPv4 policy rules
    | 0x400  # IPv6 routes
    | 1 << 18  # IPv6 policy rules
    | 1 << 23  # IPv4 settings of links
    | 1 << 31  # nexthop objects
)
_READ_BYTES = 1 << 16
_NLMSG = struct.Struct("=IHHII")
_IFINFOMSG = struct.Struct("=BxHiII")
_RTMSG = struct.Struct("=8BI")
_U32 = struct.Struct("=I")
_RTA_TABLE = 15


class Part(enum.Enum):
    """What is read at once."""

    LINKS = enum.auto()
    ADDRESSES = enum.auto()
    RULES = enum.auto()
    MAIN = enum.auto()
    LOCAL = enum.auto()
    OTHERS = enum.auto()
    IPV6 = enum.auto()
    WAY_OUT = enum.auto()
    PEERS = enum.auto()


_ALL = frozenset(Part)
_ROUTES = frozenset({Part.MAIN, Part.LOCAL, Part.OTHERS})
_BY_KIND = {
    16: frozenset({Part.LINKS}),  # RTM_NEWLINK
    17: frozenset({Part.LINKS}),
    20: frozenset({Part.ADDRESSES}) | _ROUTES,  # RTM_NEWADDR
    21: frozenset({Part.ADDRESSES}) | _ROUTES,
    32: frozenset({Part.RULES, Part.OTHERS, Part.PEERS}),  # RTM_NEWRULE
    33: frozenset({Part.RULES, Part.OTHERS, Part.PEERS}),
    80: frozenset({Part.LINKS}),  # RTM_NEWNETCONF
    81: frozenset({Part.LINKS}),
}
"""Parts that a message of this type is about. Routes and links are told apart further; any other
message, such as one about nexthop objects, is about everything."""
_LINK_MESSAGES, _ROUTE_MESSAGES = (16, 17), (24, 25)


class FactCache:
    """What is known of one network namespace. Not for several threads at once."""

    def __init__(self) -> None:
        self.reads: Counter[Part] = Counter()
        """How often each part was read."""
        self._netlink: socket.socket | None = None
        self._known: dict[Part, Any] = {}
        self._stale = set(_ALL)
        self._read_at = 0.0
        self._facts: Facts | None = None
        """Of all that is known; None if that has changed."""
        self._table = 0
        """Of the routes to router nodes; 0: none is of interest."""
        self._concerned: frozenset[int] = frozenset()

    def close(self) -> None:
        """Close the socket; what is known is forgotten."""
        if self._netlink:
            self._netlink.close()
        self._netlink = None
        self._stale = set(_ALL)

    def read(self, ipr: IPRoute, own: str, table: int = 0) -> Facts:
        """The node as it is now. The same object as before if nothing has changed.

        `own`: the translator's link, some of whose settings change without an event. `table`: that
        of the routes to router nodes, or 0. Raises OSError, NetlinkError.
        """
        now = time.monotonic()
        if table != self._table:
            self._table = table
            self._stale.add(Part.PEERS)
        for parts in self._changes():
            self._stale |= parts
        if now - self._read_at >= LONGEST:
            self._stale |= _ALL
        if self._stale == _ALL:
            self._read_at = now
        self._read_stale(ipr)
        if not self._look_again(ipr, own):  # gone since, with all that depended on it
            self._stale |= _ALL
            self._read_stale(ipr)
        if self._facts is None:
            self._facts = self._assemble()
            self._concerned = _links_of(self._facts)
        return self._facts

    def _read_stale(self, ipr: IPRoute) -> None:
        readers: dict[Part, Callable[[], object]] = {
            Part.LINKS: lambda: fact_parts.links(ipr),
            Part.ADDRESSES: lambda: tuple(ipv4_addresses()),
            Part.RULES: lambda: policy_rules.read(ipr),
            Part.MAIN: fact_parts.main_routes,
            Part.LOCAL: fact_parts.local_routes,
            Part.OTHERS: lambda: fact_parts.hops_of_tables(self._known[Part.RULES]),
            Part.IPV6: fact_parts.ipv6_routes,
            Part.WAY_OUT: lambda: fact_parts.way_out(ipr),
            Part.PEERS: lambda: peer_facts.peers(ipr, self._table),
        }
        for part in Part:  # rules before the tables that they lead to
            if part in self._stale:
                self._known[part] = readers[part]()
                self.reads[part] += 1
                self._stale.discard(part)
                self._facts = None

    def _assemble(self) -> Facts:
        known = self._known
        return fact_parts.assemble(
            links=known[Part.LINKS],
            addresses=known[Part.ADDRESSES],
            rules=known[Part.RULES],
            main=known[Part.MAIN],
            local=known[Part.LOCAL],
            others=known[Part.OTHERS],
            ipv6=known[Part.IPV6],
            way_out=known[Part.WAY_OUT],
            peers=known[Part.PEERS],
        )

    def _look_again(self, ipr: IPRoute, own: str) -> bool:
        """Read our own links one by one. False if one of them is gone."""
        links: tuple[Link, ...] = self._known[Part.LINKS]
        ours = next((link for link in links if link.name == own), None)
        for link in links:
            if not ours or link.index not in (ours.index, ours.peer):
                continue
            now = fact_parts.link_again(ipr, link)
            if now is None:
                return False
            if now != link:
                known: tuple[Link, ...] = self._known[Part.LINKS]
                self._known[Part.LINKS] = tuple(now if each == link else each for each in known)
                self._facts = None
        return True

    def _changes(self) -> Iterator[frozenset[Part]]:
        """What has changed since the last call. Everything, the first time and after an overrun."""
        if self._netlink is None:
            self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
            self._netlink.bind((0, _GROUPS))
            self._netlink.setblocking(False)
            yield _ALL
        while True:
            try:
                data = self._netlink.recv(_READ_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                yield _ALL
                continue
            at = 0
            while at + _NLMSG.size <= len(data):
                length, kind, _, _, _ = _NLMSG.unpack_from(data, at)
                if length < _NLMSG.size:
                    break
                yield self._parts(kind, data, at + _NLMSG.size, at + length)
                at += (length + 3) & ~3

    def _parts(self, kind: int, data: bytes, at: int, end: int) -> frozenset[Part]:
        if kind in _ROUTE_MESSAGES:
            return _of_route(data, at, end, self._table)
        if kind in _LINK_MESSAGES:
            _, _, index, _, _ = _IFINFOMSG.unpack_from(data, at)
            if index in self._concerned or 0 in self._concerned:
                return _ALL
        parts = _BY_KIND.get(kind, _ALL)
        return parts | {Part.WAY_OUT}


def _of_route(data: bytes, at: int, end: int, peers: int) -> frozenset[Part]:
    family, length, _, _, table, protocol, _, _, _ = _RTMSG.unpack_from(data, at)
    for attribute, first, _ in attributes(data, at + _RTMSG.size, end):
        if attribute == _RTA_TABLE:
            (table,) = _U32.unpack_from(data, first)
    if family == socket.AF_INET6 and peers and table == peers:
        return frozenset({Part.PEERS})
    if family == socket.AF_INET6:
        # pods come and go with their routes
        matters = table == MAIN_TABLE and (not length or protocol == ROUTE_PROTOCOL)
        return frozenset({Part.IPV6}) if matters else frozenset()
    if family != socket.AF_INET:
        return frozenset()
    part = {MAIN_TABLE: Part.MAIN, LOCAL_TABLE: Part.LOCAL}.get(table, Part.OTHERS)
    return frozenset({part, Part.WAY_OUT})


def _links_of(facts: Facts) -> frozenset[int]:
    """Links that have routes; 0 among them if those of some route aren't known."""
    found = {hop.ifindex for hop in facts.hops} | facts.ipv6_default_links
    with_link = (
        facts.addresses,
        facts.defaults,
        facts.prefix_routes,
        facts.range_routes,
        facts.peer_routes,
    )
    for entries in with_link:
        found |= {entry.ifindex for entry in entries}
    if facts.way_out:
        found.add(facts.way_out.ifindex)
    return frozenset(found)
