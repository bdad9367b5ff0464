"""RFC 7915: what a translated packet looks like, header by header, both ways."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP, IPOption_RR, IPOption_SSRR
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_Redirect,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.packet import Packet

from tests.dataplane.machine import (
    MAC,
    OTHER,
    POD,
    POOL,
    SERVER,
    SHOT,
    Machine,
    Out,
    at,
    right_checksums,
)
from tests.dataplane.test_program_icmp_errors import parts6

pytestmark = pytest.mark.root

TO_SERVER = IPv6(src=str(POD), dst=at(SERVER), hlim=63)
UDP_OUT = UDP(sport=4000, dport=53)


def port_of(nat: Machine, transport: Packet) -> int:
    """Open a session and return the port that stands for the pod's."""
    out = nat.from_pod(TO_SERVER / transport)
    assert out.translated, out
    layer = out.packet.payload
    return int(layer.id if isinstance(layer, ICMP) else layer.sport)


def reply(nat: Machine, transport: Packet, **ip: object) -> Packet:
    """The server's packet to the pool."""
    return IP(src=str(SERVER), dst=str(POOL), **ip) / transport


@pytest.mark.parametrize(
    "transport",
    [
        pytest.param(TCP(sport=4000, dport=80, flags="S", seq=1) / b"odd", id="tcp"),
        pytest.param(UDP(sport=4000, dport=53) / b"question", id="udp"),
        pytest.param(ICMPv6EchoRequest(id=77, seq=5, data=b"ping"), id="icmp"),
    ],
)
def test_addresses_ports_and_checksums_to_ipv4(nat: Machine, transport: Packet) -> None:
    out = nat.from_pod(TO_SERVER / transport)
    assert out.translated
    ip = out.packet
    assert (ip.src, ip.dst, ip.version, ip.ihl) == (str(POOL), str(SERVER), 4, 5)
    assert bytes(ip.payload.payload)[-3:] == bytes(transport)[-3:]
    assert right_checksums(ip)
    if ICMP in ip:
        assert (ip[ICMP].type, ip[ICMP].code, ip[ICMP].seq) == (8, 0, 5)
        assert 61001 <= ip[ICMP].id <= 65535
    else:
        assert 61001 <= ip.payload.sport <= 65535
        assert ip.payload.dport == transport.dport


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        pytest.param(
            TCP(sport=4000, dport=80, flags="S"), TCP(sport=80, flags="SA") / b"x", id="tcp"
        ),
        pytest.param(UDP(sport=4000, dport=53), UDP(sport=53) / b"answer", id="udp"),
        pytest.param(
            ICMPv6EchoRequest(id=77, seq=5, data=b"ping"),
            ICMP(type="echo-reply", seq=5) / b"ping",
            id="icmp",
        ),
    ],
)
def test_addresses_ports_and_checksums_to_ipv6(
    nat: Machine, question: Packet, answer: Packet
) -> None:
    port = port_of(nat, question)
    answer = answer.copy()
    if ICMP in answer:
        answer.id = port
    else:
        answer.dport = port
    out = nat.from_internet(reply(nat, answer))
    assert out.translated
    assert (out.packet.src, out.packet.dst) == (at(SERVER), str(POD))
    assert right_checksums(out.packet)
    if ICMP in answer:
        assert (out.packet[ICMPv6EchoReply].id, out.packet[ICMPv6EchoReply].seq) == (77, 5)
        assert out.packet[ICMPv6EchoReply].data == b"ping"
    else:
        assert (out.packet.payload.sport, out.packet.payload.dport) == (question.dport, 4000)


def test_fast_path_goes_straight_to_the_uplink_and_keeps_the_ttl(nat: Machine) -> None:
    out = nat.from_pod(TO_SERVER / UDP_OUT)
    assert "sent_fast" in out.counted
    assert out.packet.ttl == 63  # the kernel's forwarding has taken its one already


def test_fast_path_to_the_pod_takes_one_off_the_hop_limit(nat: Machine) -> None:
    port = port_of(nat, UDP_OUT)
    out = nat.from_internet(reply(nat, UDP(sport=53, dport=port), ttl=50))
    assert "sent_fast" in out.counted
    assert out.packet.hlim == 49


