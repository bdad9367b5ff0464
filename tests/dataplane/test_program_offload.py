"""Flow offload: packets of known flows are translated where they come in, all others pass."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from ipaddress import IPv6Network
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
)
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet

from tests.dataplane.machine import (
    NEXT,
    POD,
    POD2,
    POOL,
    PREFIXES,
    REDIRECT,
    SERVER,
    Machine,
    Out,
    at,
    right_checksums,
)

pytestmark = pytest.mark.root

_COARSE = 6  # CLOCK_MONOTONIC_COARSE: what the programs read
T = TypeVar("T")


@pytest.fixture
def nat(nat: Machine) -> Iterator[Machine]:
    """A machine whose programs all run on one CPU, as notes are each CPU's own."""
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    nat.node.ip("route replace default via 192.0.2.254 dev up0")
    yield nat
    nat.node.ip("route replace default via 192.0.2.254 dev up0")
    os.sched_setaffinity(0, cpus)


def in_one_second(nat: Machine, act: Callable[[], T]) -> T:
    """What `act` returns once it has begun and ended in the same second of the programs' clock."""
    for _ in range(50):
        nat.reset()
        before = _second()
        result = act()
        if _second() == before:
            return result
    raise AssertionError("this machine takes more than a second for a few packets, every time")


def _second() -> int:
    # `travel` moves the programs' clock by whole seconds
    return time.clock_gettime_ns(_COARSE) // 10**9


def udp(size: int = 8, sport: int = 4000, **header: Any) -> Packet:
    fields = {"src": str(POD), "dst": at(SERVER), "hlim": 64, **header}
    return IPv6(**fields) / UDP(sport=sport, dport=53) / bytes(size)


def tcp(flags: str = "A", size: int = 0, **header: Any) -> Packet:
    fields = {"src": str(POD), "dst": at(SERVER), "hlim": 64, **header}
    return IPv6(**fields) / TCP(sport=4000, dport=443, flags=flags) / bytes(size)


def forwarded(packet: Packet) -> Packet:
    """As the stack hands it to nat64_egress."""
    again = packet.copy()
    again.hlim -= 1
    return again


def let_pass(nat: Machine, packet: Packet, **run: Any) -> Out:
    """The packet comes through the stack, as often as it takes to be noted."""
    nat.from_pod(forwarded(packet), **run)
    return nat.from_pod(forwarded(packet), **run)


def established(nat: Machine) -> int:
    """A TCP connection that the notes know; its port of the pool."""
    port: int = nat.from_pod(forwarded(tcp("S"))).packet[TCP].sport
    nat.from_internet(from_server("SA", port))
    let_pass(nat, tcp())
    return port


def from_server(flags: str, port: int) -> Packet:
    return IP(src=str(SERVER), dst=str(POOL)) / TCP(sport=443, dport=port, flags=flags)


def without_identification(packet: Packet) -> bytes:
    """IPv4's is random."""
    packet = packet.copy()
    packet.id = packet.chksum = 0
    return bytes(packet)


def passed(out: Out, packet: Packet | bytes) -> bool:
    """Whether the stack gets the packet as it was, and nothing is counted."""
    return out.verdict == NEXT and not out.counted and out.frame[14:] == bytes(packet)


@pytest.mark.parametrize("size", [0, 1, 1200, 1300, 1472])
def test_a_datagram_leaves_as_it_would_have_left(nat: Machine, size: int) -> None:
    def both() -> tuple[Out, Out]:
        return let_pass(nat, udp(size)), nat.on_pod_link(udp(size))

    by_stack, here = in_one_second(nat, both)
    assert here.verdict == REDIRECT
    assert here.counted == {"received": 1, "translated": 1, "sent_fast": 1, "offloaded": 1}
    assert by_stack.counted == {"received": 1, "translated": 1, "sent_fast": 1}
    assert without_identification(here.packet) == without_identification(by_stack.packet)
    assert here.packet.ttl == 63
    assert right_checksums(here.packet)


def test_a_datagram_leaves_with_the_addresses_of_its_next_hop(nat: Machine) -> None:
    def leave() -> bytes:
        let_pass(nat, udp())
        out = nat.on_pod_link(udp())
        assert out.verdict == REDIRECT
        return out.frame[:12]

    hop = "neigh replace 192.0.2.254 lladdr 02:00:00:00:02:{} dev up0 nud permanent"
    assert in_one_second(nat, leave) == bytes.fromhex("020000000254020000000064")
    nat.node.ip(hop.format("55"))
    nat.datapath.travel(1)
    assert in_one_second(nat, leave) == bytes.fromhex("020000000255020000000064")
    nat.node.ip(hop.format("54"))


