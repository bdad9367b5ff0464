"""Flow offload of young flows, whose session must be asked: the first packets of a flow after the
one that the node's forwarding has let pass, and those that end a connection of a router node's pod.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from ipaddress import IPv6Address
from typing import Any, NamedTuple

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from nat64_dataplane.translator.datapath.abi_topology import NodeRole
from nat64_dataplane.translator.datapath.topology_maps import Standing
from tests.dataplane.machine import (
    NEXT,
    POD,
    POOL,
    REDIRECT,
    SERVER,
    Machine,
    Out,
    at,
    machine,
    right_checksums,
)
from tests.dataplane.test_program_offload import forwarded, in_one_second, passed, udp
from tests.dataplane.test_program_steering import ADDRESSES, NODE, Router, as_gateway

pytestmark = pytest.mark.root

BEHIND = IPv6Address("fd64:2::10")
"""A pod of the router node NODE."""
_FAR_LINK = Ether(src="02:00:00:00:09:01", dst="02:00:00:00:09:02")


@pytest.fixture(scope="module")
def built() -> Iterator[Router]:
    with machine(kind=Router) as made:
        assert isinstance(made, Router)
        made.node.sysctl(net__ipv6__conf__far0__disable_ipv6=0)
        made.node.ip(
            f"link set far0 address {_FAR_LINK.dst}",
            "addr add fd64:9::a/64 dev far0 nodad",
            "route add fd64:2::/64 via fd64:9::1 dev far0",
            f"neigh add {NODE} lladdr 02:00:00:00:09:01 dev far0 nud permanent",
        )
        yield made


@pytest.fixture
def nat(built: Router) -> Iterator[Router]:
    """It runs on one CPU, as notes are each CPU's own."""
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    yield built
    os.sched_setaffinity(0, cpus)


class Pod(NamedTuple):
    """A client, and where its packets come in."""

    nat: Router
    address: IPv6Address = POD

    def prepare(self) -> None:
        self.nat.reset()
        if self.address == BEHIND:
            as_gateway(self.nat)
            here = Standing(NodeRole.GATEWAY, ADDRESSES[0], direct=True)
            self.nat.datapath.topology.place_node(here)

    @property
    def ingress(self) -> int:
        return self.nat.far_link if self.address == BEHIND else self.nat.pod_link

    def segment(self, flags: str, **header: Any) -> Packet:
        fields = {"src": str(self.address), "dst": at(SERVER), "hlim": 64, **header}
        return IPv6(**fields) / TCP(sport=4000, dport=443, flags=flags)

    def here(self, packet: Packet) -> Out:
        """Where it comes in."""
        link = _FAR_LINK if self.address == BEHIND else None
        return self.nat.on_pod_link(packet, link=link, ifindex=self.ingress)

    def by_stack(self, packet: Packet) -> Out:
        return self.nat.from_pod(forwarded(packet), ingress_ifindex=self.ingress)

    def answer(self, flags: str, port: int) -> Out:
        packet = IP(src=str(SERVER), dst=str(POOL)) / TCP(sport=443, dport=port, flags=flags)
        return self.nat.from_internet(packet)

    def established(self) -> int:
        """A connection of which nothing but SYN has come through the stack; its pool port."""
        self.prepare()
        port: int = self.by_stack(self.segment("S")).packet[TCP].sport
        self.answer("SA", port)
        return port


def state(nat: Machine) -> tuple[str, int]:
    [session] = nat.datapath.sessions()
    return session.state, session.expires_in


@pytest.mark.parametrize("client", [POD, BEHIND])
def test_the_segment_that_completes_a_connection_goes_on(nat: Router, client: IPv6Address) -> None:
    pod = Pod(nat, client)

    def act() -> tuple[int, Out]:
        return pod.established(), pod.here(pod.segment("A"))

    port, out = in_one_second(nat, act)
    assert out.verdict == REDIRECT
    assert out.counted == {"received": 1, "translated": 1, "sent_fast": 1, "offloaded": 1}
    assert (out.packet.src, out.packet.dst, out.packet.ttl) == (str(POOL), str(SERVER), 63)
    assert out.packet[TCP].sport == port
    assert right_checksums(out.packet)


