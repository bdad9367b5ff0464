"""RFC 6146: bindings, sessions, filtering, hairpinning, timers of UDP and ICMP, limits."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.packet import Packet

from nat64_dataplane.config import Limits
from nat64_dataplane.translator.datapath import abi
from nat64_dataplane.translator.datapath.abi import SessionFlag, SweepResult
from nat64_dataplane.translator.host_view import PoolRange
from tests.dataplane.machine import (
    OTHER,
    POD,
    POD2,
    POOL,
    REDIRECT,
    SERVER,
    Machine,
    Out,
    at,
    right_checksums,
    spare,
)
from tests.dataplane.test_program_icmp_errors import icmp6, parts6

pytestmark = pytest.mark.root


@pytest.fixture
def small(nat: Machine) -> Iterator[Machine]:
    """A translator of no more than 1024 sessions."""
    built = Machine(Limits(sessions=1024))
    built.reset(limits={"sessions": 1024})
    yield built
    built.close()


def send(
    nat: Machine, port: int, *, to: object = SERVER, pod: object = POD, dport: int = 53, **run: int
) -> Out:
    return nat.from_pod(
        IPv6(src=str(pod), dst=at(str(to))) / UDP(sport=port, dport=dport) / b"x", **run
    )


def receive(nat: Machine, port: int, *, src: object = SERVER, sport: int = 53) -> Out:
    return nat.from_internet(IP(src=str(src), dst=str(POOL)) / UDP(sport=sport, dport=port) / b"x")


def test_mapping_is_endpoint_independent(nat: Machine) -> None:
    first = send(nat, 4000).packet
    for to, dport in ((SERVER, 54), (OTHER, 53), (OTHER, 9999)):
        again = send(nat, 4000, to=to, dport=dport).packet
        assert (again.src, again.sport) == (first.src, first.sport)
    assert len(list(nat.datapath.bib())) == 1
    assert len(list(nat.datapath.sessions())) == 4


def test_protocols_have_bindings_of_their_own(nat: Machine) -> None:
    send(nat, 4000)
    nat.from_pod(IPv6(src=str(POD), dst=at(SERVER)) / TCP(sport=4000, dport=53, flags="S"))
    nat.from_pod(IPv6(src=str(POD), dst=at(SERVER)) / ICMPv6EchoRequest(id=4000))
    assert sorted(entry.protocol for entry in nat.datapath.bib()) == ["icmp", "tcp", "udp"]


def test_two_clients_never_share_a_port(nat: Machine) -> None:
    nat.reset((PoolRange(POOL, 61000, 61063),))
    ports = {send(nat, 5000 + i, pod=POD if i % 2 else POD2).packet.sport for i in range(64)}
    assert ports == set(range(61000, 61064))


def test_filtering_by_address_and_port_is_the_default(nat: Machine) -> None:
    """What is no exact session's is the node's own: it passes, as it was."""
    for port in (send(nat, 4000).packet.sport, syn(nat, 4000).packet.sport):
        for source, sport in ((OTHER, 53), (SERVER, 54)):
            assert receive(nat, port, src=source, sport=sport).passed
            for flags in ("S", "A", "R", "FA"):
                segment = TCP(sport=sport, dport=port, flags=flags)
                assert nat.from_internet(IP(src=str(source), dst=str(POOL)) / segment).passed
    echo = nat.from_pod(IPv6(src=str(POD), dst=at(SERVER)) / ICMPv6EchoRequest(id=4000)).packet
    for kind in (0, 8):
        stray = IP(src=str(OTHER), dst=str(POOL)) / ICMP(type=kind, id=echo[ICMP].id)
        assert nat.from_internet(stray).passed
    assert len(list(nat.datapath.sessions())) == 3


def test_endpoint_independent_filtering_lets_anybody_in(nat: Machine) -> None:
    nat.reset(filtering="EndpointIndependent")
    port = send(nat, 4000).packet.sport
    out = receive(nat, port, src=OTHER, sport=999)
    assert out.translated
    assert out.packet.src == at(OTHER)


def test_address_dependent_filtering_wants_the_client_to_have_talked_to_it(nat: Machine) -> None:
    nat.reset(filtering="AddressDependent")
    port = send(nat, 4000).packet.sport
    assert receive(nat, port, src=OTHER).dropped == "filtered"
    assert receive(nat, port, src=SERVER, sport=999).translated
    send(nat, 4000, to=OTHER, dport=1)
    assert receive(nat, port, src=OTHER, sport=77).translated


def test_address_dependent_filtering_of_tcp_lets_a_simultaneous_open_through(nat: Machine) -> None:
    nat.reset(filtering="AddressDependent")
    first = nat.from_pod(IPv6(src=str(POD), dst=at(SERVER)) / TCP(sport=4000, dport=80, flags="S"))
    syn = IP(src=str(OTHER), dst=str(POOL)) / TCP(sport=81, dport=first.packet.sport, flags="S")
    assert nat.from_internet(syn).dropped == "filtered"
    assert nat.from_internet(syn).dropped == "filtered"
    nat.from_pod(IPv6(src=str(POD), dst=at(OTHER)) / TCP(sport=4000, dport=81, flags="S"))
    assert nat.from_internet(syn).translated
    states = {session.remote_port: session.state for session in nat.datapath.sessions()}
    assert states == {80: "V6_INIT", 81: "ESTABLISHED"}


def test_simultaneous_open_of_two_clients_goes_through_a_hairpin(nat: Machine) -> None:
    """Both filter by address, and each has yet to talk to the other one's pool address."""
    nat.reset(filtering="AddressDependent")
    ports = {pod: syn(nat, 4000, pod=pod).packet.sport for pod in (POD, POD2)}

    def dial(pod: IPv6Address, other: IPv6Address) -> Out:
        packet = IPv6(src=str(pod), dst=at(POOL)) / TCP(sport=4000, dport=ports[other], flags="S")
        out = nat.from_pod(packet)
        assert "hairpinned" in out.counted
        return nat.from_internet(out.packet, ifindex=1, ingress_ifindex=1)

    assert dial(POD, POD2).dropped == "filtered"
    assert dial(POD2, POD).translated
    assert dial(POD, POD2).translated


