"""What the programs note of a flow for a second: it must never be seen but in the time it saves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6

from tests.dataplane.machine import POD, POD2, POOL, SERVER, Machine, Out, at

pytestmark = pytest.mark.root


@pytest.fixture
def nat(shared: Machine) -> Iterator[Machine]:
    """A machine whose clock stands at the beginning of a second for all that a test does."""
    shared.node.ip("route replace default via 192.0.2.254 dev up0")
    shared.reset()
    shared.datapath.travel(10)
    yield shared
    shared.node.ip("route replace default via 192.0.2.254 dev up0")


def out(nat: Machine, src: object = POD, sport: int = 4000, size: int = 8) -> Out:
    udp = UDP(sport=sport, dport=53) / bytes(size)
    return nat.from_pod(IPv6(src=str(src), dst=at(SERVER)) / udp)


def back(nat: Machine, port: int) -> Out:
    udp = UDP(sport=53, dport=port) / b"answer"
    return nat.from_internet(IP(src=str(SERVER), dst=str(POOL)) / udp)


def known(nat: Machine) -> int:
    """A flow that both directions have noted; its port of the pool."""
    port: int = out(nat).packet[UDP].sport
    for _ in range(2):
        assert out(nat).translated
        assert back(nat, port).translated
    return port


def test_a_known_flow_is_translated_as_before(nat: Machine) -> None:
    port = known(nat)
    for _ in range(3):
        sent, answer = out(nat), back(nat, port)
        assert sent.packet[UDP].sport == port
        assert sent.counted["sent_fast"] == 1
        assert answer.packet[IPv6].dst == str(POD)
        assert answer.packet[UDP].dport == 4000
        assert answer.counted["sent_fast"] == 1


@pytest.mark.bulk
def test_flows_that_share_a_note_don_t_mix(nat: Machine) -> None:
    """More flows than there are notes, in turns."""
    ports: dict[tuple[object, int], int] = {}
    for _ in range(2):
        for sport in range(2000, 3200):
            for pod in (POD, POD2):
                port = out(nat, pod, sport).packet[UDP].sport
                assert ports.setdefault((pod, sport), port) == port
    assert len(set(ports.values())) == len(ports)
    for (client, sport), port in ports.items():
        answer = back(nat, port).packet
        assert (answer[IPv6].dst, answer[UDP].dport) == (str(client), sport)


def test_a_change_of_policy_holds_at_once(nat: Machine) -> None:
    port = known(nat)
    nat.configure(policy={"deniedDestinations": [f"{SERVER}/32"]})
    assert out(nat).counted["dropped_destination_denied"] == 1
    assert "translated" not in back(nat, port).counted


def test_a_packet_larger_than_the_route_goes_to_the_kernel(nat: Machine) -> None:
    known(nat)
    nat.node.ip("route replace default via 192.0.2.254 dev up0 mtu lock 600")
    nat.datapath.note_route_change()
    assert out(nat, size=100).counted["sent_fast"] == 1
    assert out(nat, size=800).counted["sent_kernel"] == 1


@pytest.mark.parametrize("hears", ["the agent", "nobody"])
def test_a_route_that_is_gone_is_not_taken_any_more(nat: Machine, hears: str) -> None:
    known(nat)
    nat.node.ip("route replace unreachable default")
    if hears == "the agent":
        nat.datapath.note_route_change()
    else:
        nat.datapath.travel(1)
    assert out(nat).counted["sent_kernel"] == 1


def test_a_reset_of_the_other_side_ends_the_note(nat: Machine) -> None:
    def tcp(flags: str) -> Out:
        return nat.from_pod(
            IPv6(src=str(POD), dst=at(SERVER)) / TCP(sport=4000, dport=443, flags=flags)
        )

    def answer(flags: str) -> Out:
        return nat.from_internet(
            IP(src=str(SERVER), dst=str(POOL)) / TCP(sport=443, dport=port, flags=flags)
        )

    def state() -> Any:
        [session] = nat.datapath.sessions()
        return session.state

    port = tcp("S").packet[TCP].sport
    answer("SA")
    for _ in range(3):
        assert tcp("A").translated
        assert answer("A").translated
    assert state() == "ESTABLISHED"
    answer("R")
    assert state() == "TRANS"
    tcp("A")
    assert state() == "ESTABLISHED"


def test_a_session_lives_on_while_its_packets_are_recalled(nat: Machine) -> None:
    """Each second's first packet looks its session up, and so extends it."""
    known(nat)
    for _ in range(5):
        nat.datapath.travel(200)
        assert out(nat).translated
        assert out(nat).translated
        [session] = nat.datapath.sessions()
        assert session.expires_in >= 300
