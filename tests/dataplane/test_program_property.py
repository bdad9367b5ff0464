"""Random packets: the programs do what the plain Python reference predicts, byte for byte."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nat64_dataplane import pref64
from tests.dataplane.machine import POOL, REDIRECT, Machine, machine
from tests.dataplane.reference import (
    DESTINATION,
    FRAGMENT,
    HOP_BY_HOP,
    ICMP,
    ICMPV6,
    ROUTING,
    TCP,
    UDP,
    Client,
    Public,
    Reference,
    Refused,
    checksum,
    pseudo4,
    pseudo6,
)

pytestmark = pytest.mark.root

PREFIXES = [
    IPv6Network("64:ff9b:1::/96"),
    IPv6Network("2001:db8::/32"),
    IPv6Network("2001:db8:122:300::/56"),
]
CLIENTS = [IPv6Address("fd64:1::10"), IPv6Address("fd64:1::11")]
REMOTES = [IPv4Address(text) for text in ("203.0.113.10", "198.51.100.7", "8.8.8.8", "1.0.0.255")]
SYN, ACK = 0x02, 0x10


class World:
    """A machine, the reference, and the bindings that the reference has seen the machine make."""

    def __init__(self, nat: Machine) -> None:
        self.nat = nat
        self.outside: dict[tuple[int, Client], Public] = {}
        self.inside: dict[tuple[int, Public], Client] = {}
        self.reference = Reference(PREFIXES[0], self._bind, self._bound)

    def start(self, prefix: IPv6Network, copied: bool) -> None:
        self.nat.reset(prefix=str(prefix), copyTrafficClass=copied)
        self.outside.clear()
        self.inside.clear()
        self.reference = Reference(prefix, self._bind, self._bound, copied)

    def learn(self, protocol: int, client: Client, public: Public) -> None:
        """A binding that the machine has just made: it must be a new one, of the pool."""
        assert public[0] == POOL
        assert 61001 <= public[1] <= 65535
        assert self.inside.setdefault((protocol, public), client) == client
        self.outside[protocol, client] = public

    def _bind(self, protocol: int, client: Client) -> Public:
        if (protocol, client) not in self.outside:
            raise Refused("no binding")
        return self.outside[protocol, client]

    def _bound(self, protocol: int, public: Public) -> Client | None:
        return self.inside.get((protocol, public))


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with machine() as built:
        yield World(built)


PORTS = [1, 53, 80, 4000, 4001, 65535]


def payload(rng: Random) -> bytes:
    """Short and arbitrary, or long and dull."""
    if rng.random() < 0.5:
        return rng.randbytes(rng.randint(0, 64))
    return b"\xa5" * rng.randint(0, 1400)


def transport(
    protocol: int, source: int, destination: int, body: bytes, pseudo: Any, tweak: int
) -> bytes:
    """A TCP, UDP or ICMP message; `tweak` is added to its checksum."""
    if protocol == TCP:
        data, at = struct.pack("!HHIIBBHHH", source, destination, 1, 2, 0x50, SYN, 99, 0, 0), 16
    elif protocol == UDP:
        data, at = struct.pack("!HHHH", source, destination, 8 + len(body), 0), 6
    else:
        data, at = struct.pack("!BBHHH", destination, 0, 0, source, 7), 2
    data += body
    value = (checksum(pseudo(len(data)) + data) + tweak) % 0xFFFF
    return data[:at] + struct.pack("!H", value or 0xFFFF) + data[at + 2 :]


def from_client(rng: Random, prefix: IPv6Network) -> tuple[int, Client, bytes]:
    """Protocol, client, and an IPv6 packet from it, extension headers and all."""
    protocol = rng.choice([TCP, UDP, ICMPV6])
    client, remote = rng.choice(CLIENTS), rng.choice(REMOTES)
    destination = pref64.embed(prefix, remote)
    source, other = rng.choice(PORTS), rng.choice(PORTS)
    if protocol == ICMPV6:
        other = rng.choice([128, 129])
    data = transport(
        protocol,
        source,
        other,
        payload(rng),
        lambda length: pseudo6(client, destination, length, protocol),
        rng.choice([0, 0, 0, 77]),
    )
    following, extensions = protocol, b""
    if rng.randint(0, 9) == 0:
        extensions = struct.pack("!BBHI", following, 0, 0, rng.randint(0, 2**32 - 1))
        following = FRAGMENT
    for kind in rng.choices([HOP_BY_HOP, ROUTING, DESTINATION], k=rng.choice([0, 0, 0, 1, 2, 3])):
        words = rng.randint(0, 3)
        extensions = bytes((following, words, 0, 0)) + bytes(words * 8 + 4) + extensions
        following = kind
    head = struct.pack(
        "!IHBB",
        6 << 28 | rng.randint(0, 2**28 - 1),
        len(extensions) + len(data),
        following,
        rng.randint(1, 254),
    )
    packet = head + client.packed + destination.packed + extensions + data
    return (ICMP if protocol == ICMPV6 else protocol, (client, source), packet)


def to_pool(rng: Random, bindings: list[tuple[int, Public]]) -> bytes:
    """An IPv4 packet to one of our mappings, from anybody."""
    protocol, (address, port) = rng.choice(bindings)
    source = rng.choice(REMOTES)
    words = rng.choice([0, 0, 0, 1, 10])
    kind = rng.choice([0, 8]) if protocol == ICMP else 0
    first, second = (port, kind) if protocol == ICMP else (rng.choice(PORTS), port)
    data = transport(
        protocol,
        first,
        second,
        payload(rng),
        lambda length: b"" if protocol == ICMP else pseudo4(source, address, length, protocol),
        rng.choice([0, 0, 0, 99]),
    )
    if protocol == UDP and rng.randint(0, 3) == 0:
        data = data[:6] + b"\0\0" + data[8:]
    return ipv4(rng, protocol, source, address, data, words * 4) + b"\x01" * (words * 4) + data


def ipv4(
    rng: Random,
    protocol: int,
    source: IPv4Address,
    destination: IPv4Address,
    data: bytes,
    options: int,
    field: int = 0x4000,
) -> bytes:
    """An IPv4 header for `data`; DF set, as what must be fragmented is another test's matter."""
    raw = struct.pack(
        "!BBHHHBBH4s4s",
        0x45 + options // 4,
        rng.randint(0, 255),
        20 + options + len(data),
        rng.randint(0, 0xFFFF),
        field,
        rng.randint(1, 255),
        protocol,
        0,
        source.packed,
        destination.packed,
    )
    value = checksum(raw + b"\x01" * options)
    return raw[:10] + struct.pack("!H", value) + raw[12:]


