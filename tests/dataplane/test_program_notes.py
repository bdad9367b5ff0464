"""What the programs note of clients and remote ends for a second: never seen but in the time saved.

No test depends on a note being there still, as a second may end at any time.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6

from nat64_dataplane.translator.host_view import PoolRange
from tests.dataplane.invariants import broken
from tests.dataplane.machine import POD, POOL, SERVER, Machine, Out, at, machine

pytestmark = pytest.mark.root

CLIENT, NEXT_HOP = "fd66::1", "192.0.2.254"


@pytest.fixture
def nat(shared: Machine) -> Iterator[Machine]:
    """Its pod0 leads to CLIENT, which is a known neighbour: only then is something noted."""
    neighbour = f"{CLIENT} lladdr 02:00:00:00:01:66 dev pod0"
    shared.node.ip(f"neigh replace {neighbour} nud permanent")
    with shared.routed(f"{CLIENT}/128 dev pod0"):
        shared.reset()
        yield shared
    shared.datapath.follow_pod_links(frozenset())


def opened(nat: Machine, sport: int, dport: int = 53, **run: int) -> Out:
    udp = UDP(sport=sport, dport=dport) / b"query"
    return nat.from_pod(IPv6(src=CLIENT, dst=at(SERVER)) / udp, **run)


def pass_by(nat: Machine, hears: str) -> None:
    if hears == "the agent":
        nat.datapath.note_route_change()
    else:
        nat.datapath.travel(1)


HEARS = pytest.mark.parametrize("hears", ["the agent", "nobody"])


@HEARS
def test_a_client_whose_route_has_gone_is_not_believed_any_more(nat: Machine, hears: str) -> None:
    assert opened(nat, 4000).translated
    nat.node.ip(f"route del {CLIENT}/128 dev pod0")
    pass_by(nat, hears)
    refused = opened(nat, 4001).dropped
    nat.node.ip(f"route add {CLIENT}/128 dev pod0")
    assert refused == "source_without_route"


def test_a_client_is_noted_for_the_link_that_it_uses_and_no_other(nat: Machine) -> None:
    nat.datapath.follow_pod_links(frozenset({nat.pod_link, nat.far_link}))
    for sport in range(4000, 4010):
        assert opened(nat, sport).translated
        other = opened(nat, sport + 100, ingress_ifindex=nat.far_link)
        assert other.dropped == "source_wrong_link"


def test_a_link_that_is_found_to_be_another_pods_ends_the_note(nat: Machine) -> None:
    assert opened(nat, 4000, ingress_ifindex=nat.far_link).translated
    nat.datapath.follow_pod_links(frozenset({nat.pod_link}))
    assert opened(nat, 4001, ingress_ifindex=nat.far_link).dropped == "source_wrong_link"


def test_a_source_that_a_new_config_refuses_is_refused_at_once(nat: Machine) -> None:
    assert opened(nat, 4000).translated
    nat.configure(policy={"allowedSources": [f"{POD}/128"]})
    assert opened(nat, 4001).dropped == "source_denied"


@HEARS
def test_a_way_out_that_has_gone_is_refused_and_claims_no_port(nat: Machine, hears: str) -> None:
    assert opened(nat, 4000).translated
    nat.node.ip("route replace unreachable default")
    pass_by(nat, hears)
    counted = opened(nat, 4001).counted
    nat.node.ip(f"route replace default via {NEXT_HOP} dev up0")
    assert "dropped_destination_unreachable" in counted
    assert len(list(nat.datapath.bib())) == 1


def test_a_way_out_is_noted_for_one_port_of_the_remote_end(nat: Machine) -> None:
    """A policy rule may tell ports apart. So many ports that the notes of some share a place."""
    nat.node.ip("rule add ipproto udp dport 2000-2999 unreachable")
    try:
        nat.datapath.note_route_change()
        for number in range(300):
            assert opened(nat, 4000, 1000 + number).translated
            refused = opened(nat, 4000, 2000 + number)
            assert "dropped_destination_without_route" in refused.counted
    finally:
        nat.node.ip("rule del ipproto udp dport 2000-2999 unreachable")
        nat.datapath.note_route_change()


def answered(nat: Machine, port: int, sport: int = 53, size: int = 8) -> dict[str, int]:
    udp = UDP(sport=sport, dport=port) / bytes(size)
    return nat.from_internet(IP(src=str(SERVER), dst=str(POOL), flags="DF") / udp).counted


@HEARS
def test_a_route_to_a_pod_that_has_gone_is_not_taken_any_more(nat: Machine, hears: str) -> None:
    nat.datapath.follow_pod_links(frozenset({nat.pod_link}))
    one, other = (opened(nat, sport).packet[UDP].sport for sport in (4000, 4001))
    assert "sent_fast" in answered(nat, one)
    nat.node.ip(f"route del {CLIENT}/128 dev pod0")
    pass_by(nat, hears)
    way = answered(nat, other)
    nat.node.ip(f"route add {CLIENT}/128 dev pod0")
    assert "sent_kernel" in way


def test_a_route_to_a_pod_is_noted_for_one_port_of_the_remote_end(nat: Machine) -> None:
    """Likewise."""
    nat.datapath.follow_pod_links(frozenset({nat.pod_link}))
    rule = ("ipproto", "udp", "sport", "2000-2999", "unreachable")
    nat.node.run("ip", "-6", "rule", "add", *rule)
    try:
        nat.datapath.note_route_change()
        for number in range(300):
            port = opened(nat, 4000, 1000 + number).packet[UDP].sport
            assert opened(nat, 4000, 2000 + number).packet[UDP].sport == port
            assert "sent_fast" in answered(nat, port, 1000 + number)
            assert "sent_kernel" in answered(nat, port, 2000 + number)
    finally:
        nat.node.run("ip", "-6", "rule", "del", *rule)
        nat.datapath.note_route_change()


def test_a_packet_too_long_for_the_route_to_a_pod_goes_to_the_kernel(nat: Machine) -> None:
    nat.datapath.follow_pod_links(frozenset({nat.pod_link}))
    nat.node.ip(f"route replace {CLIENT}/128 dev pod0 mtu lock 1300")
    nat.datapath.note_route_change()
    for sport in range(4000, 4010):
        port = opened(nat, sport).packet[UDP].sport
        assert "sent_fast" in answered(nat, port)
        port = opened(nat, sport + 100).packet[UDP].sport
        assert "sent_kernel" in answered(nat, port, size=1300)


def syn(nat: Machine, flags: str = "S", mss: int = 1440) -> Out:
    tcp = TCP(sport=4000, dport=80, flags=flags, options=[("MSS", mss)])
    return nat.from_pod(IPv6(src=str(POD), dst=at(SERVER)) / tcp)


def mss_of_answer(nat: Machine, port: int) -> int:
    tcp = TCP(sport=80, dport=port, flags="SA", options=[("MSS", 1460)])
    out = nat.from_internet(IP(src=str(SERVER), dst=str(POOL)) / tcp)
    found: int = dict(out.packet[TCP].options)["MSS"]
    return found


def test_each_syn_asks_for_the_routes_anew_and_its_answer_gets_the_same(nat: Machine) -> None:
    try:
        for mtu in (1400, 1300, 1480):
            nat.node.ip(f"route replace default via {NEXT_HOP} dev up0 mtu lock {mtu}")
            nat.datapath.note_route_change()
            port = syn(nat).packet[TCP].sport
            assert mss_of_answer(nat, port) == mtu - 40
            assert mss_of_answer(nat, port) == mtu - 40, "sent again"
    finally:
        nat.node.ip(f"route replace default via {NEXT_HOP} dev up0")


def test_lent_ports_are_counted_and_found() -> None:
    """While none is counted, packets don't look for one."""
    with machine() as nat:
        nat.configure((PoolRange(POOL, 61001, 61002),))

        def out(number: int) -> Out:
            tcp = TCP(sport=5000 + number, dport=80 + number, flags="S")
            return nat.from_pod(IPv6(src=str(POD), dst=at(SERVER)) / tcp)

        ports = [out(number).packet[TCP].sport for number in range(6)]
        assert nat.datapath.counters()["ports_lent_6to4"] == 4
        assert [out(number).packet[TCP].sport for number in range(6)] == ports
        assert not broken(nat.datapath)
        nat.datapath.travel(10_000)
        nat.datapath.sweep()
        nat.datapath.sweep()
        assert not list(nat.datapath.map("overloads").items())
        assert not broken(nat.datapath)
