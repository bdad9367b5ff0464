"""Ports and identifiers, also of the packet that an ICMP error quotes."""

from __future__ import annotations

import struct
from ipaddress import IPv6Address, IPv6Network

from tests.dataplane.reference.headers import ICMP, ICMPV6, TCP, UDP, Header4, Header6, Refused


def ports(protocol: int, payload: bytes, *, back: bool = False) -> tuple[int, int]:
    """Source and destination port; an ICMP query's identifier is the client's."""
    if protocol == ICMP:
        identifier = int.from_bytes(payload[4:6], "big")
        return (0, identifier) if back else (identifier, 0)
    source, destination = struct.unpack("!HH", payload[:4])
    return source, destination


def quoted_ipv6(quoted: bytes, prefix: IPv6Network) -> tuple[Header6, tuple[int, int]]:
    """A packet that went to a client: its header, and the ports of the remote end and its own."""
    if len(quoted) < 40 or quoted[0] >> 4 != 6:
        raise Refused("icmp_inner_malformed")
    if IPv6Address(quoted[8:24]) not in prefix:
        raise Refused("icmp_without_session")
    return read_quoted_ipv6(quoted)


def read_quoted_ipv6(quoted: bytes) -> tuple[Header6, tuple[int, int]]:
    """Any quoted packet: its header, and the ports of its source and its destination."""
    try:
        inner = Header6.read(quoted, whole=False)
    except Refused:
        raise Refused("icmp_inner_malformed") from None
    start = quoted[inner.start :]
    if inner.offset or len(start) < 8 or inner.next_header not in (TCP, UDP, ICMPV6):
        raise Refused("icmp_inner_malformed")
    if inner.next_header == ICMPV6 and start[0] < 128:
        raise Refused("icmp_error_in_error")
    if inner.next_header == ICMPV6 and start[0] not in (128, 129):
        raise Refused("icmp_inner_malformed")
    protocol = ICMP if inner.next_header == ICMPV6 else inner.next_header
    return inner, ports(protocol, start, back=True)


def quoted_ipv4(quoted: bytes) -> tuple[Header4, tuple[int, int]]:
    """A packet that went to a remote end: its header, and the ports of our end and the remote."""
    inner = Header4.read(quoted, whole=False)
    start = quoted[inner.size :]
    if inner.offset or len(start) < 8 or inner.protocol not in (TCP, UDP, ICMP):
        raise Refused("passed")
    if inner.protocol == ICMP and start[0] not in (0, 8):
        raise Refused("passed")
    return inner, ports(inner.protocol, start)