def test_incoming_syn_is_remembered_for_six_seconds(nat: Machine) -> None:
    nat.reset(filtering="AddressDependent")
    port = syn(nat, 4000).packet.sport
    inbound = IP(src=str(OTHER), dst=str(POOL)) / TCP(sport=81, dport=port, flags="S")
    assert nat.from_internet(inbound).dropped == "filtered"
    (kept,) = [each for each in nat.datapath.sessions() if each.remote == OTHER]
    assert (kept.state, kept.expires_in in (6, 7)) == ("V4_INIT", True)
    nat.datapath.travel(8)
    opening = IPv6(src=str(POD), dst=at(OTHER)) / TCP(sport=4000, dport=81, flags="S")
    assert nat.from_pod(opening).translated
    (opened,) = [each for each in nat.datapath.sessions() if each.remote == OTHER]
    assert opened.state == "V6_INIT"  # not ESTABLISHED: the earlier SYN has expired


def test_inbound_session_goes_by_the_kernel_until_the_client_answers(nat: Machine) -> None:
    nat.reset(filtering="EndpointIndependent")
    port = send(nat, 4000).packet.sport
    assert "sent_kernel" in receive(nat, port, src=OTHER).counted
    assert "sent_kernel" in receive(nat, port, src=OTHER).counted
    send(nat, 4000, to=OTHER)
    assert "sent_fast" in receive(nat, port, src=OTHER).counted


def test_sweep_spares_what_is_live_on_a_machine_that_has_just_booted(nat: Machine) -> None:
    """The clock is that of the machine: half a minute after boot, nothing can be minutes old."""
    nat.reset(filtering="EndpointIndependent")
    control = nat.datapath.map("control")
    before = control.get(abi.U32.pack(0))
    assert before
    *rest, offset = abi.CONTROL.unpack(before)
    young = (offset - (nat.datapath.now() - 30) * 10**9) % 2**64
    control.set(abi.U32.pack(0), abi.CONTROL.pack(*rest, young))
    try:
        port = send(nat, 4000).packet.sport
        assert nat.datapath.sweep().removed_bindings == 0
        assert receive(nat, port, src=OTHER).translated
    finally:
        control.set(abi.U32.pack(0), before)