def test_a_neighbour_is_asked_for_by_its_link_then_by_the_kernel_with_one_ttl_more(
    nat: Machine,
) -> None:
    """The link asks whatever filters think of forwarding; the kernel says "host unreachable"."""
    nat.reset(policy={"allowedDestinations": ["192.0.2.0/24"]})
    nat.datapath.travel(5)

    def to_nobody() -> Out:
        return nat.from_pod(IPv6(src=str(POD), dst=at("192.0.2.77"), hlim=63) / UDP_OUT)

    out = to_nobody()
    assert "sent_fast" in out.counted
    assert out.packet.ttl == 63
    nat.datapath.travel(1)
    out = to_nobody()
    assert "sent_kernel" in out.counted
    assert out.packet.ttl == 64  # the kernel's forwarding is yet to take its one
    assert out.frame[:6] == MAC  # else eth_type_trans calls it somebody else's
    assert right_checksums(out.packet)
    nat.datapath.travel(3)
    assert "sent_fast" in to_nobody().counted, "it is asked for again"


def test_last_hop_limit_goes_to_the_kernel_which_says_time_exceeded(nat: Machine) -> None:
    port = port_of(nat, UDP_OUT)
    out = nat.from_internet(reply(nat, UDP(sport=53, dport=port), ttl=1))
    assert "sent_kernel" in out.counted
    assert out.packet.hlim == 1


@pytest.mark.parametrize("copied", [True, False])
def test_traffic_class_is_copied_unless_told_not_to(nat: Machine, copied: bool) -> None:
    nat.reset(copyTrafficClass=copied)
    out = nat.from_pod(IPv6(src=str(POD), dst=at(SERVER), tc=0xB9, fl=0x12345) / UDP_OUT)
    assert out.packet.tos == (0xB9 if copied else 0)
    back = nat.from_internet(reply(nat, UDP(sport=53, dport=out.packet.sport), tos=0xB9))
    assert back.packet.tc == (0xB9 if copied else 0)
    assert back.packet.fl == 0


@pytest.mark.parametrize(("payload", "df"), [(1260 - 28, 0), (1260 - 27, 1)])
def test_df_is_clear_up_to_1260_bytes_and_the_id_then_generated(
    nat: Machine, payload: int, df: int
) -> None:
    ids = set()
    for _ in range(4):
        out = nat.from_pod(TO_SERVER / UDP_OUT / bytes(payload))
        assert out.packet.len == payload + 28
        assert int(out.packet.flags.DF) == df
        ids.add(out.packet.id)
    assert (len(ids) > 1) == (df == 0)


@pytest.mark.parametrize(("segment", "df"), [(1260 - 40, 0), (1260 - 39, 1)])
def test_df_of_a_train_is_that_of_its_segments(nat: Machine, segment: int, df: int) -> None:
    port_of(nat, TCP(sport=4000, dport=80, flags="S"))
    train = TO_SERVER / TCP(sport=4000, dport=80, flags="A") / bytes(2 * segment)
    out = nat.from_pod(train, gso_size=segment)
    assert int(out.packet.flags.DF) == df


def test_udp_without_checksum_gets_one(nat: Machine) -> None:
    for payload in (b"", b"odd", bytes(range(256)) * 4, b"\xff" * 1201):
        port = port_of(nat, UDP_OUT)
        out = nat.from_internet(reply(nat, UDP(sport=53, dport=port, chksum=0) / payload))
        assert out.translated, payload
        assert out.packet[UDP].chksum
        assert right_checksums(out.packet)


@pytest.mark.parametrize("transport", [TCP(sport=80, flags="A"), UDP(sport=80)])
def test_wrong_checksums_stay_wrong(nat: Machine, transport: Packet) -> None:
    question = transport.__class__(sport=4000, dport=80)
    if TCP in question:
        question.flags = "S"
    port = port_of(nat, question)
    answer = transport.copy()
    answer.dport = port
    answer.chksum = 0x1234
    out = nat.from_internet(reply(nat, answer / b"data"))
    assert out.translated
    assert not right_checksums(out.packet)
    broken = question.copy()
    broken.chksum = 0x4321
    assert not right_checksums(nat.from_pod(TO_SERVER / broken / b"data").packet)


