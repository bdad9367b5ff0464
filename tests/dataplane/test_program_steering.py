"""Topology Gateway on the bench: which gateway node a client gets, and what a probe is answered."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from ipaddress import IPv6Address, IPv6Network
from typing import Any

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    IPv6,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from nat64_dataplane.topology import PROBE_PORT, probe_address
from nat64_dataplane.translator.datapath.abi_topology import (
    NO_GATEWAY,
    SERVING_SECONDS,
    STEERING_PLACES,
    GatewayState,
    NodeRole,
    ProbeState,
    place_of,
)
from nat64_dataplane.translator.datapath.topology_maps import Gateway, Standing
from tests.dataplane.machine import (
    NEXT,
    POD,
    PREFIX,
    REDIRECT,
    SERVER,
    SHOT,
    Machine,
    Out,
    at,
    machine,
    right_checksums,
)

pytestmark = pytest.mark.root

NODE = IPv6Address("fd64:9::1")
ADDRESSES = [IPv6Address("fd64:9::a") + number for number in range(3)]
ESTABLISHED = 7440
HEALTHY, DRAINING, DEAD = GatewayState.HEALTHY, GatewayState.DRAINING, GatewayState.DEAD
_LINK = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:64")
_POD_LINK = Ether(src="02:00:00:00:01:10", dst="02:00:00:00:01:01")
CLIENTS = [IPv6Address("fd64:1::1:0") + 7919 * number for number in range(64)]


class Router(Machine):
    """A Machine that steers. Its gateways have the numbers 0, 1 and 2."""

    def steer(self, *states: GatewayState, table: list[int] | None = None) -> None:
        """Have gateways of these states. Without `table`, those that are healthy take turns."""
        gateways = {
            number: Gateway(ADDRESSES[number], state) for number, state in enumerate(states)
        }
        takers = [n for n, state in enumerate(states) if state is HEALTHY] or [NO_GATEWAY]
        turns = [takers[place % len(takers)] for place in range(STEERING_PLACES)]
        self.datapath.topology.steer(gateways, table or turns)

    def steered(self, packet: Packet | bytes, **run: Any) -> Out:
        """Give `packet`, which starts at its IPv6 header, to nat64_steer."""
        run.setdefault("ifindex", self.interface)
        run.setdefault("ingress_ifindex", self.pod_link)
        return self._run("nat64_steer", packet, _LINK, run)

    def where_pods_come_in(
        self, packet: Packet | bytes, *, link: Packet = _POD_LINK, **run: Any
    ) -> Out:
        """Give it to nat64_steer_offload."""
        run.setdefault("ifindex", self.pod_link)
        run.setdefault("ingress_ifindex", run["ifindex"])
        return self._run("nat64_steer_offload", packet, link, run)

    def tunnelled(self, program: str, packet: Packet) -> Out:
        """Give it to a program of the tunnel's link."""
        run = {"ifindex": self.far_link, "ingress_ifindex": self.far_link}
        return self._run(program, packet, _LINK, run)

    def numbers(self) -> dict[IPv6Address, int]:
        """Which gateway each client has."""
        return {each.client: each.number for each in self.datapath.topology.affinities()}


def as_gateway(nat: Machine, **config: Any) -> None:
    """Have the machine be a gateway node for NODE, whose packets come by the link far0."""
    nat.reset(topology={"role": "Gateway"}, **config)
    nat.datapath.topology.place_node(Standing(NodeRole.GATEWAY, ADDRESSES[0], nat.far_link, 7))
    nat.datapath.topology.follow_peers({IPv6Network("fd64:2::/64"): NODE})
    nat.datapath.follow_pod_links(frozenset({nat.far_link}))
    nat.datapath.topology.say(ProbeState.SERVING)


@pytest.fixture(scope="module")
def machines() -> Iterator[Router]:
    with machine(kind=Router) as built:
        assert isinstance(built, Router)
        built.node.sysctl(net__ipv6__conf__far0__disable_ipv6=0)
        built.node.ip(
            "addr add fd64:9::a/64 dev far0 nodad",
            "route add fd64:2::/64 via fd64:9::1 dev far0",
            f"neigh add {NODE} lladdr 02:00:00:00:09:01 dev far0 nud permanent",
        )
        yield built


