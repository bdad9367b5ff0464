"""The prefix of the pods' CLAT beside the other: the same bindings, and answers by the prefix that
the client has used.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv6Network
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror, UDPerror
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    IPerror6,
    IPv6,
    IPv6ExtHdrFragment,
)
from scapy.packet import Packet

from nat64_dataplane.translator.datapath.abi import SessionFlag
from nat64_dataplane.translator.host_view import PoolRange
from tests.dataplane.machine import (
    OTHER,
    POD,
    POD2,
    POOL,
    PREFIX,
    SERVER,
    Machine,
    Out,
    at,
    right_checksums,
)
from tests.dataplane.test_program_icmp_errors import icmp4, icmp6

pytestmark = pytest.mark.root

CLAT = IPv6Network("64:ff9b:1:c1a7::/96")
CONFIG: dict[str, Any] = {"clat": {"prefix": str(CLAT)}}
BOTH = pytest.mark.parametrize("prefix", [PREFIX, CLAT], ids=["prefix", "clat"])
ROUTER = "198.51.100.66"
POOL_OF_ONE = PoolRange(POOL, 61001, 61001)


@pytest.fixture
def clat(nat: Machine) -> Iterator[Machine]:
    """The machine with both prefixes; the next test has one again."""
    nat.reset(**CONFIG)
    yield nat
    nat.reset()


def send(
    nat: Machine, prefix: IPv6Network, transport: Packet, to: object = SERVER, src: object = POD
) -> Out:
    return nat.from_pod(IPv6(src=str(src), dst=at(str(to), prefix), hlim=63) / transport)


def answer(nat: Machine, transport: Packet, src: object = SERVER) -> Out:
    return nat.from_internet(IP(src=str(src), dst=str(POOL), ttl=60) / transport)


@BOTH
@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_the_answer_comes_from_the_prefix_that_the_client_has_used(
    clat: Machine, prefix: IPv6Network, protocol: type
) -> None:
    syn, syn_ack = ({"flags": "S"}, {"flags": "SA"}) if protocol is TCP else ({}, {})
    out = send(clat, prefix, protocol(sport=4000, dport=80, **syn))
    assert (out.translated, out.packet.dst) == (True, str(SERVER))
    assert right_checksums(out.packet)
    for _ in range(3):  # the later ones find what the first has noted
        port = out.packet.sport
        back = answer(clat, protocol(sport=80, dport=port, **syn_ack)).packet
        assert (back.src, back.dst, back.dport) == (at(SERVER, prefix), str(POD), 4000)
        assert right_checksums(back)


@BOTH
def test_ping_is_answered_from_the_prefix_that_it_went_to(
    clat: Machine, prefix: IPv6Network
) -> None:
    out = send(clat, prefix, ICMPv6EchoRequest(id=7))
    back = answer(clat, ICMP(type="echo-reply", id=out.packet[ICMP].id)).packet
    assert back.src == at(SERVER, prefix)
    assert back[ICMPv6EchoReply].id == 7
    assert right_checksums(back)


def test_both_prefixes_of_a_client_share_its_mapping(clat: Machine) -> None:
    """One BIB entry for a client's address and port (RFC 6146 section 3.5), whatever prefix."""
    ports = {
        send(clat, prefix, UDP(sport=4000, dport=dport), to).packet.sport
        for prefix, to, dport in (
            (PREFIX, SERVER, 53),
            (CLAT, OTHER, 53),
            (PREFIX, OTHER, 54),
            (CLAT, SERVER, 54),
        )
    }
    assert len(ports) == 1
    assert len(list(clat.datapath.bib())) == 1
    [port] = ports
    for prefix, src, sport in (
        (PREFIX, SERVER, 53),
        (CLAT, OTHER, 53),
        (PREFIX, OTHER, 54),
        (CLAT, SERVER, 54),
    ):
        assert answer(clat, UDP(sport=sport, dport=port), src).packet.src == at(src, prefix)


@pytest.mark.parametrize("idle", [0, 1, 30], ids=["at once", "a second later", "later"])
def test_of_two_sockets_with_one_remote_end_the_last_one_gets_the_answers(
    clat: Machine, idle: int
) -> None:
    """Also where a cache of the flow or of the binding would know the session."""
    for prefix in (PREFIX, CLAT, CLAT, PREFIX, PREFIX, CLAT):
        for _ in range(3):
            port = send(clat, prefix, UDP(sport=4000, dport=53)).packet.sport
            assert answer(clat, UDP(sport=53, dport=port)).packet.src == at(SERVER, prefix)
        clat.datapath.travel(idle)
    assert len(list(clat.datapath.sessions())) == 1


