"""Fragments (RFC 6146 section 3.4, RFC 7915 sections 4 and 5): both ways, in and out of order."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

import pytest
from scapy.layers.inet import ICMP, IP, UDP, IPOption_LSRR
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrFragment
from scapy.packet import Packet, Raw

from nat64_dataplane.translator.datapath import abi
from nat64_dataplane.translator.fragmentation import (
    fragmentation_address,
    fragmentation_mtu,
)
from nat64_dataplane.translator.host_view import PoolRange
from tests.dataplane.machine import (
    MAC,
    POD,
    POOL,
    SERVER,
    Machine,
    at,
    dissect,
)
from tests.lab.ways.taps import checksum

pytestmark = pytest.mark.root

DATA = bytes(itertools.islice(itertools.cycle(range(251)), 3000))


def fragments6(payload: bytes, identification: int = 0x1234ABCD, size: int = 1200) -> list[Packet]:
    """An IPv6 UDP datagram from the pod, in fragments."""
    whole = bytes(IPv6(src=str(POD), dst=at(SERVER)) / UDP(sport=4000, dport=53) / payload)[40:]
    pieces = [whole[i : i + size] for i in range(0, len(whole), size)]
    return [
        IPv6(src=str(POD), dst=at(SERVER), hlim=63)
        / IPv6ExtHdrFragment(nh=17, offset=i * size // 8, m=i < len(pieces) - 1, id=identification)
        / Raw(piece)
        for i, piece in enumerate(pieces)
    ]


def fragments4(
    port: int, payload: bytes, identification: int = 0x4321, size: int = 1200, **udp: int
) -> list[Packet]:
    """An IPv4 UDP datagram from the server, in fragments."""
    whole = bytes(IP(src=str(SERVER), dst=str(POOL)) / UDP(sport=53, dport=port, **udp) / payload)[
        20:
    ]
    pieces = [whole[i : i + size] for i in range(0, len(whole), size)]
    return [
        IP(
            src=str(SERVER),
            dst=str(POOL),
            proto=17,
            id=identification,
            frag=i * size // 8,
            flags="MF" if i < len(pieces) - 1 else 0,
            ttl=50,
        )
        / Raw(piece)
        for i, piece in enumerate(pieces)
    ]


def opened(nat: Machine) -> int:
    out = nat.from_pod(IPv6(src=str(POD), dst=at(SERVER)) / UDP(sport=4000, dport=53))
    return int(out.packet.sport)


def reassembled4(packets: list[Packet]) -> Packet:
    """What the server makes of it; the datagram's checksum is right."""
    packets = sorted(packets, key=lambda packet: packet.frag)
    assert len({packet.id for packet in packets}) == 1
    data = b""
    for packet in packets:
        assert packet.frag * 8 == len(data)
        assert checksum(bytes(packet)[:20]) == 0
        data += bytes(packet)[20 : packet.len]
    whole = IP(src=packets[0].src, dst=packets[0].dst, proto=17) / UDP(data)
    check = whole[UDP].chksum
    del whole[UDP].chksum
    assert UDP(bytes(whole)[20:]).chksum == check
    return whole


def reassembled6(packets: list[Packet]) -> Packet:
    """What the pod makes of it; the datagram's checksum is right."""
    packets = sorted(packets, key=lambda packet: packet[IPv6ExtHdrFragment].offset)
    assert len({packet[IPv6ExtHdrFragment].id for packet in packets}) == 1
    data = b""
    for packet in packets:
        assert packet[IPv6ExtHdrFragment].offset * 8 == len(data)
        data += bytes(packet)[48 : 40 + packet.plen]
    whole = IPv6(src=packets[0].src, dst=packets[0].dst) / UDP(data)
    check = whole[UDP].chksum
    del whole[UDP].chksum
    assert UDP(bytes(whole)[40:]).chksum == check
    return whole


