"""The kernel's routes, read in bulk: a node may have 100,000 of them.

Parsed by hand from the netlink messages, as only a few fields of each are of interest.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from nat64_dataplane.translator.node.netlink_dump import ATTRIBUTE, attributes, dump

RTN_UNICAST, RTN_LOCAL, RTN_BROADCAST, RTN_ANYCAST = 1, 2, 3, 4

_RTMSG = struct.Struct("=8BI")
_NEXTHOP = struct.Struct("=HBBi")
_U32 = struct.Struct("=I")
_RTM_GETROUTE = 26
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC = 1, 4, 5, 6, 7
_RTA_METRICS, _RTA_MULTIPATH, _RTA_TABLE = 8, 9, 15
_RTAX_LOCK, _RTAX_MTU = 1, 2


class Route(NamedTuple):
    """One route. Addresses are as on the wire."""

    kind: int
    """RTN_*."""
    length: int
    """Of the prefix, in bits."""
    destination: bytes
    """Empty for the default route."""
    priority: int
    source: bytes
    """The preferred source; empty where there is none."""
    links: tuple[int, ...]
    """The interface index of each hop. Empty where a nexthop object has them."""
    gateways: tuple[bytes, ...]
    """The gateway of each hop; empty where it has none, or one of another family."""


def routes(family: int, table: int, *, only_default: bool = False) -> list[Route]:
    """All routes of one table, or its default routes. Raises OSError."""
    # With strict checking the kernel filters by the attribute, and by it alone.
    body = _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
    body += ATTRIBUTE.pack(8, _RTA_TABLE) + _U32.pack(table)
    rests: dict[bytes, _Rest] = {}

    def read(data: bytes, at: int, end: int) -> Route | None:
        _, length, _, _, _, _, _, kind, _ = _RTMSG.unpack_from(data, at)
        if only_default and length:
            return None
        destination, rest_at = _destination(data, at + _RTMSG.size, end)
        # Very many routes differ in their destination only.
        key = data[rest_at:end]
        rest = rests.get(key)
        if rest is None:
            rest = rests[key] = _rest(data, at + _RTMSG.size, end)
        if rest.table != table:
            return None
        return Route(
            kind, length, destination, rest.priority, rest.source, rest.links, rest.gateways
        )

    return dump(_RTM_GETROUTE, body, read)


class OwnRoute(NamedTuple):
    """A route that somebody marked by his protocol number."""

    route: Route
    mtu: int
    """Metric; 0 where there is none."""
    mtu_locked: bool


def of_protocol(family: int, table: int, protocol: int) -> list[OwnRoute]:
    """The routes of one table with this rtm_protocol. The kernel filters. Raises OSError."""
    body = _RTMSG.pack(family, 0, 0, 0, 0, protocol, 0, 0, 0)
    body += ATTRIBUTE.pack(8, _RTA_TABLE) + _U32.pack(table)

    def read(data: bytes, at: int, end: int) -> OwnRoute | None:
        _, length, _, _, _, marked, _, kind, _ = _RTMSG.unpack_from(data, at)
        at += _RTMSG.size
        rest = _rest(data, at, end)
        if marked != protocol or rest.table != table:
            return None
        destination, _ = _destination(data, at, end)
        metrics = {
            name: _U32.unpack_from(data, value)[0]
            for attribute, first, last in attributes(data, at, end)
            if attribute == _RTA_METRICS
            for name, value, _ in attributes(data, first, last)
            if name in (_RTAX_LOCK, _RTAX_MTU)
        }
        route = Route(
            kind, length, destination, rest.priority, rest.source, rest.links, rest.gateways
        )
        locked = bool(metrics.get(_RTAX_LOCK, 0) & 1 << _RTAX_MTU)
        return OwnRoute(route, metrics.get(_RTAX_MTU, 0), locked)

    return dump(_RTM_GETROUTE, body, read)


class _Rest(NamedTuple):
    table: int
    priority: int
    source: bytes
    links: tuple[int, ...]
    gateways: tuple[bytes, ...]


def _destination(data: bytes, at: int, end: int) -> tuple[bytes, int]:
    """The destination, and where the attributes after it begin; `at` where there is none.

    The kernel puts the table first and then the destination. Wherever else it were, it would be in
    the rest, and no two rests would be alike.
    """
    found = list(islice(attributes(data, at, end), 2))
    if len(found) == 2 and found[0][0] == _RTA_TABLE and found[1][0] == _RTA_DST:
        _, first, last = found[1]
        return data[first:last], (last + 3) & ~3
    destination = next(
        (data[first:last] for kind, first, last in attributes(data, at, end) if kind == _RTA_DST),
        b"",
    )
    return destination, at


def _rest(data: bytes, at: int, end: int) -> _Rest:
    source = gateway = b""
    table = priority = oif = 0
    hops: tuple[tuple[int, bytes], ...] = ()
    for attribute, first, last in attributes(data, at, end):
        if attribute == _RTA_OIF:
            (oif,) = _U32.unpack_from(data, first)
        elif attribute == _RTA_GATEWAY:
            gateway = data[first:last]
        elif attribute == _RTA_PRIORITY:
            (priority,) = _U32.unpack_from(data, first)
        elif attribute == _RTA_PREFSRC:
            source = data[first:last]
        elif attribute == _RTA_TABLE:
            (table,) = _U32.unpack_from(data, first)
        elif attribute == _RTA_MULTIPATH:
            hops = tuple(_hops(data, first, last))
    if not hops and oif:
        hops = ((oif, gateway),)
    return _Rest(
        table, priority, source, tuple(hop[0] for hop in hops), tuple(hop[1] for hop in hops)
    )


def _hops(data: bytes, at: int, end: int) -> Iterator[tuple[int, bytes]]:
    while at + _NEXTHOP.size <= end:
        length, _, _, index = _NEXTHOP.unpack_from(data, at)
        if length < _NEXTHOP.size:
            return
        gateway = b""
        for attribute, first, last in attributes(data, at + _NEXTHOP.size, at + length):
            if attribute == _RTA_GATEWAY:
                gateway = data[first:last]
        yield index, gateway
        at += (length + 3) & ~3
