"""Arbitrary bytes: no crash, no verdict out of bounds, no packet uncounted, no entry leaked."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from ipaddress import IPv6Network
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrFragment
from scapy.packet import Packet, Raw

from nat64_dataplane.bpf.errors import BpfError
from nat64_dataplane.translator.datapath import abi
from nat64_dataplane.translator.host_view import PoolRange
from tests.dataplane.machine import (
    NEXT,
    POD,
    POD2,
    POOL,
    POOL_RANGE,
    REDIRECT,
    SERVER,
    SHOT,
    Machine,
    at,
    machine,
)
from tests.lab.ways.taps import checksum

pytestmark = pytest.mark.root

COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}
SEEDED = st.randoms(use_true_random=True)
PREFIXES = ["64:ff9b:1::/96", "64:ff9b::/96", "2001:db8::/32", "2001:db8:122:344::/64"]
FEW_PORTS = PoolRange(POOL, 61001, 61008)
STATIC = [
    {
        "protocol": protocol,
        "client": str(POD2),
        "clientPort": 7777,
        "address": str(POOL),
        "port": 7777,
    }
    for protocol in ("tcp", "udp", "icmp")
]

HEADER = {0x0800: 20, 0x86DD: 40}
"""Bytes of an IP header, by the EtherType that announces it."""

Bytes = Callable[[Random], bytes]


@pytest.fixture(scope="module")
def nat() -> Iterator[Machine]:
    with machine() as built:
        yield built


def configure(nat: Machine, rng: Random) -> None:
    """Another config, with nothing left of what was before."""
    config: dict[str, Any] = {
        "prefix": rng.choice(PREFIXES),
        "filtering": rng.choice(["EndpointIndependent", "AddressDependent"]),
        "overloadTcpPorts": rng.random() < 0.5,
        "copyTrafficClass": rng.random() < 0.5,
        "lowestIpv6Mtu": rng.choice([1280, 1400]),
        "staticMappings": STATIC if rng.random() < 0.5 else [],
        "policy": {"allowNonGlobal": True},
        "limits": rng.choice(
            [{}, {"portsPerClient": 5}, {"newSessionsPerSecondPerClient": 20}, {}]
        ),
    }
    nat.reset(pool=(rng.choice([POOL_RANGE, FEW_PORTS]),), **config)


def seeds(port: int, prefix: IPv6Network) -> list[bytes]:
    """Packets of every kind that the programs know, to be bent."""
    server, own = at(SERVER, prefix), at(POOL, prefix)
    syns = [
        IPv6(src=str(client), dst=server) / TCP(sport=sport, dport=80, flags="S")
        for client in (POD, POD2)
        for sport in range(4000, 4008)
    ]
    out: list[Packet] = [
        *syns,
        IPv6(src=str(POD), dst=server) / UDP(sport=4000, dport=53) / b"data",
        IPv6(src=str(POD), dst=server) / ICMPv6EchoRequest(id=7, data=b"ping"),
        IPv6(src=str(POD2), dst=own) / UDP(sport=4001, dport=port) / b"hairpin",
        IPv6(src=str(POD), dst=server)
        / IPv6ExtHdrFragment(nh=17, m=1, id=5)
        / UDP(sport=4000, dport=53)
        / Raw(bytes(64)),
        IPv6(src=str(POD), dst=server) / IPv6ExtHdrFragment(nh=17, offset=9, id=5) / Raw(bytes(64)),
        IP(src=str(SERVER), dst=str(POOL)) / UDP(sport=53, dport=port) / b"data",
        IP(src=str(SERVER), dst=str(POOL)) / UDP(sport=53, dport=port) / Raw(bytes(1400)),
        IP(src=str(SERVER), dst=str(POOL), flags="MF") / UDP(sport=53, dport=port) / Raw(bytes(64)),
        IP(src=str(SERVER), dst=str(POOL), frag=9) / Raw(bytes(64)),
        IP(src=str(SERVER), dst=str(POOL)) / TCP(sport=80, dport=port, flags="A"),
        IP(src=str(SERVER), dst=str(POOL)) / TCP(sport=80, dport=7777, flags="S"),
        IP(src=str(SERVER), dst=str(POOL)) / ICMP(id=port),
    ]
    packets = [bytes(packet) for packet in out]
    about4 = bytes(IP(src=str(POOL), dst=str(SERVER)) / UDP(sport=port, dport=53) / Raw(bytes(64)))
    about6 = bytes(IPv6(src=server, dst=str(POD)) / UDP(sport=53, dport=4000) / Raw(bytes(64)))
    for rest in (bytes(4), b"\0\x20\0\0"):
        packets.append(
            bytes(
                IP(src="198.51.100.9", dst=str(POOL), proto=1)
                / Raw(b"\x03\x03\0\0" + rest + about4)
            )
        )
    for rest in (bytes(4), b"\x10\0\0\0"):
        packets.append(
            bytes(IPv6(src=str(POD), dst=server, nh=58) / Raw(b"\x01\x04\0\0" + rest + about6))
        )
    return packets


def bend(rng: Random, packet: bytes) -> bytes:
    """Flip, cut, stretch; now and then put the header checksum right again."""
    data = bytearray(packet)
    for _ in range(rng.choice([0, 1, 1, 2, 4, 16])):
        data[rng.randrange(len(data))] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
    fate = rng.random()
    if fate < 0.2:
        del data[rng.randrange(1, len(data)) :]
    elif fate < 0.4:
        data += rng.randbytes(rng.randrange(1, 1500))
    return mend(bytes(data)) if rng.random() < 0.5 else bytes(data)


def mend(packet: bytes) -> bytes:
    """An IPv4 header's checksum put right, where there is a header."""
    size = (packet[0] & 15) * 4
    if packet[0] >> 4 != 4 or not 20 <= size <= len(packet):
        return packet
    head = packet[:10] + b"\0\0" + packet[12:size]
    return head[:10] + checksum(head).to_bytes(2, "big") + packet[12:]


