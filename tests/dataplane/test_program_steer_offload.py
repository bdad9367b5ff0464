"""Flow offload on a router node: packets of known flows are steered where they come in."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

import pytest
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from nat64_dataplane.translator.datapath.topology_maps import Standing
from tests.dataplane.machine import POD, POD2, REDIRECT, SERVER, Out, at, machine
from tests.dataplane.test_program_offload import forwarded, in_one_second, passed, tcp, udp
from tests.dataplane.test_program_steering import DEAD, DRAINING, HEALTHY, Router, as_router

pytestmark = pytest.mark.root

_ROUTE_MTU = 1430
_POD_LINK = Ether(src="02:00:00:00:01:10", dst="02:00:00:00:01:01")
_INSIDE = bytes.fromhex("020000000064020000000164")
"""The link-layer addresses inside the tunnel."""


@pytest.fixture(scope="module")
def built() -> Iterator[Router]:
    with machine(kind=Router) as made:
        assert isinstance(made, Router)
        made.route_mtu = _ROUTE_MTU
        made.node.sysctl(net__ipv6__conf__far0__disable_ipv6=0)
        made.node.ip(
            "addr add fd64:9::5/64 dev far0 nodad",
            "neigh add fd64:9::a lladdr 02:00:00:00:09:0a dev far0 nud permanent",
        )
        yield made


@pytest.fixture
def router(built: Router) -> Iterator[Router]:
    """It runs on one CPU, as notes are each CPU's own."""
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    yield built
    os.sched_setaffinity(0, cpus)


def let_pass(router: Router, packet: Packet, **run: int) -> Out:
    """The packet comes through the stack, to nat64_steer."""
    return router.steered(forwarded(packet), **run)


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("packet", [udp(0), udp(1200), tcp(), tcp("PA", 100), tcp("FA"), tcp("R")])
def test_a_packet_leaves_as_it_would_have_left(
    router: Router, direct: bool, packet: Packet
) -> None:
    def both() -> tuple[Out, Out]:
        as_router(router, direct=direct)
        if direct:
            router.steer(HEALTHY)
        return let_pass(router, packet), router.where_pods_come_in(packet)

    by_stack, here = in_one_second(router, both)
    assert (by_stack.verdict, here.verdict) == (REDIRECT, REDIRECT)
    assert here.counted == {"received": 1, "steered": 1, "offloaded": 1}
    assert here.frame[14:] == by_stack.frame[14:]
    assert here.packet.hlim == 63
    assert direct or here.frame[:12] == by_stack.frame[:12] == _INSIDE


def test_segments_of_one_connection_go_on_whole(router: Router) -> None:
    def act() -> Out:
        as_router(router)
        let_pass(router, tcp("PA", 100))
        run = {"gso_size": 1200, "gso_segs": 3}
        return router.where_pods_come_in(tcp("PA", 3000), **run)

    out = in_one_second(router, act)
    assert out.counted["offloaded"] == 1
    assert out.gso_size == 1200


class Row(NamedTuple):
    """A packet beside a known flow, or of one after something has happened."""

    name: str
    packet: Packet | bytes = udp()
    run: Mapping[str, int] = MappingProxyType({})
    link: Packet = _POD_LINK
    meanwhile: Callable[[Router], object] | None = None


