"""RFC 7915: one packet from either IP version to the other, once it is known who is who."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import NamedTuple

from tests.dataplane.reference import icmp
from tests.dataplane.reference.headers import (
    FRAGMENT,
    ICMP,
    ICMPV6,
    UDP,
    Header4,
    Header6,
    Refused,
    checksum,
    embed,
    extract,
    pseudo4,
    pseudo6,
    renew,
)

Client = tuple[IPv6Address, int]
Public = tuple[IPv4Address, int]

_LONGEST_WITHOUT_DF = 1260


class Outcome(NamedTuple):
    """What must come out."""

    packet: bytes
    free_id: bool = False
    """Whether the IPv4 identification is the translator's own choice."""
    in_fragments: bool = False
    """Whether it must come in fragments of at most the lowest IPv6 MTU."""
    to_ourselves: bool = False
    """Whether it is for a mapping of ours: it comes back in as IPv4."""


@dataclass
class Stateless:
    """The translation itself, under one prefix."""

    prefix: IPv6Network
    copy_traffic_class: bool = True

    # ---- IPv6 to IPv4 ------------------------------------------------------------------------

    def header_to_ipv4(
        self,
        head: Header6,
        ttl: int,
        protocol: int,
        source: IPv4Address,
        destination: IPv4Address,
        body: bytes,
        *,
        length: int | None = None,
        on_wire: int | None = None,
    ) -> Outcome:
        """An IPv4 packet. `length` is that of its payload where `body` is a part of it, `on_wire`
        how long the packets really are that devices will make of it."""
        total = 20 + (len(body) if length is None else length)
        if head.fragment_id is None:
            identification = 0
            flags = 0 if (on_wire or total) <= _LONGEST_WITHOUT_DF else 0x4000
        else:
            identification = head.fragment_id & 0xFFFF
            flags = head.offset >> 3 | (0x2000 if head.more else 0)
        free_id = head.fragment_id is None and not flags
        raw = struct.pack(
            "!BBHHHBBH4s4s",
            0x45,
            head.traffic_class if self.copy_traffic_class else 0,
            total,
            identification,
            flags,
            ttl,
            protocol,
            0,
            source.packed,
            destination.packed,
        )
        return Outcome(raw[:10] + struct.pack("!H", checksum(raw)) + raw[12:] + body, free_id)

    def transport_to_ipv4(
        self, payload: bytes, head: Header6, public: Public, remote: IPv4Address, *, inner: bool
    ) -> bytes:
        """Ports, identifier, types and checksums. An inner packet's source is the remote end."""
        pool, port = public
        old = pseudo6(head.source, head.destination, head.length, head.next_header)
        if head.next_header == ICMPV6:
            kind = {128: 8, 129: 0}[payload[0]]
            changed = bytes((kind, 0)) + payload[2:4] + port.to_bytes(2, "big") + payload[6:]
            return renew(payload, old, changed, b"")
        where = 2 if inner else 0
        changed = payload[:where] + port.to_bytes(2, "big") + payload[where + 2 :]
        source, destination = (remote, pool) if inner else (pool, remote)
        new = pseudo4(source, destination, head.length, head.next_header)
        if inner and head.next_header == UDP and payload[6:8] == b"\0\0":
            return changed
        return renew(payload, old, changed, new, head.next_header)

    def error_to_ipv4(
        self,
        head: Header6,
        message: bytes,
        inner: Header6,
        public: Public,
        ttl: int,
        link_mtu: int,
        *,
        here: IPv4Address | None = None,
        source: IPv4Address | None = None,
    ) -> Outcome:
        """An ICMPv6 error about a packet that went to the client of `public`.

        `here` is who sent that packet and gets the error, where that isn't somebody in the prefix;
        `source` is who sends the error, where that isn't `public` too.
        """
        kind, code, value = message[0], message[1], int.from_bytes(message[4:8], "big")
        new_kind, new_code = icmp.ERRORS_TO_IPV4[kind, code]
        body, extensions = message[8:], b""
        if kind in (1, 3):
            body, extensions = icmp.split(body, message[4], 8)
        protocol = ICMP if inner.next_header == ICMPV6 else inner.next_header
        remote = here or extract(self.prefix, inner.source)
        quoted = self.transport_to_ipv4(body[inner.start :], inner, public, remote, inner=True)
        quoted = (
            self.header_to_ipv4(
                inner, inner.hop_limit, protocol, remote, public[0], b"", length=inner.length
            ).packet
            + quoted
        )
        length, body = icmp.join(quoted, extensions, 4, icmp.MOST_IPV4)
        rest = bytes((0, length, 0, 0))
        if (kind, code) == (4, 0):
            if value not in icmp.POINTERS_TO_IPV4:
                raise Refused("icmp_type")
            rest = bytes((icmp.POINTERS_TO_IPV4[value], 0, 0, 0))
        elif kind == 2:
            growth = 20 if inner.fragment_id is None else 28
            rest = struct.pack("!HH", 0, min(max(value - growth, 0), link_mtu, 0xFFFF))
        changed = bytes((new_kind, new_code)) + message[2:4] + rest + body
        old = pseudo6(head.source, head.destination, head.length, ICMPV6)
        whole = renew(message, old, changed, b"")
        outer = Header6(
            head.source, head.destination, head.traffic_class, head.hop_limit, ICMP, len(whole)
        )
        to = here or extract(self.prefix, head.destination)
        return self.header_to_ipv4(outer, ttl, ICMP, source or public[0], to, whole)

    # ---- IPv4 to IPv6 ------------------------------------------------------------------------

    def header_to_ipv6(
        self,
        head: Header4,
        hop_limit: int,
        source: IPv6Address,
        destination: IPv6Address,
        body: bytes,
        *,
        length: int | None = None,
    ) -> bytes:
        """An IPv6 packet, with a Fragment header if `head` is a fragment's."""
        following = ICMPV6 if head.protocol == ICMP else head.protocol
        length = len(body) if length is None else length
        if head.is_fragment:
            body = (
                struct.pack(
                    "!BBHI", following, 0, head.offset | int(head.more), head.identification
                )
                + body
            )
            length += 8
            following = FRAGMENT
        traffic_class = head.tos if self.copy_traffic_class else 0
        fixed = struct.pack("!IHBB", 6 << 28 | traffic_class << 20, length, following, hop_limit)
        return fixed + source.packed + destination.packed + body

    def transport_to_ipv6(
        self, payload: bytes, head: Header4, client: Client, remote: IPv6Address, *, inner: bool
    ) -> bytes:
        """Ports, identifier, types and checksums. An inner packet's source is the client."""
        address, port = client
        source, destination = (address, remote) if inner else (remote, address)
        number = ICMPV6 if head.protocol == ICMP else head.protocol
        new = pseudo6(source, destination, head.length, number)
        if head.protocol == ICMP:
            kind = {8: 128, 0: 129}[payload[0]]
            changed = bytes((kind, 0)) + payload[2:4] + port.to_bytes(2, "big") + payload[6:]
            return renew(payload, b"", changed, new)
        where = 0 if inner else 2
        changed = payload[:where] + port.to_bytes(2, "big") + payload[where + 2 :]
        if head.protocol == UDP and payload[6:8] == b"\0\0":
            if inner:
                return changed
            return changed[:6] + struct.pack("!H", checksum(new + changed) or 0xFFFF) + changed[8:]
        old = pseudo4(head.source, head.destination, head.length, head.protocol)
        return renew(payload, old, changed, new, head.protocol)

    def error_to_ipv6(
        self,
        head: Header4,
        message: bytes,
        inner: Header4,
        client: Client,
        source: IPv6Address,
        hop_limit: int,
        link_mtus: tuple[int, int],
        *,
        remote: IPv6Address | None = None,
    ) -> Outcome:
        """An ICMPv4 error about a packet that `client` sent; `link_mtus` towards IPv4, IPv6.

        `remote` is where that packet went, if not to somebody in the prefix.
        """
        kind, code = message[0], message[1]
        if (kind, code) not in icmp.ERRORS_TO_IPV6:
            raise Refused("icmp_type")
        new_kind, new_code = icmp.ERRORS_TO_IPV6[kind, code]
        remote = remote or embed(self.prefix, inner.destination)
        body, extensions = icmp.split(message[8:], message[5], 4)
        if new_kind not in (1, 3):
            extensions = b""
        quoted = self.transport_to_ipv6(body[inner.size :], inner, client, remote, inner=True)
        quoted = self.header_to_ipv6(
            inner, inner.ttl, client[0], remote, quoted, length=inner.length
        )
        length, body = icmp.join(quoted, extensions, 8, icmp.MOST_IPV6)
        rest = bytes((length, 0, 0, 0))
        if kind == 12:
            if message[4] not in icmp.POINTERS_TO_IPV6:
                raise Refused("icmp_type")
            rest = struct.pack("!I", icmp.POINTERS_TO_IPV6[message[4]])
        elif (kind, code) == (3, 2):
            rest = struct.pack("!I", 6)
        elif (kind, code) == (3, 4):
            mtu = int.from_bytes(message[6:8], "big")
            if not mtu:
                mtu = next((m for m in icmp.PLATEAUS if m < inner.total), 0)
            mtu = min(mtu, link_mtus[0]) + 20
            rest = struct.pack("!I", max(1280, min(mtu, link_mtus[1])))
        changed = bytes((new_kind, new_code)) + message[2:4] + rest + body
        whole = renew(message, b"", changed, pseudo6(source, client[0], 8 + len(body), ICMPV6))
        return Outcome(self.header_to_ipv6(head, hop_limit, source, client[0], whole))
