"""Flow offload between a router node and a gateway node: what it spares, and what ends it."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.node import wait_for
from tests.lab.site import SERVER, Member, Site, site
from tests.lab.topology import ECHO_PORT

pytestmark = pytest.mark.root

DISCARD, PORT = 9999, 5000
SEND = """
import socket, sys
source, port, target, to, count = sys.argv[1:]
with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
    sock.setsockopt(socket.IPPROTO_IPV6, 75, 1)  # IPV6_TRANSPARENT: any source
    sock.bind((source, int(port)))
    for _ in range(int(count)):
        sock.sendto(b"datagram", (target, int(to)))
"""
_ECHO = """
import socket, sys
source, port, target, to, count = sys.argv[1:]
with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
    sock.settimeout(60)
    sock.bind((source, int(port)))
    for number in range(int(count)):
        sent = number.to_bytes(4, "big")
        sock.sendto(sent, (target, int(to)))
        while sock.recv(64) != sent:
            pass
"""
_DENY = (
    "table inet denied {{ chain c {{ type filter hook forward priority 0; "
    "ip6 daddr {server} udp dport {port} counter drop; }}; }}\n"
)


@pytest.fixture(scope="module", params=["Tunnel", "Direct"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def one(transport: str) -> Iterator[Site]:
    with site(gateways=1, routers=2, topology={"transport": transport}) as built:
        yield built


def send(router: Member, program: str, to: int, count: int) -> None:
    """Datagrams of one flow of the router node's pod."""
    assert router.pod
    fields = (router.clients[0], PORT, SERVER, to, count)
    router.pod.run(sys.executable, "-c", program, *map(str, fields))


def offloaded(member: Member) -> float:
    return member.agent.metric("nat64_offloaded_packets_total", direction="6to4")


def until_offloaded(one: Site, router: Member) -> None:
    """Send until both nodes take packets of the flow past their forwarding."""
    for member in (router, *one.gateways):
        before = offloaded(member)

        def more(member: Member = member, before: float = before) -> bool:
            send(router, SEND, DISCARD, 100)
            return offloaded(member) > before

        wait_for(f"offload on {member.name}", more)


def configure(member: Member, transport: str, **config: Any) -> None:
    role = "Gateway" if member.ipv4 else "Router"
    member.agent.configure(topology={"role": role, "transport": transport}, **config)


def test_packets_of_a_known_flow_skip_the_forwarding_of_both_nodes(one: Site) -> None:
    router, (gateway,) = one.routers[0], one.gateways
    until_offloaded(one, router)

    def most_of_it() -> bool:
        before = offloaded(router), offloaded(gateway)
        send(router, _ECHO, ECHO_PORT, 300)  # all of them come back
        return offloaded(router) - before[0] > 200 and offloaded(gateway) - before[1] > 200

    wait_for("most of a flow", most_of_it)


@pytest.mark.parametrize("role", ["router", "gateway"])
def test_a_new_rule_ends_a_known_flow_within_a_second(one: Site, role: str) -> None:
    """As a NetworkPolicy does that is applied on one of the nodes while a flow is in use."""
    router = one.routers[0]
    member = router if role == "router" else one.gateways[0]

    def denied() -> int:
        found = re.search(
            r"packets (\d+)", member.node.run("nft", "list", "table", "inet", "denied")
        )
        assert found
        return int(found[1])

    until_offloaded(one, router)
    member.node.run("nft", "-f", "-", input=_DENY.format(server=SERVER, port=DISCARD))
    try:
        time.sleep(1.1)  # the second in which the flow was last let pass is over
        already, before = denied(), offloaded(member)
        send(router, SEND, DISCARD, 200)
        wait_for("the refusal of all", lambda: denied() == already + 200)
        assert offloaded(member) == before
    finally:
        member.node.run("nft", "delete", "table", "inet", "denied")
    until_offloaded(one, router)


@pytest.mark.parametrize("role", ["router", "gateway"])
def test_a_gateway_can_switch_it_off_and_on(one: Site, transport: str, role: str) -> None:
    router = one.routers[0]
    member = router if role == "router" else one.gateways[0]
    until_offloaded(one, router)
    configure(member, transport, offloadFlows=False)
    try:

        def off() -> bool:
            before = offloaded(member)
            send(router, SEND, DISCARD, 100)
            return offloaded(member) == before

        wait_for("its end", off)
        assert off()
        pins = "ls /sys/fs/bpf/nat64-operator/default/links"
        assert "offload" not in member.node.run("sh", "-c", pins)
    finally:
        configure(member, transport)
    until_offloaded(one, router)