OTHERS = [
    Row("of no flow", udp(sport=4001)),
    Row("from another client", udp(src=str(POD2))),
    Row("to another server", udp(dst=at("203.0.113.9"))),
    Row("not to the prefix", udp(dst="2001:db8::1")),
    Row("of another protocol", tcp()),
    Row("another traffic class", udp(tc=4)),
    Row("at the end of its hop limit", udp(hlim=1)),
    Row("beyond it", udp(hlim=0)),
    Row("with options", IPv6(src=str(POD), dst=at(SERVER)) / IPv6ExtHdrDestOpt() / udp().payload),
    Row(
        "a fragment",
        IPv6(src=str(POD), dst=at(SERVER)) / IPv6ExtHdrFragment(m=1, id=7) / udp().payload,
    ),
    Row("ICMP", IPv6(src=str(POD), dst=at(SERVER)) / ICMPv6EchoRequest(id=4000)),
    Row("longer than the route", udp(_ROUTE_MTU - 48 + 1)),
    Row("longer than it says", bytes(udp()) + b"padding"),
    Row("cut", bytes(udp())[:-1]),
    Row("to another host's link address", link=Ether(src=_POD_LINK.src, dst="02:00:00:00:09:09")),
    Row("marked", run={"mark": 7}),
    Row("with a priority", run={"priority": 3}),
    Row("after a change of routes", meanwhile=lambda r: r.datapath.note_route_change()),
    Row("in the next second", meanwhile=lambda r: r.datapath.travel(1)),
    Row("after another config", meanwhile=lambda r: r.configure(topology={"role": "Router"})),
    Row("after the death of its gateway", meanwhile=lambda r: r.steer(DEAD, DEAD, HEALTHY)),
    Row("after a drain", meanwhile=lambda r: r.steer(DRAINING, DRAINING, DRAINING)),
    Row("after a change of role", meanwhile=lambda r: r.datapath.topology.place_node(Standing())),
    Row("after a change of members", meanwhile=lambda r: r.datapath.topology.follow_peers({})),
]


@pytest.mark.parametrize("row", OTHERS, ids=lambda row: row.name.replace(" ", "_"))
def test_other_packets_pass(router: Router, row: Row) -> None:
    def act() -> tuple[Out, Out]:
        as_router(router)
        let_pass(router, udp())
        known = router.where_pods_come_in(udp(_ROUTE_MTU - 48))
        if row.meanwhile:
            row.meanwhile(router)
        return known, router.where_pods_come_in(row.packet, link=row.link, **row.run)

    known, out = in_one_second(router, act)
    assert known.counted["offloaded"] == 1
    assert passed(out, row.packet)


def test_the_same_packet_on_another_link_passes(router: Router) -> None:
    """Another pod has no part in what this one's packets were let pass for."""

    def act() -> Out:
        as_router(router)
        let_pass(router, udp())
        return router.where_pods_come_in(udp(), ifindex=router.uplink)

    assert passed(in_one_second(router, act), udp())


@pytest.mark.parametrize("beside", [{"mark": 1}, {"priority": 1}, {"ingress_ifindex": 0}])
def test_what_the_stack_has_put_beside_a_packet_is_not_lost(
    router: Router, beside: dict[str, int]
) -> None:
    """Neither is a flow of the node itself, which comes in on no link."""

    def act() -> Out:
        as_router(router)
        let_pass(router, udp(), **beside)
        return router.where_pods_come_in(udp())

    assert passed(in_one_second(router, act), udp())


@pytest.mark.parametrize("flags", ["S", "SA"])
def test_what_opens_a_connection_passes(router: Router, flags: str) -> None:
    def act() -> tuple[Out, Out]:
        as_router(router)
        let_pass(router, tcp("S"))
        return router.where_pods_come_in(tcp()), router.where_pods_come_in(tcp(flags))

    known, out = in_one_second(router, act)
    assert known.counted["offloaded"] == 1
    assert passed(out, tcp(flags))


@pytest.mark.parametrize("source", ["fd64:2::10", "2001:db8:ffff::1", at(SERVER)])
def test_a_forged_source_leaves_no_note(router: Router, source: str) -> None:
    def act() -> tuple[Out, Out]:
        as_router(router)
        router.datapath.follow_pod_links(frozenset({router.pod_link, router.far_link}))
        return let_pass(router, udp(src=source)), router.where_pods_come_in(udp(src=source))

    refused, out = in_one_second(router, act)
    assert "steered" not in refused.counted
    assert passed(out, udp(src=source))


def test_it_goes_where_the_client_s_packets_go_now(router: Router) -> None:
    """A gateway node that dies is left at once, not a second later."""

    def act() -> list[tuple[int, int]]:
        as_router(router)
        ways = []
        for states in ((HEALTHY,), (DEAD, HEALTHY)):
            router.steer(*states)
            let_pass(router, udp())
            offloaded = router.where_pods_come_in(udp()).counted.get("offloaded", 0)
            ways.append((offloaded, router.numbers()[POD]))
        return ways

    assert in_one_second(router, act) == [(1, 0), (1, 1)]