def arbitrary(rng: Random, port: int, prefix: IPv6Network) -> bytes:
    """Noise; often behind just enough of an IP header that the programs look at it."""
    data = bytearray(rng.randbytes(rng.randrange(1, 400)))
    fate = rng.random()
    if fate < 0.4 and len(data) >= 40:
        data[0] = 0x60 | data[0] & 15
        data[4:6] = (len(data) - 40).to_bytes(2, "big")
        data[6] = rng.choice([0, 6, 17, 43, 44, 58, 60, data[6]])
        data[24:40] = bytes.fromhex(IPv6(dst=at(SERVER, prefix)).build()[24:40].hex())
    elif fate < 0.8 and len(data) >= 24:
        data[0] = rng.choice([0x45, 0x45, 0x46, 0x4F])
        data[2:4] = len(data).to_bytes(2, "big")
        data[6:8] = rng.choice([b"\0\0", b"\x40\0", bytes(data[6:8])])
        data[9] = rng.choice([1, 6, 17, data[9]])
        data[16:20] = POOL.packed
        data[22:24] = port.to_bytes(2, "big")
    return mend(bytes(data))


def feed(nat: Machine, rng: Random, count: int) -> None:
    """Bent packets, in both directions."""
    configure(nat, rng)
    port = opened(nat)
    known = seeds(port, nat.config.prefix)

    def next_one(rng: Random) -> bytes:
        return bend(rng, rng.choice(known))

    pour(nat, rng, count, next_one)


def opened(nat: Machine) -> int:
    """The pool port of a client that has talked to the server."""
    packet = IPv6(src=str(POD), dst=at(SERVER, nat.config.prefix)) / UDP(sport=4000, dport=53)
    return int(nat.from_pod(packet).packet.sport)