def test_udp_session_ends_after_its_timer_and_lives_on_while_used(nat: Machine) -> None:
    port = send(nat, 4000).packet.sport
    for _ in range(3):
        nat.datapath.travel(290)
        assert receive(nat, port).translated
    nat.datapath.travel(299)
    assert send(nat, 4000).packet.sport == port
    nat.datapath.travel(300 + spare(300) + 2)
    assert receive(nat, port).passed
    nat.datapath.travel(3)  # until then the sweep leaves it to packets that are under way
    swept = nat.datapath.sweep()
    assert (swept.sessions, swept.bindings) == (0, 1)  # the port rests
    nat.datapath.travel(120)
    swept = nat.datapath.sweep()
    assert (swept.sessions, swept.bindings) == (0, 0)
    assert all(usage.used == 0 for usage in nat.datapath.usage())


def test_freed_port_rests_while_others_are_free(nat: Machine) -> None:
    nat.reset((PoolRange(POOL, 61000, 61003),))
    port = send(nat, 4000).packet.sport
    nat.datapath.travel(310)
    nat.datapath.sweep()
    others = {send(nat, 5000 + i, pod=POD2).packet.sport for i in range(3)}
    assert port not in others
    last = send(nat, 6000, pod=POD2)  # ports are scarce now: it rests no longer
    assert last.counted["ports_given_back"] == 1
    assert last.packet.sport == port
    assert send(nat, 6001, pod=POD2).counted.get("dropped_ports_exhausted")


def test_client_has_its_resting_port_back_at_once(nat: Machine) -> None:
    port = send(nat, 4000).packet.sport
    nat.datapath.travel(310)
    nat.datapath.sweep()
    assert receive(nat, port).passed
    assert send(nat, 4000).packet.sport == port


def test_icmp_session_ends_after_its_timer(nat: Machine) -> None:
    out = nat.from_pod(IPv6(src=str(POD), dst=at(SERVER)) / ICMPv6EchoRequest(id=7))
    answer = IP(src=str(SERVER), dst=str(POOL)) / ICMP(type=0, id=out.packet[ICMP].id)
    nat.datapath.travel(59)
    assert nat.from_internet(answer).translated
    nat.datapath.travel(62)
    assert nat.from_internet(answer).passed


def test_binding_lives_as_long_as_its_longest_session(nat: Machine) -> None:
    port = send(nat, 4000).packet.sport
    nat.datapath.travel(200)
    send(nat, 4000, to=OTHER)
    nat.datapath.travel(200)
    nat.datapath.sweep()
    assert [session.remote for session in nat.datapath.sessions()] == [OTHER]
    assert send(nat, 4000).packet.sport == port


def test_expiry_needs_no_sweep(nat: Machine) -> None:
    port = send(nat, 4000).packet.sport
    nat.datapath.travel(1000)
    assert receive(nat, port).passed
    assert len(list(nat.datapath.bib())) == 1  # still there, and dead to packets


def test_sweep_is_idempotent_and_spares_the_living(nat: Machine) -> None:
    for port in range(4000, 4010):
        send(nat, port)
    nat.datapath.travel(200)
    for port in range(4005, 4010):
        send(nat, port)
    nat.datapath.travel(230)
    assert nat.datapath.sweep().removed_bindings == 5
    assert nat.datapath.sweep() == SweepResult(5, 5, 0, 0, 0, 0, 0, 0)
    assert nat.datapath.session_count() >= 5


@pytest.mark.parametrize("parity", [0, 1])
def test_udp_ports_keep_their_parity_while_there_are_such(nat: Machine, parity: int) -> None:
    nat.reset((PoolRange(POOL, 61000, 61019),))
    ports = [send(nat, 5000 + 2 * i + parity).packet.sport for i in range(10)]
    assert {port % 2 for port in ports} == {parity}
    assert send(nat, 5100 + parity).translated  # only the other parity is left


def test_ports_are_not_predictable(nat: Machine) -> None:
    ports = [send(nat, 5000 + i).packet.sport for i in range(40)]
    steps = {b - a for a, b in itertools.pairwise(ports)}
    assert len(steps) > 30


