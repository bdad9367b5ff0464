"""ICMP errors (RFC 7915 sections 4.2, 4.3, 5.2, 5.3): tables, inner packets, MTUs, extensions."""

from __future__ import annotations

import struct

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP, IPOption_SSRR
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    PadN,
)
from scapy.packet import Packet

from tests.dataplane.machine import (
    OTHER,
    POD,
    POOL,
    SERVER,
    Machine,
    Out,
    at,
)
from tests.lab.ways.taps import checksum

pytestmark = pytest.mark.root

ROUTER = "198.51.100.66"
ROUTER6 = "fd64:9::66"


def opened(nat: Machine, transport: Packet) -> Packet:
    """Open a session by `transport`; return the IPv4 packet that went out."""
    out = nat.from_pod(IPv6(src=str(POD), dst=at(SERVER), hlim=63) / transport)
    assert out.translated
    return out.packet


def answered(nat: Machine, sent: Packet, size: int = 8) -> Packet:
    """The IPv6 packet that the pod gets as the server's answer to `sent`."""
    layer = sent.payload
    if isinstance(layer, ICMP):
        back: Packet = ICMP(type="echo-reply", id=layer.id) / bytes(size)
    else:
        back = layer.__class__(sport=layer.dport, dport=layer.sport) / bytes(size)
    out = nat.from_internet(IP(src=str(SERVER), dst=str(POOL), ttl=33, tos=8) / back)
    assert out.translated
    return out.packet


def icmp4(kind: int, code: int, rest: bytes, inner: bytes) -> bytes:
    """An ICMPv4 message with its checksum."""
    body = struct.pack("!BBH4s", kind, code, 0, rest) + inner
    return body[:2] + struct.pack("!H", checksum(body)) + body[4:]


def icmp6(src: str, dst: str, kind: int, code: int, rest: bytes, inner: bytes) -> bytes:
    """An IPv6 packet with an ICMPv6 message."""
    body = struct.pack("!BBH4s", kind, code, 0, rest) + inner
    ip = IPv6(src=src, dst=dst, nh=58, plen=len(body), hlim=60)
    pseudo = bytes(ip)[8:40] + struct.pack("!II", len(body), 58)
    return bytes(ip) + body[:2] + struct.pack("!H", checksum(pseudo + body)) + body[4:]


def error_to_pod(
    nat: Machine, kind: int, code: int, rest: bytes, inner: bytes, **ip: object
) -> Out:
    message = icmp4(kind, code, rest, inner)
    return nat.from_internet(IP(src=ROUTER, dst=str(POOL), proto=1, ttl=50, **ip) / message)


def error_to_server(
    nat: Machine, kind: int, code: int, rest: bytes, inner: bytes, src: str = ROUTER6
) -> Out:
    return nat.from_pod(icmp6(src, at(SERVER), kind, code, rest, inner))


def parts6(out: Out) -> tuple[int, int, bytes, IPv6]:
    """type, code, rest and inner packet of an ICMPv6 error whose checksums are right."""
    packet = bytes(out.packet)
    message = packet[40:]
    assert out.packet.nh == 58
    assert out.packet.plen == len(message)
    assert checksum(packet[8:40] + struct.pack("!II", len(message), 58) + message) == 0
    return message[0], message[1], message[4:8], IPv6(message[8:])


def parts4(out: Out) -> tuple[int, int, bytes, IP]:
    """type, code, rest and inner packet of an ICMPv4 error whose checksums are right."""
    packet = bytes(out.packet)
    assert checksum(packet[:20]) == 0
    assert out.packet.len == len(packet)
    message = packet[20:]
    assert checksum(message) == 0
    assert checksum(message[8:28]) == 0, "inner IPv4 header"
    return message[0], message[1], message[4:8], IP(message[8:])


TO_IPV6 = [
    *[(3, code, 1, 0) for code in (0, 1, 5, 6, 7, 8, 11, 12)],
    (3, 2, 4, 1),
    (3, 3, 1, 4),
    (3, 4, 2, 0),
    *[(3, code, 1, 1) for code in (9, 10, 13, 15)],
    (11, 0, 3, 0),
    (11, 1, 3, 1),
    (12, 0, 4, 0),
    (12, 2, 4, 0),
]