def expected(run: Any) -> bytes | Refused:
    """What the reference says."""
    try:
        return bytes(run())
    except Refused as refused:
        return refused


def check_6to4(world: World, protocol: int, client: Client, packet: bytes) -> bytes | None:
    """One packet from a client; the IPv4 packet that came of it."""
    out = world.nat.from_pod(packet)
    if out.verdict != REDIRECT or "translated" not in out.counted:
        return None
    got = out.frame[14:]
    if (protocol, client) not in world.outside:
        where = 24 if protocol == ICMP else 20
        port = int.from_bytes(got[where : where + 2], "big")
        world.learn(protocol, client, (IPv4Address(got[12:16]), port))
    ttl = packet[7] + ("sent_kernel" in out.counted)
    wanted = expected(lambda: world.reference.to_ipv4(packet, ttl))
    assert isinstance(wanted, bytes), wanted
    if world.reference.ignored_id:
        got = blank_id(got)
        wanted = blank_id(wanted)
    assert got.hex() == wanted.hex()
    return out.frame[14:]


def blank_id(packet: bytes) -> bytes:
    """Without identification, and with the checksum that makes good for it."""
    raw = packet[:4] + b"\0\0" + packet[6:10] + b"\0\0" + packet[12:20]
    assert checksum(packet[:20]) == 0
    return raw + packet[20:]


def check_4to6(world: World, packet: bytes) -> bytes | None:
    """One packet to the pool; the IPv6 packet that came of it."""
    out = world.nat.from_internet(packet)
    hop_limit = packet[8] - ("sent_fast" in out.counted)
    wanted = expected(lambda: world.reference.to_ipv6(packet, hop_limit))
    if isinstance(wanted, Refused):
        assert str(wanted) == (out.dropped or "passed")
        return None
    assert "translated" in out.counted, (out.counted, wanted.hex())
    assert out.frame[14:].hex() == wanted.hex()
    return out.frame[14:]