def test_fragments_in_order_to_ipv4(nat: Machine) -> None:
    outs = [nat.from_pod(packet) for packet in fragments6(DATA)]
    assert all(out.translated for out in outs)
    packets = [out.packet for out in outs]
    assert {packet.id for packet in packets} == {0xABCD}  # the low half of the IPv6 one
    assert [str(packet.flags) for packet in packets] == ["MF", "MF", ""]  # and DF=0
    whole = reassembled4(packets)
    assert bytes(whole[UDP].payload) == DATA
    assert whole[UDP].sport >= 61001


def test_fragments_in_order_to_ipv6(nat: Machine) -> None:
    outs = [nat.from_internet(packet) for packet in fragments4(opened(nat), DATA)]
    assert all(out.translated for out in outs)
    assert {out.packet[IPv6ExtHdrFragment].id for out in outs} == {0x4321}
    assert {out.packet.hlim for out in outs} == {49}
    whole = reassembled6([out.packet for out in outs])
    assert bytes(whole[UDP].payload) == DATA
    assert (whole.dst, whole[UDP].dport) == (str(POD), 4000)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3)))[1:])
def test_fragments_out_of_order_to_ipv4(nat: Machine, order: tuple[int, ...]) -> None:
    pieces = fragments6(DATA)
    got: list[Packet] = []
    with nat.capture("n64p-t") as frames:
        for index in order:
            out = nat.from_pod(pieces[index])
            if out.translated:
                got.append(out.packet)
            else:
                assert out.counted.keys() == {"held"} | (
                    {"sessions_opened", "bindings_opened"} if index == 0 else set()
                ), "a held packet is counted when it comes round"
    again = [frame[14:] for frame in frames if frame[38:54] == IPv6Address(at(SERVER)).packed]
    if 0 in order[1:]:
        assert again[0] == bytes(pieces[0])
        assert set(again[1:]) == {bytes(pieces[index]) for index in order[: order.index(0)]}
    got += [nat.from_pod(packet).packet for packet in again]
    assert bytes(reassembled4(got)[UDP].payload) == DATA
    assert nat.datapath.sweep().held == 0


@pytest.mark.parametrize("order", list(itertools.permutations(range(3)))[1:])
def test_fragments_out_of_order_to_ipv6(nat: Machine, order: tuple[int, ...]) -> None:
    pieces = fragments4(opened(nat), DATA)
    got: list[Packet] = []
    with nat.capture("up0") as frames:
        for index in order:
            out = nat.from_internet(pieces[index])
            if out.translated:
                got.append(out.packet)
            else:
                assert "held" in out.counted
    again = [frame[14:] for frame in frames if frame[12:14] == b"\x08\x00"]
    got += [nat.from_internet(packet).packet for packet in again]
    assert bytes(reassembled6(got)[UDP].payload) == DATA


def rounds(nat: Machine, link: str, pieces: list[Packet], order: list[int]) -> list[bytes]:
    """Give the programs the pieces in that order; return what they send round again."""
    give = nat.from_pod if link == "n64p-t" else nat.from_internet
    kind = bytes.fromhex("86dd" if link == "n64p-t" else "0800")
    with nat.capture(link) as frames:
        for index in order:
            assert "held" in give(pieces[index]).counted
    own = IPv6Address(at(SERVER)).packed if link == "n64p-t" else POOL.packed
    return [frame[14:] for frame in frames if frame[12:14] == kind and own in frame[:54]]


def test_early_fragments_of_jumbo_frames_are_held_too(nat: Machine) -> None:
    nat.node.ip("link set n64p-t mtu 9000")  # test runs take no more than 3 KB
    data = DATA * 2
    pieces = fragments6(data, size=2800)
    got = [nat.from_pod(again).packet for again in rounds(nat, "n64p-t", pieces, [2, 1, 0])]
    assert bytes(reassembled4(got)[UDP].payload) == data
    pieces = fragments4(opened(nat), data, size=2800)
    got = [nat.from_internet(again).packet for again in rounds(nat, "up0", pieces, [1, 2, 0])]
    assert bytes(reassembled6(got)[UDP].payload) == data
    assert not list(nat.datapath.map("held").items())


def held(nat: Machine, index: int, part: int) -> bytes:
    """The key of a part of a held fragment."""
    (key,) = [
        key
        for key, _ in nat.datapath.map("held").items()
        if abi.HELD_KEY.unpack(key)[1:] == (index, part)
    ]
    return key