@pytest.mark.parametrize(("kind", "code", "kind6", "code6"), TO_IPV6)
def test_types_and_codes_to_ipv6(
    nat: Machine, kind: int, code: int, kind6: int, code6: int
) -> None:
    sent = opened(nat, UDP(sport=4000, dport=53) / b"question")
    out = error_to_pod(nat, kind, code, b"\0\0\x05\x78" if code == 4 else bytes(4), bytes(sent))
    assert out.translated
    assert parts6(out)[:2] == (kind6, code6)


@pytest.mark.parametrize(
    ("kind", "code"),
    [(3, 14), (3, 16), (11, 2), (12, 1), (4, 0), (5, 0), *[(kind, 0) for kind in (6, 9, 10)]]
    + [(kind, 0) for kind in range(13, 19)],
)
def test_types_without_counterpart_do_not_reach_ipv6(nat: Machine, kind: int, code: int) -> None:
    sent = opened(nat, UDP(sport=4000, dport=53))
    assert error_to_pod(nat, kind, code, bytes(4), bytes(sent)).dropped == "icmp_type"


@pytest.mark.parametrize("kind", [9, 10, *range(13, 19)])
def test_queries_other_than_echo_are_the_hosts(nat: Machine, kind: int) -> None:
    opened(nat, UDP(sport=4000, dport=53))
    out = nat.from_internet(
        IP(src=str(SERVER), dst=str(POOL), proto=1) / icmp4(kind, 0, bytes(4), bytes(12))
    )
    assert out.passed


TO_IPV4 = [
    (1, 0, 3, 1),
    (1, 1, 3, 10),
    (1, 2, 3, 1),
    (1, 3, 3, 1),
    (1, 4, 3, 3),
    (2, 0, 3, 4),
    (3, 0, 11, 0),
    (3, 1, 11, 1),
    (4, 0, 12, 0),
    (4, 1, 3, 2),
]


@pytest.mark.parametrize(("kind", "code", "kind4", "code4"), TO_IPV4)
def test_types_and_codes_to_ipv4(
    nat: Machine, kind: int, code: int, kind4: int, code4: int
) -> None:
    got = answered(nat, opened(nat, UDP(sport=4000, dport=53)))
    out = error_to_server(nat, kind, code, struct.pack("!I", 1400 if kind == 2 else 0), bytes(got))
    assert out.translated
    assert parts4(out)[:2] == (kind4, code4)


@pytest.mark.parametrize(
    ("kind", "code"),
    [(1, 5), (1, 6), (2, 1), (3, 2), (4, 2), (100, 0), (127, 0), (130, 0), (135, 0)],
)
def test_types_without_counterpart_do_not_reach_ipv4(nat: Machine, kind: int, code: int) -> None:
    got = answered(nat, opened(nat, UDP(sport=4000, dport=53)))
    assert error_to_server(nat, kind, code, bytes(4), bytes(got)).dropped == "icmp_type"


POINTERS_TO_IPV6 = {0: 0, 1: 1, 2: 4, 3: 4, 8: 7, 9: 6}
POINTERS_TO_IPV6 |= dict.fromkeys(range(12, 16), 8) | dict.fromkeys(range(16, 20), 24)
POINTERS_TO_IPV4 = {0: 0, 1: 1, 4: 2, 5: 2, 6: 9, 7: 8}
POINTERS_TO_IPV4 |= dict.fromkeys(range(8, 24), 12) | dict.fromkeys(range(24, 40), 16)


@pytest.mark.parametrize("pointer", range(24))
def test_parameter_problem_pointers_to_ipv6(nat: Machine, pointer: int) -> None:
    sent = opened(nat, UDP(sport=4000, dport=53))
    out = error_to_pod(nat, 12, 0, bytes((pointer, 0, 0, 0)), bytes(sent))
    if pointer in POINTERS_TO_IPV6:
        assert parts6(out)[2] == struct.pack("!I", POINTERS_TO_IPV6[pointer])
    else:
        assert out.dropped == "icmp_type"


