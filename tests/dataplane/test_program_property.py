"""Random packets: the programs do what the plain Python reference predicts, byte for byte."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nat64_dataplane.translator.fragmentation import (
    fragmentation_address,
    fragmentation_mtu,
)
from nat64_dataplane.translator.host_view import PoolRange
from tests.dataplane import random_packets
from tests.dataplane.machine import NEXT, POOL, PREFIXES, REDIRECT, SHOT, Machine, Out, machine
from tests.dataplane.reference import answers
from tests.dataplane.reference.headers import (
    ICMP,
    UDP,
    Header4,
    Header6,
    Refused,
)
from tests.dataplane.reference.policy import Policy
from tests.dataplane.reference.stateful import Nat64
from tests.dataplane.reference.stateless import Client, Outcome, Public
from tests.lab.ways.taps import checksum

pytestmark = pytest.mark.root

NETWORKS = [IPv6Network(text) for text in (*PREFIXES, "64:ff9b::/96")]
POOLS = (
    PoolRange(POOL, 61001, 65535),
    PoolRange(IPv4Address("192.0.2.2"), 2000, 2999),
)
ONE_PORT = (PoolRange(POOL, 61001, 61001),)
DENIED = "198.18.0.0/15"
LONG_TIMERS = {
    "udp": 86400,
    "icmp": 86400,
    "tcpEstablished": 100_000,
    "tcpTransitory": 86300,
    "tcpIncomingSyn": 86200,
    "fragment": 60,
}


Wire = Callable[[bytes], Out]
"""A real uplink, to send IPv4 packets by instead of in test runs."""


class World:
    """A machine, and the reference that learns from it which ports it has picked."""

    def __init__(self, nat: Machine, wire: Wire | None = None) -> None:
        self.nat = nat
        self.wire = wire
        self.seen: Out
        self.outcomes: Counter[str] = Counter()
        """How many packets came to which end, since the world began."""
        self.fragmenter = fragmentation_address(nat.interface)
        self.start(Random(0))
        nat.node.ip(
            f"route replace {self.fragmenter}/32 dev nat64-t mtu lock {self.mtu}",
            "route replace fd64::/16 dev pod0",
            *(f"addr replace {each.address}/24 dev up0" for each in POOLS),
        )

    def start(self, rng: Random) -> None:
        """Forget everything, with another config."""
        self.second = self.nat.datapath.now()
        prefix = rng.choice(NETWORKS)
        copied, address_dependent = rng.random() < 0.5, rng.random() < 0.3
        lend_ports = rng.random() < 0.7
        lowest = rng.choice([1280, 1280, 1400])
        self.pools = ONE_PORT if rng.random() < 0.2 else POOLS
        self.config: dict[str, Any] = {
            "prefix": str(prefix),
            "copyTrafficClass": copied,
            "filtering": "AddressDependent" if address_dependent else "EndpointIndependent",
            "overloadTcpPorts": lend_ports,
            "lowestIpv6Mtu": lowest,
            "timeouts": LONG_TIMERS,
        }
        policy = self.draw_policy(rng)
        config = self.nat.reset(pool=self.pools, **self.config)
        self.mtu = fragmentation_mtu(config)
        self.reference = Nat64(
            prefix,
            policy,
            self.claim,
            copied,
            address_dependent,
            lowest,
            ports=sum(each.last - each.first + 1 for each in self.pools),
            lend_ports=lend_ports,
        )

    def change_policy(self, rng: Random) -> None:
        """Allow others, with all sessions in place."""
        self.reference.policy = self.draw_policy(rng)
        self.nat.configure(pool=self.pools, **self.config)
        # A change looks at bindings once, and the agent's next look, well within a minute, keeps
        # those whose sessions need them. On a slow machine the test may take longer than that.
        self.nat.datapath.sweep()

    def draw_policy(self, rng: Random) -> Policy:
        """Write another policy into the config."""
        denied = rng.choice([(DENIED,), (DENIED,), (DENIED, "8.8.8.0/24"), ("203.0.113.10/32",)])
        sources = rng.choice([()] * 4 + [("fd64:1::/64", "fe80::/10"), ("fd64:1::10/128",)])
        self.config["policy"] = {
            "deniedDestinations": list(denied),
            "allowedSources": list(sources),
        }
        return Policy(
            pool=frozenset(each.address for each in self.pools),
            local=frozenset(net.network_address for net in self.nat.host.local_ranges),
            denied=tuple(IPv4Network(text) for text in denied),
            sources=tuple(IPv6Network(text) for text in sources),
        )

    def claim(self, protocol: int, client: Client) -> Public:
        """The port of a new binding: of the pool, the client's address, and of its parity."""
        assert self.seen.translated, (self.seen.verdict, self.seen.counted)
        got = self.seen.frame[14:]
        where = 24 if protocol == ICMP else 20
        address, port = IPv4Address(got[12:16]), int.from_bytes(got[where : where + 2], "big")
        assert any(r.address == address and r.first <= port <= r.last for r in self.pools)
        if protocol == UDP and self.pools == POOLS:  # enough of either parity
            assert port % 2 == client[1] % 2, "RFC 6146 section 3.5.1.1: parity"
        for (_, other), public in self.reference.outside.items():
            assert other[0] != client[0] or public[0] == address, "RFC 4787 REQ-2: paired"
        return address, port

    def hold_the_clock(self) -> None:
        """Nothing ends here, not even the rest of a closed connection, however slow the machine."""
        if late := self.nat.datapath.now() - self.second:
            self.nat.datapath.travel(-late)

    # ---- one packet --------------------------------------------------------------------------

    def from_ipv6(
        self, packet: bytes, *, segment: int = 0, behind_uplink: bool = False
    ) -> tuple[str, bytes]:
        """Send one; say what became of it, and the packet that came of it."""
        self.hold_the_clock()
        came_by = self.nat.uplink if behind_uplink else self.nat.pod_link
        out = self.seen = self.nat.from_pod(packet, ingress_ifindex=came_by, gso_size=segment)
        by_kernel = {"sent_kernel", "hairpinned"} & out.counted.keys()
        ttl = min(packet[7] + bool(by_kernel), 255)
        try:
            wanted = self.reference.from_ipv6(
                packet, ttl, behind_uplink=behind_uplink, segment=segment
            )
        except Refused as refused:
            return self.refused(packet, refused), b""
        assert ("hairpinned" in out.counted) == wanted.to_ourselves
        got = self.translated(out, wanted)
        if not wanted.to_ourselves:
            return "translated", got
        return self.from_ipv4(got, segment=segment, from_ourselves=True)

    def from_ipv4(
        self, packet: bytes, *, segment: int = 0, from_ourselves: bool = False
    ) -> tuple[str, bytes]:
        """Likewise, from an uplink or from lo."""
        self.hold_the_clock()
        if self.wire and not from_ourselves:
            segment = 0
            out = self.wire(packet)
        else:
            link = 1 if from_ourselves else self.nat.uplink
            out = self.nat.from_internet(
                packet, ifindex=link, ingress_ifindex=link, gso_size=segment
            )
        self.seen = out
        hop_limit = max(packet[8] - ("sent_fast" in out.counted), 0)
        try:
            wanted = self.reference.from_ipv4(
                packet, hop_limit, from_ourselves=from_ourselves, segment=segment
            )
        except Refused as refused:
            return self.refused(packet, refused), b""
        if wanted.in_fragments:
            assert set(out.counted) - {"sessions_opened"} == {"fragmented"}, out.counted
            self.refragmented(packet, out.frame[14:], wanted.packet)
            return "fragmented", b""
        return "translated", self.translated(out, wanted)

    def translated(self, out: Out, wanted: Outcome) -> bytes:
        """Assert that it was translated, into exactly this packet."""
        assert out.translated, (out.verdict, out.counted, wanted.packet.hex())
        ways = [name for name in ("sent_fast", "sent_kernel", "hairpinned") if name in out.counted]
        assert len(ways) == 1, out.counted
        self.outcomes["translated"] += 1
        for name in ("ports_lent", "hairpinned", "icmp_errors_translated", "fragments_translated"):
            self.outcomes[name] += name in out.counted
        got = whole = without_padding(out.frame[14:])
        expected = wanted.packet
        if wanted.free_id:
            got, expected = blank_id(got), blank_id(expected)
        assert got.hex() == expected.hex()
        return whole

    def refused(self, packet: bytes, refused: Refused) -> str:
        """Assert that it was refused for this reason only, with the error that it needs."""
        out, reason = self.seen, refused.reason
        self.outcomes[reason] += 1
        ends = {
            name
            for name in out.counted
            if name.startswith("dropped_") or name in ("passed", "held", "translated")
        }
        assert ends == {reason if reason in ("passed", "held") else f"dropped_{reason}"}, reason
        if packet[0] >> 4 == 6:
            answer = answers.to_ipv6(packet, refused)
        else:
            answer = answers.to_ipv4(packet, refused)
        if reason == "passed":
            assert out.verdict == NEXT
            assert out.frame[14:] == packet, "what passes is as it was"
        elif "resets_sent" in out.counted:
            assert reason == "tcp_without_session"
            assert out.verdict == REDIRECT
            assert out.frame[14:].hex() == answers.reset(packet).hex()
        elif answer and "icmp_errors_suppressed" not in out.counted:
            assert out.counted.get("icmp_errors_sent") == 1, out.counted
            assert out.verdict == REDIRECT
            got = out.frame[14:]
            if got[0] >> 4 == 4:
                got, answer = blank_id(got), blank_id(answer)
            assert got.hex() == answer.hex()
        else:
            assert "icmp_errors_sent" not in out.counted
            assert out.verdict == SHOT
        return reason

    def refragmented(self, original: bytes, packet: bytes, wanted: bytes) -> None:
        """Do what the kernel does with a packet for the fragmenter, and translate what comes of
        it: together the fragments are the packet that the reference has made."""
        head, whole = Header4.read(packet, whole=True), Header6.read(wanted, whole=True)
        assert head.destination == self.fragmenter
        assert not head.df
        data, got = head.payload(packet), b""
        while len(got) < len(data):
            at = len(got)
            raw = bytearray(packet[:20] if at else packet[: head.size])
            raw[0] = 0x40 | len(raw) // 4
            piece = data[at : at + (self.mtu - len(raw)) // 8 * 8]
            more = head.more or at + len(piece) < len(data)
            raw[2:4] = (len(raw) + len(piece)).to_bytes(2, "big")
            raw[6:8] = (head.offset + at >> 3 | (0x2000 if more else 0)).to_bytes(2, "big")
            raw[8] -= 1
            raw[10:12] = b"\0\0"
            raw[10:12] = checksum(bytes(raw)).to_bytes(2, "big")
            out = self.nat.from_pod(bytes(raw) + piece)
            assert out.translated, out.counted
            came = out.frame[14:]
            assert len(came) <= self.reference.lowest_ipv6_mtu
            last = Header6.read(came, whole=True)
            assert came[:4] + came[8:40] == wanted[:4] + wanted[8:40]
            assert last.hop_limit == raw[8] + ("sent_kernel" in out.counted)
            assert last.next_header == whole.next_header
            assert last.fragment_id == int.from_bytes(original[4:6], "big")
            assert (last.offset, last.more) == (head.offset + at, more)
            got += last.payload(came)
        self.outcomes["fragmented"] += 1
        assert got.hex() == whole.payload(wanted).hex()


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with machine() as built:
        yield World(built)


def without_padding(packet: bytes) -> bytes:
    """Without what Ethernet may have added."""
    if packet[0] >> 4 == 4:
        return packet[: int.from_bytes(packet[2:4], "big")]
    return packet[: 40 + int.from_bytes(packet[4:6], "big")]


def blank_id(packet: bytes) -> bytes:
    """Without identification, and with the checksum that makes good for it."""
    assert checksum(packet[:20]) == 0
    return packet[:4] + b"\0\0" + packet[6:10] + b"\0\0" + packet[12:]


def deliver(world: World, sent: random_packets.Sent, came: list[bytes]) -> None:
    """Send all fragments. Those that are held are sent again behind the first one, as the
    programs do with clones of them; what came of them goes to `came`."""
    is_ipv6 = sent.packets[0][0] >> 4 == 6

    def send(packet: bytes) -> str:
        if is_ipv6:
            end, got = world.from_ipv6(
                packet, segment=sent.segment, behind_uplink=sent.behind_uplink
            )
        else:
            end, got = world.from_ipv4(packet, segment=sent.segment)
        if got:
            came.append(got)
        return end

    waiting: list[bytes] = []
    if world.wire:  # where the clones really come round: that is a test of its own
        sent.packets.sort(key=is_first_fragment, reverse=True)
    for packet in sent.packets:
        if send(packet) != "held":
            continue
        if is_first_fragment(packet):
            for again in (packet, *waiting):
                assert send(again) != "held"
            waiting.clear()
        else:
            waiting.append(packet)


def is_first_fragment(packet: bytes) -> bool:
    """Of a fragment as the generator makes them."""
    if packet[0] >> 4 == 6:
        return not int.from_bytes(packet[42:44], "big") >> 3
    return not int.from_bytes(packet[6:8], "big") & 0x1FFF


def play(world: World, rng: Random, steps: int) -> None:
    """Some packets either way, and errors about them."""
    world.start(rng)
    sent: list[bytes] = []
    received: list[bytes] = []
    for _ in range(steps):
        if rng.random() < 0.03:
            world.change_policy(rng)
        bindings = list(world.reference.inside)
        choices = ["out"]
        choices += ["in"] * 2 if bindings else []
        choices += ["error in"] if sent else []
        choices += ["error out"] if received else []
        choice = rng.choice(choices)
        if choice == "out":
            came: list[bytes] = []
            deliver(
                world,
                random_packets.from_client(rng, world.reference.prefix, bindings),
                came,
            )
            for packet in came:
                (sent if packet[0] >> 4 == 4 else received).append(packet)
        elif choice == "in":
            deliver(world, random_packets.to_pool(rng, bindings), received)
        elif choice == "error in":
            about = rng.choice(sent)
            pool = IPv4Address(about[12:16])
            world.from_ipv4(random_packets.error_in(rng, about, pool))
        else:
            world.from_ipv6(random_packets.error_out(rng, rng.choice(received)))
    for went_in, became in world.nat.balance().values():
        assert went_in == became, "every packet is counted in, and once with what became of it"


SEEDED = st.randoms(use_true_random=True)
COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}
STEPS = 50


