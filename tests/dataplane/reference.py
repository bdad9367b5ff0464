"""A translator in plain Python, written from RFC 7915 and RFC 6146 alone, to hold the programs to.

It shares nothing with them: checksums are computed anew over whole packets instead of being
adjusted, addresses come from `ipaddress`, and there is no state but the bindings it is given.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, IPv6Network

from nat64_dataplane import pref64

TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION = 0, 43, 44, 60

Client = tuple[IPv6Address, int]
Public = tuple[IPv4Address, int]


class Refused(Exception):
    """The packet isn't translated; the argument names why, as the counters do."""


@dataclass
class Reference:
    """One translator's view of the world."""

    prefix: IPv6Network
    bind: Callable[[int, Client], Public]
    """The binding for a protocol and client, made if need be."""
    bound: Callable[[int, Public], Client | None]
    """The client behind a protocol and pool address and port."""
    copy_traffic_class: bool = True
    ignored_id: bool = field(default=False, init=False)
    """Whether the last packet's IPv4 identification is the translator's own choice."""

    # ---- IPv6 to IPv4 ------------------------------------------------------------------------

    def to_ipv4(self, packet: bytes, ttl: int) -> bytes:
        """Translate a whole packet or an atomic fragment; `ttl` is what its TTL becomes."""
        head = Header6.read(packet, whole=True)
        if head.source in self.prefix:
            raise Refused("source_in_prefix")
        payload = head.payload(packet)
        remote = pref64.extract(self.prefix, head.destination)
        protocol = ICMP if head.next_header == ICMPV6 else head.next_header
        if protocol == ICMP and payload[0] < 128:
            return self._error_to_ipv4(head, payload, remote, ttl)
        client = (head.source, client_port(protocol, payload))
        pool, port = self.bind(protocol, client)
        body = self._to_ipv4_transport(protocol, payload, head, pool, remote, port)
        return self._ipv4(head, ttl, protocol, pool, remote, body)

    def _ipv4(
        self,
        head: Header6,
        ttl: int,
        protocol: int,
        source: IPv4Address,
        destination: IPv4Address,
        body: bytes,
        length: int | None = None,
    ) -> bytes:
        total = 20 + (len(body) if length is None else length)
        if head.fragment_id is None:
            identification, flags = 0, 0 if total <= 1260 else 0x4000
        else:
            identification = head.fragment_id & 0xFFFF
            flags = head.offset >> 3 | (0x2000 if head.more else 0)
        self.ignored_id = head.fragment_id is None and flags == 0
        tos = head.traffic_class if self.copy_traffic_class else 0
        raw = struct.pack(
            "!BBHHHBBH4s4s",
            0x45,
            tos,
            total,
            identification,
            flags,
            ttl,
            protocol,
            0,
            source.packed,
            destination.packed,
        )
        return raw[:10] + struct.pack("!H", checksum(raw)) + raw[12:] + body

    def _to_ipv4_transport(
        self,
        protocol: int,
        payload: bytes,
        head: Header6,
        pool: IPv4Address,
        remote: IPv4Address,
        port: int,
        *,
        inner: bool = False,
    ) -> bytes:
        """Ports, identifier, types and checksums. An inner packet's other end is the remote."""
        old = pseudo6(head.source, head.destination, head.length, head.next_header)
        if protocol == ICMP:
            kind = {128: 8, 129: 0}.get(payload[0])
            if kind is None:
                raise Refused("icmp_type")
            changed = bytes((kind, 0)) + payload[2:4] + port.to_bytes(2, "big") + payload[6:]
            return renew(payload, old, changed, b"", 2)
        where = 2 if inner else 0
        changed = payload[:where] + port.to_bytes(2, "big") + payload[where + 2 :]
        source, destination = (remote, pool) if inner else (pool, remote)
        new = pseudo4(source, destination, head.length, protocol)
        return renew(payload, old, changed, new, 16 if protocol == TCP else 6)

    def _error_to_ipv4(self, head: Header6, message: bytes, remote: IPv4Address, ttl: int) -> bytes:
        kind, code, rest = message[0], message[1], message[4:8]
        key = (kind, code) if (kind, code) in ERRORS_TO_IPV4 else None
        if key is None:
            raise Refused("icmp_type")
        inner, quoted = Header6.read_inner(message[8:])
        if inner.source not in self.prefix:
            raise Refused("icmp_without_session")
        inner_remote = pref64.extract(self.prefix, inner.source)
        protocol = ICMP if inner.next_header == ICMPV6 else inner.next_header
        pool, port = self.bind(
            protocol, (inner.destination, client_port(protocol, quoted, inner=True))
        )
        body = self._to_ipv4_transport(
            protocol, quoted, inner, pool, inner_remote, port, inner=True
        )
        new_kind, new_code = ERRORS_TO_IPV4[key]
        value = int.from_bytes(rest, "big")
        if (kind, code) == (4, 0):
            if value not in POINTERS_TO_IPV4:
                raise Refused("icmp_type")
            new_rest = bytes((POINTERS_TO_IPV4[value], 0, 0, 0))
        elif kind == 2:
            new_rest = struct.pack("!HH", 0, min(max(value - 20, 0), 1500))
        else:
            new_rest = bytes(4)
        inner_ip = self._ipv4(
            inner, inner.hop_limit, protocol, inner_remote, pool, b"", inner.length
        )
        whole = bytes((new_kind, new_code, 0, 0)) + new_rest + inner_ip + body
        whole = whole[: 576 - 20]
        whole = whole[:2] + struct.pack("!H", checksum(whole)) + whole[4:]
        outer = Header6(
            head.source, head.destination, head.traffic_class, head.hop_limit, ICMP, len(whole)
        )
        built = self._ipv4(outer, ttl, ICMP, pool, remote, whole)
        self.ignored_id = True
        return built

    # ---- IPv4 to IPv6 ------------------------------------------------------------------------

    def to_ipv6(self, packet: bytes, hop_limit: int) -> bytes:
        """Translate a whole packet; `hop_limit` is what its hop limit becomes."""
        head = Header4.read(packet)
        payload = packet[head.size : head.total]
        protocol = head.protocol
        if protocol == ICMP and payload[0] not in (0, 8):
            return self._error_to_ipv6(head, payload, hop_limit)
        where = 4 if protocol == ICMP else 2
        port = int.from_bytes(payload[where : where + 2], "big")
        client = self.bound(protocol, (head.destination, port))
        if client is None:
            raise Refused("passed")
        source = pref64.embed(self.prefix, head.source)
        body = self._to_ipv6_transport(protocol, payload, head, client, source)
        return self._ipv6(head, hop_limit, protocol, source, client[0], body)

    def _ipv6(
        self,
        head: Header4,
        hop_limit: int,
        protocol: int,
        source: IPv6Address,
        destination: IPv6Address,
        body: bytes,
        length: int | None = None,
    ) -> bytes:
        traffic_class = head.tos if self.copy_traffic_class else 0
        return (
            struct.pack(
                "!IHBB",
                6 << 28 | traffic_class << 20,
                len(body) if length is None else length,
                ICMPV6 if protocol == ICMP else protocol,
                hop_limit,
            )
            + source.packed
            + destination.packed
            + body
        )

    def _to_ipv6_transport(
        self,
        protocol: int,
        payload: bytes,
        head: Header4,
        client: Client,
        remote: IPv6Address,
        *,
        inner: bool = False,
    ) -> bytes:
        address, port = client
        length = head.total - head.size
        source, destination = (address, remote) if inner else (remote, address)
        number = ICMPV6 if protocol == ICMP else protocol
        new = pseudo6(source, destination, length, number)
        if protocol == ICMP:
            changed = (
                bytes(({8: 128, 0: 129}[payload[0]], 0))
                + payload[2:4]
                + port.to_bytes(2, "big")
                + payload[6:]
            )
            return renew(payload, b"", changed, new, 2)
        where = 0 if inner else 2
        changed = payload[:where] + port.to_bytes(2, "big") + payload[where + 2 :]
        at = 16 if protocol == TCP else 6
        if protocol == UDP and payload[6:8] == b"\0\0":
            if inner:
                return changed
            return changed[:6] + struct.pack("!H", checksum(new + changed) or 0xFFFF) + changed[8:]
        old = pseudo4(head.source, head.destination, length, protocol)
        return renew(payload, old, changed, new, at)

    def _error_to_ipv6(self, head: Header4, message: bytes, hop_limit: int) -> bytes:
        kind, code, rest = message[0], message[1], message[4:8]
        inner = Header4.read(message[8:], inner=True)
        quoted = message[8 + inner.size :]
        if inner.offset or len(quoted) < 8:
            raise Refused("passed")
        if inner.protocol not in (TCP, UDP, ICMP):
            raise Refused("passed")
        if inner.protocol == ICMP and quoted[0] not in (0, 8):
            raise Refused("passed")
        where = 4 if inner.protocol == ICMP else 0
        port = int.from_bytes(quoted[where : where + 2], "big")
        client = self.bound(inner.protocol, (inner.source, port))
        if client is None:
            raise Refused("passed")
        if (kind, code) not in ERRORS_TO_IPV6:
            raise Refused("icmp_type")
        remote = pref64.embed(self.prefix, inner.destination)
        body = self._to_ipv6_transport(inner.protocol, quoted, inner, client, remote, inner=True)
        new_kind, new_code = ERRORS_TO_IPV6[kind, code]
        if kind == 12:
            if rest[0] not in POINTERS_TO_IPV6:
                raise Refused("icmp_type")
            new_rest = struct.pack("!I", POINTERS_TO_IPV6[rest[0]])
        elif (kind, code) == (3, 2):
            new_rest = struct.pack("!I", 6)
        elif (kind, code) == (3, 4):
            mtu = int.from_bytes(rest[2:], "big")
            if not mtu:
                mtu = next((m for m in PLATEAUS if m < inner.total), 0)
            new_rest = struct.pack("!I", max(1280, min(mtu + 20, 1500)))
        else:
            new_rest = bytes(4)
        inner_ip = self._ipv6(
            inner,
            inner.ttl,
            inner.protocol,
            client[0],
            remote,
            b"",
            inner.total - inner.size + (8 if inner.more else 0),
        )
        if inner.more:
            inner_ip = inner_ip[:6] + bytes((FRAGMENT,)) + inner_ip[7:]
            number = ICMPV6 if inner.protocol == ICMP else inner.protocol
            inner_ip += struct.pack("!BBHI", number, 0, 1, inner.identification)
        whole = bytes((new_kind, new_code, 0, 0)) + new_rest + inner_ip + body
        whole = whole[: 1280 - 40]
        source = pref64.embed(self.prefix, head.source)
        pseudo = pseudo6(source, client[0], len(whole), ICMPV6)
        whole = whole[:2] + struct.pack("!H", checksum(pseudo + whole)) + whole[4:]
        return self._ipv6(head, hop_limit, ICMP, source, client[0], whole)


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

    def payload(self, packet: bytes) -> bytes:
        """The transport part."""
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
        while head.next_header in (HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION):
            if head.fragment_id is not None:
                raise Refused("extension_after_fragment")
            if head.next_header == FRAGMENT:
                following, _, offset, head.fragment_id = struct.unpack(
                    "!BBHI", packet[head.start : head.start + 8]
                )
                head.offset, head.more = offset & 0xFFF8, bool(offset & 1)
                size = 8
            else:
                following, words = packet[head.start], packet[head.start + 1]
                if head.next_header == ROUTING and packet[head.start + 3]:
                    raise Refused("routing_header")
                size = (words + 1) * 8
            head.start += size
            head.length -= size
            head.next_header = following
        if whole and len(packet) < head.start + head.length:
            raise Refused("truncated")
        return head

    @classmethod
    def read_inner(cls, quoted: bytes) -> tuple[Header6, bytes]:
        """Read a header in an ICMP error and what is quoted of its payload."""
        head = cls.read(quoted, whole=False)
        return head, quoted[head.start :]


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
    offset: int
    more: bool

    @classmethod
    def read(cls, packet: bytes, *, inner: bool = False) -> Header4:
        """Read the header; options are ignored."""
        first, tos, total, identification, field_, ttl, protocol = struct.unpack(
            "!BBHHHBB", packet[:10]
        )
        if not inner and total > len(packet):
            raise Refused("passed")
        return cls(
            IPv4Address(packet[12:16]),
            IPv4Address(packet[16:20]),
            tos,
            ttl,
            protocol,
            (first & 15) * 4,
            total,
            identification,
            field_ & 0x1FFF,
            bool(field_ & 0x2000),
        )