def test_exhausted_pool_is_answered_address_unreachable_and_evicts_nobody(nat: Machine) -> None:
    nat.reset((PoolRange(POOL, 61000, 61003),))
    kept = [send(nat, 5000 + i).packet.sport for i in range(4)]
    out = send(nat, 6000)
    assert out.counted.get("dropped_ports_exhausted") == 1
    assert out.counted.get("icmp_errors_sent") == 1
    icmp = out.packet.payload
    assert (out.packet.src, out.packet.dst) == (at(SERVER), str(POD))
    assert (icmp.type, icmp.code) == (1, 3)
    assert right_checksums(out.packet)
    assert bytes(out.packet)[48:] == bytes(
        IPv6(src=str(POD), dst=at(SERVER)) / UDP(sport=6000, dport=53) / b"x"
    )
    assert [send(nat, 5000 + i).packet.sport for i in range(4)] == kept
    nat.datapath.travel(400)
    nat.datapath.sweep()
    assert send(nat, 6000).translated


def test_pool_ranges_help_out_and_a_client_keeps_one_address(nat: Machine) -> None:
    addresses = [IPv4Address(f"192.0.2.{last}") for last in range(16, 24)]
    nat.reset(tuple(PoolRange(address, 2000, 2003) for address in addresses))
    first = {send(nat, 5000 + i).packet.src for i in range(4)}
    assert len(first) == 1  # paired pooling (RFC 6888 REQ-2)
    tcp = nat.from_pod(IPv6(src=str(POD), dst=at(SERVER)) / TCP(sport=1, dport=2, flags="S"))
    assert {tcp.packet.src} == first
    # the client's address is full: the next one is used
    assert send(nat, 5004).packet.src not in first
    spread = set()
    for host in range(64):
        out = nat.from_pod(IPv6(src=f"fd64:1::{host:x}", dst=at(SERVER)) / ICMPv6EchoRequest(id=1))
        spread.add(out.packet.src)
    assert len(spread) > 4


def ports_of(nat: Machine, count: int) -> Iterator[int]:
    """The pool ports of so many new bindings, of clients with a few ports each."""
    packet = bytearray(bytes(IPv6(src=str(POD), dst=at(SERVER)) / UDP(sport=1, dport=53) / b"x"))
    program = nat.datapath.program("nat64_egress")
    for index in range(count):
        host, port = divmod(index, 60)
        packet[20:24] = (0x1000 + host).to_bytes(4, "big")
        packet[40:42] = (1024 + port).to_bytes(2, "big")
        out = program.run(bytes(12) + b"\x86\xdd" + packet, ifindex=nat.interface)
        assert out.verdict == REDIRECT, index
        yield int.from_bytes(out.packet[34:36], "big")


@pytest.mark.bulk
@pytest.mark.parametrize("static", [False, True])
def test_all_ports_of_a_range_are_used_and_no_others(nat: Machine, static: bool) -> None:
    """The range has a whole block of the bitmap, and a part of the one on each side of it."""
    block = abi.PORTS_PER_BLOCK
    ports = set(range(2 * block - 3, 3 * block + 2))
    mapping = {
        "protocol": "udp",
        "client": str(POD2),
        "clientPort": 53,
        "address": str(POOL),
        "port": 2 * block + 77,  # in the middle of the whole one
    }
    nat.reset((PoolRange(POOL, min(ports), max(ports)),), staticMappings=[mapping] * static)
    free = ports - {mapping["port"]} if static else ports
    assert set(ports_of(nat, len(free))) == free
    assert send(nat, 1024).counted.get("dropped_ports_exhausted")


def test_static_mapping_works_from_both_sides_and_never_expires(nat: Machine) -> None:
    mapping = {
        "protocol": "udp",
        "client": str(POD),
        "clientPort": 53,
        "address": str(POOL),
        "port": 5353,
    }
    nat.reset(staticMappings=[mapping])
    out = receive(nat, 5353, src=OTHER, sport=4444)
    assert out.translated
    assert (out.packet.dst, out.packet[UDP].dport) == (str(POD), 53)
    assert send(nat, 53, to=OTHER, dport=4444).packet.sport == 5353
    nat.datapath.travel(10_000)
    nat.datapath.sweep()
    assert receive(nat, 5353, src=OTHER).translated
    nat.configure()
    assert receive(nat, 5353, src=OTHER).passed


def test_static_mapping_takes_its_port_out_of_the_pool(nat: Machine) -> None:
    mapping = {
        "protocol": "udp",
        "client": str(POD2),
        "clientPort": 53,
        "address": str(POOL),
        "port": 61001,
    }
    nat.reset((PoolRange(POOL, 61000, 61003),), staticMappings=[mapping])
    assert {send(nat, 5000 + i).packet.sport for i in range(3)} == {61000, 61002, 61003}
    assert send(nat, 5003).counted.get("dropped_ports_exhausted")


