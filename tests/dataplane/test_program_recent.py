"""What a binding remembers of its last remote end, and expiries that are written ahead: neither may
be seen but in the time that they save.
"""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6

from nat64_dataplane.translator.datapath import abi
from nat64_dataplane.translator.host_view import PoolRange
from tests.dataplane.machine import OTHER, POD, POOL, SERVER, Machine, Out, at, spare

pytestmark = pytest.mark.root

TIMER = 300
SPARE = spare(TIMER)
SLOW = 3
"""Seconds that an emulated machine may take for a step."""


@pytest.fixture
def nat(shared: Machine) -> Machine:
    shared.reset()
    shared.datapath.travel(10)  # so that its clock stands at the beginning of a second
    return shared


def udp(nat: Machine, to: object = SERVER, dport: int = 53) -> Out:
    return nat.from_pod(IPv6(src=str(POD), dst=at(str(to))) / UDP(sport=4000, dport=dport) / b"x")


def back(nat: Machine, port: int, src: object = SERVER) -> Out:
    return nat.from_internet(IP(src=str(src), dst=str(POOL)) / UDP(sport=53, dport=port) / b"y")


def tcp(nat: Machine, flags: str) -> Out:
    return nat.from_pod(
        IPv6(src=str(POD), dst=at(SERVER)) / TCP(sport=4000, dport=443, flags=flags)
    )


def tcp_back(nat: Machine, port: int, flags: str) -> Out:
    return nat.from_internet(
        IP(src=str(SERVER), dst=str(POOL)) / TCP(sport=443, dport=port, flags=flags)
    )


def connected(nat: Machine) -> int:
    """An established connection that its binding remembers; its port of the pool."""
    port: int = tcp(nat, "S").packet[TCP].sport
    tcp_back(nat, port, "SA")
    tcp(nat, "A")
    assert remembered(nat)
    return port


def remembered(nat: Machine) -> tuple[bytes, int] | None:
    """The remote end that the only binding remembers."""
    [value] = [value for _, value in nat.datapath.map("bib6").items()]
    _, _, port, address, stamp = abi.BIB6.unpack(value)
    return (address, int.from_bytes(port, "big")) if stamp else None


def expires_in(nat: Machine) -> int:
    [session] = nat.datapath.sessions()
    return session.expires_in


def expiry(nat: Machine) -> int:
    """The second in which the only session ends."""
    [value] = [value for _, value in nat.datapath.map("sessions").items()]
    expires: int = abi.SESSION.unpack(value)[5]
    return expires


def state(nat: Machine) -> Any:
    [session] = nat.datapath.sessions()
    return session.state


def test_an_expiry_is_written_ahead_and_then_left_alone(nat: Machine) -> None:
    udp(nat)
    assert remembered(nat) is None  # it has just opened its session
    nat.datapath.travel(1)
    udp(nat)
    assert remembered(nat) == (SERVER.packed, 53)
    began, written = nat.datapath.now(), expiry(nat)
    assert TIMER + SPARE <= written - began <= TIMER + SPARE + 1
    for passed in range(1, SPARE + 1):
        nat.datapath.travel(began + passed - nat.datapath.now())
        assert udp(nat).translated
        if nat.datapath.now() <= began + SPARE:  # however slow the machine
            assert expiry(nat) == written
    nat.datapath.travel(1)
    udp(nat)
    assert expiry(nat) >= nat.datapath.now() - 1 + TIMER + SPARE > written - 1


@pytest.mark.parametrize("age", [0, 1, SPARE - 1, SPARE, SPARE + 1])
def test_no_session_ends_before_its_timer(nat: Machine, age: int) -> None:
    """Whatever the age of the note when the flow was used last."""
    for slack in (0, SLOW):
        nat.reset()
        port = udp(nat).packet[UDP].sport
        nat.datapath.travel(1)
        udp(nat)
        nat.datapath.travel(age)
        udp(nat)
        last = nat.datapath.now() + TIMER - slack
        nat.datapath.travel(last - nat.datapath.now())
        nat.datapath.sweep()
        lives = back(nat, port).translated
        if lives or nat.datapath.now() <= last:
            break  # otherwise the machine has taken seconds for it
    assert lives


def test_every_remote_end_has_its_own_session(nat: Machine) -> None:
    for _ in range(3):
        for to, dport in ((SERVER, 53), (OTHER, 53), (SERVER, 54)):
            assert udp(nat, to, dport).translated
        nat.datapath.travel(1)
    found = {(session.remote, session.remote_port) for session in nat.datapath.sessions()}
    assert found == {(SERVER, 53), (OTHER, 53), (SERVER, 54)}


def test_packets_that_are_remembered_are_those_that_others_would_be(nat: Machine) -> None:
    def sent() -> bytes:
        packet = udp(nat).packet
        packet[IP].id = packet[IP].chksum = 0  # the identification is a random one
        return bytes(packet)

    first = sent()
    for _ in range(4):
        nat.datapath.travel(1)
        assert sent() == first


def test_a_change_of_policy_ends_it(nat: Machine) -> None:
    udp(nat)
    nat.datapath.travel(1)
    udp(nat)
    nat.configure(policy={"deniedDestinations": [f"{SERVER}/32"]})
    assert udp(nat).counted["dropped_destination_denied"] == 1


def test_a_pool_that_goes_takes_it_along(nat: Machine) -> None:
    udp(nat)
    nat.datapath.travel(1)
    udp(nat)
    nat.configure((PoolRange(POOL, 61000, 61003),))
    assert udp(nat).packet[UDP].sport in range(61000, 61004)


@pytest.mark.parametrize("flags", ["R", "FA"])
@pytest.mark.parametrize("side", ["IPv6", "IPv4"])
def test_the_end_of_a_connection_ends_it(nat: Machine, side: str, flags: str) -> None:
    port = connected(nat)
    nat.datapath.travel(1)
    if side == "IPv6":
        tcp(nat, flags)
    else:
        tcp_back(nat, port, flags)
    assert remembered(nat) is None
    closing = {"R": "TRANS", "FA": "V6_FIN" if side == "IPv6" else "V4_FIN"}[flags]
    assert state(nat) == closing
    nat.datapath.travel(1)
    tcp(nat, "A")
    assert state(nat) == ("ESTABLISHED" if flags == "R" else closing)


def test_an_established_connection_is_kept_through_its_notes(nat: Machine) -> None:
    port = connected(nat)
    for _ in range(4):
        nat.datapath.travel(spare(7440) + 1)
        assert tcp(nat, "PA").translated
        assert expires_in(nat) >= 7440
        nat.datapath.travel(7440 - 1)
        nat.datapath.sweep()
        assert tcp_back(nat, port, "PA").translated
        assert state(nat) == "ESTABLISHED"


def test_a_configured_timer_is_written_ahead_by_its_own_share(nat: Machine) -> None:
    nat.configure(timeouts={"udp": 120})
    began = nat.datapath.now()
    udp(nat)
    assert began + 120 <= expiry(nat) <= nat.datapath.now() + 121  # nothing has used it yet
    nat.datapath.travel(1)
    began = nat.datapath.now()
    udp(nat)
    assert began + 135 <= expiry(nat) <= nat.datapath.now() + 136