def pour(nat: Machine, rng: Random, count: int, next_one: Bytes) -> None:
    """Give the programs `count` packets, and look for harm done."""
    ran = 0
    for _ in range(count):
        packet = next_one(rng)
        kind = 0x86DD if packet[0] >> 4 == 6 else 0x0800
        if rng.random() < 0.05:
            kind = rng.choice([0x0800, 0x86DD, 0x0806, rng.randrange(2**16)])
        frame = bytes(12) + kind.to_bytes(2, "big") + packet
        send = nat.from_pod if rng.random() < 0.5 else nat.from_internet
        try:
            out = send(frame, link=None, gso_size=rng.choice([0, 0, 0, 500]))
        except BpfError as error:
            # Kernels make no packet of what is too short for its header, but of all else.
            if error.errno != errno.EINVAL or len(packet) >= HEADER.get(kind, 0):
                raise
            continue
        ran += 1
        assert out.verdict in (NEXT, SHOT, REDIRECT), out.verdict
        assert len(out.frame) < len(frame) + 200
        if out.verdict == NEXT:
            assert out.frame == frame, "what passes is as it was"
    assert ran > count / 2, "the test has hardly tested anything"
    for came, went in nat.balance().values():
        assert came == went
    tables_agree(nat)
    nothing_is_left(nat)


def tables_agree(nat: Machine) -> None:
    """Each way to find a binding or a session leads to one, and each one can be found."""
    tables = {
        name: dict(nat.datapath.map(name).items())
        for name in ("bib4", "bib6", "sessions", "overloads", "clients")
    }
    generations, ports = {}, dict.fromkeys(tables["clients"], 0)
    for key, value in tables["bib4"].items():
        client, client_port, flags, zone, generation, *_ = abi.BIB4.unpack(value)
        address, port, protocol = abi.BIB4_KEY.unpack(key)
        generations[key] = generation
        entry = tables["bib6"].get(abi.BIB6_KEY.pack(client, client_port, protocol, zone))
        assert entry is not None
        assert abi.BIB6.unpack(entry)[:2] == (address, port)
        if not flags & abi.BIB_STATIC:
            ports[client] += 1
    assert len(tables["bib6"]) == len(tables["bib4"])
    held = {key: abi.CLIENT.unpack(value)[0] for key, value in tables["clients"].items()}
    assert ports == {key: holds >> 32 for key, holds in held.items()}
    lent = 0
    for key, value in tables["sessions"].items():
        address, remote, port, remote_port, protocol = abi.SESSION_KEY.unpack(key)
        client, client_port, flags, _, generation, *_ = abi.SESSION.unpack(value)
        if flags & abi.SessionFlag.OVERLOAD:
            lent += 1
            name = abi.OVERLOAD_KEY.pack(client, remote, client_port, remote_port)
            assert tables["overloads"][name] == abi.OVERLOAD.pack(address, port)
        else:
            assert generations[abi.BIB4_KEY.pack(address, port, protocol)] == generation
    assert lent == len(tables["overloads"])


def nothing_is_left(nat: Machine) -> None:
    """All of it goes once its time has come, but for what is configured."""
    nat.datapath.travel(10_000)
    nat.datapath.sweep()
    left = {
        name: len(list(nat.datapath.map(name).items()))
        for name in ("bib4", "bib6", "sessions", "overloads", "clients", "fragments", "held")
    }
    statics = len(nat.config.static_mappings)
    assert left.pop("bib4") == left.pop("bib6") == statics
    assert not any(left.values()), left
    assert all(usage.used == 0 for usage in nat.datapath.usage())


@settings(max_examples=30, **COMMON)  # type: ignore[arg-type]
@given(rng=SEEDED)
def test_bent_packets_do_no_harm(nat: Machine, rng: Random) -> None:
    feed(nat, rng, 100)


@pytest.mark.slow
@settings(max_examples=1000, **COMMON)  # type: ignore[arg-type]
@given(rng=SEEDED)
def test_bent_packets_do_no_harm_a_hundred_thousand_times(nat: Machine, rng: Random) -> None:
    feed(nat, rng, 100)


@settings(max_examples=30, **COMMON)  # type: ignore[arg-type]
@given(rng=SEEDED)
def test_arbitrary_bytes_do_no_harm(nat: Machine, rng: Random) -> None:
    configure(nat, rng)
    port = opened(nat)
    pour(nat, rng, 100, lambda rng: arbitrary(rng, port, nat.config.prefix))