@pytest.mark.parametrize("pointer", [*range(44), 255, 1 << 24])
def test_parameter_problem_pointers_to_ipv4(nat: Machine, pointer: int) -> None:
    got = answered(nat, opened(nat, UDP(sport=4000, dport=53)))
    out = error_to_server(nat, 4, 0, struct.pack("!I", pointer), bytes(got))
    if pointer in POINTERS_TO_IPV4:
        assert parts4(out)[2] == bytes((POINTERS_TO_IPV4[pointer], 0, 0, 0))
    else:
        assert out.dropped == "icmp_type"


def test_protocol_unreachable_points_at_next_header(nat: Machine) -> None:
    sent = opened(nat, UDP(sport=4000, dport=53))
    assert parts6(error_to_pod(nat, 3, 2, bytes(4), bytes(sent)))[2] == struct.pack("!I", 6)


@pytest.mark.parametrize(
    ("mtu", "size", "expected"),
    [
        (1400, 1400, 1420),
        (1280, 1400, 1300),
        (1260, 1400, 1280),
        (576, 1400, 1280),
        (1500, 1400, 1500),  # the pod's link has no more
        (9000, 1400, 1500),
        (0, 1472, 1500),  # plateau 1492, and 20, but the pod's link has no more
        (0, 1300, 1280),  # plateau 1006
    ],
)
def test_packet_too_big_says_the_mtu_for_ipv6(
    nat: Machine, mtu: int, size: int, expected: int
) -> None:
    sent = opened(nat, UDP(sport=4000, dport=53) / bytes(size))
    out = error_to_pod(nat, 3, 4, struct.pack("!HH", 0, mtu), bytes(sent)[:64])
    assert parts6(out)[2] == struct.pack("!I", expected)


@pytest.mark.parametrize(
    ("mtu", "expected"), [(1420, 1400), (1280, 1260), (1500, 1480), (9000, 1500)]
)
def test_fragmentation_needed_says_the_mtu_for_ipv4(nat: Machine, mtu: int, expected: int) -> None:
    got = answered(nat, opened(nat, UDP(sport=4000, dport=53)))
    out = error_to_server(nat, 2, 0, struct.pack("!I", mtu), bytes(got))
    assert parts4(out)[2] == struct.pack("!HH", 0, expected)


TRANSPORTS = [
    pytest.param(UDP(sport=4000, dport=53) / b"question", id="udp"),
    pytest.param(TCP(sport=4000, dport=80, flags="S") / b"odd", id="tcp"),
    pytest.param(ICMPv6EchoRequest(id=77, seq=5, data=b"ping"), id="icmp"),
]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_inner_packet_is_the_one_the_pod_sent(nat: Machine, transport: Packet) -> None:
    original = IPv6(src=str(POD), dst=at(SERVER), hlim=63, tc=4) / transport
    sent = nat.from_pod(original).packet
    sent.ttl = 7  # as a router further on had it; it must stay so
    out = error_to_pod(nat, 11, 0, bytes(4), bytes(sent))
    original.hlim = 7
    assert bytes(parts6(out)[3]) == bytes(original)
    assert (out.packet.src, out.packet.dst) == (at(ROUTER), str(POD))
    assert out.packet.hlim == 49


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_inner_packet_is_the_one_the_server_sent(nat: Machine, transport: Packet) -> None:
    sent = opened(nat, transport)
    layer = sent.payload
    if isinstance(layer, ICMP):
        back: Packet = ICMP(type="echo-reply", id=layer.id) / b"pong"
    else:
        back = layer.__class__(sport=layer.dport, dport=layer.sport) / b"back"
    original = IP(src=str(SERVER), dst=str(POOL), ttl=33, tos=8, id=0) / back
    got = nat.from_internet(original).packet
    got.hlim = 9
    out = error_to_server(nat, 1, 4, bytes(4), bytes(got), src=str(POD))
    original.ttl = 9
    assert bytes(parts4(out)[3]) == bytes(original)
    assert (out.packet.src, out.packet.dst) == (str(POOL), str(SERVER))


