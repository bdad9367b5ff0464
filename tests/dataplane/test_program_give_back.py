"""Ports are no reason for a refusal: closed connections give theirs back, no client takes all."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv6Address

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6

from nat64_dataplane.bpf.maps import possible_cpus
from nat64_dataplane.config import Limits
from nat64_dataplane.translator.datapath import abi
from nat64_dataplane.translator.host_view import PoolRange
from tests.dataplane.machine import (
    OTHER,
    POD,
    POD2,
    POOL,
    SERVER,
    Machine,
    Out,
    at,
    machine,
    right_checksums,
)

pytestmark = pytest.mark.root

FOUR = (PoolRange(POOL, 61000, 61003),)


def six(nat: Machine, port: int, flags: str, *, pod: object = POD, dport: int = 80) -> Out:
    segment = TCP(sport=port, dport=dport, flags=flags)
    return nat.from_pod(IPv6(src=str(pod), dst=at(SERVER)) / segment)


def four(nat: Machine, port: int, flags: str, *, sport: int = 80) -> Out:
    return nat.from_internet(
        IP(src=str(SERVER), dst=str(POOL)) / TCP(sport=sport, dport=port, flags=flags)
    )


def connect(nat: Machine, port: int, *, pod: object = POD, dport: int = 80) -> int:
    """Open a connection; the pool port that it has."""
    out = six(nat, port, "S", pod=pod, dport=dport)
    assert out.translated, out.counted
    public: int = out.packet.sport
    assert four(nat, public, "SA", sport=dport).translated
    return public


CLOSINGS = {
    "by the client": "6FA 4FA",
    "by the server": "4FA 6FA",
    "by the client's RST": "6R",
    "by the server's RST": "4RA",
    "by a FIN and an RST": "4FA 6R",
    "by an RST and a FIN": "6R 4FA",
}


def close(nat: Machine, port: int, public: int, how: str) -> None:
    for step in how.split():
        out = six(nat, port, step[1:]) if step[0] == "6" else four(nat, public, step[1:])
        assert out.translated, step


@pytest.mark.parametrize("how", CLOSINGS.values(), ids=CLOSINGS)
def test_closed_connection_gives_its_port_back_when_one_is_needed(nat: Machine, how: str) -> None:
    nat.reset(FOUR, overloadTcpPorts=False)
    kept = [connect(nat, 5000 + i) for i in range(3)]
    public = connect(nat, 6000)
    close(nat, 6000, public, how)
    assert six(nat, 7000, "S", pod=POD2).counted.get("dropped_ports_exhausted")  # at rest
    nat.datapath.travel(5)
    out = six(nat, 7000, "S", pod=POD2)
    assert out.counted["ports_given_back"] == 1
    assert out.packet.sport == public
    assert four(nat, public, "SA").packet.dst == str(POD2)
    assert [six(nat, 5000 + i, "A").packet.sport for i in range(3)] == kept


def test_refused_connection_gives_its_port_back(nat: Machine) -> None:
    nat.reset((PoolRange(POOL, 61000, 61000),), overloadTcpPorts=False)
    assert six(nat, 5000, "S").translated
    assert four(nat, 61000, "RA").translated
    nat.datapath.travel(5)
    assert six(nat, 6000, "S", pod=POD2).translated


def test_live_connection_never_gives_its_port_back(nat: Machine) -> None:
    nat.reset(FOUR, overloadTcpPorts=False)
    # the RST of the last one belonged to the connection before
    for i, steps in enumerate(("", "6FA", "4FA", "6R 6A")):
        close(nat, 5000 + i, connect(nat, 5000 + i), steps)
    nat.datapath.travel(100)
    assert six(nat, 7000, "S", pod=POD2).counted.get("dropped_ports_exhausted")


def test_binding_with_a_live_connection_beside_a_closed_one_stays(nat: Machine) -> None:
    nat.reset((PoolRange(POOL, 61000, 61000),), overloadTcpPorts=False)
    connect(nat, 5000)
    close(nat, 5000, 61000, "6FA 4FA")
    six(nat, 5000, "S", dport=81)
    four(nat, 61000, "SA", sport=81)
    nat.datapath.travel(5)
    assert six(nat, 7000, "S", pod=POD2).counted.get("dropped_ports_exhausted")
    assert four(nat, 61000, "A", sport=81).packet.dst == str(POD)


def test_many_connections_to_one_destination_need_few_ports(nat: Machine) -> None:
    """Twenty times the pool's ports, one after the other; the port closed first comes first."""
    nat.reset((PoolRange(POOL, 61000, 61031),))
    refused = 0
    for number in range(20 * 32):
        port = 10000 + number
        out = six(nat, port, "S", pod=POD if number % 2 else POD2)
        refused += not out.translated
        if out.translated:
            four(nat, out.packet.sport, "SA")
            for step in ("FA",):
                six(nat, port, step, pod=POD if number % 2 else POD2)
                four(nat, out.packet.sport, step)
        if number % 6 == 5:
            nat.datapath.travel(1)
    assert refused == 0
    assert len(list(nat.datapath.bib())) <= 32


