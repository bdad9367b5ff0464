"""Flow offload on the way down: packets of known flows go straight into their pod."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet

from nat64_dataplane.translator.datapath.pod_links import STRAIGHT_SECONDS
from tests.dataplane.machine import POD, POOL, REDIRECT, SERVER, Machine, Out, at, right_checksums
from tests.dataplane.test_program_offload import in_one_second

pytestmark = pytest.mark.root

_TO_POD = bytes.fromhex("020000000110020000000101")
"""The link-layer addresses of the pod, and of its link on the node."""


@pytest.fixture
def nat(nat: Machine) -> Iterator[Machine]:
    """A machine whose link to the pod nobody watches, on one CPU, as notes are each CPU's own."""
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    only = frozenset({nat.pod_link})
    nat.datapath.follow_pod_links(only, only)
    yield nat
    nat.datapath.follow_pod_links(frozenset())
    os.sched_setaffinity(0, cpus)


def bound(nat: Machine, sport: int = 4000) -> int:
    """The port of the pool that the pod's datagrams are sent from."""
    sent = nat.from_pod(IPv6(src=str(POD), dst=at(SERVER)) / UDP(sport=sport, dport=53) / b"query")
    port: int = sent.packet[UDP].sport
    return port


def answer(port: int, size: int = 8, **header: int) -> Packet:
    head = IP(src=str(SERVER), dst=str(POOL), flags="DF", ttl=64, **header)
    return head / UDP(sport=53, dport=port) / bytes(size)


def straight(out: Out) -> bool:
    return out.verdict == REDIRECT and out.counted.get("offloaded") == 1


@pytest.mark.parametrize("size", [0, 1, 1200, 1452])
def test_a_datagram_arrives_as_it_would_have_arrived(nat: Machine, size: int) -> None:
    def both() -> tuple[Out, Out]:
        port = bound(nat)
        return nat.from_internet(answer(port, size)), nat.from_internet(answer(port, size))

    first, later = in_one_second(nat, both)
    assert first.counted == {"received": 1, "translated": 1, "sent_fast": 1}
    assert later.counted == {"received": 1, "translated": 1, "sent_fast": 1, "offloaded": 1}
    assert later.verdict == REDIRECT
    assert later.frame[:12] == _TO_POD
    assert later.frame[12:] == first.frame[12:]
    assert later.packet.hlim == 63
    assert right_checksums(later.packet)


def test_a_segment_that_stands_for_several_goes_whole(nat: Machine) -> None:
    def act() -> Out:
        def up(flags: str) -> Out:
            tcp = TCP(sport=4000, dport=53, flags=flags)
            return nat.from_pod(IPv6(src=str(POD), dst=at(SERVER)) / tcp)

        port = up("S").packet[TCP].sport
        head = IP(src=str(SERVER), dst=str(POOL), flags="DF")
        nat.from_internet(head / TCP(sport=53, dport=port, flags="SA"))
        up("A")
        data = head / TCP(sport=53, dport=port, flags="A") / bytes(3600)
        nat.from_internet(data, gso_size=1200, gso_segs=3)
        return nat.from_internet(data, gso_size=1200, gso_segs=3)

    out = in_one_second(nat, act)
    assert straight(out)
    assert out.gso_size == 1200
    assert len(out.packet) == 60 + 3600


def test_a_flow_whose_route_another_flow_has_noted_goes_straight_too(nat: Machine) -> None:
    def act() -> list[Out]:
        nat.from_internet(answer(bound(nat, 4000)))
        other = bound(nat, 4001)
        return [nat.from_internet(answer(other)) for _ in range(2)]

    first, later = in_one_second(nat, act)
    assert not straight(first)
    assert straight(later)
    assert later.frame[:12] == _TO_POD


def test_no_mark_of_the_uplink_comes_into_the_pod(nat: Machine) -> None:
    def act() -> Out:
        port = bound(nat)
        nat.from_internet(answer(port))
        return nat.from_internet(answer(port), mark=7)

    out = in_one_second(nat, act)
    assert straight(out)
    assert out.mark == 0


class Row(NamedTuple):
    """What takes the usual way although its flow goes straight."""

    name: str
    packet: Callable[[int], Packet] = answer
    run: Mapping[str, int] = MappingProxyType({})
    meanwhile: Callable[[Machine], object] | None = None


def _only(nat: Machine, straight: frozenset[int] = frozenset()) -> None:
    nat.datapath.follow_pod_links(frozenset({nat.pod_link}), straight)


OTHERS = [
    Row("too long for the pod's link", lambda port: answer(port, 1453)),
    Row("of another traffic class", lambda port: answer(port, tos=4)),
    Row("ICMP", lambda port: IP(src=str(SERVER), dst=str(POOL)) / ICMP(id=port)),
    Row("segments too long", run={"gso_size": 1453, "gso_segs": 2}),
    Row("after others have come to the link", meanwhile=_only),
    Row(
        "after the link has gone", meanwhile=lambda nat: nat.datapath.follow_pod_links(frozenset())
    ),
    Row("after a change of routes", meanwhile=lambda nat: nat.datapath.note_route_change()),
    Row("first of the next second", meanwhile=lambda nat: nat.datapath.travel(1)),
]


@pytest.mark.parametrize("row", OTHERS, ids=lambda row: row.name.replace(" ", "_"))
def test_other_packets_take_the_usual_way(nat: Machine, row: Row) -> None:
    def act() -> tuple[Out, Out]:
        _only(nat, frozenset({nat.pod_link}))
        port = bound(nat)
        nat.from_internet(answer(port))
        known = nat.from_internet(answer(port))
        if row.meanwhile:
            row.meanwhile(nat)
        return known, nat.from_internet(row.packet(port), **row.run)

    known, out = in_one_second(nat, act)
    assert straight(known)
    assert "received" in out.counted
    assert "offloaded" not in out.counted


def test_without_an_agent_it_ends(nat: Machine) -> None:
    def act() -> tuple[Out, Out]:
        _only(nat)
        _only(nat, frozenset({nat.pod_link}))
        outs = []
        for later in (0, STRAIGHT_SECONDS + 1):
            nat.datapath.travel(later)
            port = bound(nat)
            nat.from_internet(answer(port))
            outs.append(nat.from_internet(answer(port)))
        return outs[0], outs[1]

    before, after = in_one_second(nat, act)
    assert straight(before)
    assert after.translated
    assert not straight(after)


def test_an_agent_renews_it(nat: Machine) -> None:
    only = frozenset({nat.pod_link})

    def act() -> Out:
        _only(nat, only)
        for _ in range(5):
            nat.datapath.travel(STRAIGHT_SECONDS // 2)
            _only(nat, only)
        port = bound(nat)
        nat.from_internet(answer(port))
        return nat.from_internet(answer(port))

    assert straight(in_one_second(nat, act))