def test_error_of_a_router_towards_ipv4_comes_from_the_pool(nat: Machine) -> None:
    got = answered(nat, opened(nat, UDP(sport=4000, dport=53)))
    out = error_to_server(nat, 3, 0, bytes(4), bytes(got), src=ROUTER6)
    assert out.packet.src == str(POOL)  # RFC 6791: the router has no IPv4 address


@pytest.mark.parametrize("kept", [8, 12, 17, 18, 20, 28])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_truncated_inner_packets(nat: Machine, transport: Packet, kept: int) -> None:
    original = IPv6(src=str(POD), dst=at(SERVER), hlim=63) / transport
    sent = nat.from_pod(original).packet
    out = error_to_pod(nat, 11, 0, bytes(4), bytes(sent)[: 20 + kept])
    assert bytes(parts6(out)[3])[40:48] == bytes(original)[40:48]
    got = answered(nat, sent)
    back = error_to_server(nat, 3, 0, bytes(4), bytes(got)[: 40 + kept])
    assert parts4(back)[3].src == str(SERVER)


def test_too_short_an_inner_packet_is_refused(nat: Machine) -> None:
    sent = opened(nat, UDP(sport=4000, dport=53))
    got = answered(nat, sent)
    assert error_to_pod(nat, 11, 0, bytes(4), bytes(sent)[:27]).passed
    for length in (0, 39, 47):
        out = error_to_server(nat, 3, 0, bytes(4), bytes(got)[:length])
        assert out.dropped == "icmp_inner_malformed"


def test_inner_options_and_extension_headers_go(nat: Machine) -> None:
    sent = opened(nat, UDP(sport=4000, dport=53) / b"question")
    inner = IP(src=sent.src, dst=sent.dst, ttl=3, options=[IPOption_NOP()] * 8) / UDP(
        bytes(sent.payload)
    )
    out = error_to_pod(nat, 11, 0, bytes(4), bytes(inner), options=[IPOption_NOP()] * 4)
    found = parts6(out)[3]
    assert (found.nh, found.plen) == (17, 16)
    got = answered(nat, sent)
    inner6 = (
        IPv6(src=got.src, dst=got.dst)
        / IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(12))])
        / UDP(bytes(got.payload))
    )
    back = error_to_server(nat, 3, 0, bytes(4), bytes(inner6))
    assert parts4(back)[3].len == 20 + 8 + 8


def test_inner_first_fragment_has_its_header_both_ways(nat: Machine) -> None:
    sent = opened(nat, UDP(sport=4000, dport=53) / b"question")
    inner = IP(src=sent.src, dst=sent.dst, id=0x1234, flags="MF") / UDP(bytes(sent.payload))
    found = parts6(error_to_pod(nat, 11, 1, bytes(4), bytes(inner)))[3]
    assert (found[IPv6ExtHdrFragment].id, found[IPv6ExtHdrFragment].m) == (0x1234, 1)
    got = answered(nat, sent)
    inner6 = (
        IPv6(src=got.src, dst=got.dst)
        / IPv6ExtHdrFragment(id=0x51234, m=1)
        / UDP(bytes(got.payload))
    )
    back = parts4(error_to_server(nat, 3, 1, bytes(4), bytes(inner6)))[3]
    assert (back.id, str(back.flags), back.frag) == (0x1234, "MF", 0)


def test_errors_stay_within_1280_and_576_bytes(nat: Machine) -> None:
    sent = opened(nat, UDP(sport=4000, dport=53) / (bytes(range(256)) * 5))
    out = error_to_pod(nat, 11, 0, bytes(4), bytes(sent))
    parts6(out)
    assert len(out.packet) == 1280
    got = answered(nat, sent, 1100)
    back = error_to_server(nat, 3, 0, bytes(4), bytes(got))
    parts4(back)
    assert len(back.packet) == 576


EXTENSION = b"\x20\x00" + b"\xab\xcd" + b"\x00\x08\x01\x01" + b"\x00\x01\xe1\x40"


