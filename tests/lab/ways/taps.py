"""The far ends of a node's links, in user space: every host that is asked for exists and answers.

Each link ends in a TAP (or TUN) device of the node's own. Every address on it answers ARP and
neighbour discovery with a link-layer address that contains the address, so that a frame shows which
next hop its sender chose. Every IPv4 address accepts every TCP connection.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

_TUNSETIFF, _IFF_TUN, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 1, 2, 0x1000
_ARP, _IPV4, _IPV6 = 0x0806, 0x0800, 0x86DD
_SYN, _ACK = 2, 16
_ETHERNET = 14


class Syn(NamedTuple):
    """The first packet of a connection, as it left the node."""

    link: str
    next_hop: str
    source: str
    port: int
    destination: str


class Answer(NamedTuple):
    """What the pod heard: `kind` is `connected`, or the ICMPv6 type and code."""

    kind: str
    port: int


def mac_of(address: IPv4Address | IPv6Address) -> bytes:
    """The link-layer address that a neighbour of that address has."""
    return bytes((2 if address.version == 4 else 6, 0)) + address.packed[-4:]


def address_of(mac: bytes) -> str:
    """The neighbour that a frame goes to, as text; IPv6 ones by their last four bytes."""
    return str(IPv4Address(mac[2:])) if mac[0] == 2 else f"fe80::/{mac[2:].hex()}"


class Tap:
    """One link of the node; this object is its far end."""

    def __init__(self, name: str, *, ethernet: bool = True) -> None:
        self.name = name
        self.ethernet = ethernet
        self.fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        kind = (_IFF_TAP if ethernet else _IFF_TUN) | _IFF_NO_PI
        fcntl.ioctl(self.fd, _TUNSETIFF, struct.pack("16sH", name.encode(), kind))

    def frames(self) -> Iterator[bytes]:
        """What the node has sent on this link since the last call."""
        while True:
            try:
                yield os.read(self.fd, 65536)
            except BlockingIOError:
                return

    def send(self, frame: bytes) -> None:
        """Send a frame to the node."""
        os.write(self.fd, frame)


class World:
    """All far ends. `pod` is the link behind which every IPv6 address is a pod."""

    def __init__(self, uplinks: list[Tap], pod: Tap) -> None:
        self.uplinks = uplinks
        self.pod = pod
        self.syns: list[Syn] = []
        self.answers: list[Answer] = []
        self._poll = select.poll()
        for tap in [*uplinks, pod]:
            self._poll.register(tap.fd, select.POLLIN)

    def run(self, done: Callable[[], bool], seconds: float) -> bool:
        """Answer every packet until `done`, or for so many seconds; returns whether it was done."""
        end = time.monotonic() + seconds
        while not done():
            left = end - time.monotonic()
            if left <= 0:
                return False
            self._poll.poll(min(left, 0.005) * 1000)
            self._serve()
        return True

    def _serve(self) -> None:
        for tap in self.uplinks:
            for frame in tap.frames():
                self._of_uplink(tap, frame)
        for frame in self.pod.frames():
            self._of_pod(frame)

    def _of_uplink(self, tap: Tap, frame: bytes) -> None:
        if not tap.ethernet:
            if frame[0] >> 4 == 4:
                self._ipv4(tap, b"", frame)
            return
        kind = int.from_bytes(frame[12:14], "big")
        if kind == _ARP:
            _answer_arp(tap, frame)
        elif kind == _IPV6:
            _answer_solicitation(tap, frame)
        elif kind == _IPV4:
            self._ipv4(tap, frame[:_ETHERNET], frame[_ETHERNET:])

    def _ipv4(self, tap: Tap, link: bytes, packet: bytes) -> None:
        header = (packet[0] & 15) * 4
        tcp = packet[header:]
        if packet[9] != socket.IPPROTO_TCP or tcp[13] & (_SYN | _ACK) != _SYN:
            return
        source, destination = IPv4Address(packet[12:16]), IPv4Address(packet[16:20])
        port, server = struct.unpack("!HH", tcp[:4])
        next_hop = address_of(link[:6]) if link else ""
        self.syns.append(Syn(tap.name, next_hop, str(source), port, str(destination)))
        answer = tcp_segment(
            destination.packed,
            source.packed,
            server,
            port,
            _SYN | _ACK,
            acknowledged=int.from_bytes(tcp[4:8], "big") + 1,
        )
        back = ipv4_packet(destination.packed, source.packed, answer)
        tap.send(link[6:12] + link[:6] + link[12:14] + back if link else back)

    def _of_pod(self, frame: bytes) -> None:
        if int.from_bytes(frame[12:14], "big") != _IPV6 or _answer_solicitation(self.pod, frame):
            return
        packet = frame[_ETHERNET:]
        if packet[6] == socket.IPPROTO_TCP:
            if packet[53] & (_SYN | _ACK) == _SYN | _ACK:
                self.answers.append(Answer("connected", int.from_bytes(packet[42:44], "big")))
        elif packet[6] == socket.IPPROTO_ICMPV6 and packet[40] < 128 and len(packet) >= 92:
            port = int.from_bytes(packet[88:90], "big")
            self.answers.append(Answer(f"icmp {packet[40]} {packet[41]}", port))


def _answer_arp(tap: Tap, frame: bytes) -> None:
    operation = int.from_bytes(frame[20:22], "big")
    sender, target = frame[28:32], frame[38:42]
    if operation != 1 or sender == target:
        return
    mac = mac_of(IPv4Address(target))
    reply = frame[14:20] + b"\0\2" + mac + target + frame[22:32]
    tap.send(frame[6:12] + mac + frame[12:14] + reply)


def _answer_solicitation(tap: Tap, frame: bytes) -> bool:
    packet = frame[_ETHERNET:]
    if packet[6] != socket.IPPROTO_ICMPV6 or packet[40] != 135:
        return False
    source, target = packet[8:24], packet[48:64]
    if any(source):
        mac = mac_of(IPv6Address(target))
        body = bytes((136, 0, 0, 0, 0x60, 0, 0, 0)) + target + b"\2\1" + mac
        body = _summed(target + source, socket.IPPROTO_ICMPV6, body, 2)
        head = struct.pack("!IHBB", 6 << 28, len(body), socket.IPPROTO_ICMPV6, 255)
        tap.send(frame[6:12] + mac + frame[12:14] + head + target + source + body)
    return True


def syn_of_pod(source: IPv6Address, destination: IPv6Address, port: int, to: int) -> bytes:
    """The IPv6 packet with which a pod opens a connection."""
    segment = tcp_segment(source.packed, destination.packed, port, to, _SYN)
    head = struct.pack("!IHBB", 6 << 28, len(segment), socket.IPPROTO_TCP, 64)
    return head + source.packed + destination.packed + segment


def tcp_segment(
    source: bytes, destination: bytes, port: int, to: int, flags: int, acknowledged: int = 0
) -> bytes:
    """A TCP header without options, summed for these addresses."""
    head = struct.pack("!HHIIBBHHH", port, to, 1000, acknowledged, 5 << 4, flags, 65535, 0, 0)
    return _summed(source + destination, socket.IPPROTO_TCP, head, 16)


def ipv4_packet(source: bytes, destination: bytes, payload: bytes) -> bytes:
    """An IPv4 packet with a TCP segment."""
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, socket.IPPROTO_TCP, 0)
    head += source + destination
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + payload


def checksum(data: bytes) -> int:
    """The internet checksum (RFC 1071); 0 over data that holds its own."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


def _summed(addresses: bytes, protocol: int, data: bytes, at: int) -> bytes:
    pseudo = addresses + struct.pack("!II", len(data), protocol)
    return data[:at] + checksum(pseudo + data).to_bytes(2, "big") + data[at + 2 :]
