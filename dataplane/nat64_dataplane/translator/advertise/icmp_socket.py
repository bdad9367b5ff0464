"""The raw ICMPv6 socket: solicitations and what others advertise in, our advertisements out."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from ipaddress import IPv6Address
from typing import NamedTuple

from nat64_dataplane.translator.advertise.message import (
    ALL_NODES,
    ALL_ROUTERS,
    HOP_LIMIT,
    ROUTER_ADVERTISEMENT,
    ROUTER_SOLICITATION,
)

_SOL_RAW, _IPV6_CHECKSUM = 255, 7
_SOL_ICMPV6, _ICMPV6_FILTER = 58, 1
_IPV6_RECVPKTINFO, _IPV6_PKTINFO, _IPV6_RECVHOPLIMIT, _IPV6_HOPLIMIT = 49, 50, 51, 52
_PKTINFO = struct.Struct("=16si")
_INT = struct.Struct("=i")
_LARGEST = 1500
"""Bytes of a solicitation that are looked at: one that is longer has a wrong checksum then."""


class Received(NamedTuple):
    """A message that came in."""

    data: bytes
    source: IPv6Address
    destination: IPv6Address
    link: int
    """Its interface index."""
    hop_limit: int


class IcmpSocket:
    """One for all links. Needs CAP_NET_RAW."""

    def __init__(self) -> None:
        """Open it. Raises OSError."""
        self._joined: set[int] = set()
        self._socket = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        try:
            self._set_up()
        except OSError:
            self._socket.close()
            raise

    def _set_up(self) -> None:
        blocked = [0xFFFFFFFF] * 8
        for kind in (ROUTER_SOLICITATION, ROUTER_ADVERTISEMENT):
            blocked[kind >> 5] &= ~(1 << (kind & 31))
        raw = self._socket
        raw.setblocking(False)
        raw.setsockopt(_SOL_ICMPV6, _ICMPV6_FILTER, struct.pack("=8I", *blocked))
        # The kernel drops what has a wrong checksum in silence. We count it, so we check it.
        raw.setsockopt(_SOL_RAW, _IPV6_CHECKSUM, -1)
        for option in (_IPV6_RECVPKTINFO, _IPV6_RECVHOPLIMIT):
            raw.setsockopt(socket.IPPROTO_IPV6, option, 1)
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, HOP_LIMIT)
        # The node itself is not to learn from us.
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)

    def fileno(self) -> int:
        """For the event loop."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close it; the kernel leaves the groups."""
        self._socket.close()

    def listen_on(self, indexes: set[int]) -> None:
        """Hear what hosts on these links, and on no others, send to all routers."""
        for index in sorted(indexes - self._joined):
            with contextlib.suppress(OSError):  # the link has just gone
                self._member(socket.IPV6_JOIN_GROUP, index)
                self._joined.add(index)
        for index in sorted(self._joined - indexes):
            with contextlib.suppress(OSError):
                self._member(socket.IPV6_LEAVE_GROUP, index)
            self._joined.discard(index)

    def _member(self, option: int, index: int) -> None:
        self._socket.setsockopt(
            socket.IPPROTO_IPV6, option, _PKTINFO.pack(ALL_ROUTERS.packed, index)
        )

    def send(self, message: bytes, index: int, source: IPv6Address) -> None:
        """To all nodes on a link. Raises OSError."""
        info = (socket.IPPROTO_IPV6, _IPV6_PKTINFO, _PKTINFO.pack(source.packed, index))
        self._socket.sendmsg([message], [info], 0, (str(ALL_NODES), 0, 0, index))

    def receive(self) -> Received | None:
        """What has come, or None for now. Raises OSError."""
        try:
            data, extra, _, sender = self._socket.recvmsg(_LARGEST, 128)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EINTR):
                return None
            raise
        destination, index, hop_limit = IPv6Address(0), 0, 0
        for level, kind, content in extra:
            if level != socket.IPPROTO_IPV6:
                continue
            if kind == _IPV6_PKTINFO:
                packed, index = _PKTINFO.unpack(content)
                destination = IPv6Address(packed)
            elif kind == _IPV6_HOPLIMIT:
                (hop_limit,) = _INT.unpack(content)
        source = IPv6Address(sender[0].partition("%")[0])
        return Received(data, source, destination, index, hop_limit)