@pytest.mark.parametrize("words", [32, 33, 40])
def test_rfc4884_extensions_keep_their_place_to_ipv6(nat: Machine, words: int) -> None:
    sent = opened(nat, UDP(sport=4000, dport=53) / bytes(range(200)))
    inner = bytes(sent)[: words * 4]
    out = error_to_pod(nat, 11, 0, bytes((0, words, 0, 0)), inner + EXTENSION)
    _, _, rest, _ = parts6(out)
    assert bytes(out.packet)[48 + rest[0] * 8 :] == EXTENSION
    assert rest[0] * 8 >= words * 4 + 20


@pytest.mark.parametrize("units", [16, 17, 20])
def test_rfc4884_extensions_keep_their_place_to_ipv4(nat: Machine, units: int) -> None:
    got = answered(nat, opened(nat, UDP(sport=4000, dport=53)), 200)
    inner = bytes(got)[: units * 8]
    out = error_to_server(nat, 3, 0, bytes((units, 0, 0, 0)), inner + EXTENSION)
    _, _, rest, _ = parts4(out)
    assert bytes(out.packet)[28 + rest[1] * 4 :] == EXTENSION
    assert rest[1] * 4 >= 128


def test_extensions_without_room_are_cut_off(nat: Machine) -> None:
    got = answered(nat, opened(nat, UDP(sport=4000, dport=53)), 600)
    inner = bytes(got)[: 70 * 8]
    out = error_to_server(nat, 3, 0, bytes((70, 0, 0, 0)), inner + EXTENSION)
    _, _, rest, _ = parts4(out)
    assert rest == bytes(4)
    assert len(out.packet) <= 576


def test_extensions_go_where_the_type_has_none(nat: Machine) -> None:
    sent = opened(nat, UDP(sport=4000, dport=53) / bytes(200))
    out = error_to_pod(nat, 3, 2, bytes((0, 32, 0, 0)), bytes(sent)[:128] + EXTENSION)
    assert parts6(out)[2] == struct.pack("!I", 6)
    assert len(out.packet) == 40 + 8 + 148


def test_error_about_an_error_is_refused(nat: Machine) -> None:
    got = answered(nat, opened(nat, UDP(sport=4000, dport=53)))
    inner = icmp6(got.src, got.dst, 1, 4, bytes(4), bytes(got))
    assert error_to_server(nat, 3, 0, bytes(4), inner).dropped == "icmp_error_in_error"


def test_error_about_an_error_from_ipv4_is_the_hosts(nat: Machine) -> None:
    sent = opened(nat, UDP(sport=4000, dport=53))
    inner = IP(src=str(POOL), dst=str(SERVER), proto=1) / icmp4(3, 3, bytes(4), bytes(sent))
    assert error_to_pod(nat, 11, 0, bytes(4), bytes(inner)).passed


@pytest.mark.parametrize("source", ["0.0.0.1", "127.0.0.1", "224.0.0.1", "255.255.255.255"])
def test_error_from_an_impossible_address_is_dropped(nat: Machine, source: str) -> None:
    sent = opened(nat, UDP(sport=4000, dport=53))
    message = icmp4(3, 3, bytes(4), bytes(sent))
    out = nat.from_internet(IP(src=source, dst=str(POOL), proto=1) / message)
    assert out.dropped == "source_illegal"


def test_unexpired_source_route_of_an_error_is_refused_in_silence(nat: Machine) -> None:
    sent = opened(nat, UDP(sport=4000, dport=53))
    route = [IPOption_SSRR(pointer=4, routers=["192.0.2.7"])]
    out = error_to_pod(nat, 3, 3, bytes(4), bytes(sent), options=route)
    assert out.dropped == "source_route"
    assert "icmp_errors_sent" not in out.counted


def test_error_about_nothing_of_ours_is_refused_or_the_hosts(nat: Machine) -> None:
    stranger = IP(src=str(POOL), dst=str(SERVER)) / UDP(sport=61001, dport=53)
    assert error_to_pod(nat, 3, 3, bytes(4), bytes(stranger)).passed
    stranger6 = IPv6(src=at(SERVER), dst=str(POD)) / UDP(sport=53, dport=4000)
    out = error_to_server(nat, 1, 4, bytes(4), bytes(stranger6))
    assert out.dropped == "icmp_without_session"


