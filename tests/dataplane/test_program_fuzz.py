"""Arbitrary bytes: no crash, no verdict out of bounds, no packet uncounted, no entry leaked."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrFragment
from scapy.packet import Packet, Raw

from nat64_dataplane.bpf.errors import BpfError
from tests.dataplane.machine import (
    NEXT,
    POD,
    POOL,
    REDIRECT,
    SERVER,
    SHOT,
    Machine,
    at,
    machine,
)

pytestmark = pytest.mark.root

COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}
SEEDED = st.randoms(use_true_random=True)


@pytest.fixture(scope="module")
def nat() -> Iterator[Machine]:
    with machine() as built:
        yield built


def seeds(port: int) -> list[bytes]:
    """Packets of every kind that the programs know, to be bent."""
    out: list[Packet] = [
        IPv6(src=str(POD), dst=at(SERVER)) / TCP(sport=4000, dport=80, flags="S") / b"data",
        IPv6(src=str(POD), dst=at(SERVER)) / UDP(sport=4000, dport=53) / b"data",
        IPv6(src=str(POD), dst=at(SERVER)) / ICMPv6EchoRequest(id=7, data=b"ping"),
        IPv6(src=str(POD), dst=at(SERVER))
        / IPv6ExtHdrFragment(nh=17, m=1, id=5)
        / UDP(sport=4000, dport=53)
        / Raw(bytes(64)),
        IP(src=str(SERVER), dst=str(POOL)) / UDP(sport=53, dport=port) / b"data",
        IP(src=str(SERVER), dst=str(POOL), flags="MF") / UDP(sport=53, dport=port) / Raw(bytes(64)),
        IP(src=str(SERVER), dst=str(POOL)) / TCP(sport=80, dport=port, flags="A"),
        IP(src=str(SERVER), dst=str(POOL)) / ICMP(id=port),
    ]
    packets = [bytes(packet) for packet in out]
    about4 = bytes(IP(src=str(POOL), dst=str(SERVER)) / UDP(sport=port, dport=53) / Raw(bytes(64)))
    about6 = bytes(IPv6(src=at(SERVER), dst=str(POD)) / UDP(sport=53, dport=4000) / Raw(bytes(64)))
    for rest in (bytes(4), b"\0\x20\0\0"):
        packets.append(
            bytes(
                IP(src="198.51.100.9", dst=str(POOL), proto=1)
                / Raw(b"\x03\x03\0\0" + rest + about4)
            )
        )
    for rest in (bytes(4), b"\x10\0\0\0"):
        packets.append(
            bytes(IPv6(src=str(POD), dst=at(SERVER), nh=58) / Raw(b"\x01\x04\0\0" + rest + about6))
        )
    return packets


def bend(rng: Random, packet: bytes) -> bytes:
    """Flip, cut, stretch, splice."""
    data = bytearray(packet)
    for _ in range(rng.choice([0, 1, 1, 2, 4, 16])):
        data[rng.randrange(len(data))] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
    fate = rng.random()
    if fate < 0.2:
        del data[rng.randrange(1, len(data)) :]
    elif fate < 0.4:
        data += rng.randbytes(rng.randrange(1, 1500))
    return bytes(data)


def feed(nat: Machine, rng: Random, count: int) -> None:
    nat.reset()
    opened = nat.from_pod(IPv6(src=str(POD), dst=at(SERVER)) / UDP(sport=4000, dport=53))
    known = seeds(opened.packet.sport)
    before = nat.datapath.session_count()
    for _ in range(count):
        if rng.random() < 0.1:
            packet = rng.randbytes(rng.randrange(1, 200))
        else:
            packet = bend(rng, rng.choice(known))
        send = nat.from_pod if rng.random() < 0.5 else nat.from_internet
        try:
            out = send(packet, gso_size=rng.choice([0, 0, 0, 500]))
        except BpfError:
            continue  # the kernel won't make a packet of it
        assert out.verdict in (NEXT, SHOT, REDIRECT), out.verdict
        assert len(out.frame) < len(packet) + 200
        if out.verdict == NEXT:
            assert out.frame[14:] == packet, "what passes is as it was"
    for came, went in nat.balance().values():
        assert came == went
    nat.datapath.travel(10_000)
    nat.datapath.sweep()
    left = {
        name: len(list(nat.datapath.map(name).items()))
        for name in ("bib4", "bib6", "sessions", "clients", "fragments", "held")
    }
    assert not any(left.values()), left
    assert all(usage.used == 0 for usage in nat.datapath.usage())
    assert nat.datapath.session_count() <= before


@settings(max_examples=30, **COMMON)  # type: ignore[arg-type]
@given(rng=SEEDED)
def test_bent_packets_do_no_harm(nat: Machine, rng: Random) -> None:
    feed(nat, rng, 100)


@pytest.mark.slow
@settings(max_examples=1000, **COMMON)  # type: ignore[arg-type]
@given(rng=SEEDED)
def test_bent_packets_do_no_harm_a_hundred_thousand_times(nat: Machine, rng: Random) -> None:
    feed(nat, rng, 100)


@settings(max_examples=100, **COMMON)  # type: ignore[arg-type]
@given(data=st.binary(min_size=15, max_size=400))
def test_arbitrary_bytes_do_no_harm(nat: Machine, data: bytes) -> None:
    for program in ("nat64_egress", "nat64_ingress"):
        verdict = nat.datapath.program(program).run(data).verdict
        assert verdict in (NEXT, SHOT, REDIRECT)