def test_the_second_datagram_of_a_flow_goes_on(nat: Router) -> None:
    pod = Pod(nat)

    def act() -> tuple[Out, Out]:
        pod.prepare()
        return pod.by_stack(udp()), pod.here(udp())

    first, second = in_one_second(nat, act)
    assert second.counted["offloaded"] == 1
    assert second.packet[UDP].sport == first.packet[UDP].sport
    assert right_checksums(second.packet)


HISTORIES = [
    "S <SA A PA <PA FA <FA A",
    "S <SA A <FA A FA <A",
    "S <SA A RA A",
    "S <SA A <RA A PA",
    "S <SA A FA FA PA <FA A S <SA A",
    "S <SA A FA S A",
    "S A PA <SA A",
    "S R <SA A",
]


@pytest.mark.parametrize("client", [POD, BEHIND])
@pytest.mark.parametrize("history", HISTORIES)
def test_a_connection_lives_as_it_would_have_lived(
    nat: Router, client: IPv6Address, history: str
) -> None:
    pod = Pod(nat, client)

    def live(*, offload: bool) -> tuple[list[tuple[str, int]], list[str]]:
        pod.prepare()
        states, here, port = [], [], 0
        for step in history.split():
            if step.startswith("<"):
                pod.answer(step[1:], port)
            else:
                packet = pod.segment(step)
                out = pod.here(packet) if offload else None
                if out and out.verdict != NEXT:
                    here.append(step)
                else:
                    out = pod.by_stack(packet)
                port = port or out.packet[TCP].sport
            states.append(state(nat))
        return states, here

    def both() -> tuple[Any, Any]:
        return live(offload=False), live(offload=True)

    (by_stack, _), (offloaded, here) = in_one_second(nat, both)
    assert offloaded == by_stack
    assert "S" not in here
    assert client == BEHIND or {"FA", "RA", "R"}.isdisjoint(here)
    assert not history.startswith("S <SA A") or here[0] == "A"


@pytest.mark.parametrize(("flags", "then"), [("FA", "v6-fin"), ("RA", "trans"), ("R", "trans")])
def test_what_ends_a_connection_goes_on_if_another_nodes_filters_have_seen_it(
    nat: Router, flags: str, then: str
) -> None:
    def act(client: IPv6Address) -> tuple[Packet, Out, str]:
        pod = Pod(nat, client)
        pod.established()
        packet = pod.segment(flags)
        out = pod.here(packet)
        return packet, out, state(nat)[0]

    packet, out, now = in_one_second(nat, lambda: act(POD))
    assert passed(out, packet)
    _, out, now = in_one_second(nat, lambda: act(BEHIND))
    assert out.counted["offloaded"] == 1
    assert now.replace("_", "-").casefold() == then


@pytest.mark.parametrize("client", [POD, BEHIND])
@pytest.mark.parametrize("flags", ["A", "FA", "R"])
def test_without_an_answer_from_the_server_nothing_goes_on(
    nat: Router, client: IPv6Address, flags: str
) -> None:
    pod = Pod(nat, client)

    def act() -> Out:
        pod.prepare()
        pod.by_stack(pod.segment("S"))
        return pod.here(pod.segment(flags))

    assert passed(in_one_second(nat, act), pod.segment(flags))


def test_a_new_second_and_another_link_end_it(nat: Router) -> None:
    pod = Pod(nat, BEHIND)

    def act() -> tuple[Out, Out]:
        pod.established()
        link = Ether(src=_FAR_LINK.src, dst="02:00:00:00:00:64")
        other = nat.on_pod_link(pod.segment("A"), link=link, ifindex=nat.uplink)
        nat.datapath.travel(1)
        return other, pod.here(pod.segment("A"))

    for out in in_one_second(nat, act):
        assert out.verdict == NEXT
        assert not out.counted