def test_wrong_checksum_stays_wrong(nat: Machine) -> None:
    sent = opened(nat, UDP(sport=4000, dport=53))
    message = bytearray(icmp4(3, 3, bytes(4), bytes(sent)))
    message[3] ^= 0x10
    out = nat.from_internet(IP(src=ROUTER, dst=str(POOL), proto=1) / bytes(message))
    with pytest.raises(AssertionError):
        parts6(out)


def test_errors_neither_refresh_nor_end_a_session(nat: Machine) -> None:
    sent = opened(nat, UDP(sport=4000, dport=53))
    before = list(nat.datapath.sessions())
    nat.datapath.travel(100)
    error_to_pod(nat, 3, 3, bytes(4), bytes(sent))
    (after,) = nat.datapath.sessions()
    assert after.expires_in in range(before[0].expires_in - 102, before[0].expires_in - 98)


def test_private_router_under_the_well_known_prefix_is_replaced_by_the_server(
    nat: Machine,
) -> None:
    nat.reset(prefix="64:ff9b::/96")
    out = nat.from_pod(IPv6(src=str(POD), dst="64:ff9b::808:808") / UDP(sport=4000, dport=53))
    assert out.translated
    message = icmp4(3, 4, struct.pack("!HH", 0, 1400), bytes(out.packet))
    back = nat.from_internet(IP(src="10.0.0.1", dst=str(POOL), proto=1) / message)
    assert back.translated
    assert back.packet.src == "64:ff9b::808:808"
    assert parts6(back)[3].dst == "64:ff9b::808:808"


def test_error_from_ipv6_goes_only_where_its_inner_packet_came_from(nat: Machine) -> None:
    nat.reset()
    sent = nat.from_pod(IPv6(src=str(POD), dst=at(SERVER)) / UDP(sport=4000, dport=53))
    assert sent.translated
    inner = IPv6(src=at(SERVER), dst=str(POD)) / UDP(sport=53, dport=4000) / b"payload of choice"
    right = IPv6(src=str(POD), dst=at(SERVER)) / ICMPv6DestUnreach(code=4) / inner
    assert nat.from_pod(right).translated
    for target in ("169.254.169.254", "127.0.0.1", "255.255.255.255", str(OTHER), str(POOL)):
        forged = IPv6(src=str(POD), dst=at(target)) / ICMPv6DestUnreach(code=4) / inner
        assert nat.from_pod(forged).dropped == "icmp_ends_differ", target


def test_error_about_a_pods_session_is_not_taken_from_an_uplink(nat: Machine) -> None:
    nat.reset()
    opened(nat, UDP(sport=4000, dport=53))
    inner = IPv6(src=at(SERVER), dst=str(POD)) / UDP(sport=53, dport=4000)
    error = IPv6(src="2001:db8:1::66", dst=at(SERVER)) / ICMPv6PacketTooBig(mtu=1280) / inner
    assert nat.from_pod(error, ingress_ifindex=nat.uplink).dropped == "source_behind_uplink"
    assert nat.from_pod(error).translated  # a router between the node and its pods


def test_error_from_ipv4_goes_only_where_its_inner_packet_came_from(nat: Machine) -> None:
    nat.reset()
    sent = nat.from_pod(IPv6(src=str(POD), dst=at(SERVER)) / UDP(sport=4000, dport=53)).packet
    inner = IP(src=sent.src, dst=str(SERVER)) / UDP(sport=sent[UDP].sport, dport=53)
    right = IP(src=str(OTHER), dst=sent.src) / ICMP(type=3, code=1) / inner
    assert nat.from_internet(right).translated
    forged = IP(src=str(OTHER), dst="192.0.2.77") / ICMP(type=3, code=1) / inner
    assert nat.from_internet(forged).dropped == "icmp_ends_differ"