def as_router(nat: Router, *, direct: bool = False) -> None:
    """Have the machine be a router node, whose three gateway nodes are well."""
    nat.reset(topology={"role": "Router"})
    affinities = nat.datapath.map("affinities")
    for key in affinities.keys():  # noqa: SIM118  a Map isn't a dict
        affinities.delete(key)
    standing = Standing(NodeRole.ROUTER, NODE, nat.far_link, 7, direct)
    nat.datapath.topology.place_node(standing)
    nat.datapath.topology.follow_peers({IPv6Network(a): a for a in ADDRESSES})
    nat.datapath.follow_pod_links(frozenset())
    nat.steer(HEALTHY, HEALTHY, HEALTHY)


@pytest.fixture
def router(machines: Router) -> Router:
    as_router(machines)
    return machines


@pytest.fixture
def gateway(machines: Router) -> Router:
    as_gateway(machines)
    return machines


def syn(client: IPv6Address = POD) -> Packet:
    return IPv6(src=str(client), dst=at(SERVER)) / TCP(sport=4000, dport=80)


def probe(
    source: IPv6Address = NODE, number: int = 0, state: int = 0, size: int = 16, **fields: Any
) -> Packet:
    payload = struct.pack(">4sBBBxQ", b"n64p", 1, state, number, 0x0123456789ABCDEF)
    udp = UDP(**{"sport": 5000, "dport": PROBE_PORT} | fields)
    ip = IPv6(src=str(source), dst=str(probe_address(PREFIX)))
    return ip / udp / Raw(payload.ljust(size, b"\0")[:size])


# Which gateway


def test_program_and_python_find_the_same_place_in_the_table(router: Router) -> None:
    table = [place % 3 for place in range(STEERING_PLACES)]
    router.steer(HEALTHY, HEALTHY, HEALTHY, table=table)
    for client in CLIENTS:
        place = place_of(client.packed)
        assert router.datapath.topology.choice(client, ESTABLISHED) == (table[place], False, place)
        assert router.steered(syn(client)).counted["steered"] == 1
        assert router.numbers()[client] == table[place]
        assert router.datapath.topology.choice(client, ESTABLISHED) == (table[place], True, place)
    assert len(set(router.numbers().values())) == 3


def test_client_keeps_its_gateway_when_the_table_changes(router: Router) -> None:
    old, new = CLIENTS[:32], CLIENTS[32:]
    router.steer(HEALTHY, HEALTHY, table=[0] * STEERING_PLACES)
    for client in old:
        assert router.steered(syn(client)).counted["clients_assigned"] == 1
    router.steer(HEALTHY, HEALTHY, table=[1] * STEERING_PLACES)
    for client in (*old, *new):
        out = router.steered(syn(client))
        assert (out.verdict, out.counted["steered"]) == (REDIRECT, 1)
        assert ("clients_assigned" in out.counted) == (client in new)
    assert router.numbers() == dict.fromkeys(old, 0) | dict.fromkeys(new, 1)


def test_gateway_that_drains_keeps_its_clients_and_gets_none(router: Router) -> None:
    router.steer(HEALTHY, HEALTHY, table=[0] * STEERING_PLACES)
    router.steered(syn(CLIENTS[0]))
    router.steer(DRAINING, HEALTHY)
    for client in CLIENTS[:2]:
        assert router.steered(syn(client)).counted["steered"] == 1
    assert router.numbers() == {CLIENTS[0]: 0, CLIENTS[1]: 1}


def test_gateway_that_comes_back_gets_new_clients_only(router: Router) -> None:
    router.steer(HEALTHY, HEALTHY, table=[0] * STEERING_PLACES)
    router.steered(syn(CLIENTS[0]))
    router.steer(DEAD, HEALTHY)
    router.steered(syn(CLIENTS[0]))
    assert router.numbers() == {CLIENTS[0]: 1}
    router.steer(HEALTHY, HEALTHY, table=[0] * STEERING_PLACES)
    for client in CLIENTS[:2]:
        router.steered(syn(client))
    assert router.numbers() == {CLIENTS[0]: 1, CLIENTS[1]: 0}


