"""SYNs agree on segments that the routes on both sides carry (dataplane/bpf/mss.h)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6

from tests.dataplane.machine import (
    POD,
    POOL,
    SERVER,
    Machine,
    at,
    machine,
    right_checksums,
)
from tests.lab.ways.taps import checksum

pytestmark = pytest.mark.root

UP, DOWN = 1400, 1360
"""MTUs of the routes to the server and to the pod; DOWN leaves less to a segment: 1300 bytes."""


@pytest.fixture(scope="module")
def routed() -> Iterator[Machine]:
    """The server is behind a route of 1400 bytes, the pod behind one of 1360."""
    with machine() as built:
        built.node.ip(
            f"route add {SERVER} via 192.0.2.254 dev up0 mtu lock {UP}",
            f"route add {POD} dev pod0 mtu lock {DOWN}",
        )
        yield built


def options(mss: int) -> list[tuple[str, Any]]:
    return [("MSS", mss), ("SAckOK", b""), ("Timestamp", (1, 0)), ("NOP", None), ("WScale", 7)]


def mss_of(packet: Any) -> int | None:
    found: int | None = dict(packet[TCP].options).get("MSS")
    return found


def syn(mss: int | None, flags: str = "S", sport: int = 4000) -> IPv6:
    tcp = TCP(sport=sport, dport=80, flags=flags, options=options(mss) if mss else [])
    return IPv6(src=str(POD), dst=at(SERVER)) / tcp


def answer(sent: Any, mss: int | None, flags: str = "SA") -> IP:
    tcp = TCP(sport=80, dport=sent[TCP].sport, flags=flags, options=options(mss) if mss else [])
    return IP(src=str(SERVER), dst=str(POOL)) / tcp


@pytest.mark.parametrize(
    ("up", "down", "offered", "agreed"),
    [
        (1500, 1500, 1460, 1440),  # what is 1460 in IPv4 is 20 bytes too many in IPv6
        (1500, 1500, 1440, 1440),
        (1500, 1500, 536, 536),
        (1400, 1500, 1460, 1360),
        (1500, 1420, 1460, 1360),  # the 1420 bytes of a VPN towards the client
        (1400, 1360, 1460, 1300),
        (9000, 9000, 8960, 8940),
        (576, 1500, 1440, 536),
    ],
)
def test_syns_of_both_directions_carry_what_both_routes_take(
    routed: Machine, up: int, down: int, offered: int, agreed: int
) -> None:
    routed.node.ip(
        f"link set up0 mtu {max(up, 1500)}",
        f"link set pod0 mtu {max(down, 1500)}",
        f"route replace {SERVER} via 192.0.2.254 dev up0 mtu lock {up}",
        f"route replace {POD} dev pod0 mtu lock {down}",
    )
    routed.reset()
    out = routed.from_pod(syn(offered))
    back = routed.from_internet(answer(out.packet, offered))
    for each in (out, back):
        assert each.translated
        assert mss_of(each.packet) == agreed
        assert each.packet[TCP].options[1:] == options(1)[1:], "other options stay"
        assert right_checksums(each.packet)
        assert each.counted.get("mss_clamped", 0) == (agreed < offered)


@pytest.fixture
def nat(routed: Machine) -> Machine:
    routed.node.ip(
        f"route replace {SERVER} via 192.0.2.254 dev up0 mtu lock {UP}",
        f"route replace {POD} dev pod0 mtu lock {DOWN}",
    )
    routed.reset()
    return routed


def test_a_syn_to_a_mapped_port_is_clamped_too(nat: Machine) -> None:
    nat.reset(filtering="EndpointIndependent")
    out = nat.from_pod(syn(1440))
    inbound = IP(src="203.0.113.11", dst=str(POOL)) / TCP(
        sport=999, dport=out.packet[TCP].sport, flags="S", options=[("MSS", 1460)]
    )
    assert mss_of(nat.from_internet(inbound).packet) == DOWN - 60


def test_it_does_not_need_to_know_the_neighbours(nat: Machine) -> None:
    nat.node.ip(f"neigh del {POD} dev pod0", "neigh del 192.0.2.254 dev up0")
    try:
        out = nat.from_pod(syn(1440))
        assert mss_of(out.packet) == DOWN - 60
    finally:
        nat.node.ip(
            f"neigh add {POD} lladdr 02:00:00:00:01:10 dev pod0 nud permanent",
            "neigh add 192.0.2.254 lladdr 02:00:00:00:02:54 dev up0 nud permanent",
        )


def test_a_smaller_one_is_not_raised_and_nothing_is_added(nat: Machine) -> None:
    assert mss_of(nat.from_pod(syn(1000)).packet) == 1000
    bare = nat.from_pod(syn(None, sport=4001)).packet
    assert bare[TCP].options == []


def test_segments_that_are_no_syns_stay(nat: Machine) -> None:
    out = nat.from_pod(syn(1440))
    nat.from_internet(answer(out.packet, 1460))
    data = nat.from_pod(syn(1440, flags="A"))
    assert data.translated
    assert mss_of(data.packet) == 1440
    assert mss_of(nat.from_internet(answer(out.packet, 1460, "A")).packet) == 1460


def test_an_option_turns_it_off(nat: Machine) -> None:
    nat.reset(clampTcpMss=False)
    out = nat.from_pod(syn(1440))
    assert mss_of(out.packet) == 1440
    assert mss_of(nat.from_internet(answer(out.packet, 1460)).packet) == 1460


def test_a_wrong_checksum_stays_wrong(nat: Machine) -> None:
    bent = syn(1440)
    bent[TCP].chksum = 0x1234
    out = nat.from_pod(bent).packet
    assert mss_of(out) == DOWN - 60
    assert not right_checksums(out)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    raw=st.lists(
        st.one_of(
            st.just(b"\1"),
            st.integers(0, 65535).map(lambda mss: b"\2\4" + mss.to_bytes(2, "big")),
            st.binary(min_size=0, max_size=9).map(lambda b: bytes((254, len(b) + 2)) + b),
            st.binary(min_size=1, max_size=4),
        ),
        max_size=12,
    ).map(lambda parts: b"".join(parts)[:40])
)
def test_any_options_come_through_with_right_checksums(nat: Machine, raw: bytes) -> None:
    """Only the two bytes of the first MSS change, wherever it stands, and only downwards."""
    nat.reset()
    length = -(-len(raw) // 4) * 4
    raw = raw.ljust(length, b"\0")
    head = bytearray(bytes(TCP(sport=4000, dport=80, flags="S")))
    head[12] = (20 + length) // 4 << 4
    head[16:18] = b"\0\0"
    segment = bytes(head) + raw + b"data"
    sent = bytes(IPv6(src=str(POD), dst=at(SERVER), nh=6, plen=len(segment)))
    pseudo = sent[8:40] + len(segment).to_bytes(4, "big") + b"\0\0\0\6"
    sent += segment[:16] + checksum(pseudo + segment).to_bytes(2, "big") + segment[18:]
    out = nat.from_pod(sent)
    assert out.translated
    got = bytes(out.frame[14 + 20 :])
    expected = bytearray(sent[40:])
    expected[0:2], expected[16:18] = got[0:2], got[16:18]  # the port, the checksum
    where = first_mss(raw)
    if where is not None:
        at_byte = 20 + where
        offered = int.from_bytes(expected[at_byte : at_byte + 2], "big")
        expected[at_byte : at_byte + 2] = min(offered, DOWN - 60).to_bytes(2, "big")
    assert got == bytes(expected)
    assert summed(bytes(out.frame[14:]))


def first_mss(raw: bytes) -> int | None:
    """Where the value of the first MSS option is (RFC 9293 section 3.2), or None."""
    place = 0
    while place + 1 < len(raw) and raw[place] != 0:
        if raw[place] == 1:
            place += 1
            continue
        if raw[place] == 2:
            return place + 2 if raw[place + 1] == 4 and place + 4 <= len(raw) else None
        if raw[place + 1] < 2:
            return None
        place += raw[place + 1]
    return None


def summed(packet: bytes) -> bool:
    """Whether the TCP checksum of an IPv4 packet is right."""
    pseudo = packet[12:20] + b"\0\6" + (len(packet) - 20).to_bytes(2, "big")
    return checksum(pseudo + packet[20:]) == 0
