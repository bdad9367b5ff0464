"""The kernel's routes, read in bulk: a node may have 100,000 of them.

Parsed by hand from the netlink messages, as only a few fields of each are of interest.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

RTN_UNICAST, RTN_LOCAL, RTN_BROADCAST, RTN_ANYCAST = 1, 2, 3, 4

_NLMSG = struct.Struct("=IHHII")
_RTMSG = struct.Struct("=8BI")
_ATTRIBUTE = struct.Struct("=HH")
_NEXTHOP = struct.Struct("=HBBi")
_U32 = struct.Struct("=I")
_RTM_NEWROUTE, _RTM_GETROUTE, _NLMSG_ERROR, _NLMSG_DONE = 24, 26, 2, 3
_NLM_F_REQUEST, _NLM_F_DUMP, _NLM_F_DUMP_INTR = 0x1, 0x300, 0x10
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC = 1, 4, 5, 6, 7
_RTA_MULTIPATH, _RTA_TABLE = 9, 15
_SOL_NETLINK, _NETLINK_GET_STRICT_CHK = 270, 12
_READ_BYTES = 1 << 18
_ATTEMPTS = 5


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


def routes(family: int, table: int) -> list[Route]:
    """All routes of one table. Raises OSError."""
    for _ in range(_ATTEMPTS):
        found, whole = _dump(family, table)
        if whole:
            break
    return found  # after so many changes: what was read last; a change wakes the agent again


def _dump(family: int, table: int) -> tuple[list[Route], bool]:
    found: list[Route] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.bind((0, 0))
        netlink.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
        # With strict checking the kernel filters by the attribute, and by it alone.
        body = _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
        body += _ATTRIBUTE.pack(8, _RTA_TABLE) + _U32.pack(table)
        flags = _NLM_F_REQUEST | _NLM_F_DUMP
        netlink.send(_NLMSG.pack(_NLMSG.size + len(body), _RTM_GETROUTE, flags, 1, 0) + body)
        whole = True
        while True:
            data = netlink.recv(_READ_BYTES)
            at = 0
            while at + _NLMSG.size <= len(data):
                length, kind, flags, _, _ = _NLMSG.unpack_from(data, at)
                whole = whole and not flags & _NLM_F_DUMP_INTR
                if kind == _NLMSG_DONE:
                    return found, whole
                if kind == _NLMSG_ERROR:
                    error = -struct.unpack_from("=i", data, at + _NLMSG.size)[0]
                    if error == 2:  # ENOENT: there is no such table
                        return [], True
                    raise OSError(error, os.strerror(error))
                if kind == _RTM_NEWROUTE:
                    route = _read(data, at + _NLMSG.size, at + length, table)
                    if route:
                        found.append(route)
                at += (length + 3) & ~3


def _read(data: bytes, at: int, end: int, table: int) -> Route | None:
    _, length, _, _, found_in, _, _, kind, _ = _RTMSG.unpack_from(data, at)
    destination = source = gateway = b""
    priority = oif = 0
    hops: tuple[tuple[int, bytes], ...] = ()
    for attribute, first, last in _attributes(data, at + _RTMSG.size, end):
        if attribute == _RTA_DST:
            destination = data[first:last]
        elif attribute == _RTA_OIF:
            (oif,) = _U32.unpack_from(data, first)
        elif attribute == _RTA_GATEWAY:
            gateway = data[first:last]
        elif attribute == _RTA_PRIORITY:
            (priority,) = _U32.unpack_from(data, first)
        elif attribute == _RTA_PREFSRC:
            source = data[first:last]
        elif attribute == _RTA_TABLE:
            (found_in,) = _U32.unpack_from(data, first)
        elif attribute == _RTA_MULTIPATH:
            hops = tuple(_hops(data, first, last))
    if found_in != table:
        return None
    if not hops and oif:
        hops = ((oif, gateway),)
    links, gateways = tuple(hop[0] for hop in hops), tuple(hop[1] for hop in hops)
    return Route(kind, length, destination, priority, source, links, gateways)


def _attributes(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    while at + _ATTRIBUTE.size <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            return
        yield kind, at + _ATTRIBUTE.size, at + length
        at += (length + 3) & ~3


def _hops(data: bytes, at: int, end: int) -> Iterator[tuple[int, bytes]]:
    while at + _NEXTHOP.size <= end:
        length, _, _, index = _NEXTHOP.unpack_from(data, at)
        if length < _NEXTHOP.size:
            return
        gateway = b""
        for attribute, first, last in _attributes(data, at + _NEXTHOP.size, at + length):
            if attribute == _RTA_GATEWAY:
                gateway = data[first:last]
        yield index, gateway
        at += (length + 3) & ~3