def hairpin(nat: Machine, out: Out) -> Out:
    """What lo brings back of a packet to one of our own mappings."""
    assert "hairpinned" in out.counted
    return nat.from_internet(bytes(out.packet), ifindex=1, ingress_ifindex=1)


def test_hairpin_between_two_pods(nat: Machine) -> None:
    nat.reset(filtering="EndpointIndependent")
    there = send(nat, 4000, pod=POD2).packet.sport
    out = send(nat, 5000, to=POOL, dport=there)
    assert out.packet.ttl == 65  # one more, for what the way in takes off
    back = hairpin(nat, out)
    assert back.translated
    assert (back.packet.src, back.packet.dst) == (at(POOL), str(POD2))
    assert (back.packet[UDP].sport, back.packet[UDP].dport) == (out.packet.sport, 4000)
    assert right_checksums(back.packet)
    answer = send(nat, 4000, pod=POD2, to=POOL, dport=out.packet.sport)
    final = hairpin(nat, answer)
    assert (final.packet.dst, final.packet[UDP].dport) == (str(POD), 5000)
    assert final.packet[UDP].sport == there


def test_hairpin_under_filtering_by_port_wants_both_to_have_sent(nat: Machine) -> None:
    there = send(nat, 4000, pod=POD2).packet.sport
    first = send(nat, 5000, to=POOL, dport=there)
    assert hairpin(nat, first).dropped == "filtered"
    back = hairpin(nat, send(nat, 4000, pod=POD2, to=POOL, dport=first.packet.sport))
    assert (back.packet.dst, back.packet[UDP].dport) == (str(POD), 5000)
    assert hairpin(nat, send(nat, 5000, to=POOL, dport=there)).packet.dst == str(POD2)


def test_hairpinned_errors_reach_their_sender(nat: Machine) -> None:
    nat.reset(filtering="EndpointIndependent")
    there = send(nat, 4000, pod=POD2).packet.sport
    got = hairpin(nat, send(nat, 5000, to=POOL, dport=there)).packet
    error = nat.from_pod(icmp6(str(POD2), at(POOL), 1, 4, bytes(4), bytes(got)))
    final = hairpin(nat, error)
    kind, code, _, inner = parts6(final)
    assert (kind, code, final.packet.dst) == (1, 4, str(POD))
    assert (inner.src, inner.dst, inner[UDP].sport, inner[UDP].dport) == (
        str(POD),
        at(POOL),
        5000,
        there,
    )


def test_our_own_address_as_a_source_is_believed_on_lo_only(nat: Machine) -> None:
    nat.reset(filtering="EndpointIndependent")
    there = send(nat, 4000, pod=POD2).packet.sport
    out = send(nat, 5000, to=POOL, dport=there)
    forged = bytes(out.packet)
    assert nat.from_internet(forged).dropped == "source_illegal"  # from the uplink
    assert hairpin(nat, out).translated
    assert nat.from_internet(forged).dropped == "source_illegal"  # with a session, too


def test_hairpin_to_a_port_that_nobody_holds_is_refused(nat: Machine) -> None:
    assert send(nat, 5000, to=POOL, dport=62000).counted.get("dropped_hairpin_without_binding")


def test_ports_per_client_are_limited(nat: Machine) -> None:
    nat.reset(limits={"portsPerClient": 3})
    assert all(send(nat, 5000 + i).translated for i in range(3))
    assert send(nat, 5003).counted.get("dropped_client_port_limit")
    assert send(nat, 5000, to=OTHER).translated
    assert send(nat, 5000, pod=POD2).translated
    nat.datapath.travel(430)
    nat.datapath.sweep()
    assert send(nat, 5003).translated


def test_new_sessions_a_second_are_limited(nat: Machine) -> None:
    nat.reset(limits={"newSessionsPerSecondPerClient": 5})
    began = nat.datapath.now()
    outs = [send(nat, 5000 + i) for i in range(40)]
    seconds = nat.datapath.now() - began + 1  # a slow machine takes more than one second
    assert sum(out.translated for out in outs) <= 5 * seconds
    refused = [out for out in outs if not out.translated]
    assert refused or seconds >= 8
    assert all(out.dropped == "client_session_rate" for out in refused)
    assert send(nat, 5000).translated  # not a new one
    assert send(nat, 5000, pod=POD2).translated
    nat.datapath.travel(1)
    assert send(nat, 6000).translated


