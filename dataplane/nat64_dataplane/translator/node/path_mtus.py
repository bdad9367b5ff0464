"""What the ways to many nodes carry: route look-ups by netlink, very many at once.

By hand as netlink messages, because there are thousands of router nodes, and they are asked about
in each pass: the kernel notes what path MTU discovery has found, and tells nobody.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence
from ipaddress import IPv6Address

from nat64_dataplane.translator.node.netlink_dump import ATTRIBUTE, attributes

_NLMSG = struct.Struct("=IHHII")
_RTMSG = struct.Struct("=8BI")
_U32 = struct.Struct("=I")
_RTM_NEWROUTE, _RTM_GETROUTE, _REQUEST = 24, 26, 1
_RTA_DST, _RTA_OIF, _RTA_METRICS, _RTAX_MTU = 1, 4, 8, 2
_UNICAST = 1
_AT_ONCE = 128
_READ_BYTES = 1 << 18
_PATIENCE_SECONDS = 10  # the kernel answers at once: without it, a pass would wait for ever


def find(addresses: Sequence[IPv6Address]) -> Iterator[tuple[IPv6Address, int, int]]:
    """Yield an address, the index of the link towards it, and the MTU of the route in bytes, or 0
    where it has none of its own. Addresses without a route are left out. Raises OSError.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.settimeout(_PATIENCE_SECONDS)
        netlink.bind((0, 0))
        for start in range(0, len(addresses), _AT_ONCE):
            some = addresses[start : start + _AT_ONCE]
            netlink.send(b"".join(_question(n, address) for n, address in enumerate(some)))
            left = len(some)
            while left:
                for number, link, mtu in _answers(netlink.recv(_READ_BYTES)):
                    left -= 1
                    if link:
                        yield some[number], link, mtu


def _question(number: int, address: IPv6Address) -> bytes:
    body = _RTMSG.pack(socket.AF_INET6, 128, 0, 0, 0, 0, 0, 0, 0)
    body += ATTRIBUTE.pack(ATTRIBUTE.size + 16, _RTA_DST) + address.packed
    return _NLMSG.pack(_NLMSG.size + len(body), _RTM_GETROUTE, _REQUEST, number, 0) + body


def _answers(data: bytes) -> Iterator[tuple[int, int, int]]:
    """The number of the question, link and MTU; 0 and 0 for an error. There is one for each."""
    at = 0
    while at + _NLMSG.size <= len(data):
        length, kind, _, number, _ = _NLMSG.unpack_from(data, at)
        link = mtu = 0
        if kind == _RTM_NEWROUTE:
            route = at + _NLMSG.size
            if _RTMSG.unpack_from(data, route)[7] == _UNICAST:
                link, mtu = _way(data, route + _RTMSG.size, at + length)
        yield number, link, mtu
        at += (length + 3) & ~3


def _way(data: bytes, at: int, end: int) -> tuple[int, int]:
    link = mtu = 0
    for kind, first, last in attributes(data, at, end):
        if kind == _RTA_OIF:
            link = _U32.unpack_from(data, first)[0]
        elif kind == _RTA_METRICS:
            for metric, value, _ in attributes(data, first, last):
                if metric == _RTAX_MTU:
                    mtu = _U32.unpack_from(data, value)[0]
    return link, mtu