@settings(max_examples=40, **COMMON)  # type: ignore[arg-type]
@given(rng=SEEDED)
def test_programs_do_what_the_reference_predicts(world: World, rng: Random) -> None:
    play(world, rng, STEPS)


EVERY_END = {
    "translated",
    "fragmented",
    "hairpinned",
    "icmp_errors_translated",
    "fragments_translated",
    "passed",
    "held",
    "destination_denied",
    "destination_local",
    "destination_not_global",
    "destination_special",
    "extension_after_fragment",
    "extension_chain",
    "filtered",
    "fragment_unexpected",
    "hairpin_without_binding",
    "icmp_fragment",
    "icmp_inner_malformed",
    "icmp_type",
    "icmp_without_session",
    "ports_exhausted",
    "ports_lent",
    "routing_header",
    "source_behind_uplink",
    "source_denied",
    "source_illegal",
    "source_in_prefix",
    "source_route",
    "tcp_without_session",
    "truncated",
    "udp_zero_checksum_fragment",
    "unknown_transport",
}


@pytest.mark.slow
def test_programs_do_what_the_reference_predicts_a_hundred_thousand_times(world: World) -> None:
    """The generator leads packets to every outcome that it is meant for."""
    world.outcomes.clear()

    @settings(max_examples=2000, **COMMON)  # type: ignore[arg-type]
    @given(rng=SEEDED)
    def run(rng: Random) -> None:
        play(world, rng, STEPS)

    run()
    detail = {"ports_lent", "hairpinned", "icmp_errors_translated", "fragments_translated"}
    predicted = sum(world.outcomes.values()) - sum(world.outcomes[name] for name in detail)
    assert predicted >= 100_000
    assert +world.outcomes >= Counter(EVERY_END), EVERY_END - world.outcomes.keys()
