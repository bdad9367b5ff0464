"""The CLAT of a pod (RFC 6877): RFC 7915's translation between 192.0.0.2 and the pod's address."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network

from tests.dataplane.reference import icmp
from tests.dataplane.reference.headers import (
    ICMP,
    ICMPV6,
    SHORTEST,
    TCP,
    UDP,
    Header4,
    Header6,
    Refused,
    checksum,
    embed,
    extract,
    has_unexpired_source_route,
)
from tests.dataplane.reference.policy import NEVER_A_SOURCE, within
from tests.dataplane.reference.quoted import ports, quoted_ipv4, read_quoted_ipv6
from tests.dataplane.reference.stateless import Outcome, Stateless

HERE = IPv4Address("192.0.0.2")
ROUTER = IPv4Address("192.0.0.1")
"""Stands for whoever has no address in the prefix."""
_ANY_MTU = 2**32


@dataclass
class Clat:
    """One pod's."""

    prefix: IPv6Network
    pod: IPv6Address

    def __post_init__(self) -> None:
        self.stateless = Stateless(self.prefix)

    def out(self, packet: bytes) -> Outcome:
        """What becomes of an IPv4 packet of the pod."""
        head = _read_ipv4(packet)
        if head.source != HERE:
            raise Refused("source_illegal")
        if within(head.destination, NEVER_A_SOURCE):
            raise Refused("destination_special")
        if head.protocol not in (TCP, UDP, ICMP):
            raise Refused("unknown_transport")
        if head.is_fragment and head.protocol == ICMP:
            raise Refused("icmp_fragment")
        if has_unexpired_source_route(packet[20 : head.size]):
            raise Refused("source_route")
        to, payload = embed(self.prefix, head.destination), head.payload(packet)
        if not head.offset:
            if len(payload) < SHORTEST[head.protocol]:
                raise Refused("fragment_unexpected" if head.is_fragment else "truncated")
            if head.protocol == ICMP and payload[0] not in (0, 8):
                return self._error_out(head, payload)
            if head.is_fragment and head.protocol == UDP and payload[6:8] == b"\0\0":
                raise Refused("udp_zero_checksum_fragment")
            port = ports(head.protocol, payload)[head.protocol != ICMP]
            payload = self.stateless.transport_to_ipv6(
                payload, head, (to, port), self.pod, inner=False
            )
        return Outcome(self.stateless.header_to_ipv6(head, head.ttl, self.pod, to, payload))

    def _error_out(self, head: Header4, message: bytes) -> Outcome:
        try:
            inner, (port, _) = quoted_ipv4(message[8:])
        except Refused:
            raise Refused("icmp_inner_malformed") from None
        if inner.source != head.destination or inner.destination != HERE:
            raise Refused("icmp_ends_differ")
        to = embed(self.prefix, head.destination)
        return self.stateless.error_to_ipv6(
            head,
            message,
            inner,
            (to, port),
            self.pod,
            head.ttl,
            (_ANY_MTU, _ANY_MTU),
            remote=self.pod,
        )

    def in_(self, packet: bytes) -> Outcome:
        """What becomes of an IPv6 packet that comes to the pod."""
        if len(packet) < 40 or packet[0] >> 4 != 6 or IPv6Address(packet[24:40]) != self.pod:
            raise Refused("passed")
        foreign = IPv6Address(packet[8:24]) not in self.prefix
        if foreign and packet[6] != ICMPV6:
            raise Refused("passed")
        try:
            head = Header6.read(packet, whole=True)
            if head.next_header not in (TCP, UDP, ICMPV6):
                raise Refused("unknown_transport")
            if head.is_fragment and head.next_header == ICMPV6:
                raise Refused("icmp_fragment")
            source = extract(self.prefix, head.source)
            if not foreign and within(source, NEVER_A_SOURCE):
                raise Refused("source_illegal")
            payload = head.payload(packet)
            if not head.offset and len(payload) < SHORTEST[head.next_header]:
                raise Refused("fragment_unexpected" if head.is_fragment else "truncated")
        except Refused:
            if foreign:  # what is wrong with a packet that isn't ours, the pod's kernel may say
                raise Refused("passed") from None
            raise
        protocol = ICMP if head.next_header == ICMPV6 else head.next_header
        if not head.offset:
            if protocol == ICMP and payload[0] < 128:
                return self._error_in(head, payload, foreign=foreign)
            if foreign:
                raise Refused("passed")
            if protocol == ICMP and payload[0] not in (128, 129):
                raise Refused("icmp_type")
            port, _ = ports(protocol, payload)
            payload = self.stateless.transport_to_ipv4(
                payload, head, (source, port), HERE, inner=False
            )
        return self.stateless.header_to_ipv4(head, head.hop_limit, protocol, source, HERE, payload)

    def _error_in(self, head: Header6, message: bytes, *, foreign: bool) -> Outcome:
        quoted = message[8:]
        if len(quoted) < 40 or quoted[0] >> 4 != 6:
            raise Refused("passed" if foreign else "icmp_inner_malformed")
        if IPv6Address(quoted[24:40]) not in self.prefix:
            raise Refused("passed" if foreign else "icmp_without_session")
        if IPv6Address(quoted[8:24]) != self.pod:
            raise Refused("icmp_ends_differ")
        inner, (_, port) = read_quoted_ipv6(quoted)
        if (message[0], message[1]) not in icmp.ERRORS_TO_IPV4:
            raise Refused("icmp_type")
        source = ROUTER if foreign else extract(self.prefix, head.source)
        remote = extract(self.prefix, inner.destination)
        return self.stateless.error_to_ipv4(
            head, message, inner, (remote, port), head.hop_limit, _ANY_MTU, here=HERE, source=source
        )


def _read_ipv4(packet: bytes) -> Header4:
    """Read a packet whose faults nobody else will mention."""
    if len(packet) < 20:
        raise Refused("truncated")
    size, total = (packet[0] & 15) * 4, int.from_bytes(packet[2:4], "big")
    if packet[0] >> 4 != 4 or size < 20 or total < size:
        raise Refused("malformed")
    if total > len(packet):
        raise Refused("truncated")
    if checksum(packet[:size]):
        raise Refused("malformed")
    return Header4.read(packet, whole=True)