def test_pool_change_keeps_what_still_fits(nat: Machine) -> None:
    nat.reset((PoolRange(POOL, 61000, 61099),))
    ports = {5000 + i: send(nat, 5000 + i).packet.sport for i in range(50)}
    nat.configure((PoolRange(POOL, 61000, 61049), PoolRange(POOL, 63000, 63099)))
    for inside, outside in ports.items():
        reply = receive(nat, outside)
        assert reply.translated == (outside < 61050)
        again = send(nat, inside).packet.sport
        if outside < 61050:
            assert again == outside
        else:
            assert again in range(61000, 61050) or again in range(63000, 63100)


def test_address_that_leaves_the_pool_takes_its_sessions_along(nat: Machine) -> None:
    port = send(nat, 4000).packet.sport
    nat.configure((PoolRange(IPv4Address("192.0.2.9"), 61001, 65535),))
    assert receive(nat, port).passed
    assert send(nat, 4000).packet.src == "192.0.2.9"
    assert {usage.address for usage in nat.datapath.usage()} == {IPv4Address("192.0.2.9")}


def test_session_table_limit_refuses_the_new_and_spares_the_old(small: Machine) -> None:
    opened: list[Packet] = []
    for i in range(2, 1202):  # fd64:1::1 is the node
        out = small.from_pod(IPv6(src=f"fd64:1::{i:x}", dst=at(SERVER)) / UDP(sport=9, dport=53))
        if out.translated:
            opened.append(out.packet)
        else:
            assert out.counted.get("dropped_session_table_full"), out.counted
    assert len(opened) >= 1000
    for packet in opened[::97]:
        back = IP(src=str(SERVER), dst=packet.src) / UDP(sport=53, dport=packet.sport)
        assert small.from_internet(back).translated
    assert small.datapath.session_count() == len(opened)


def knock(nat: Machine, port: int, number: int) -> Out:
    """A stranger's packet to a mapped port, from an address of its own."""
    return receive(nat, port, src=f"198.18.{number >> 8}.{number & 255}")


@pytest.mark.bulk
def test_flood_from_ipv4_leaves_a_quarter_of_the_sessions_to_the_clients(small: Machine) -> None:
    small.configure(
        limits={"sessions": 1024, "sessionsPerClient": 0},
        timeouts={"udp": 3000},
        filtering="EndpointIndependent",
    )
    port = send(small, 4000).packet.sport
    knocks = [knock(small, port, number) for number in range(800)]
    assert [out.translated for out in knocks] == [True] * 768 + [False] * 32
    assert {out.dropped for out in knocks[768:]} == {"inbound_session_limit"}
    assert all(send(small, 5000 + i).translated for i in range(200))
    small.datapath.travel(2000)
    assert send(small, 4000).packet.sport == port  # only the client keeps its binding alive
    assert all(knock(small, port, number).translated for number in range(10))  # live on
    small.datapath.travel(1100)
    small.datapath.sweep()
    assert knock(small, port, 2000).translated
    assert sum(SessionFlag.INBOUND in each.flags for each in small.datapath.sessions()) == 11


@pytest.mark.bulk
def test_filtered_syns_are_bounded_like_sessions(small: Machine) -> None:
    small.reset(limits={"sessions": 1024, "sessionsPerClient": 0}, filtering="AddressDependent")
    port = syn(small, 4000).packet.sport
    for number in range(800):
        source = f"198.18.{number >> 8}.{number & 255}"
        opening = IP(src=source, dst=str(POOL)) / TCP(sport=9, dport=port, flags="S")
        assert small.from_internet(opening).dropped == "filtered"
    assert small.datapath.session_count() == 1 + 768
    assert all(syn(small, 5000 + i).translated for i in range(50))


def test_new_sessions_a_second_are_limited_for_each_side_apart(nat: Machine) -> None:
    nat.reset(limits={"newSessionsPerSecondPerClient": 5}, filtering="EndpointIndependent")
    port = send(nat, 4000).packet.sport
    began = nat.datapath.now()
    outs = [knock(nat, port, number) for number in range(60)]
    for i in range(4):
        assert send(nat, 5000 + i).translated  # strangers have not used up the client's own
    seconds = nat.datapath.now() - began + 1
    assert sum(out.translated for out in outs) <= 5 * seconds
    refused = [out for out in outs if not out.translated]
    assert refused or seconds >= 12
    assert all(out.dropped == "client_session_rate" for out in refused)