def test_client_that_is_silent_for_longer_than_any_session_chooses_anew(router: Router) -> None:
    router.steer(HEALTHY, HEALTHY, table=[0] * STEERING_PLACES)
    router.steered(syn())
    router.steer(HEALTHY, HEALTHY, table=[1] * STEERING_PLACES)
    for _ in range(3):
        router.datapath.travel(ESTABLISHED - 60)
        router.steered(syn())
        assert router.numbers()[POD] == 0
    router.datapath.travel(ESTABLISHED + 60)
    assert router.datapath.topology.choice(POD, ESTABLISHED).number == 1
    router.steered(syn())
    assert router.numbers()[POD] == 1


def test_number_of_another_gateway_is_no_affinity(router: Router) -> None:
    steer = router.datapath.topology.steer
    router.steer(HEALTHY, HEALTHY, table=[0] * STEERING_PLACES)
    router.steered(syn())
    new = {0: Gateway(ADDRESSES[2], HEALTHY), 1: Gateway(ADDRESSES[1], HEALTHY)}
    steer(new, [1] * STEERING_PLACES)
    assert router.numbers() == {}
    router.steered(syn())
    assert router.numbers() == {POD: 1}


@pytest.mark.parametrize("states", [(), (DEAD, DEAD), (DRAINING,)])
def test_without_a_gateway_the_pod_is_told_at_once(
    router: Router, states: tuple[GatewayState, ...]
) -> None:
    router.steer(*states)
    for packet in (syn(), IPv6(src=str(POD), dst=at(SERVER)) / ICMPv6EchoRequest(id=1)):
        out = router.steered(packet)
        assert out.counted["dropped_no_gateway"] == 1
        assert out.verdict == REDIRECT
        error = out.packet
        assert (error.src, error.dst) == (at(SERVER), str(POD))
        assert (error[ICMPv6DestUnreach].type, error[ICMPv6DestUnreach].code) == (1, 0)
        assert right_checksums(error)
    assert router.numbers() == {}


def test_no_error_is_sent_about_an_error(router: Router) -> None:
    router.steer(DEAD)
    inner = IPv6(src=at(SERVER), dst=str(POD)) / UDP(sport=53, dport=4000)
    out = router.steered(IPv6(src=str(POD), dst=at(SERVER)) / ICMPv6DestUnreach(code=4) / inner)
    assert (out.verdict, out.counted["dropped_no_gateway"]) == (SHOT, 1)


def test_error_goes_to_the_gateway_of_the_client_that_it_is_about(router: Router) -> None:
    """A router on the way to the pod tells the server what fits, and has no gateway of its own."""
    router.steer(HEALTHY, table=[0] * STEERING_PLACES)
    router.steered(syn())
    router.steer(DRAINING, DEAD, table=[1] * STEERING_PLACES)
    inner = IPv6(src=at(SERVER), dst=str(POD)) / TCP(sport=80, dport=4000)
    error = IPv6(src="fd64:1::2", dst=at(SERVER)) / ICMPv6PacketTooBig(mtu=1300) / inner
    assert router.steered(error).counted["steered"] == 1
    assert set(router.numbers()) == {POD}


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (at(SERVER), "source_in_prefix"),
        ("fe80::1", "source_illegal"),
        ("ff02::1", "source_illegal"),
        ("::1", "source_illegal"),
        ("fd64:2::10", "source_wrong_link"),
        ("2001:db8:ffff::1", "source_without_route"),
    ],
)
def test_forged_source_is_not_steered(router: Router, source: str, reason: str) -> None:
    router.datapath.follow_pod_links(frozenset({router.pod_link, router.far_link}))
    assert router.steered(syn()).counted["steered"] == 1
    out = router.steered(syn(IPv6Address(source)))
    assert (out.verdict, out.counted.get(f"dropped_{reason}")) == (SHOT, 1)


def test_what_is_not_for_ipv4_passes(router: Router) -> None:
    out = router.steered(IPv6(src=str(POD), dst="fd64:5::1") / UDP())
    assert out.verdict == NEXT
    assert out.counted == {"received": 1, "passed": 1}


