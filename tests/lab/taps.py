"""What arrives at a link of the namespace that we are in, and what its kernel says there unasked.

A kernel speaks whenever it likes: it joins multicast groups (RFC 9777), looks for routers and
neighbours (RFC 4861) and for other holders of its addresses. A test that compares packets is about
none of that, unless it asks for it.
"""

from __future__ import annotations

import itertools
import os
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from ipaddress import IPv6Address, IPv6Network

from scapy.layers.inet6 import (
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_RS,
    IPv6,
    IPv6ExtHdrHopByHop,
    RouterAlert,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from tests.lab.node import wait_for

_ETH_P_ALL, _ETH_P_IP, _ETH_P_IPV6 = 3, 0x0800, 0x86DD
_MARKER = bytes(12) + bytes.fromhex("88b5")  # a type for local experiments (IEEE 802)
_SOL_PACKET, _QDISC_BYPASS = 263, 20
_HOP_BY_HOP, _ICMPV6 = 0, 58
_LINK_LOCAL = IPv6Network("fe80::/10")
_OWN_TYPES = {130, 131, 132, 143, *range(133, 138)}
"""Of ICMPv6: multicast listeners, routers and neighbours."""

_numbers = itertools.count()


def is_kernels_own(frame: bytes) -> bool:
    """Whether a kernel sends such an Ethernet frame unasked, and a test's packet is none."""
    if int.from_bytes(frame[12:14], "big") != _ETH_P_IPV6:
        return False
    packet = frame[14:]
    source = IPv6Address(packet[8:24])
    if source.is_unspecified or source in _LINK_LOCAL:
        return True
    following, at = packet[6], 40
    if following == _HOP_BY_HOP:
        following, at = packet[40], 48 + packet[41] * 8
    return following == _ICMPV6 and packet[at : at + 1] != b"" and packet[at] in _OWN_TYPES


class Tap:
    """Collects the IP packets that come in by `link`, whose other end is `peer`, of this namespace.

    The kernel's own packets are not among them.
    """

    def __init__(self, link: str, peer: str) -> None:
        self._socket = _bound(link, _ETH_P_ALL)
        self._socket.setblocking(False)
        self._peer = _bound(peer, 0)
        self._peer.setsockopt(_SOL_PACKET, _QDISC_BYPASS, 1)

    def next(self) -> bytes | None:
        """The next frame that has come in, if any has."""
        while frame := self._receive():
            if _is_ip(frame):
                return frame
        return None

    def settled(self) -> list[bytes]:
        """All frames that were under way on this cable, however busy the machine is.

        Each CPU has a queue of its own, in which packets stay in order. So whatever was in one
        comes before a marker that goes into it now.
        """
        frames: list[bytes] = []
        home = os.sched_getaffinity(0)
        try:
            for cpu in home:
                os.sched_setaffinity(0, {cpu})
                self._up_to(b"", frames)  # a full socket would lose the marker
                marker = _MARKER + next(_numbers).to_bytes(46, "big")
                self._peer.send(marker)
                wait_for("marker", lambda marker=marker: self._up_to(marker, frames))  # type: ignore[misc]
        finally:
            os.sched_setaffinity(0, home)
        return frames

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()
        self._peer.close()

    def _up_to(self, marker: bytes, frames: list[bytes]) -> bool:
        while frame := self._receive():
            if frame == marker:
                return True
            if _is_ip(frame):
                frames.append(frame)
        return False

    def _receive(self) -> bytes | None:
        while True:
            try:
                frame, address = self._socket.recvfrom(65536)
            except BlockingIOError:
                return None
            if address[2] != socket.PACKET_OUTGOING:
                return bytes(frame)


def _bound(link: str, protocol: int) -> socket.socket:
    one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
    one.bind((link, protocol))
    return one


def _is_ip(frame: bytes) -> bool:
    kind = int.from_bytes(frame[12:14], "big")
    return kind in (_ETH_P_IP, _ETH_P_IPV6) and not is_kernels_own(frame)


@contextmanager
def chatter(*links: str) -> Iterator[Mapping[str, int]]:
    """Meanwhile, what a kernel may say comes out of these links all the time: as frames, and by
    this namespace's kernel itself where the link has IPv6. Yields how many frames each has sent.
    """
    sent = dict.fromkeys(links, 0)
    over = threading.Event()

    def speak() -> None:
        frames = [bytes(packet) for packet in unasked()]
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as member:
            sockets = {link: _bound(link, 0) for link in links}
            for number in itertools.count():
                if over.wait(0.001):
                    break
                for link, out in sockets.items():
                    with suppress(OSError):
                        _change_membership(member, link, number)
                    sent[link] += out.send(frames[number % len(frames)]) > 0
            for out in sockets.values():
                out.close()

    speaker = threading.Thread(target=speak)
    speaker.start()
    try:
        yield sent
    finally:
        over.set()
        speaker.join()


def unasked() -> list[Packet]:
    """One frame of each kind that a kernel sends by itself."""
    own, other, all_nodes = "fe80::64", "fd64:1::1", "ff02::1"
    messages = [
        IPv6(src=source, dst="ff02::16", hlim=1)
        / IPv6ExtHdrHopByHop(options=[RouterAlert()])
        / ICMPv6MLReport2()
        for source in (own, "::")
    ]
    messages += [
        IPv6(src="::", dst="ff02::1:ff00:64", hlim=255) / ICMPv6ND_NS(tgt=own),
        IPv6(src=other, dst="ff02::1:ff00:10", hlim=255) / ICMPv6ND_NS(tgt="fd64:1::10"),
        IPv6(src=other, dst=all_nodes, hlim=255) / ICMPv6ND_NA(tgt=other),
        IPv6(src=own, dst="ff02::2", hlim=255) / ICMPv6ND_RS(),
        IPv6(src=own, dst=all_nodes, hlim=255) / ICMPv6ND_RA(routerlifetime=0),
    ]
    head = Ether(src="02:00:00:00:00:77", dst="33:33:00:00:00:01")
    return [head / message for message in messages]


def _change_membership(member: socket.socket, link: str, number: int) -> None:
    option = socket.IPV6_LEAVE_GROUP if number % 2 else socket.IPV6_JOIN_GROUP
    group = struct.pack("=16sI", IPv6Address("ff05::6464").packed, socket.if_nametoindex(link))
    member.setsockopt(socket.IPPROTO_IPV6, option, group)
