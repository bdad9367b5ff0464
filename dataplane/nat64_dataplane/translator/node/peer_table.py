"""Writes the routes to router nodes: thousands at once, so by hand as netlink messages.

They stand in a table of their own. A rule leads there only what comes in on the translator's link,
which is replies: so `bpf_fib_lookup` and the kernel find router nodes there, and the tunnel's own
packets, and all else that the node sends, never see it.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence

from nat64_dataplane.translator.node.facts import ROUTE_PROTOCOL, PeerRoute
from nat64_dataplane.translator.node.netlink_dump import ATTRIBUTE

TABLE_BASE = 0x36000000
"""The first of 2^24 tables, one by the hash of each translator's name."""
RULE_PRIORITY = 3264
"""Before the main table, behind that of local addresses."""

_RTMSG = struct.Struct("=8BI")
_NLMSG = struct.Struct("=IHHII")
_U32 = struct.Struct("=I")
_ERROR = struct.Struct("=iIHHII")  # the code, and the header of what failed
_RTM_NEWROUTE, _RTM_DELROUTE = 24, 25
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_METRICS, _RTA_TABLE = 1, 4, 5, 8, 15
_RTAX_LOCK, _RTAX_MTU = 1, 2
_RTNH_F_ONLINK = 4
_REQUEST, _ACK, _REPLACE_OR_CREATE = 0x1, 0x4, 0x500
_NLMSG_ERROR = 2
_UNIVERSE, _UNICAST, _UNSPECIFIC_TABLE = 0, 1, 252
_AT_ONCE = 128
_GONE = (errno.ESRCH, errno.ENODEV)


def table_of(instance: str) -> int:
    """The table of one translator."""
    return TABLE_BASE | zlib.crc32(instance.encode()) & 0xFFFFFF


def write(table: int, routes: Iterable[PeerRoute]) -> dict[PeerRoute, int]:
    """Add routes, or replace those to the same prefixes; returns those that the kernel refuses,
    with its errno: a gateway that is no neighbour. Raises OSError where nothing can be written.
    """
    return _send(_RTM_NEWROUTE, _REQUEST | _REPLACE_OR_CREATE, table, list(routes))


def delete(table: int, routes: Iterable[PeerRoute]) -> dict[PeerRoute, int]:
    """Delete routes; that some are gone already doesn't matter. Returns and raises as `write`."""
    failed = _send(_RTM_DELROUTE, _REQUEST, table, list(routes))
    return {route: code for route, code in failed.items() if code not in _GONE}


def _send(kind: int, flags: int, table: int, routes: Sequence[PeerRoute]) -> dict[PeerRoute, int]:
    failed: dict[PeerRoute, int] = {}
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.bind((0, 0))
        for start in range(0, len(routes), _AT_ONCE):
            some = routes[start : start + _AT_ONCE]
            for route, code in _failures(netlink, kind, flags, table, some):
                failed[route] = code
                if code in (errno.EPERM, errno.ENOMEM, errno.ENOBUFS):
                    raise OSError(code, os.strerror(code))
    return failed


def _failures(
    netlink: socket.socket, kind: int, flags: int, table: int, routes: Sequence[PeerRoute]
) -> Iterator[tuple[PeerRoute, int]]:
    """Send one batch, whose last message only is acknowledged; yield what has failed."""
    messages = []
    for number, route in enumerate(routes):
        body = _body(table, route)
        asked = flags | (_ACK if number == len(routes) - 1 else 0)
        messages.append(_NLMSG.pack(_NLMSG.size + len(body), kind, asked, number, 0) + body)
    netlink.send(b"".join(messages))
    done = False
    while not done:
        data = netlink.recv(1 << 16)
        at = 0
        while at + _NLMSG.size <= len(data):
            length, got, _, number, _ = _NLMSG.unpack_from(data, at)
            if got == _NLMSG_ERROR:
                code, *_ = _ERROR.unpack_from(data, at + _NLMSG.size)
                if code:
                    yield routes[number], -code
                done = done or number == len(routes) - 1
            at += (length + 3) & ~3


def _body(table: int, route: PeerRoute) -> bytes:
    onlink = _RTNH_F_ONLINK if route.ifindex and route.gateway else 0
    body = _RTMSG.pack(
        socket.AF_INET6,
        route.prefix.prefixlen,
        0,
        0,
        _UNSPECIFIC_TABLE,
        ROUTE_PROTOCOL,
        _UNIVERSE,
        _UNICAST,
        onlink,
    )
    body += _attribute(_RTA_TABLE, _U32.pack(table))
    body += _attribute(_RTA_DST, route.prefix.network_address.packed)
    if route.gateway:
        body += _attribute(_RTA_GATEWAY, route.gateway.packed)
    if route.ifindex:
        body += _attribute(_RTA_OIF, _U32.pack(route.ifindex))
    if route.mtu:
        metrics = _attribute(_RTAX_LOCK, _U32.pack(1 << _RTAX_MTU))
        metrics += _attribute(_RTAX_MTU, _U32.pack(route.mtu))
        body += _attribute(_RTA_METRICS, metrics)
    return body


def _attribute(kind: int, value: bytes) -> bytes:
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(value), kind) + value