def test_node_without_a_role_steers_nothing(router: Router) -> None:
    router.datapath.topology.place_node(Standing())
    assert router.steered(syn()).counted["dropped_not_configured"] == 1


def test_gateway_that_is_no_neighbour_gets_nothing_directly(router: Router) -> None:
    router.datapath.topology.place_node(Standing(NodeRole.ROUTER, NODE, direct=True))
    assert router.steered(syn()).counted["steered"] == 1
    far = {0: Gateway(IPv6Address("fd64:2::a"), HEALTHY)}
    router.datapath.topology.steer(far, [0] * STEERING_PLACES)
    out = router.steered(syn(CLIENTS[0]))
    assert (out.verdict, out.counted["dropped_gateway_not_on_link"]) == (SHOT, 1)


# Probes, on the router node


@pytest.mark.parametrize("state", [HEALTHY, DRAINING, DEAD])
def test_probe_goes_to_the_gateway_whose_number_is_in_it(
    router: Router, state: GatewayState
) -> None:
    router.steer(HEALTHY, state)
    out = router.steered(probe(number=1), ingress_ifindex=0)
    assert (out.verdict, out.counted) == (REDIRECT, {"received": 1, "probes_sent": 1})
    assert router.numbers() == {}


def test_probe_to_no_gateway_is_dropped(router: Router) -> None:
    for number in (3, 63, 64, 255):
        out = router.steered(probe(number=number), ingress_ifindex=0)
        assert out.counted["dropped_no_gateway"] == 1


def test_nothing_else_of_the_node_goes_to_the_probe_address(router: Router) -> None:
    for packet in (probe(size=15), probe(size=17), probe() / Raw(b"x")):
        out = router.steered(packet, ingress_ifindex=0)
        assert (out.verdict, out.counted["dropped_destination_special"]) == (SHOT, 1)


def test_pod_chooses_no_gateway_by_a_probe(router: Router) -> None:
    router.steer(HEALTHY, DEAD)
    assert "probes_sent" not in router.steered(probe(source=POD, number=1)).counted


# Probes, on the gateway node


def ask(gateway: Router, packet: Packet, **run: int) -> Out:
    run.setdefault("ingress_ifindex", gateway.far_link)
    return gateway.from_pod(packet, **run)


def answer(out: Out) -> ProbeState:
    """The state in an answer, once the rest of it has been checked."""
    assert (out.verdict, out.counted) == (REDIRECT, {"received": 1, "probes_answered": 1})
    packet = out.packet
    assert (packet.src, packet.dst) == (str(probe_address(PREFIX)), str(NODE))
    assert (packet[UDP].sport, packet[UDP].dport, packet.hlim) == (PROBE_PORT, 5000, 64)
    assert right_checksums(packet)
    magic, version, state, number, nonce = struct.unpack(">4sBBBxQ", bytes(packet[UDP].payload))
    assert (magic, version, number, nonce) == (b"n64p", 1, 5, 0x0123456789ABCDEF)
    return ProbeState(state)


@pytest.mark.parametrize("said", [ProbeState.SERVING, ProbeState.DRAINING, ProbeState.NOT_SERVING])
def test_probe_is_answered_with_what_the_agent_has_said(gateway: Router, said: ProbeState) -> None:
    gateway.datapath.topology.say(said)
    assert answer(ask(gateway, probe(number=5))) is said
    assert gateway.datapath.topology.said() is said


def test_agent_is_believed_for_five_minutes(gateway: Router) -> None:
    gateway.datapath.travel(SERVING_SECONDS - 60)
    assert answer(ask(gateway, probe(number=5))) is ProbeState.SERVING
    gateway.datapath.travel(120)
    assert answer(ask(gateway, probe(number=5))) is ProbeState.NOT_SERVING
    assert gateway.datapath.topology.said() is ProbeState.NOT_SERVING
    gateway.datapath.topology.say(ProbeState.SERVING)
    assert answer(ask(gateway, probe(number=5))) is ProbeState.SERVING