def test_held_fragments_are_released_whichever_of_them_was_withdrawn(nat: Machine) -> None:
    pieces = fragments4(opened(nat), DATA)
    for index in (1, 2):
        assert "held" in nat.from_internet(pieces[index]).counted
    nat.datapath.map("held").delete(held(nat, 0, 0))  # as its CPU does that meets the first one
    assert rounds(nat, "up0", pieces, [0]) == [bytes(pieces[0]), bytes(pieces[2])]


def test_held_fragment_that_cannot_go_round_is_counted(nat: Machine) -> None:
    pieces = fragments4(opened(nat), DATA, size=2000)
    assert "held" in nat.from_internet(pieces[1]).counted
    key = held(nat, 0, 0)
    value = nat.datapath.map("held").get(key)
    assert value is not None
    expires, _, direction, data = abi.HELD.unpack(value)
    nat.datapath.map("held").set(key, abi.HELD.pack(expires, 1 << 20, direction, data))
    out = nat.from_internet(pieces[0])
    assert out.counted == {"held": 1, "received": 1, "dropped_internal": 1}
    assert not list(nat.datapath.map("held").items())


def test_fragment_that_expired_while_it_was_held_stays_behind(nat: Machine) -> None:
    pieces = fragments4(opened(nat), DATA)
    assert "held" in nat.from_internet(pieces[1]).counted
    nat.datapath.travel(4)
    assert rounds(nat, "up0", pieces, [0]) == [bytes(pieces[0])]
    before = nat.datapath.counters()["dropped_fragment_expired_4to6"]
    assert nat.datapath.sweep().removed_held == 1
    assert nat.datapath.counters()["dropped_fragment_expired_4to6"] == before + 1


def test_early_fragment_of_the_hosts_own_packet_reaches_it(nat: Machine) -> None:
    pieces = fragments4(1234, DATA)  # no binding has this port
    with nat.capture("up0") as frames:
        assert "held" in nat.from_internet(pieces[1]).counted
        assert "held" in nat.from_internet(pieces[0]).counted
    again = [frame[14:] for frame in frames if frame[12:14] == b"\x08\x00"]
    assert sorted(again) == sorted(bytes(packet) for packet in pieces[:2])
    for packet in again:
        assert nat.from_internet(packet).passed
    assert nat.from_internet(pieces[2]).passed


def test_fragments_to_others_pass_at_once(nat: Machine) -> None:
    for packet in fragments4(1234, DATA):
        packet.dst = "192.0.2.200"
        assert nat.from_internet(packet).passed


def test_lost_first_fragment_is_forgotten_in_time(nat: Machine) -> None:
    assert "held" in nat.from_pod(fragments6(DATA)[1]).counted
    assert nat.datapath.sweep().held == 1
    before = nat.datapath.counters()
    nat.datapath.travel(4)
    swept = nat.datapath.sweep()
    assert (swept.held, swept.removed_held) == (0, 1)
    after = nat.datapath.counters()
    name = "dropped_fragment_expired_6to4"
    assert after[name] == before[name] + 1


def test_what_is_known_of_a_packet_is_forgotten_in_time(nat: Machine) -> None:
    first, second, third = fragments6(DATA)
    assert nat.from_pod(first).translated
    nat.datapath.travel(1)
    assert nat.from_pod(third).translated  # two seconds at least (RFC 6146 section 4)
    nat.datapath.travel(3)
    assert "held" in nat.from_pod(second).counted
    assert nat.datapath.sweep().removed_fragments >= 1


@pytest.mark.bulk
def test_flood_of_early_fragments_is_bounded(nat: Machine) -> None:
    reasons = []
    second = nat.datapath.now()
    for identification in range(700):
        nat.datapath.travel(second - nat.datapath.now())  # however slow the machine
        out = nat.from_pod(fragments6(DATA, identification)[1])
        reasons.append(out.dropped)
    assert reasons[:400] == [None] * 400
    assert reasons[-1] == "fragment_buffer_full"
    assert nat.datapath.sweep().held <= 512
    one = fragments6(bytes(9000), size=800)
    nat.reset()
    results = [nat.from_pod(packet).dropped for packet in one[1:]]
    assert results[:8] == [None] * 8
    assert set(results[8:]) == {"fragment_buffer_full"}