def connect(nat: Machine, prefix: IPv6Network) -> int:
    port = int(send(nat, prefix, TCP(sport=4000, dport=80, flags="S")).packet.sport)
    assert answer(nat, TCP(sport=80, dport=port, flags="SA")).translated
    assert send(nat, prefix, TCP(sport=4000, dport=80, flags="A")).translated
    return port


@pytest.mark.parametrize(("first", "second"), [(PREFIX, CLAT), (CLAT, PREFIX)])
def test_a_connection_is_not_taken_over_by_the_other_prefix(
    clat: Machine, first: IPv6Network, second: IPv6Network
) -> None:
    port = connect(clat, first)
    refused = send(clat, second, TCP(sport=4000, dport=80, flags="S"))
    assert refused.counted.get("dropped_ports_exhausted") == 1
    assert refused.packet[ICMPv6DestUnreach].code == 3
    assert refused.packet.dst == str(POD)
    astray = send(clat, second, TCP(sport=4000, dport=80, flags="A"))
    assert astray.dropped == "tcp_without_session"
    assert astray.packet[TCP].flags == "R"
    assert answer(clat, TCP(sport=80, dport=port, flags="A")).packet.src == at(SERVER, first)


@pytest.mark.parametrize(("first", "second"), [(PREFIX, CLAT), (CLAT, PREFIX)])
def test_a_port_is_used_again_by_the_other_prefix_once_its_connection_is_over(
    clat: Machine, first: IPv6Network, second: IPv6Network
) -> None:
    port = connect(clat, first)
    send(clat, first, TCP(sport=4000, dport=80, flags="FA"))
    answer(clat, TCP(sport=80, dport=port, flags="FA"))
    assert connect(clat, second) == port
    assert answer(clat, TCP(sport=80, dport=port, flags="A")).packet.src == at(SERVER, second)


@BOTH
def test_a_stranger_s_packet_comes_by_the_prefix_that_the_binding_was_last_used_for(
    clat: Machine, prefix: IPv6Network
) -> None:
    clat.reset(**CONFIG, filtering="EndpointIndependent")
    other = PREFIX if prefix == CLAT else CLAT
    send(clat, other, UDP(sport=4000, dport=53))
    port = send(clat, prefix, UDP(sport=4000, dport=54)).packet.sport
    for _ in range(2):
        back = answer(clat, UDP(sport=9, dport=port), OTHER)
        assert back.packet.src == at(OTHER, prefix)
    # what answers it by the other prefix has the session from then on
    send(clat, other, UDP(sport=4000, dport=9), OTHER)
    assert answer(clat, UDP(sport=9, dport=port), OTHER).packet.src == at(OTHER, other)


def test_a_static_mapping_is_reached_by_the_prefix_that_dns_uses(clat: Machine) -> None:
    mapping = {"protocol": "udp", "client": str(POD), "clientPort": 80}
    clat.reset(**CONFIG, staticMappings=[mapping | {"address": str(POOL), "port": 8080}])
    assert send(clat, CLAT, UDP(sport=80, dport=53)).packet.sport == 8080
    assert answer(clat, UDP(sport=9, dport=8080), OTHER).packet.src == at(OTHER, PREFIX)


@BOTH
def test_an_error_from_ipv4_has_the_prefix_inside_and_outside(
    clat: Machine, prefix: IPv6Network
) -> None:
    sent = send(clat, prefix, UDP(sport=4000, dport=53) / b"12345678").packet
    message = icmp4(3, 4, (1400).to_bytes(4, "big"), bytes(sent))
    out = clat.from_internet(IP(src=ROUTER, dst=str(POOL), proto=1, ttl=50) / message)
    assert out.packet.src == at(ROUTER, prefix)
    inner = out.packet[IPerror6]
    assert (inner.src, inner.dst) == (str(POD), at(SERVER, prefix))
    assert right_checksums(out.packet)


@BOTH
def test_an_error_from_the_client_finds_its_session(clat: Machine, prefix: IPv6Network) -> None:
    port = send(clat, prefix, UDP(sport=4000, dport=53)).packet.sport
    got = answer(clat, UDP(sport=53, dport=port) / b"12345678").packet
    error = icmp6(str(POD), at(SERVER, prefix), 1, 4, bytes(4), bytes(got))
    out = clat.from_pod(error)
    assert out.packet.dst == str(SERVER)
    assert (out.packet[IPerror].src, out.packet[UDPerror].dport) == (str(SERVER), port)
    assert right_checksums(out.packet)


