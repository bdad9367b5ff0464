"""The ICMP errors and RSTs with which a translator answers what it refuses."""

from __future__ import annotations

import struct
from ipaddress import IPv6Address

from tests.dataplane.reference import icmp
from tests.dataplane.reference.headers import ICMP, ICMPV6, TCP, Refused, checksum, pseudo6
from tests.dataplane.reference.policy import NEVER_A_CLIENT, within


def to_ipv6(packet: bytes, refused: Refused) -> bytes | None:
    """The ICMPv6 error that answers a refused packet, if any."""
    kind, code = {
        "unknown_transport": (1, 4),
        "destination_denied": (1, 1),
        "destination_special": (1, 1),
        "destination_local": (1, 1),
        "destination_not_global": (1, 1),
        "ports_exhausted": (1, 3),
        "routing_header": (4, 0),
    }.get(refused.reason, (0, 0))
    client = IPv6Address(packet[8:24])
    if not kind or not refused.answerable or within(client, NEVER_A_CLIENT):
        return None
    source, destination = IPv6Address(packet[24:40]), IPv6Address(packet[8:24])
    message = struct.pack("!BBHI", kind, code, 0, refused.pointer) + packet[: icmp.MOST_IPV6]
    value = checksum(pseudo6(source, destination, len(message), ICMPV6) + message)
    message = message[:2] + struct.pack("!H", value) + message[4:]
    fixed = struct.pack("!IHBB", 6 << 28, len(message), ICMPV6, 64)
    return fixed + source.packed + destination.packed + message


def reset(packet: bytes) -> bytes:
    """The RST that answers a segment without a session (RFC 9293 section 3.5.2)."""
    source, destination = IPv6Address(packet[24:40]), IPv6Address(packet[8:24])
    length = int.from_bytes(packet[4:6], "big")
    segment = packet[40 : 40 + length]
    port, remote_port, sequence, acknowledged, offset, flags = struct.unpack_from(
        "!HHIIBB", segment
    )
    taken = length - (offset >> 4) * 4 + (flags & 1)
    ends = (acknowledged, 0, 4) if flags & 16 else (0, (sequence + taken) % 2**32, 20)
    fields = (remote_port, port, *ends[:2], 5 << 4, ends[2], 0)
    head = struct.pack("!HHIIBBHHH", *fields, 0, 0)
    value = checksum(pseudo6(source, destination, len(head), TCP) + head)
    head = struct.pack("!HHIIBBHHH", *fields, value, 0)
    fixed = struct.pack("!IHBB", 6 << 28, len(head), TCP, 64)
    return fixed + source.packed + destination.packed + head


def to_ipv4(packet: bytes, refused: Refused) -> bytes | None:
    """The ICMPv4 error 3/5 that answers a source route."""
    if refused.reason != "source_route" or not refused.answerable:
        return None
    quoted = packet[: min(int.from_bytes(packet[2:4], "big"), icmp.MOST_IPV4)]
    message = bytes((3, 5, 0, 0, 0, 0, 0, 0)) + quoted
    message = message[:2] + struct.pack("!H", checksum(message)) + message[4:]
    fixed = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(message), 0, 0, 64, ICMP, 0)
    fixed += packet[16:20] + packet[12:16]
    return fixed[:10] + struct.pack("!H", checksum(fixed)) + fixed[12:] + message
