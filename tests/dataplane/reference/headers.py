"""IP headers as dataclasses, addresses inside addresses (RFC 6052), and checksums (RFC 1071)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network

TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION = 0, 43, 44, 60
EXTENSIONS = (HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION)
REDIRECT = 137
MOST_EXTENSIONS, MOST_EXTENSION_BYTES = 8, 512
SHORTEST = {TCP: 20, UDP: 8, ICMP: 8, ICMPV6: 8}
"""Bytes of the transport headers that may be translated."""


class Refused(Exception):
    """The packet isn't translated; the argument names why, as the counters do."""

    def __init__(self, reason: str, pointer: int = 0, *, answerable: bool = True) -> None:
        super().__init__(reason)
        self.reason = reason
        self.pointer = pointer
        """For a parameter problem: where it is."""
        self.answerable = answerable
        """False where the packet is an ICMP error, or may be one: no error answers that."""


def embed(prefix: IPv6Network, address: IPv4Address) -> IPv6Address:
    """RFC 6052 section 2.2: behind the prefix, but never in octet 8; the suffix is zero."""
    octets = bytearray(prefix.network_address.packed)
    at = prefix.prefixlen // 8
    for octet in address.packed:
        at += at == 8
        octets[at] = octet
        at += 1
    return IPv6Address(bytes(octets))


def extract(prefix: IPv6Network, address: IPv6Address) -> IPv4Address:
    """The other way: octet 8 and the suffix are ignored."""
    start = prefix.prefixlen // 8
    places = [at for at in range(start, 16) if at != 8][:4]
    return IPv4Address(bytes(address.packed[at] for at in places))


@dataclass
class Header6:
    """An IPv6 header with its extension headers read."""

    source: IPv6Address
    destination: IPv6Address
    traffic_class: int
    hop_limit: int
    next_header: int
    length: int
    """Of the transport part, as the header has it."""
    start: int = 40
    fragment_id: int | None = None
    offset: int = 0
    more: bool = False
    unfinished_route: int = 0
    """Where the first routing header says that segments are left; 0: none does."""

    @property
    def is_fragment(self) -> bool:
        """Whether anything is missing; an atomic fragment is whole."""
        return bool(self.offset or self.more)

    def payload(self, packet: bytes) -> bytes:
        """The transport part, or what there is of it."""
        return packet[self.start : self.start + self.length]

    @classmethod
    def read(cls, packet: bytes, *, whole: bool) -> Header6:
        """Read up to the transport header."""
        first, length, following, hop_limit = struct.unpack("!IHBB", packet[:8])
        head = cls(
            IPv6Address(packet[8:24]),
            IPv6Address(packet[24:40]),
            first >> 20 & 0xFF,
            hop_limit,
            following,
            length,
        )
        if whole and len(packet) < 40 + length:
            raise Refused("truncated")
        for _ in range(MOST_EXTENSIONS):
            if head.next_header not in EXTENSIONS:
                break
            head._skip(packet)
        if head.next_header in EXTENSIONS:
            fragment = head.fragment_id is not None
            raise Refused("extension_after_fragment" if fragment else "extension_chain")
        if head.start - 40 > MOST_EXTENSION_BYTES:
            raise Refused("extension_chain")
        if head.length < 0:
            raise Refused("truncated")
        if head.unfinished_route:
            kind = packet[head.start] if head.length and not head.offset else 0
            error = head.next_header == ICMPV6 and (kind < 128 or kind == REDIRECT)
            raise Refused("routing_header", head.unfinished_route, answerable=not error)
        return head

    def _skip(self, packet: bytes) -> None:
        header = packet[self.start : self.start + 8]
        if len(header) < 8:
            raise Refused("truncated")
        if self.fragment_id is not None:
            raise Refused("extension_after_fragment")
        size = 8
        if self.next_header == FRAGMENT:
            _, _, offset, self.fragment_id = struct.unpack("!BBHI", header)
            self.offset, self.more = offset & 0xFFF8, bool(offset & 1)
        else:
            if self.next_header == ROUTING and header[3]:
                self.unfinished_route = self.unfinished_route or self.start + 3
            size = (header[1] + 1) * 8
        self.start += size
        self.length -= size
        self.next_header = header[0]


@dataclass
class Header4:
    """An IPv4 header."""

    source: IPv4Address
    destination: IPv4Address
    tos: int
    ttl: int
    protocol: int
    size: int
    total: int
    identification: int
    df: bool
    more: bool
    offset: int

    @property
    def is_fragment(self) -> bool:
        """Whether anything is missing."""
        return bool(self.offset or self.more)

    @property
    def length(self) -> int:
        """Of the transport part, as the header has it."""
        return self.total - self.size

    def payload(self, packet: bytes) -> bytes:
        """The transport part, or what there is of it."""
        return packet[self.size : self.total]

    @classmethod
    def read(cls, packet: bytes, *, whole: bool) -> Header4:
        """Read the header. What is wrong with it, the host may say."""
        if len(packet) < 20:
            raise Refused("passed")
        first, tos, total, identification, field, ttl, protocol = struct.unpack(
            "!BBHHHBB", packet[:10]
        )
        size = (first & 15) * 4
        if first >> 4 != 4 or size < 20 or total < size:
            raise Refused("passed")
        if whole and (total > len(packet) or checksum(packet[:size])):
            raise Refused("passed")
        return cls(
            IPv4Address(packet[12:16]),
            IPv4Address(packet[16:20]),
            tos,
            ttl,
            protocol,
            size,
            total,
            identification,
            bool(field & 0x4000),
            bool(field & 0x2000),
            (field & 0x1FFF) * 8,
        )


def has_unexpired_source_route(options: bytes) -> bool:
    """RFC 7915 section 4.1, with RFC 791's options: a route whose pointer is within it."""
    while len(options) > 2 and options[0]:
        if options[0] == 1:
            options = options[1:]
            continue
        if options[0] in (131, 137) and options[2] <= options[1]:
            return True
        if options[1] < 2:
            return False
        options = options[options[1] :]
    return False


def checksum(data: bytes) -> int:
    """RFC 1071, the plain way."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


def pseudo4(source: IPv4Address, destination: IPv4Address, length: int, protocol: int) -> bytes:
    """The pseudo-header of TCP and UDP over IPv4."""
    return source.packed + destination.packed + struct.pack("!HH", protocol, length)


def pseudo6(source: IPv6Address, destination: IPv6Address, length: int, protocol: int) -> bytes:
    """The pseudo-header of all that has a checksum over IPv6 (RFC 8200 section 8.1)."""
    return source.packed + destination.packed + struct.pack("!II", length, protocol)


def renew(
    old: bytes, old_pseudo: bytes, new: bytes, new_pseudo: bytes, protocol: int = ICMP
) -> bytes:
    """`new` with a checksum that is as right, or as wrong, as that of `old`.

    Bytes that a fragment lacks, or an ICMP error didn't quote, change neither sum: only the
    difference counts.
    """
    at = {TCP: 16, UDP: 6}.get(protocol, 2)
    if len(old) < at + 2:
        return new
    given = int.from_bytes(old[at : at + 2], "big")
    was = checksum(old_pseudo + old[:at] + b"\0\0" + old[at + 2 :])
    is_ = checksum(new_pseudo + new[:at] + b"\0\0" + new[at + 2 :])
    value = (given - was + is_) % 0xFFFF
    if not value and protocol == UDP:
        value = 0xFFFF  # zero would say that there is none
    return new[:at] + struct.pack("!H", value) + new[at + 2 :]