def test_overlapping_fragments_are_the_receivers_to_judge(nat: Machine) -> None:
    first, second, third = fragments6(DATA)
    assert nat.from_pod(first).translated
    for packet in (second, second, third, first):
        assert nat.from_pod(packet).translated


def test_first_fragment_without_the_ports_is_refused_and_the_rest_with_it(nat: Machine) -> None:
    tiny = IPv6(src=str(POD), dst=at(SERVER)) / IPv6ExtHdrFragment(nh=6, m=1, id=9) / Raw(bytes(8))
    assert nat.from_pod(tiny).dropped == "fragment_unexpected"


def test_fragments_of_a_refused_packet_are_refused_too(nat: Machine) -> None:
    nat.reset(policy={"deniedDestinations": [f"{SERVER}/32"]})
    first, second, _ = fragments6(DATA)
    assert nat.from_pod(first).counted.get("dropped_destination_denied")
    assert nat.from_pod(second).dropped == "fragment_unexpected"


def test_fragmented_icmp_is_not_translated(nat: Machine) -> None:
    fragment = (
        IPv6(src=str(POD), dst=at(SERVER))
        / IPv6ExtHdrFragment(nh=58, m=1)
        / Raw(bytes(ICMPv6EchoRequest(id=5)) + bytes(16))
    )
    assert nat.from_pod(fragment).dropped == "icmp_fragment"
    ping = nat.from_pod(IPv6(src=str(POD), dst=at(SERVER)) / ICMPv6EchoRequest(id=5))
    answer = IP(src=str(SERVER), dst=str(POOL), proto=1, flags="MF", id=5) / Raw(
        bytes(ICMP(type=0, id=ping.packet[ICMP].id)) + bytes(16)
    )
    assert nat.from_internet(answer).dropped == "icmp_fragment"


def test_fragmented_udp_without_checksum_is_refused(nat: Machine) -> None:
    first, second, _ = fragments4(opened(nat), DATA, chksum=0)
    assert nat.from_internet(first).dropped == "udp_zero_checksum_fragment"
    assert nat.from_internet(second).dropped == "fragment_unexpected"


def test_unexpired_source_route_refuses_the_whole_packet(nat: Machine) -> None:
    pieces = fragments4(opened(nat), DATA)
    routed = fragments4(opened(nat), DATA, identification=0x5555)
    for packet in (pieces[0], routed[1]):
        packet.options = [IPOption_LSRR(pointer=4, routers=["192.0.2.7"])]
    first = nat.from_internet(pieces[0])
    assert first.counted.keys() == {"received", "dropped_source_route", "icmp_errors_sent"}
    assert nat.from_internet(pieces[1]).dropped == "fragment_unexpected"
    assert nat.from_internet(routed[0]).translated
    later = nat.from_internet(routed[1])
    assert later.dropped == "source_route"
    assert "icmp_errors_sent" not in later.counted


def test_other_transports_in_fragments_are_not_held(nat: Machine) -> None:
    fragment = (
        IPv6(src=str(POD), dst=at(SERVER)) / IPv6ExtHdrFragment(nh=50, offset=100) / Raw(bytes(8))
    )
    assert nat.from_pod(fragment).counted.get("dropped_unknown_transport")
    inbound = IP(src=str(SERVER), dst=str(POOL), proto=50, frag=100) / Raw(bytes(8))
    assert nat.from_internet(inbound).passed