def test_expired_bindings_give_their_ports_back_without_any_agent(nat: Machine) -> None:
    nat.reset(FOUR)
    for i in range(4):
        nat.from_pod(IPv6(src=str(POD), dst=at(SERVER)) / UDP(sport=5000 + i, dport=53) / b"x")
    nat.datapath.travel(100_000)
    for i in range(4):
        query = IPv6(src=str(POD2), dst=at(SERVER)) / UDP(sport=6000 + i, dport=53) / b"x"
        assert nat.from_pod(query).translated
    assert len(list(nat.datapath.bib())) == 4


def holds(nat: Machine, pod: object = POD) -> tuple[int, int]:
    """Sessions and ports that the maps count for a client."""
    value = nat.datapath.map("clients").get(IPv6Address(str(pod)).packed)
    held = abi.CLIENT.unpack(value)[0] if value else 0
    return held & 0xFFFFFFFF, held >> 32


def test_client_takes_no_more_than_are_left(nat: Machine) -> None:
    nat.reset((PoolRange(POOL, 61000, 61399),))
    outs = [
        nat.from_pod(IPv6(src=str(POD), dst=at(SERVER)) / UDP(sport=5000 + i, dport=53) / b"x")
        for i in range(300)
    ]
    assert sum(out.translated for out in outs) == 200
    last = outs[-1]
    assert last.counted["dropped_client_port_share"] == 1
    assert (last.packet.payload.type, last.packet.payload.code) == (1, 3)
    others = [
        nat.from_pod(IPv6(src=str(POD2), dst=at(SERVER)) / UDP(sport=5000 + i, dport=53) / b"x")
        for i in range(100)
    ]
    assert all(out.translated for out in others)


def test_one_socket_takes_no_more_sessions_than_its_client_may_have(nat: Machine) -> None:
    nat.reset(limits={"sessionsPerClient": 50})
    outs = [
        nat.from_pod(IPv6(src=str(POD), dst=at(SERVER)) / UDP(sport=5000, dport=1000 + i) / b"x")
        for i in range(60)
    ]
    assert [out.translated for out in outs] == [True] * 50 + [False] * 10
    assert outs[-1].counted["dropped_client_session_limit"] == 1
    assert (outs[-1].packet.payload.type, outs[-1].packet.payload.code) == (1, 3)
    # what was refused has left nothing behind
    another = IPv6(src=str(POD), dst=at(SERVER)) / UDP(sport=6000, dport=53) / b"x"
    assert nat.from_pod(another).counted["dropped_client_session_limit"] == 1
    assert holds(nat) == (50, 1)
    assert len(list(nat.datapath.bib())) == 1
    assert sum(usage.used for usage in nat.datapath.usage()) == 1
    assert nat.from_pod(
        IPv6(src=str(POD2), dst=at(SERVER)) / UDP(sport=6000, dport=53) / b"x"
    ).translated


@pytest.mark.bulk
def test_full_table_leaves_no_binding_behind() -> None:
    with machine(Limits(sessions=1024)) as nat:
        nat.reset(limits={"sessions": 1024, "sessionsPerClient": 0})
        for i in range(1100):
            nat.from_pod(IPv6(src=str(POD), dst=at(SERVER)) / UDP(sport=5000, dport=1 + i) / b"x")
        query = IPv6(src=str(POD2), dst=at(SERVER)) / UDP(sport=6000, dport=53) / b"x"
        assert nat.from_pod(query).counted["dropped_session_table_full"] == 1
        assert holds(nat, POD2) == (0, 0)
        assert len(list(nat.datapath.bib())) == 1


def test_closed_connections_count_for_no_client(nat: Machine) -> None:
    nat.reset(limits={"sessionsPerClient": 10})
    for i in range(40):
        close(nat, 5000 + i, connect(nat, 5000 + i), "6FA 4FA")
    assert holds(nat) == (0, 40)
    four(nat, connect(nat, 5000), "A")
    assert holds(nat) == (1, 40)