def play(world: World, rng: Random, steps: int) -> None:
    """Some packets either way, and errors about them."""
    prefix = rng.choice(PREFIXES)
    world.start(prefix, rng.random() < 0.5)
    sent: list[bytes] = []
    received: list[bytes] = []
    for _ in range(steps):
        choices = ["out"]
        if world.inside:
            choices += ["in"] * 2
        if sent:
            choices += ["error in"]
        if received:
            choices += ["error out"]
        choice = rng.choice(choices)
        if choice == "out":
            protocol, client, packet = from_client(rng, prefix)
            if got := check_6to4(world, protocol, client, packet):
                sent.append(got)
        elif choice == "in":
            if got := check_4to6(world, to_pool(rng, list(world.inside))):
                received.append(got)
        elif choice == "error in":
            error_in(world, rng, rng.choice(sent))
        else:
            error_out(world, rng, rng.choice(received))
    for came, went in world.nat.balance().values():
        assert came == went, "every packet is counted in, and once with what became of it"


def error_in(world: World, rng: Random, about: bytes) -> None:
    """An ICMPv4 error about a packet that went out, cut anywhere."""
    kind = rng.choice([3, 3, 3, 11, 12, 4, 5])
    inner = about[: rng.randint(28, max(28, len(about)))]
    rest = rng.randbytes(4)
    if kind != 12 and not (kind == 3 and rng.random() < 0.5):
        rest = b"\0\0" + rest[2:]
    rest = rest[:1] + b"\0" + rest[2:]  # RFC 4884 lengths are another test's matter
    message = bytes((kind, rng.randint(0, 17), 0, 0)) + rest + inner
    message = message[:2] + struct.pack("!H", checksum(message)) + message[4:]
    source = rng.choice(REMOTES)
    check_4to6(world, ipv4(rng, ICMP, source, POOL, message, 0) + message)


def error_out(world: World, rng: Random, about: bytes) -> None:
    """An ICMPv6 error about a packet that went to a client, cut anywhere."""
    prefix = world.reference.prefix
    kind = rng.choice([1, 1, 2, 3, 4, 5])
    inner = about[: rng.randint(48, max(48, min(len(about), 1232)))]
    rest = rng.choice([rng.randint(0, 45), rng.randint(1280, 9000)]).to_bytes(4, "big")
    rest = b"\0" + rest[1:]
    source = IPv6Address("fd64:9::9")
    destination = IPv6Address(about[8:24])
    message = bytes((kind, rng.randint(0, 5), 0, 0)) + rest + inner
    value = checksum(pseudo6(source, destination, len(message), ICMPV6) + message)
    message = message[:2] + struct.pack("!H", value) + message[4:]
    packet = (
        struct.pack("!IHBB", 6 << 28, len(message), ICMPV6, rng.randint(1, 254))
        + source.packed
        + destination.packed
        + message
    )
    assert destination in prefix
    out = world.nat.from_pod(packet)
    ttl = packet[7] + ("sent_kernel" in out.counted)
    wanted = expected(lambda: world.reference.to_ipv4(packet, ttl))
    if isinstance(wanted, Refused):
        assert str(wanted) == out.dropped
    else:
        assert "translated" in out.counted, (out.counted, packet.hex())
        assert blank_id(out.frame[14:]).hex() == blank_id(wanted).hex()


SEEDED = st.randoms(use_true_random=True)
COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}
STEPS = 50


@settings(max_examples=40, **COMMON)  # type: ignore[arg-type]
@given(rng=SEEDED)
def test_programs_do_what_the_reference_predicts(world: World, rng: Random) -> None:
    play(world, rng, STEPS)


@pytest.mark.slow
@settings(max_examples=2000, **COMMON)  # type: ignore[arg-type]
@given(rng=SEEDED)
def test_programs_do_what_the_reference_predicts_a_hundred_thousand_times(
    world: World, rng: Random
) -> None:
    play(world, rng, STEPS)