@pytest.mark.parametrize("options", [[], [IPOption_NOP()] * 4])
def test_broken_ipv4_header_is_left_to_the_host(nat: Machine, options: list[object]) -> None:
    port = port_of(nat, UDP_OUT)
    packet = reply(nat, UDP(sport=53, dport=port) / b"data", options=options, chksum=0x1234)
    assert nat.from_internet(packet).passed


def test_ipv4_options_are_ignored(nat: Machine) -> None:
    port = port_of(nat, UDP_OUT)
    options = [IPOption_NOP(), IPOption_RR(pointer=4, routers=["0.0.0.0"] * 2), IPOption_NOP()]
    out = nat.from_internet(reply(nat, UDP(sport=53, dport=port) / b"data", options=options))
    assert out.translated
    assert isinstance(out.packet.payload, UDP)
    assert out.packet.plen == 12
    assert right_checksums(out.packet)


def test_extension_headers_are_skipped(nat: Machine) -> None:
    headers = (
        IPv6ExtHdrHopByHop(options=[PadN(optdata=bytes(12))])
        / IPv6ExtHdrRouting(segleft=0)
        / IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(4))])
    )
    out = nat.from_pod(TO_SERVER / headers / UDP_OUT / b"data")
    assert out.translated
    assert (out.packet.proto, out.packet.len) == (17, 32)
    assert right_checksums(out.packet)


def test_routing_header_with_segments_left_is_answered_with_its_place(nat: Machine) -> None:
    headers = IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(4))]) / IPv6ExtHdrRouting(
        addresses=["2001:db8::1"], segleft=1
    )
    out = nat.from_pod(TO_SERVER / headers / UDP_OUT)
    assert out.counted.get("dropped_routing_header") == 1
    icmp = out.packet.payload
    assert (icmp.type, icmp.code, icmp.ptr) == (4, 0, 40 + 8 + 3)
    assert right_checksums(out.packet)


# For each: what the error may not answer, behind a routing header with segments left.
UNANSWERABLE = [
    pytest.param(ICMPv6DestUnreach() / bytes(48), id="error"),
    pytest.param(ICMPv6ND_Redirect(), id="redirect"),
    pytest.param(IPv6ExtHdrDestOpt() / ICMPv6TimeExceeded() / bytes(48), id="error-after-options"),
    pytest.param(IPv6ExtHdrFragment(offset=9, nh=58) / bytes(16), id="perhaps-an-error"),
]


@pytest.mark.parametrize("forbidding", UNANSWERABLE)
def test_no_error_answers_an_error(nat: Machine, forbidding: Packet) -> None:
    routing = IPv6ExtHdrRouting(addresses=["2001:db8::1"], segleft=1)
    assert nat.from_pod(TO_SERVER / routing / forbidding).dropped == "routing_header"
    answered = nat.from_pod(TO_SERVER / routing / ICMPv6EchoRequest())
    assert answered.counted.get("icmp_errors_sent") == 1


@pytest.mark.parametrize("source", ["::", "::1", "ff02::1", "fe80::1"])
def test_no_error_answers_a_source_that_is_nobody(nat: Machine, source: str) -> None:
    out = nat.from_pod(IPv6(src=source, dst=at(SERVER), nh=50) / bytes(40))
    assert out.dropped == "unknown_transport"
    assert "icmp_errors_sent" not in out.counted


def test_extension_behind_fragment_header_is_refused(nat: Machine) -> None:
    out = nat.from_pod(TO_SERVER / IPv6ExtHdrFragment(m=1) / IPv6ExtHdrDestOpt() / UDP_OUT)
    assert out.dropped == "extension_after_fragment"


def test_atomic_fragment_loses_its_header_and_keeps_its_id(nat: Machine) -> None:
    out = nat.from_pod(TO_SERVER / IPv6ExtHdrFragment(id=0xABCD1234) / UDP_OUT / bytes(1400))
    assert out.translated
    assert (out.packet.id, int(out.packet.flags), out.packet.frag) == (0x1234, 0, 0)
    assert right_checksums(out.packet)


@pytest.mark.parametrize("transport", [47, 50, 51, 132])
def test_other_transports_are_refused(nat: Machine, transport: int) -> None:
    out = nat.from_pod(IPv6(src=str(POD), dst=at(SERVER), nh=transport) / bytes(40))
    assert out.counted.get("dropped_unknown_transport") == 1
    assert parts6(out)[:2] == (1, 4)