@pytest.mark.parametrize(
    "config",
    [
        {"policy": {"allowedDestinations": ["0.0.0.0/0", "192.0.0.8/32"], "allowNonGlobal": True}},
        {"policy": {"allowedSources": ["fd64:1::/64"]}},
        {"policy": {"podRanges": ["fd64:1::/64"]}},
        {"limits": {"newSessionsPerSecondPerClient": 1}},
    ],
)
def test_probe_is_answered_whatever_the_policy(machines: Router, config: Mapping[str, Any]) -> None:
    as_gateway(machines, **config)
    for _ in range(3):
        assert answer(ask(machines, probe(number=5))) is ProbeState.SERVING
    assert not list(machines.datapath.sessions())


@pytest.mark.parametrize(
    ("packet", "link"),
    [
        (probe(source=IPv6Address("fd64:2::10")), "far_link"),  # a pod of that node
        (probe(source=POD), "pod_link"),
        (probe(), "pod_link"),  # with a forged source
        (probe(), "uplink"),
        (probe(state=1), "far_link"),
        (probe(size=24), "far_link"),
        (probe(dport=53), "far_link"),
    ],
)
def test_nothing_but_a_probe_of_a_router_node_is_answered(
    gateway: Router, packet: Packet, link: str
) -> None:
    out = ask(gateway, packet, ingress_ifindex=getattr(gateway, link))
    assert "probes_answered" not in out.counted
    assert any(name.startswith("dropped_") for name in out.counted)


def test_probe_with_extension_headers_is_not_answered(gateway: Router) -> None:
    plain = probe()
    packet = IPv6(src=plain.src, dst=plain.dst) / IPv6ExtHdrRouting(segleft=0) / plain[UDP]
    assert "probes_answered" not in ask(gateway, packet).counted


def test_node_translates_probes_of_nobody_outside_the_topology(gateway: Router) -> None:
    gateway.datapath.topology.place_node(Standing())
    assert "probes_answered" not in ask(gateway, probe()).counted


# Sources, on the gateway node


@pytest.mark.parametrize("source", [NODE, IPv6Address("fd64:2::10")])
def test_sources_of_router_nodes_are_believed_from_the_tunnel_only(
    machines: Router, source: IPv6Address
) -> None:
    as_gateway(machines, policy={"podRanges": ["fd64:1::/64"]})
    as_forged = {machines.pod_link: "source_not_a_pod", machines.uplink: "source_behind_uplink"}
    for link, reason in as_forged.items():
        assert ask(machines, syn(source), ingress_ifindex=link).dropped == reason
    assert ask(machines, syn(source)).translated


def test_tunnel_brings_no_source_of_a_local_pod(machines: Router) -> None:
    as_gateway(machines)
    machines.datapath.follow_pod_links(frozenset({machines.pod_link, machines.far_link}))
    assert ask(machines, syn(POD)).dropped == "source_wrong_link"
    assert ask(machines, syn(POD), ingress_ifindex=machines.pod_link).translated


def test_directly_the_link_brings_sources_of_router_nodes_and_no_others(machines: Router) -> None:
    machines.outside = (machines.far_link,)
    try:
        as_gateway(machines, policy={"podRanges": ["fd64:1::/64"]})
        machines.datapath.follow_pod_links(frozenset())
        machines.datapath.topology.place_node(Standing(NodeRole.GATEWAY, ADDRESSES[0], direct=True))
        for source in (NODE, IPv6Address("fd64:2::10")):
            assert ask(machines, syn(source)).translated
        stranger = ask(machines, syn(IPv6Address("fd64:9::77")))
        assert stranger.dropped == "source_behind_uplink"
        # the policy's list stays the last word
        as_gateway(machines, policy={"allowedSources": ["fd64:1::/64"]})
        machines.datapath.topology.place_node(Standing(NodeRole.GATEWAY, ADDRESSES[0], direct=True))
        assert ask(machines, syn(NODE)).dropped == "source_denied"
    finally:
        machines.outside = ()