def client_port(protocol: int, payload: bytes, *, inner: bool = False) -> int:
    """The client's port or identifier, in a packet from it, or (`inner`) to it."""
    where = 4 if protocol == ICMP else 2 if inner else 0
    return int.from_bytes(payload[where : where + 2], "big")


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


def renew(old: bytes, old_pseudo: bytes, new: bytes, new_pseudo: bytes, at: int) -> bytes:
    """`new` with a checksum at `at` that is as right, or as wrong, as that of `old`.

    Bytes that an ICMP error didn't quote change neither sum: only the difference counts.
    """
    if len(old) < at + 2:
        return new
    given = int.from_bytes(old[at : at + 2], "big")
    was = checksum(old_pseudo + old[:at] + b"\0\0" + old[at + 2 :])
    is_ = checksum(new_pseudo + new[:at] + b"\0\0" + new[at + 2 :])
    value = (given - was + is_) % 0xFFFF
    return new[:at] + struct.pack("!H", value) + new[at + 2 :]


ERRORS_TO_IPV6 = {(3, code): (1, 0) for code in (0, 1, 5, 6, 7, 8, 11, 12)}
ERRORS_TO_IPV6 |= {(3, code): (1, 1) for code in (9, 10, 13, 15)}
ERRORS_TO_IPV6 |= {(3, 2): (4, 1), (3, 3): (1, 4), (3, 4): (2, 0), (11, 0): (3, 0), (11, 1): (3, 1)}
ERRORS_TO_IPV6 |= {(12, 0): (4, 0), (12, 2): (4, 0)}
ERRORS_TO_IPV4 = {(1, 0): (3, 1), (1, 1): (3, 10), (1, 2): (3, 1), (1, 3): (3, 1), (1, 4): (3, 3)}
ERRORS_TO_IPV4 |= {
    (2, 0): (3, 4),
    (3, 0): (11, 0),
    (3, 1): (11, 1),
    (4, 0): (12, 0),
    (4, 1): (3, 2),
}
POINTERS_TO_IPV6 = {0: 0, 1: 1, 2: 4, 3: 4, 8: 7, 9: 6}
POINTERS_TO_IPV6 |= dict.fromkeys(range(12, 16), 8) | dict.fromkeys(range(16, 20), 24)
POINTERS_TO_IPV4 = {0: 0, 1: 1, 4: 2, 5: 2, 6: 9, 7: 8}
POINTERS_TO_IPV4 |= dict.fromkeys(range(8, 24), 12) | dict.fromkeys(range(24, 40), 16)
PLATEAUS = (65535, 32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68)