def syn(nat: Machine, port: int, *, to: object = SERVER, pod: object = POD) -> Out:
    return nat.from_pod(IPv6(src=str(pod), dst=at(str(to))) / TCP(sport=port, dport=80, flags="S"))


def test_tcp_ports_are_lent_per_destination_once_they_have_run_out(nat: Machine) -> None:
    nat.reset((PoolRange(POOL, 61000, 61003),), overloadTcpPorts=True)
    owners = [syn(nat, 5000 + i).packet for i in range(4)]
    assert {packet.sport for packet in owners} == set(range(61000, 61004))
    lent = syn(nat, 6000, to=OTHER)
    assert lent.translated
    assert lent.packet.sport in range(61000, 61004)
    assert lent.counted.get("ports_lent") == 1
    back = nat.from_internet(
        IP(src=str(OTHER), dst=str(POOL)) / TCP(sport=80, dport=lent.packet.sport, flags="SA")
    )
    assert (back.packet.dst, back.packet[TCP].dport) == (str(POD), 6000)
    more = nat.from_pod(IPv6(src=str(POD), dst=at(OTHER)) / TCP(sport=6000, dport=80, flags="A"))
    assert more.packet.sport == lent.packet.sport
    states = {s.port: s.state for s in nat.datapath.sessions() if s.remote == OTHER}
    assert states == {lent.packet.sport: "ESTABLISHED"}


def test_lent_port_leaves_its_owners_contacts_alone(nat: Machine) -> None:
    nat.reset((PoolRange(POOL, 61000, 61000),), overloadTcpPorts=True, filtering="AddressDependent")
    syn(nat, 5000)
    to_other_port = IPv6(src=str(POD2), dst=at(SERVER)) / TCP(sport=6000, dport=81, flags="S")
    assert nat.from_pod(to_other_port).counted["ports_lent"] == 1
    answer = IP(src=str(SERVER), dst=str(POOL)) / TCP(sport=81, dport=61000, flags="SA")
    assert nat.from_internet(answer).packet.dst == str(POD2)
    inbound = IP(src=str(SERVER), dst=str(POOL)) / TCP(sport=9999, dport=61000, flags="S")
    assert nat.from_internet(inbound).packet.dst == str(POD)


def test_a_port_is_not_lent_twice_towards_the_same_destination(nat: Machine) -> None:
    nat.reset((PoolRange(POOL, 61000, 61003),), overloadTcpPorts=True)
    for i in range(4):
        syn(nat, 5000 + i)
    lent = [syn(nat, 6000 + i, to=OTHER) for i in range(8)]
    ports = [out.packet.sport for out in lent if out.translated]
    assert sorted(ports) == list(range(61000, 61004))
    assert all(out.counted.get("dropped_ports_exhausted") for out in lent if not out.translated)


def test_owner_of_a_lent_port_does_not_take_over_the_borrowers_session(nat: Machine) -> None:
    nat.reset((PoolRange(POOL, 61000, 61000),), overloadTcpPorts=True)
    syn(nat, 5000)
    assert syn(nat, 6000, to=OTHER).translated
    assert syn(nat, 5000, to=OTHER).counted.get("dropped_ports_exhausted")
    back = nat.from_internet(
        IP(src=str(OTHER), dst=str(POOL)) / TCP(sport=80, dport=61000, flags="SA")
    )
    assert back.packet[TCP].dport == 6000


def test_lent_ports_come_back(nat: Machine) -> None:
    before = nat.datapath.session_count()
    nat.reset((PoolRange(POOL, 61000, 61000),), overloadTcpPorts=True)
    syn(nat, 5000)
    syn(nat, 6000, to=OTHER)
    nat.datapath.travel(300)
    nat.datapath.sweep()
    for name in ("overloads", "sessions", "bib4", "bib6"):
        assert not list(nat.datapath.map(name).items()), name
    assert nat.datapath.session_count() == before