def test_router_nodes_that_use_no_tunnel_yet_or_any_more_are_believed_by_their_probes(
    machines: Router,
) -> None:
    """A gateway node with the transport Tunnel, while it changes on one side."""
    machines.outside = (machines.far_link,)
    try:
        as_gateway(machines)
        machines.datapath.follow_pod_links(frozenset({machines.pod_link}))
        tunnel = machines.uplink
        machines.datapath.topology.place_node(Standing(NodeRole.GATEWAY, ADDRESSES[0], tunnel, 7))
        pod = syn(IPv6Address("fd64:2::10"))
        by_pod = {"ingress_ifindex": machines.pod_link}
        assert ask(machines, pod).dropped == "source_behind_uplink"
        assert "probes_answered" not in ask(machines, probe(), **by_pod).counted
        assert ask(machines, pod, **by_pod).dropped == "source_behind_uplink"
        assert answer(ask(machines, probe(number=5))) is ProbeState.SERVING
        assert ask(machines, pod).translated
        pod = syn(IPv6Address("fd64:2::11"))
        assert ask(machines, pod, **by_pod).dropped == "source_behind_uplink"
        machines.datapath.travel(SERVING_SECONDS + 60)
        assert ask(machines, pod).dropped == "source_behind_uplink"
    finally:
        machines.outside = ()


def test_without_the_tunnel_sources_are_believed_by_the_link_to_their_node_only(
    machines: Router,
) -> None:
    as_gateway(machines)
    machines.datapath.follow_pod_links(frozenset())
    machines.datapath.topology.place_node(Standing(NodeRole.GATEWAY, ADDRESSES[0], direct=True))
    pod = syn(IPv6Address("fd64:2::10"))
    assert ask(machines, pod, ingress_ifindex=machines.pod_link).dropped == "source_wrong_link"
    assert ask(machines, pod).translated


# The tunnel's own programs


def test_reply_to_nobody_behind_a_router_node_is_dropped(gateway: Router) -> None:
    def leave(to: str) -> Out:
        packet = IPv6(src=at(SERVER), dst=to) / ICMPv6EchoReply(id=1)
        return gateway.tunnelled("nat64_encap", packet)

    for to in ("fd64:2::10", str(NODE)):
        out = leave(to)
        assert (out.verdict, out.counted) == (NEXT, {})
    out = leave("fd64:3::10")
    assert (out.verdict, out.counted) == (SHOT, {"received": 1, "dropped_no_router": 1})
    out = leave("ff02::2")  # what the kernel says by itself
    assert (out.verdict, out.counted) == (SHOT, {})


def test_packet_that_came_through_no_tunnel_is_no_members(gateway: Router) -> None:
    out = gateway.tunnelled("nat64_decap", syn(IPv6Address("fd64:2::10")))
    assert (out.verdict, out.counted) == (SHOT, {"received": 1, "dropped_tunnel_not_member": 1})


def test_all_packets_are_accounted_for(machines: Router) -> None:
    for direction, (received, outcomes) in machines.balance().items():
        assert received == outcomes, direction


# What the maps hold


def test_peers_follow_the_membership(gateway: Router) -> None:
    topology = gateway.datapath.topology
    other = IPv6Address("fd64:9::2")
    pods = {IPv6Network("fd64:2::/64"): NODE, IPv6Network("fd64:3::/64"): other}
    nodes = {IPv6Network(node): node for node in (NODE, other)}
    topology.follow_peers(pods)
    assert topology.peers() == pods | nodes
    # nobody takes another node's address by naming it as a range
    topology.follow_peers(pods | {IPv6Network(NODE): other})
    assert topology.peers() == pods | nodes
    topology.follow_peers({IPv6Network("fd64:3::/64"): NODE})
    assert topology.peers() == {IPv6Network("fd64:3::/64"): NODE, IPv6Network(NODE): NODE}
    # another process begins with what the kernel has
    again = type(topology)(gateway.datapath.maps, gateway.datapath.now, lambda: None)
    again.follow_peers({})
    assert topology.peers() == {}


@pytest.mark.bulk
def test_5000_router_nodes_fit(gateway: Router) -> None:
    pods = {
        IPv6Network((f"fd65:0:{node:x}:{block:x}::", 64)): IPv6Address(f"fd64:9:1::{node:x}")
        for node in range(1, 5001)
        for block in range(4)
    }
    gateway.datapath.topology.follow_peers(pods)
    assert len(gateway.datapath.topology.peers()) == 25000
    gateway.datapath.topology.follow_peers({})