def test_segment_of_a_connection_that_is_gone_is_answered_with_an_rst(nat: Machine) -> None:
    out = nat.from_pod(
        IPv6(src=str(POD), dst=at(SERVER))
        / TCP(sport=4000, dport=80, flags="PA", seq=1000, ack=7777)
        / b"hello"
    )
    assert out.counted["dropped_tcp_without_session"] == 1
    assert out.counted["resets_sent"] == 1
    reset = out.packet
    assert (reset.src, reset.dst) == (at(SERVER), str(POD))
    assert (reset[TCP].sport, reset[TCP].dport) == (80, 4000)
    assert (reset[TCP].flags, reset[TCP].seq) == ("R", 7777)
    assert len(bytes(reset)) == 60
    assert right_checksums(reset)


def test_rst_to_a_segment_without_ack_acknowledges_it(nat: Machine) -> None:
    out = nat.from_pod(
        IPv6(src=str(POD), dst=at(SERVER)) / TCP(sport=4000, dport=80, flags="F", seq=1000) / b"abc"
    )
    assert (out.packet[TCP].flags, out.packet[TCP].seq, out.packet[TCP].ack) == ("RA", 0, 1004)


@pytest.mark.bulk
def test_rst_answers_no_rst_and_is_bounded(nat: Machine) -> None:
    assert "resets_sent" not in six(nat, 4000, "R").counted
    began = nat.datapath.now()
    outs = [six(nat, 4000, "A") for _ in range(900)]
    seconds = nat.datapath.now() - began + 1
    sent = sum("resets_sent" in out.counted for out in outs)
    assert sent + sum("resets_suppressed" in out.counted for out in outs) == 900
    assert sent <= 256 * seconds * possible_cpus()
    nat.datapath.travel(1)  # the next test has a budget again


def test_segment_under_a_binding_is_answered_where_no_answer_would_come_in(nat: Machine) -> None:
    connect(nat, 4000)
    assert six(nat, 4000, "A", dport=81).counted["resets_sent"] == 1
    assert nat.from_pod(
        IPv6(src=str(POD), dst=at(OTHER)) / TCP(sport=4000, dport=80, flags="A")
    ).counted["resets_sent"]


PLACES = 1024
"""Of the queue of closed connections, with tables of 2048 sessions."""


@pytest.fixture
def small() -> Iterator[Machine]:
    """Four ports, of which POD2 holds two, and a third by a connection that it has closed."""
    with machine(Limits(sessions=2 * PLACES)) as nat:
        nat.reset(FOUR, limits={"sessions": 2 * PLACES}, overloadTcpPorts=False)
        connect(nat, 5000, pod=POD2)
        connect(nat, 5001, pod=POD2)
        public = connect(nat, 6000, pod=POD2)
        assert six(nat, 6000, "R", pod=POD2).packet.sport == public
        yield nat


@pytest.mark.bulk
def test_connection_that_closes_again_and_again_pushes_nobody_out(small: Machine) -> None:
    public = connect(small, 7000)
    for _ in range(PLACES + 16):
        close(small, 7000, public, "6R 6A")
    small.datapath.travel(5)
    assert six(small, 7001, "S").counted["ports_given_back"] == 1
    assert six(small, 7000, "A").packet.sport == public


@pytest.mark.bulk
def test_client_that_opens_and_resets_without_end_pushes_nobody_out(small: Machine) -> None:
    for number in range(PLACES + 16):
        public = connect(small, 7000, dport=1000 + number)
        assert six(small, 7000, "R", dport=1000 + number).packet.sport == public
    connect(small, 7000, dport=80)
    small.datapath.travel(5)
    assert six(small, 7001, "S").counted["ports_given_back"] == 1


def test_connection_that_was_closed_twice_gives_its_port_back() -> None:
    with machine() as nat:
        nat.reset((PoolRange(POOL, 61000, 61000),), overloadTcpPorts=False)
        connect(nat, 5000)
        close(nat, 5000, 61000, "6R 6A")
        nat.datapath.travel(10)
        out = six(nat, 6000, "S", pod=POD2)
        assert out.counted.get("dropped_ports_exhausted"), "it is in use, and leaves the queue"
        close(nat, 5000, 61000, "6R 6A")
        nat.datapath.travel(10)
        close(nat, 5000, 61000, "6R")
        out = six(nat, 6000, "S", pod=POD2)
        assert out.counted.get("dropped_ports_exhausted"), "it is at rest, and stays in the queue"
        nat.datapath.travel(10)
        assert six(nat, 6000, "S", pod=POD2).counted["ports_given_back"] == 1