def test_by_a_link_that_is_not_known_as_ethernet_the_kernel_finds_the_next_hop(
    nat: Machine,
) -> None:
    def leave() -> tuple[bytes, bytes]:
        before = let_pass(nat, udp())
        return before.frame[:12], nat.on_pod_link(udp()).frame[:12]

    nat.uplinks = (nat.uplinks[0]._replace(ethernet=False),)
    try:
        _, frame = in_one_second(nat, leave)
    finally:
        nat.uplinks = (nat.uplinks[0]._replace(ethernet=True),)
        nat.reset()
    assert frame == bytes(Ether(src="02:00:00:00:01:10", dst="02:00:00:00:01:01"))[:12]


@pytest.mark.parametrize("gso_size", [0, 1200])
def test_a_segment_leaves_as_it_would_have_left(nat: Machine, gso_size: int) -> None:
    more = {"gso_size": gso_size, "gso_segs": 3} if gso_size else {}
    packet = tcp("PA", 3000 if gso_size else 1000)

    def both() -> tuple[Out, Out]:
        established(nat)
        return nat.from_pod(forwarded(packet), **more), nat.on_pod_link(packet, **more)

    by_stack, here = in_one_second(nat, both)
    assert here.counted["offloaded"] == 1
    assert here.gso_size == by_stack.gso_size == gso_size
    assert without_identification(here.packet) == without_identification(by_stack.packet)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_every_prefix_is_known(nat: Machine, prefix: str) -> None:
    packet = udp(dst=at(SERVER, IPv6Network(prefix)))

    def act() -> Out:
        nat.reset(prefix=prefix)
        let_pass(nat, packet)
        return nat.on_pod_link(packet)

    assert in_one_second(nat, act).packet[IP].dst == str(SERVER)


class Row(NamedTuple):
    """A packet beside a known flow, or of one after something has happened."""

    name: str
    packet: Packet | bytes = udp()
    run: Mapping[str, int] = MappingProxyType({})
    link: Packet | None = None
    meanwhile: Callable[[Machine], object] | None = None


_HOST = {"src": "02:00:00:00:01:10", "dst": "02:00:00:00:01:01"}

OTHERS = [
    Row("of no flow", udp(sport=4001)),
    Row("from another client", udp(src=str(POD2))),
    Row("not to the prefix", udp(dst="2001:db8::1")),
    Row("another traffic class", udp(tc=4)),
    Row("at the end of its hop limit", udp(hlim=1)),
    Row("beyond it", udp(hlim=0)),
    Row("with options", IPv6(src=str(POD), dst=at(SERVER)) / IPv6ExtHdrDestOpt() / udp().payload),
    Row(
        "a fragment",
        IPv6(src=str(POD), dst=at(SERVER)) / IPv6ExtHdrFragment(m=1, id=7) / udp().payload,
    ),
    Row("ICMP", IPv6(src=str(POD), dst=at(SERVER)) / ICMPv6EchoRequest(id=4000)),
    Row("longer than the route", udp(1473)),
    Row("longer than it says", bytes(udp()) + b"padding"),
    Row("to another host's link address", link=Ether(src=_HOST["src"], dst="02:00:00:00:09:09")),
    Row("marked", run={"mark": 7}),
    Row("with a priority", run={"priority": 3}),
    Row("after a change of routes", meanwhile=lambda nat: nat.datapath.note_route_change()),
    Row("in the next second", meanwhile=lambda nat: nat.datapath.travel(1)),
    Row(
        "after a change of policy",
        meanwhile=lambda nat: nat.configure(policy={"deniedDestinations": [f"{SERVER}/32"]}),
    ),
]


@pytest.mark.parametrize("row", OTHERS, ids=lambda row: row.name.replace(" ", "_"))
def test_other_packets_pass(nat: Machine, row: Row) -> None:
    def act() -> tuple[Out, Out]:
        let_pass(nat, udp())
        known = nat.on_pod_link(udp())
        if row.meanwhile:
            row.meanwhile(nat)
        return known, nat.on_pod_link(row.packet, link=row.link, **row.run)

    known, out = in_one_second(nat, act)
    assert known.counted["offloaded"] == 1
    assert passed(out, row.packet)


