"""Who may hold and extend what: strangers, the node's own sockets, early fragments."""

from __future__ import annotations

import socket

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment

from nat64_dataplane.translator.host_view import PoolRange
from tests.dataplane.machine import OTHER, POD, POD2, POOL, SERVER, Machine, Out, at

pytestmark = pytest.mark.root


def send(nat: Machine, port: int, *, to: object = SERVER, pod: object = POD) -> Out:
    return nat.from_pod(IPv6(src=str(pod), dst=at(str(to))) / UDP(sport=port, dport=53) / b"x")


def receive(nat: Machine, port: int, *, src: object = SERVER, sport: int = 53) -> Out:
    return nat.from_internet(IP(src=str(src), dst=str(POOL)) / UDP(sport=sport, dport=port) / b"x")


@pytest.mark.parametrize("filtering", ["EndpointIndependent", "AddressDependent"])
def test_strangers_keep_no_silent_binding_alive(nat: Machine, filtering: str) -> None:
    nat.reset(filtering=filtering)
    port = send(nat, 4000).packet.sport
    passed = 0
    for _ in range(10):
        nat.datapath.travel(100)
        nat.datapath.sweep()
        passed += receive(nat, port, sport=999).passed  # a port that the client hasn't sent to
    assert passed >= 6
    assert not list(nat.datapath.bib())
    assert not list(nat.datapath.sessions())


def test_session_that_the_client_answers_lives_on(nat: Machine) -> None:
    nat.reset(filtering="EndpointIndependent")
    port = send(nat, 4000).packet.sport
    nat.datapath.travel(200)
    assert receive(nat, port, src=OTHER).translated
    assert send(nat, 4000, to=OTHER).packet.sport == port
    nat.datapath.travel(290)
    nat.datapath.sweep()
    assert receive(nat, port, src=OTHER).translated


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_port_of_a_socket_of_the_node_is_not_claimed(nat: Machine, kind: int, family: int) -> None:
    nat.reset((PoolRange(POOL, 61000, 61003),), overloadTcpPorts=False)
    with socket.socket(family, kind) as own:
        own.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", 61002))
        if kind == socket.SOCK_STREAM:
            own.listen()
        got = set()
        for i in range(4):
            transport = (
                UDP(sport=5000 + i, dport=53)
                if kind == socket.SOCK_DGRAM
                else TCP(sport=5000 + i, dport=80, flags="S")
            )
            out = nat.from_pod(IPv6(src=str(POD), dst=at(SERVER)) / transport)
            got.add(out.packet.sport if out.translated else "refused")
        assert got == {61000, 61001, 61003, "refused"}


@pytest.mark.bulk
def test_early_fragments_end_in_time_without_any_sweep(nat: Machine) -> None:
    second = nat.datapath.now()

    def stray(number: int) -> Out:
        if late := nat.datapath.now() - second:
            nat.datapath.travel(-late)  # however slow the machine
        return nat.from_pod(
            IPv6(src=str(POD), dst=at(SERVER))
            / IPv6ExtHdrFragment(nh=17, id=number, offset=10, m=0)
            / (b"y" * 64)
        )

    outs = [stray(number) for number in range(700)]
    assert any("dropped_fragment_buffer_full" in out.counted for out in outs)
    second += 4
    assert "held" in stray(1000).counted


def test_static_mapping_over_a_held_port_takes_all_of_it(nat: Machine) -> None:
    nat.reset((PoolRange(POOL, 61000, 61000),))
    assert send(nat, 4000).packet.sport == 61000
    mapping = {
        "protocol": "udp",
        "client": str(POD2),
        "clientPort": 53,
        "address": str(POOL),
        "port": 61000,
    }
    nat.configure((PoolRange(POOL, 61000, 61001),), staticMappings=[mapping])
    assert receive(nat, 61000, src=OTHER).packet.dst == str(POD2)
    assert send(nat, 4000).packet.sport == 61001
    assert [usage.used for usage in nat.datapath.usage() if usage.protocol == "udp"] == [1]
    nat.configure((PoolRange(POOL, 61000, 61001),))
    assert send(nat, 4001).packet.sport == 61000
    nat.datapath.travel(10_000)
    nat.datapath.sweep()
    assert not list(nat.datapath.map("clients").items())