@BOTH
def test_fragments_of_both_directions(clat: Machine, prefix: IPv6Network) -> None:
    whole = bytes(UDP(sport=4000, dport=53, len=8 + 24, chksum=0x1234) / bytes(24))
    for offset, more, part in ((0, 1, whole[:16]), (2, 0, whole[16:])):
        head = IPv6ExtHdrFragment(id=77, offset=offset, m=more, nh=17)
        out = send(clat, prefix, head / part)
        assert (out.translated, out.packet.dst) == (True, str(SERVER))
        if not offset:
            port = out.packet.sport
    back = bytes(UDP(sport=53, dport=port, len=8 + 24, chksum=0x1234) / bytes(24))
    for offset, flags, part in ((0, "MF", back[:16]), (2, 0, back[16:])):
        ip = IP(src=str(SERVER), dst=str(POOL), id=9, frag=offset, flags=flags, proto=17)
        out = clat.from_internet(ip / part)
        assert (out.translated, out.packet.src) == (True, at(SERVER, prefix))


@BOTH
def test_clients_hairpin_from_one_prefix_to_the_other(clat: Machine, prefix: IPv6Network) -> None:
    """RFC 6146 section 3.8. Each side answers by the prefix that it uses itself."""
    clat.reset(**CONFIG, filtering="EndpointIndependent")
    other = PREFIX if prefix == CLAT else CLAT
    behind = send(clat, other, UDP(sport=5000, dport=53), src=POD2).packet.sport
    out = send(clat, prefix, UDP(sport=4000, dport=behind), POOL)
    assert out.counted.get("hairpinned")
    there = clat.from_internet(out.packet, ifindex=1, ingress_ifindex=1).packet
    assert (there.dst, there.src) == (str(POD2), at(POOL, other))
    back = send(clat, other, UDP(sport=5000, dport=there.sport), POOL, src=POD2)
    home = clat.from_internet(back.packet, ifindex=1, ingress_ifindex=1).packet
    assert (home.dst, home.src, home.dport) == (str(POD), at(POOL, prefix), 4000)


def test_the_well_known_prefix_s_rule_is_its_own(clat: Machine) -> None:
    """RFC 6052 section 3.1 is about that prefix. The policy holds for both."""
    clat.reset(**CONFIG, prefix="64:ff9b::/96", policy={"deniedDestinations": ["198.51.100.0/24"]})
    for address in ("10.1.2.3", "100.64.0.1", "192.168.1.1"):
        by_name = send(clat, clat.config.prefix, UDP(sport=4000, dport=53), address)
        assert by_name.counted.get("dropped_destination_not_global") == 1
        assert send(clat, CLAT, UDP(sport=4000, dport=53), address).translated
    for address, reason in (
        ("198.51.100.1", "denied"),
        ("127.0.0.1", "special"),
        ("169.254.169.254", "special"),
        ("224.0.0.1", "special"),
    ):
        refused = send(clat, CLAT, UDP(sport=4000, dport=53), address)
        assert refused.counted.get(f"dropped_destination_{reason}") == 1


def test_a_router_with_a_private_address_is_seen_as_it_is(clat: Machine) -> None:
    clat.reset(**CONFIG, prefix="64:ff9b::/96")
    sent = send(clat, CLAT, UDP(sport=4000, dport=53), "10.1.2.3").packet
    message = icmp4(11, 0, bytes(4), bytes(sent))
    out = clat.from_internet(IP(src="10.9.9.9", dst=str(POOL), proto=1) / message)
    assert out.packet.src == at("10.9.9.9", CLAT)


def test_no_source_is_under_either_prefix(clat: Machine) -> None:
    for prefix in (PREFIX, CLAT):
        out = send(clat, CLAT, UDP(sport=1, dport=2), src=at(OTHER, prefix))
        assert out.dropped == "source_in_prefix"


def test_without_the_prefix_its_packets_are_nobody_s(clat: Machine) -> None:
    port = send(clat, CLAT, UDP(sport=4000, dport=53)).packet.sport
    clat.configure()
    assert send(clat, CLAT, UDP(sport=4000, dport=53)).passed
    # a session that has outlived it
    assert answer(clat, UDP(sport=53, dport=port)).packet.src == at(SERVER, PREFIX)
    [session] = clat.datapath.sessions()
    assert SessionFlag.CLAT in session.flags


def test_a_lent_port_answers_by_its_prefix_too(clat: Machine) -> None:
    """Out of ports, TCP shares them between remote ends (RFC 6146 has no such thing)."""
    clat.reset((POOL_OF_ONE,), **CONFIG)
    first = send(clat, PREFIX, TCP(sport=4000, dport=80, flags="S")).packet.sport
    lent = send(clat, CLAT, TCP(sport=4001, dport=81, flags="S"))
    assert lent.counted.get("ports_lent") == 1
    assert lent.packet.sport == first
    back = answer(clat, TCP(sport=81, dport=first, flags="SA")).packet
    assert (back.src, back.dport) == (at(SERVER, CLAT), 4001)
    assert send(clat, CLAT, TCP(sport=4001, dport=81, flags="A")).translated