def test_a_tagged_frame_passes(nat: Machine) -> None:
    def act() -> Out:
        let_pass(nat, udp())
        frame = bytes(Ether(**_HOST) / Dot1Q(vlan=5) / udp())
        result = nat.datapath.program("nat64_offload").run(
            frame, ifindex=nat.pod_link, ingress_ifindex=nat.pod_link
        )
        return Out(result.verdict, result.packet, {})

    assert in_one_second(nat, act).verdict == NEXT


def test_the_same_packet_on_another_link_passes(nat: Machine) -> None:
    """Another pod has no part in what this one's packets were let pass for."""

    def act() -> Out:
        let_pass(nat, udp())
        link = Ether(src=_HOST["src"], dst="02:00:00:00:00:64")
        return nat.on_pod_link(udp(), link=link, ifindex=nat.uplink)

    assert passed(in_one_second(nat, act), udp())


@pytest.mark.parametrize("beside", [{"mark": 1}, {"priority": 1}, {"ingress_ifindex": 0}])
def test_what_the_stack_has_put_beside_a_packet_is_not_lost(
    nat: Machine, beside: dict[str, int]
) -> None:
    """Neither is a flow of the node itself, which comes in on no link."""

    def act() -> Out:
        let_pass(nat, udp(), **beside)
        return nat.on_pod_link(udp(), ingress_ifindex=nat.pod_link)

    assert passed(in_one_second(nat, act), udp())


def test_a_route_to_the_prefix_with_a_smaller_mtu_is_kept(nat: Machine) -> None:
    """The kernel sends packet-too-big, although the uplink would take it."""
    nat.route_mtu = 1300
    try:

        def act() -> tuple[Out, Out]:
            let_pass(nat, udp())
            return nat.on_pod_link(udp(1252)), nat.on_pod_link(udp(1253))

        fits, too_long = in_one_second(nat, act)
    finally:
        nat.route_mtu = 65535
    assert fits.counted["offloaded"] == 1
    assert passed(too_long, udp(1253))


@pytest.mark.parametrize("flags", ["S", "SA", "FA", "R", "RA"])
def test_what_changes_a_connection_passes(nat: Machine, flags: str) -> None:
    def act() -> tuple[Out, Out]:
        established(nat)
        return nat.on_pod_link(tcp()), nat.on_pod_link(tcp(flags))

    known, out = in_one_second(nat, act)
    assert known.counted["offloaded"] == 1
    assert passed(out, tcp(flags))


@pytest.mark.parametrize("flags", ["FA", "RA"])
def test_the_other_side_ends_it(nat: Machine, flags: str) -> None:
    def act() -> tuple[Out, Out]:
        port = established(nat)
        known = nat.on_pod_link(tcp())
        nat.from_internet(from_server(flags, port))
        return known, nat.on_pod_link(tcp())

    known, out = in_one_second(nat, act)
    assert known.counted["offloaded"] == 1
    assert passed(out, tcp())


def test_a_connection_that_opens_is_not_known(nat: Machine) -> None:
    def act() -> Out:
        nat.from_pod(forwarded(tcp("S")))
        return nat.on_pod_link(tcp())

    assert passed(in_one_second(nat, act), tcp())


def test_no_byte_makes_a_difference_to_what_nat64_egress_does(nat: Machine) -> None:
    """A packet with any byte changed either passes as it was or leaves as it would have left."""
    seeds = random.Random(9693)
    plain = bytes(udp(32))
    offloaded = 0
    for _ in range(100):
        changed = bytearray(plain)
        for _ in range(seeds.choice((0, 1, 1, 2))):
            changed[seeds.randrange(48)] = seeds.randrange(256)
        packet = bytes(changed)

        def both(packet: bytes = packet) -> tuple[Out, Out | None]:
            let_pass(nat, udp(32))
            here = nat.on_pod_link(packet)
            if here.verdict == NEXT:
                return here, None
            less = packet[:7] + bytes([packet[7] - 1]) + packet[8:]
            return here, nat.from_pod(less)

        here, by_stack = in_one_second(nat, both)
        if by_stack is None:
            assert passed(here, packet)
            continue
        offloaded += 1
        assert here.counted["offloaded"] == 1
        assert by_stack.counted["sent_fast"] == 1
        assert without_identification(here.packet) == without_identification(by_stack.packet)
    assert offloaded > 20