class Fragmenter:
    """The route that lets the kernel fragment what is too long for IPv6; see refragment.h."""

    def __init__(self, nat: Machine) -> None:
        self.nat = nat
        self.address = fragmentation_address(nat.interface)
        self.mtu = fragmentation_mtu(nat.config)
        nat.node.ip(f"route replace {self.address}/32 dev nat64-t mtu lock {self.mtu}")

    def come_back(self, packet: Packet) -> list[Packet]:
        """Fragment as the kernel does, one hop on, and translate what comes out of nat64-NAME."""
        header, data = packet.copy(), bytes(packet)[20:]
        step = (self.mtu - 20) // 8 * 8
        got = []
        for at_ in range(0, len(data), step):
            piece = IP(
                src=header.src,
                dst=header.dst,
                proto=header.proto,
                id=header.id,
                ttl=header.ttl - 1,
                tos=header.tos,
                frag=header.frag + at_ // 8,
                flags="MF" if header.flags.MF or at_ + step < len(data) else 0,
            ) / Raw(data[at_ : at_ + step])
            out = self.nat.from_pod(piece)
            assert out.translated
            assert out.packet.plen + 40 <= 1280
            assert out.packet.hlim == header.ttl - 1
            got.append(out.packet)
        return got


@pytest.fixture
def fragmenter(nat: Machine) -> Iterator[Fragmenter]:
    built = Fragmenter(nat)
    yield built
    nat.node.ip(f"route del {built.address}/32 dev nat64-t")


def reply(port: int, payload: bytes, **ip: object) -> Packet:
    return IP(src=str(SERVER), dst=str(POOL), ttl=50, **ip) / UDP(sport=53, dport=port) / payload


def test_unmarked_packet_too_long_for_ipv6_is_fragmented_by_the_kernel(
    fragmenter: Fragmenter,
) -> None:
    nat = fragmenter.nat
    out = nat.from_internet(reply(opened(nat), DATA[:1400], id=7))
    assert out.verdict == 7
    assert out.counted == {"fragmented": 1}  # the fragments are counted, when they come back
    assert out.frame[:6] == MAC
    assert out.packet.dst == str(fragmenter.address)
    assert out.packet.ttl == 50  # the kernel takes the next one
    assert checksum(bytes(out.packet)[:20]) == 0
    back = fragmenter.come_back(out.packet)
    assert len(back) == 2
    assert back[0].hlim == 49
    assert back[0][IPv6ExtHdrFragment].id == 7
    assert bytes(reassembled6(back)[UDP].payload) == DATA[:1400]


def test_unmarked_packet_of_1280_bytes_goes_whole(fragmenter: Fragmenter) -> None:
    nat = fragmenter.nat
    port = opened(nat)
    assert "fragmented" in nat.from_internet(reply(port, bytes(1233))).counted
    assert nat.from_internet(reply(port, bytes(1232))).translated


def test_marked_packet_is_never_fragmented(fragmenter: Fragmenter) -> None:
    nat = fragmenter.nat
    out = nat.from_internet(reply(opened(nat), bytes(1400), flags="DF"))
    assert "sent_fast" in out.counted


def test_lowest_mtu_is_the_configs(fragmenter: Fragmenter) -> None:
    nat = fragmenter.nat
    nat.configure(lowestIpv6Mtu=1400)
    port = opened(nat)
    assert nat.from_internet(reply(port, bytes(1352))).translated
    assert "fragmented" in nat.from_internet(reply(port, bytes(1353))).counted


def test_large_fragments_are_fragmented_further(fragmenter: Fragmenter) -> None:
    nat = fragmenter.nat
    got: list[Packet] = []
    for packet in fragments4(opened(nat), DATA, size=1480):
        out = nat.from_internet(packet)
        if "fragmented" in out.counted:
            got += fragmenter.come_back(out.packet)
        else:
            assert out.translated
            got.append(out.packet)
    assert len(got) == 5
    assert bytes(reassembled6(got)[UDP].payload) == DATA


def test_fragments_keep_their_order_whatever_their_size(fragmenter: Fragmenter) -> None:
    """What goes through the kernel is late: a short last fragment must not overtake it."""
    nat = fragmenter.nat
    short, *_ = fragments4(opened(nat), DATA, size=800)
    assert nat.from_internet(short).translated
    pieces = fragments4(opened(nat), DATA, size=1480)
    outs = [nat.from_internet(piece) for piece in pieces]
    assert len(pieces[-1]) < 1280
    assert ["fragmented" in out.counted for out in outs] == [True] * len(pieces)
    again = [packet for out in outs for packet in fragmenter.come_back(out.packet)]
    assert [piece[IPv6ExtHdrFragment].offset for piece in again] == sorted(
        piece[IPv6ExtHdrFragment].offset for piece in again
    )
    assert nat.from_internet(short).translated, "a first fragment begins anew"