def test_other_transports_to_the_pool_are_the_hosts(nat: Machine) -> None:
    assert nat.from_internet(IP(src=str(SERVER), dst=str(POOL), proto=50) / bytes(40)).passed


def test_what_is_not_ours_passes(nat: Machine) -> None:
    for packet in (
        IP(src=str(SERVER), dst=str(POOL)) / UDP(sport=53, dport=61500),
        IP(src=str(SERVER), dst=str(POOL)) / TCP(sport=53, dport=22),
        IP(src=str(SERVER), dst=str(OTHER)) / UDP(sport=53, dport=61500),
        IP(src=str(SERVER), dst=str(POOL)) / ICMP(id=61500),
    ):
        out = nat.from_internet(packet)
        assert out.passed
        assert bytes(out.packet) == bytes(packet)
    neighbours = nat.from_pod(IPv6(src="fe80::1", dst="ff02::1") / ICMPv6EchoRequest())
    assert neighbours.passed


@pytest.mark.parametrize("layer", [TCP, UDP])
def test_gso_sizes_stay(nat: Machine, layer: type[Packet]) -> None:
    question, answer = layer(sport=4000, dport=80), layer(sport=80)
    if layer is TCP:
        question.flags, answer.flags = "S", "A"
    answer.dport = port_of(nat, question)
    if layer is TCP:
        question.flags = "A"
    up = nat.from_pod(TO_SERVER / question / bytes(3000), gso_size=1400)
    assert up.translated
    assert (up.gso_size, up.packet.len) == (1400, 20 + len(question) + 3000)
    down = nat.from_internet(reply(nat, answer / bytes(3000)), gso_size=1400)
    assert down.translated
    assert (down.gso_size, down.packet.plen) == (1400, len(answer) + 3000)


def test_too_large_for_the_uplink_goes_to_the_kernel_which_says_so(nat: Machine) -> None:
    out = nat.from_pod(TO_SERVER / UDP_OUT / bytes(1473))
    assert "sent_kernel" in out.counted
    out = nat.from_pod(TO_SERVER / UDP_OUT / bytes(1472))
    assert "sent_fast" in out.counted


def test_truncated_packets_are_counted(nat: Machine) -> None:
    whole = bytes(TO_SERVER / TCP(sport=4000, dport=80, flags="S") / b"data")
    for length in (41, 50, 59, len(whole) - 1):
        assert nat.from_pod(whole[:length]).dropped == "truncated"


def test_other_versions_under_ipv6s_ether_type_are_malformed(nat: Machine) -> None:
    packet = bytearray(bytes(TO_SERVER / UDP_OUT))
    packet[0] = 0x50 | packet[0] & 0xF
    frame = bytes(12) + b"\x86\xdd" + packet
    before = nat.datapath.counters()
    assert nat.datapath.program("nat64_egress").run(frame, ifindex=nat.interface).verdict == SHOT
    after = nat.datapath.counters()
    for name in ("received_6to4", "dropped_malformed_6to4"):
        assert after[name] == before[name] + 1


def chain(headers: int, data: int) -> Packet:
    """Destination options, one behind the other, with as much data each."""
    packet = TO_SERVER
    for _ in range(headers):
        packet = packet / IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(data))])
    return packet / UDP_OUT


@pytest.mark.parametrize(("headers", "data"), [(8, 4), (2, 252)])
def test_extension_headers_are_bounded_in_number_and_length(
    nat: Machine, headers: int, data: int
) -> None:
    assert nat.from_pod(chain(headers, data)).translated
    assert nat.from_pod(chain(headers + 1, data)).dropped == "extension_chain"


def test_unexpired_source_route_is_refused(nat: Machine) -> None:
    port = port_of(nat, UDP_OUT)
    options = [IPOption_SSRR(pointer=4, routers=["192.0.2.7"])]
    out = nat.from_internet(reply(nat, UDP(sport=53, dport=port), options=options))
    assert "dropped_source_route" in out.counted
    assert (out.packet[ICMP].type, out.packet[ICMP].code) == (3, 5)
    assert (out.packet.src, out.packet.dst) == (str(POOL), str(SERVER))
    assert out.counted.get("icmp_errors_sent") == 1
    used = [IPOption_SSRR(pointer=8, routers=["192.0.2.7"])]
    assert nat.from_internet(reply(nat, UDP(sport=53, dport=port), options=used)).translated
