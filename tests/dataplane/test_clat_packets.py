"""What the CLAT's programs promise, packet by packet."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from random import Random

import pytest

from tests.dataplane import clat_bench, random_packets
from tests.dataplane.clat_bench import POD, PREFIX, Bench
from tests.dataplane.reference.clat import HERE
from tests.dataplane.reference.headers import (
    ICMP,
    ICMPV6,
    TCP,
    UDP,
    checksum,
    embed,
    pseudo4,
    pseudo6,
)

pytestmark = pytest.mark.root

SERVER = IPv4Address("198.51.100.80")


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    built = Bench()
    yield built
    built.close()


def udp4(source: IPv4Address, destination: IPv4Address, body: bytes = b"hello") -> bytes:
    """A UDP datagram over IPv4 with the right checksum."""
    data = struct.pack("!HHHH", 4000, 53, 8 + len(body), 0) + body
    value = checksum(pseudo4(source, destination, len(data), UDP) + data)
    data = data[:6] + struct.pack("!H", value) + data[8:]
    return random_packets.ipv4(Random(1), UDP, source, destination, data)


def udp6(source: IPv6Address, destination: IPv6Address, body: bytes = b"hello") -> bytes:
    """The same over IPv6."""
    data = struct.pack("!HHHH", 53, 4000, 8 + len(body), 0) + body
    value = checksum(pseudo6(source, destination, len(data), UDP) + data)
    data = data[:6] + struct.pack("!H", value) + data[8:]
    return clat_bench.ipv6(Random(1), UDP, source, destination, data)


def test_hop_limit_and_ttl_are_kept(bench: Bench) -> None:
    """The translation is a part of the pod's own stack, and no hop."""
    out = udp4(HERE, SERVER)
    assert bench.out(out).packet[7] == out[8]
    back = udp6(embed(PREFIX, SERVER), POD)
    assert bench.in_(back).packet[8] == back[7]


def test_no_ipv4_and_no_arp_crosses_the_link(bench: Bench) -> None:
    """A neighbour that sends IPv4 would get past what the network says of IPv6."""
    arp = bytes(46)
    assert bench.out(arp, kind=0x0806).end == "source_illegal"
    assert bench.in_(arp, kind=0x0806).end == "source_illegal"
    assert bench.in_(udp4(SERVER, HERE), kind=0x0800).end == "source_illegal"
    assert bench.out(udp4(IPv4Address("10.0.0.1"), SERVER)).end == "source_illegal"


def test_ipv6_of_the_pod_passes(bench: Bench) -> None:
    assert bench.out(udp6(POD, random_packets.ROUTER), kind=0x86DD).end == "passed"
    assert bench.in_(udp6(random_packets.ROUTER, POD)).end == "passed"
    assert bench.in_(udp6(embed(PREFIX, SERVER), IPv6Address("fd64:1::11"))).end == "passed"


def test_a_slot_that_is_nobodys_translates_nothing() -> None:
    """What is left of a pod after its end can't send as another one."""
    bench = Bench()
    try:
        bench.programs.write(0, None)
        assert bench.out(udp4(HERE, SERVER)).end == "not_configured"
        assert bench.in_(udp6(embed(PREFIX, SERVER), POD)).end == "passed"
    finally:
        bench.close()


def test_segments_keep_their_size(bench: Bench) -> None:
    """A large TCP packet stays one, and devices cut it as the pod's kernel has said."""
    data = struct.pack("!HHIIBBHHH", 4000, 80, 1, 2, 5 << 4, 16, 99, 0, 0) + b"x" * 2900
    packet = random_packets.ipv4(Random(1), TCP, HERE, SERVER, data)
    out = bench.out(packet, gso_size=1432)
    assert out.end == "translated"
    assert len(out.packet) == len(packet) + 20


def router_error(about: bytes, mtu: int, source: IPv6Address = random_packets.ROUTER) -> bytes:
    """A "packet too big" of a router about a packet that the pod has sent."""
    message = struct.pack("!BBHI", 2, 0, 0, mtu) + about
    value = checksum(pseudo6(source, POD, len(message), ICMPV6) + message)
    message = message[:2] + struct.pack("!H", value) + message[4:]
    return clat_bench.ipv6(Random(1), ICMPV6, source, POD, message)


def test_errors_of_ipv6_routers_come_from_192_0_0_1(bench: Bench) -> None:
    """They have no IPv4 address (RFC 6791); traceroute shows that there is a hop."""
    about = bench.out(udp4(HERE, SERVER)).packet
    out = bench.in_(router_error(about, 1280))
    assert out.end == "translated"
    assert out.counted["icmp_errors_translated"] == 1
    assert IPv4Address(out.packet[12:16]) == IPv4Address("192.0.0.1")
    assert IPv4Address(out.packet[16:20]) == HERE
    assert out.packet[9] == ICMP
    assert IPv4Address(out.packet[28 + 12 : 28 + 16]) == HERE
    assert IPv4Address(out.packet[28 + 16 : 28 + 20]) == SERVER


def test_the_mtu_leaves_room_for_the_header_that_the_packet_needs(bench: Bench) -> None:
    """20 bytes, and 8 more if what was too big had a Fragment header (RFC 7915 section 5.2)."""
    whole = bench.out(udp4(HERE, SERVER)).packet
    first = udp4(HERE, SERVER, bytes(1400))
    first = first[:6] + b"\x20\0" + first[8:10] + b"\0\0" + first[12:]
    first = first[:10] + checksum(first[:20]).to_bytes(2, "big") + first[12:]
    fragment = bench.out(first).packet
    assert fragment[6] == 44
    for about, mtu in ((whole, 1260), (fragment[:1200], 1252)):
        error = bench.in_(router_error(about, 1280)).packet
        assert int.from_bytes(error[26:28], "big") == mtu
