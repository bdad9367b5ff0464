"""Flows through gateway nodes when one of these dies, comes back or is drained: both roles' agents
on a site of three gateways and one router.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from ipaddress import IPv6Address

import pytest

from tests.bench.failover import KILLS
from tests.lab import probes
from tests.lab.flows import Flow
from tests.lab.node import wait_for
from tests.lab.servers import pattern
from tests.lab.site import SERVER, Member, Site, site
from tests.lab.topology import HTTP_PORT

pytestmark = pytest.mark.root

SIZE = 3_000_000


@pytest.fixture(scope="module", params=["Tunnel", "Direct"])
def shared(request: pytest.FixtureRequest) -> Iterator[Site]:
    with site(3, 1, topology={"transport": request.param}) as built:
        yield built


@pytest.fixture
def one(shared: Site) -> Site:
    """The same for the tests of a file, with all gateways healthy."""
    shared.draining.clear()
    shared.weights.clear()
    shared.tell()
    shared.wait_healthy()
    return shared


def flow(router: Member, client: IPv6Address) -> Flow:
    assert router.pod
    return Flow(router.pod, "tcp", str(SERVER), source=str(client))


def end_whole(flows: list[Flow]) -> None:
    for each in flows:
        each.moves()
        seen = each.end()
        assert not seen["error"], seen
        assert seen["blocks"] > 3, seen


def test_every_gateway_has_clients_and_each_client_keeps_its_gateway(one: Site) -> None:
    for router in one.routers:
        found = one.clients_by_gateway(router)
        assert all(found.values()), found
        assert found == one.clients_by_gateway(router)


def test_much_comes_whole_both_ways(one: Site) -> None:
    pod = one.routers[0].pod
    assert pod
    url = f"http://[{SERVER}]:{HTTP_PORT}"
    down = pod.run("sh", "-c", f"curl -gsS --max-time 60 '{url}/bytes/{SIZE}' | sha256sum")
    assert down.split()[0] == hashlib.sha256(pattern(SIZE)).hexdigest()
    up = pod.run("sh", "-c", f"head -c {SIZE} /dev/zero | curl -gsS --data-binary @- '{url}/sink'")
    assert up.split() == [str(SIZE), hashlib.sha256(bytes(SIZE)).hexdigest()]


def test_datagrams_of_every_size_come_back(one: Site) -> None:
    pod = one.routers[0].pod
    assert pod
    for size in (1, 1200, 1382, 1383, 1452, 4000):
        # The first that is too long, each way, is how a kernel learns what the path carries.
        wait_for(
            f"a datagram of {size} bytes",
            lambda size=size: probes.udp_echo(pod, size, host=SERVER, check=False),  # type: ignore[misc]
        )


def test_agents_that_are_killed_change_nothing_for_flows_old_and_new(one: Site) -> None:
    router = one.routers[0]
    clients = router.clients[:4]
    flows = [flow(router, client) for client in clients]
    before = {client: one.gateway_of(router, client).name for client in clients}
    agents = [m.agent for m in (router, *one.gateways)]
    for agent in agents:
        agent.kill()
    for each in flows:
        each.moves()
    assert before == {client: one.gateway_of(router, client).name for client in clients}
    for agent in agents:
        agent.start()
    for agent in agents:
        agent.wait_ready()
    one.wait_healthy()
    assert before == {client: one.gateway_of(router, client).name for client in clients}
    end_whole(flows)


def test_a_draining_gateway_keeps_its_clients_and_gets_no_new_ones(one: Site) -> None:
    router = one.routers[0]
    drained = one.gateways[0]
    known = router.clients
    of_it = one.clients_by_gateway(router)[drained.name]
    flows = [flow(router, client) for client in known[:6] + of_it[:2]]
    one.draining.add(drained.name)
    one.tell()
    one.wait_states(**{drained.name: "draining"})
    assert router.pod
    assert router.pods
    fresh = [router.pods[0x1000 + number] for number in range(24)]
    router.pod.ip(*(f"addr add {client}/64 dev eth0 nodad" for client in fresh))
    went = {one.gateway_of(router, client).name for client in fresh}
    assert went == {m.name for m in one.gateways[1:]}
    assert one.gateway_of(router, of_it[0]) is drained
    one.draining.clear()
    one.tell()
    one.wait_healthy()
    assert drained.name not in {one.gateway_of(router, client).name for client in fresh}
    end_whole(flows)


def test_a_change_of_the_transport_breaks_no_flow(one: Site) -> None:
    """There, and back. For a while one side is ahead of the other: routers, and then gateways."""
    [router] = one.routers
    was = router.agent.json("topology")["transport"]
    flows = [flow(router, client) for client in router.clients[:3]]
    other = {"Tunnel": "Direct", "Direct": "Tunnel"}[was]
    for transport, half in (
        (other, one.routers),
        (other, one.gateways),
        (was, one.gateways),
        (was, one.routers),
    ):
        for member in half:
            change(member, transport)
        one.wait_healthy()
        for client in router.clients[-3:]:
            assert one.seen_as(router, client)
        for each in flows:
            each.moves()
    end_whole(flows)


def change(member: Member, transport: str) -> None:
    """Have a running agent use the transport."""
    role = member.agent.json("topology")["role"]
    member.agent.configure(topology={"role": role, "transport": transport})
    wait_for(
        f"{transport} on {member.name}",
        lambda: member.agent.json("topology")["transport"] == transport,
    )
    member.agent.wait_ready()


@pytest.mark.parametrize("kind", KILLS)
def test_a_gateway_that_dies_and_comes_back_breaks_no_flow_of_the_others(
    one: Site, kind: str
) -> None:
    kill, revive = KILLS[kind]
    router = one.routers[0]
    # Not the same one each time: a gateway that fails again and again is held back for longer.
    dead = one.gateways[list(KILLS).index(kind) % 3]
    clients = one.clients_by_gateway(router)
    others = [c for name, own in clients.items() if name != dead.name for c in own[:2]]
    mine = clients[dead.name]
    assert mine, f"{dead.name} has no client: {clients}"
    flows = [flow(router, client) for client in others]
    kill(one, dead)
    one.wait_states(**{dead.name: "dead"})
    moved = wait_for("a new gateway", lambda: one.seen_as(router, mine[0], check=False))
    assert moved != str(dead.ipv4)
    revive(one, dead)
    one.wait_healthy()
    assert one.seen_as(router, mine[0]) == moved, "it stays with the gateway that it has now"
    end_whole(flows)


def test_without_a_gateway_a_client_is_told_at_once(one: Site) -> None:
    """Last: all gateways fail, and are held back for longer when they return."""
    router = one.routers[0]
    for gateway in one.gateways:
        one.link.ip(f"link set {gateway.name} down")
    one.wait_states(**{m.name: "dead" for m in one.gateways})
    assert router.pod
    url = f"http://[{SERVER}]:{HTTP_PORT}/ok"
    said = router.pod.run(
        "sh", "-c", f"curl -gsS --max-time 60 '{url}' 2>&1; echo exit $?", check=False
    )
    assert "timed out" not in said
    assert "exit 7" in said
    dropped = router.agent.metric("nat64_dropped_packets_total", reason="no_gateway")
    assert dropped > 0
    for gateway in one.gateways:
        one.link.ip(f"link set {gateway.name} up")
    one.wait_healthy()
    assert one.gateway_of(router, router.clients[0]) in one.gateways
