"""Several ways out: which one a session takes, and what of its state belongs to it."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror, UDPerror
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6

from nat64_dataplane.config import Limits
from nat64_dataplane.translator.datapath.carry_over import Carrier
from nat64_dataplane.translator.datapath.datapath import Datapath
from nat64_dataplane.translator.host_view import HostView, PoolRange, Uplink
from tests.dataplane.invariants import broken
from tests.dataplane.machine import (
    POD,
    POD2,
    POOL,
    REDIRECT,
    SERVER,
    Machine,
    Out,
    _index,
    at,
    machine,
    right_checksums,
)

pytestmark = pytest.mark.root

LAN = IPv4Address("198.51.100.65")
ON_LAN, BY_LAN = IPv4Address("198.51.100.77"), IPv4Address("203.0.113.200")
WORLD = PoolRange(POOL, 61000, 61003, POOL)
LOCAL = PoolRange(LAN, 61000, 61003, LAN)


class TwoWays(Machine):
    """A default route by up0, a LAN by lan0."""

    @property
    def host(self) -> HostView:
        found = super().host
        return HostView(
            **{name: getattr(found, name) for name in found.__slots__ if name not in SET_HERE},
            uplinks=(
                Uplink(self.uplink, 1500, "up0", zone=POOL),
                Uplink(_index("lan0"), 1500, "lan0", external=False, zone=LAN, lan=True),
            ),
            links_of_zones=((POOL, (self.uplink,)), (LAN, (_index("lan0"),))),
            marks=((7, 0xFF),),
        )

    def from_lan(self, packet: IP) -> Out:
        return self.from_internet(packet, ifindex=_index("lan0"), ingress_ifindex=_index("lan0"))


SET_HERE = ("uplinks", "links_of_zones", "marks")


@pytest.fixture(scope="module")
def built() -> Iterator[TwoWays]:
    with machine(kind=TwoWays) as made:
        assert isinstance(made, TwoWays)
        made.node.ip(
            "link add lan0 address 02:00:00:00:00:64 type veth peer name lanfar0",
            "link set lan0 up",
            "link set lanfar0 up",
            f"addr add {LAN}/26 dev lan0",
            "neigh add 198.51.100.77 lladdr 02:00:00:00:03:77 dev lan0 nud permanent",
        )
        yield made


@pytest.fixture
def nat(built: TwoWays) -> TwoWays:
    built.reset((WORLD, LOCAL))
    return built


def send(nat: Machine, to: IPv4Address, sport: int = 4000, pod: object = POD, **run: int) -> Out:
    return nat.from_pod(IPv6(src=str(pod), dst=at(to)) / UDP(sport=sport, dport=53), **run)


def syn(nat: Machine, to: IPv4Address, sport: int = 4000, flags: str = "S") -> Out:
    return nat.from_pod(IPv6(src=str(POD), dst=at(to)) / TCP(sport=sport, dport=80, flags=flags))


def test_each_way_has_its_own_source_address_and_mapping(nat: TwoWays) -> None:
    world, local = send(nat, SERVER), send(nat, ON_LAN)
    assert (world.packet.src, local.packet.src) == (str(POOL), str(LAN))
    assert right_checksums(local.packet)
    again = send(nat, IPv4Address("198.51.100.78"))
    assert (again.packet.src, again.packet.sport) == (str(LAN), local.packet.sport)
    assert len(list(nat.datapath.bib())) == 2


def test_replies_come_back_by_the_way_of_their_session_and_by_no_lan_else(nat: TwoWays) -> None:
    world, local = send(nat, SERVER).packet, send(nat, ON_LAN).packet
    reply = IP(src=str(ON_LAN), dst=str(LAN)) / UDP(sport=53, dport=local.sport)
    assert nat.from_lan(reply).translated
    assert nat.from_internet(reply).translated, "an uplink may have any way behind it"
    forged = IP(src=str(SERVER), dst=str(POOL)) / UDP(sport=53, dport=world.sport)
    assert nat.from_internet(forged).translated, "this one is true"
    assert nat.from_lan(forged).passed, "and here it isn't, whatever was noted"


def test_an_error_from_a_lan_is_believed_about_its_own_sessions_only(nat: TwoWays) -> None:
    def error(about: IP, source: IPv4Address) -> IP:
        inner = IPerror(src=about.src, dst=about.dst) / UDPerror(sport=about.sport, dport=53)
        return IP(src=str(source), dst=about.src) / ICMP(type=3, code=1) / inner

    world, local = send(nat, SERVER).packet, send(nat, ON_LAN).packet
    assert nat.from_lan(error(local, ON_LAN)).translated
    assert nat.from_lan(error(world, SERVER)).passed
    assert nat.from_internet(error(world, SERVER)).translated


def test_a_pods_error_finds_its_session_in_any_zone(nat: TwoWays) -> None:
    sent = send(nat, ON_LAN).packet
    reply = IP(src=str(ON_LAN), dst=str(LAN)) / UDP(sport=53, dport=sent.sport)
    inner = nat.from_lan(reply).packet
    error = IPv6(src=str(POD), dst=at(ON_LAN)) / ICMPv6PacketTooBig(mtu=1400) / inner
    out = nat.from_pod(error)
    assert out.translated
    assert (out.packet.src, out.packet[IPerror].dst) == (str(LAN), str(LAN))


def test_a_session_keeps_its_way_when_routes_change_and_new_ones_follow(nat: TwoWays) -> None:
    before = send(nat, BY_LAN).packet
    assert before.src == str(POOL)
    with nat.routed(f"{BY_LAN} via 198.51.100.77 dev lan0"):
        nat.datapath.note_route_change()
        nat.datapath.travel(2)
        kept = send(nat, BY_LAN).packet
        assert (kept.src, kept.sport) == (before.src, before.sport)
        fresh = nat.from_pod(IPv6(src=str(POD), dst=at(BY_LAN)) / UDP(sport=4000, dport=54)).packet
        assert fresh.src == str(LAN)
        again = send(nat, BY_LAN).packet
        assert (again.src, again.sport) == (before.src, before.sport)


def test_ports_run_out_in_one_zone_and_not_in_the_other(nat: TwoWays) -> None:
    for number in range(4):
        assert send(nat, ON_LAN, 5000 + number).translated
    assert "dropped_ports_exhausted" in send(nat, ON_LAN, 5004).counted
    assert send(nat, SERVER, 5004).packet.src == str(POOL)


def test_shared_ports_are_of_the_zone(nat: TwoWays) -> None:
    nat.reset((WORLD, LOCAL), overloadTcpPorts=True)
    for number in range(6):
        assert syn(nat, IPv4Address(int(ON_LAN) + number), 5000 + number).packet.src == str(LAN)
    found = {session.address for session in nat.datapath.sessions()}
    assert found == {LAN}


def test_hairpin_speaks_from_the_zone_that_it_is_sent_to(nat: TwoWays) -> None:
    nat.reset((WORLD, LOCAL), filtering="EndpointIndependent")
    target = send(nat, ON_LAN, pod=POD2).packet
    out = nat.from_pod(IPv6(src=str(POD), dst=at(LAN)) / UDP(sport=4000, dport=target.sport))
    assert out.counted["hairpinned"] == 1
    assert out.packet.src == str(LAN)


def test_a_static_mapping_is_of_its_addresss_zone(nat: TwoWays) -> None:
    mapping = {"protocol": "udp", "address": str(LAN), "port": 5353}
    mapping |= {"client": str(POD), "clientPort": 53}
    nat.reset((WORLD, LOCAL), staticMappings=[mapping])
    assert send(nat, ON_LAN, 53).packet.sport == 5353
    assert send(nat, SERVER, 53).packet.src == str(POOL)
    question = IP(src=str(ON_LAN), dst=str(LAN)) / UDP(sport=9, dport=5353)
    assert nat.from_lan(question).translated
    assert nat.from_internet(question).translated


def test_sweeps_take_away_all_of_a_zone(nat: TwoWays) -> None:
    send(nat, ON_LAN)
    send(nat, SERVER)
    nat.datapath.travel(1000)
    nat.datapath.sweep()
    nat.datapath.sweep()
    assert not list(nat.datapath.bib())
    assert not list(nat.datapath.map("bib6").items())


def test_a_zone_keeps_its_number_while_others_come_and_go(nat: TwoWays) -> None:
    local = send(nat, ON_LAN).packet
    nat.configure((LOCAL,))
    assert send(nat, ON_LAN).packet.sport == local.sport
    nat.configure((PoolRange(LAN, 61000, 61003, LAN), PoolRange(POOL, 61000, 61003, POOL)))
    assert send(nat, ON_LAN).packet.sport == local.sport
    assert send(nat, SERVER).packet.src == str(POOL)


def test_what_has_no_zone_leaves_as_the_rest_of_the_world_does(nat: TwoWays) -> None:
    nat.reset((WORLD, PoolRange(IPv4Address("192.0.2.9"), 61000, 61003, IPv4Address("192.0.2.9"))))
    assert send(nat, ON_LAN).packet.src == str(POOL)


def test_zones_are_taken_along_to_other_maps(built: TwoWays, root: Path) -> None:
    built.reset((WORLD, LOCAL))
    small = built.datapath
    with (
        Datapath.open(root, "old", Limits(sessions=1024)) as old,
        Datapath.open(root, "new", Limits(sessions=2048)) as new,
    ):
        try:
            built.datapath = old
            built.configure((LOCAL, WORLD))  # other numbers than a new start would give
            built.configure((WORLD, LOCAL))
            local, world = send(built, ON_LAN).packet, send(built, SERVER).packet
            assert old.directory
            assert Carrier(old.directory, new).copy_all() == ""
            built.datapath = new
            built.configure((WORLD, LOCAL))
            assert send(built, ON_LAN).packet.sport == local.sport
            assert send(built, SERVER).packet.sport == world.sport
            assert broken(new) == []
        finally:
            built.datapath = small


@pytest.mark.parametrize(
    ("kind", "reason", "code"),
    [
        ("unreachable", "destination_unreachable", 0),
        ("prohibit", "destination_prohibited", 1),
        ("blackhole", "destination_blackhole", -1),
    ],
)
def test_a_route_that_refuses_is_answered_without_the_kernels_limit(
    nat: TwoWays, kind: str, reason: str, code: int
) -> None:
    with nat.routed(f"{kind} {BY_LAN}"):
        for port in range(4000, 4020):
            out = send(nat, BY_LAN, port)
            assert f"dropped_{reason}" in out.counted
            if code < 0:
                assert out.verdict != REDIRECT, "nobody is told"
            else:
                assert (out.packet.payload.type, out.packet.payload.code) == (1, code)
    assert not list(nat.datapath.bib())


def test_connections_without_any_reply_are_counted_by_zone(nat: TwoWays) -> None:
    def unanswered() -> tuple[int, int]:
        counted = nat.datapath.unanswered()
        return counted[POOL], counted[LAN]

    before = unanswered()
    syn(nat, ON_LAN, 5000)
    sent = syn(nat, ON_LAN, 5001).packet
    syn(nat, SERVER, 5000)
    assert unanswered() == (before[0] + 1, before[1] + 2)
    answer = TCP(sport=80, dport=sent.sport, flags="SA")
    assert nat.from_lan(IP(src=str(ON_LAN), dst=str(LAN)) / answer).translated
    assert unanswered() == (before[0] + 1, 0)


def test_closed_connections_of_another_zone_dont_stand_in_the_way(nat: TwoWays) -> None:
    """Ports are scarce in one zone; those that were closed first are another's."""
    nat.reset((WORLD, LOCAL), overloadTcpPorts=False)

    def closed(to: IPv4Address, sport: int) -> None:
        sent = syn(nat, to, sport).packet
        back = IP(src=str(to), dst=sent.src)
        by = nat.from_lan if sent.src == str(LAN) else nat.from_internet
        for flags in ("SA", "FA"):
            by(back / TCP(sport=80, dport=sent.sport, flags=flags))
        syn(nat, to, sport, "FA")

    for number in range(4):
        closed(SERVER, 5000 + number)
    for number in range(4):
        closed(ON_LAN, 6000 + number)
    nat.datapath.travel(5)
    assert syn(nat, ON_LAN, 7000).packet.src == str(LAN)


def test_a_zone_of_dedicated_addresses_outlives_another_address_of_the_node(nat: TwoWays) -> None:
    dedicated = IPv4Address("192.0.2.77")
    nat.reset((PoolRange(dedicated, 61000, 61003, POOL), LOCAL))
    before, local = send(nat, SERVER).packet, send(nat, ON_LAN).packet
    nat.configure((PoolRange(dedicated, 61000, 61003, IPv4Address("192.0.2.2")), LOCAL))
    after = nat.from_pod(IPv6(src=str(POD), dst=at(SERVER)) / UDP(sport=4000, dport=54)).packet
    assert (after.src, after.sport) == (before.src, before.sport)
    assert send(nat, ON_LAN).packet.sport == local.sport