def test_expired_session_does_not_keep_a_port_from_being_lent(nat: Machine) -> None:
    nat.reset((PoolRange(POOL, 61000, 61000),), overloadTcpPorts=True)
    syn(nat, 5000)
    answer = IP(src=str(SERVER), dst=str(POOL)) / TCP(sport=80, dport=61000, flags="SA")
    assert nat.from_internet(answer).translated  # the client's own packets keep it
    assert syn(nat, 6000, to=OTHER).translated
    assert syn(nat, 6001, to=OTHER).counted.get("dropped_ports_exhausted")
    nat.datapath.travel(250)  # and no sweep
    again = syn(nat, 6001, to=OTHER)
    assert again.counted.get("ports_lent") == 1
    assert again.counted.get("sessions_closed") == 1
    back = nat.from_internet(
        IP(src=str(OTHER), dst=str(POOL)) / TCP(sport=80, dport=61000, flags="SA")
    )
    assert back.packet[TCP].dport == 6001


@pytest.mark.bulk
def test_full_table_is_no_lack_of_ports(small: Machine) -> None:
    small.configure((PoolRange(POOL, 61000, 61000),), overloadTcpPorts=True)
    syn(small, 5000)
    reasons = []
    for port in range(1, 1201):
        out = small.from_pod(
            IPv6(src=str(POD2), dst=at(OTHER)) / TCP(sport=6000, dport=port, flags="S")
        )
        if not out.translated:
            reasons += [name for name in out.counted if name.startswith("dropped_")]
    assert len(reasons) > 100
    assert set(reasons) == {"dropped_session_table_full"}
    assert small.datapath.session_count() == len(list(small.datapath.map("sessions").items()))


def test_ports_are_not_lent_unless_told_so_nor_for_udp(nat: Machine) -> None:
    nat.reset((PoolRange(POOL, 61000, 61000),), overloadTcpPorts=False)
    syn(nat, 5000)
    assert syn(nat, 6000, to=OTHER).counted.get("dropped_ports_exhausted")
    nat.configure((PoolRange(POOL, 61000, 61000),), overloadTcpPorts=True)
    send(nat, 5000)
    assert send(nat, 6000, to=OTHER).counted.get("dropped_ports_exhausted")
    assert syn(nat, 6000, to=OTHER).translated


def test_errors_about_lent_sessions_reach_both_sides(nat: Machine) -> None:
    nat.reset((PoolRange(POOL, 61000, 61000),), overloadTcpPorts=True)
    syn(nat, 5000)
    lent = syn(nat, 6000, to=OTHER).packet
    error = nat.from_internet(
        IP(src="198.51.100.9", dst=str(POOL)) / ICMP(type=11, code=0) / bytes(lent)
    )
    assert error.translated
    assert error.packet.dst == str(POD)
    got = nat.from_internet(
        IP(src=str(OTHER), dst=str(POOL)) / TCP(sport=80, dport=lent.sport, flags="SA")
    ).packet
    back = nat.from_pod(icmp6(str(POD), at(OTHER), 1, 4, bytes(4), bytes(got)))
    assert back.translated
    assert back.packet.dst == str(OTHER)


def test_ports_claimed_on_several_cpus_at_once_have_one_owner_each(nat: Machine) -> None:
    nat.reset((PoolRange(POOL, 61000, 61999),), filtering="EndpointIndependent")
    program = nat.datapath.program("nat64_egress")

    def frame(client: int, port: int) -> bytes:
        packet = IPv6(src=f"fd64:1::{client:x}", dst=at(SERVER)) / UDP(sport=port, dport=53)
        return bytes(12) + b"\x86\xdd" + bytes(packet)

    # Each thread has clients of its own, and all share one: there they race for the same binding.
    own = [[frame(thread + 1, 1000 + i) for i in range(150)] for thread in range(4)]
    common = [frame(0xFF, 2000 + i) for i in range(150)]
    start = threading.Barrier(4)

    def run(thread: int) -> None:
        start.wait()
        for mine, shared_ in zip(own[thread], common, strict=True):
            program.run(mine, ifindex=nat.interface)
            program.run(shared_, ifindex=nat.interface)

    threads = [threading.Thread(target=run, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    nat.datapath.sweep()
    entries = list(nat.datapath.bib())
    assert len(entries) == 4 * 150 + 150
    assert len({entry.port for entry in entries}) == len(entries)
    assert len({(entry.client, entry.client_port) for entry in entries}) == len(entries)
    (udp,) = [usage for usage in nat.datapath.usage() if usage.protocol == "udp"]
    assert udp.used == len(entries)
    assert len(list(nat.datapath.map("bib6").items())) == len(entries)