def test_fragments_of_one_id_to_two_addresses_of_the_pool_do_not_mix(
    fragmenter: Fragmenter,
) -> None:
    """The sender's IDs are for one destination; the fragmenter's address is the same for all."""
    nat = fragmenter.nat
    second = IPv4Address("192.0.2.2")
    nat.reset(tuple(PoolRange(address, 61001, 65535) for address in (POOL, second)))
    clients: dict[str, tuple[str, int]] = {}
    for host in range(0x10, 0x40):
        pod = f"fd64:1::{host:x}"
        packet = nat.from_pod(IPv6(src=pod, dst=at(SERVER)) / UDP(sport=4000, dport=53)).packet
        clients[packet.src] = (pod, packet.sport)
    assert clients.keys() == {str(POOL), str(second)}
    for pod, _ in clients.values():
        nat.node.ip(f"neigh replace {pod} lladdr 02:00:00:00:01:10 dev pod0 nud permanent")
    sent = []
    for address, (pod, port) in clients.items():
        for piece in fragments4(port, DATA, size=1480)[:2]:
            piece.dst = address
            out = nat.from_internet(piece)
            assert "fragmented" in out.counted
            sent.append((pod, out.packet))
    for pod, packet in sent:
        back = fragmenter.come_back(packet)
        assert {piece.dst for piece in back} == {pod}
        assert {piece[IPv6ExtHdrFragment].id for piece in back} == {0x4321}


def test_packets_at_the_fragmenter_have_ids_of_their_own(fragmenter: Fragmenter) -> None:
    nat = fragmenter.nat
    packet = reply(opened(nat), DATA[:1400], id=7)
    ids = [nat.from_internet(packet).packet.id for _ in range(50)]
    steps = {(later - earlier) % 65536 for earlier, later in itertools.pairwise(ids)}
    assert steps == {1}  # so none comes again before all others have


def test_long_ping_reply_is_fragmented_with_its_checksum_right(fragmenter: Fragmenter) -> None:
    nat = fragmenter.nat
    ping = nat.from_pod(IPv6(src=str(POD), dst=at(SERVER)) / ICMPv6EchoRequest(id=5))
    answer = (
        IP(src=str(SERVER), dst=str(POOL), ttl=50)
        / ICMP(type=0, id=ping.packet[ICMP].id)
        / Raw(DATA[:1400])
    )
    out = nat.from_internet(answer)
    assert "fragmented" in out.counted
    data = b"".join(bytes(packet)[48:] for packet in fragmenter.come_back(out.packet))
    pseudo = bytes(IPv6(src=at(SERVER), dst=str(POD)))[8:40]
    assert checksum(pseudo + len(data).to_bytes(4, "big") + (58).to_bytes(4, "big") + data) == 0
    assert data[:2] == b"\x81\x00"
    assert data[4:6] == b"\x00\x05"


def test_udp_without_checksum_is_given_one_before_it_is_fragmented(
    fragmenter: Fragmenter,
) -> None:
    nat = fragmenter.nat
    packet = reply(opened(nat), DATA[:1400])
    packet[UDP].chksum = 0
    out = nat.from_internet(packet)
    assert "fragmented" in out.counted
    assert bytes(reassembled6(fragmenter.come_back(out.packet))[UDP].payload) == DATA[:1400]


def test_without_the_route_it_goes_whole(nat: Machine) -> None:
    out = nat.from_internet(reply(opened(nat), bytes(1400)))
    assert out.translated


def test_strange_ipv4_on_the_translators_link_passes(nat: Machine) -> None:
    out = nat.from_pod(IP(src="192.0.0.8", dst="224.0.0.22", proto=2) / bytes(8))
    assert out.verdict == -1
    assert not out.counted
    assert dissect(bytes(out.packet)).dst == "224.0.0.22"
