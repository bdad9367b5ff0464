"""`nat64-translator trace` and what `kubectl nat64 trace` makes of it, over nodes of both roles."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from nat64_operator.kubectl import doctor_node, status, topology, trace_egress
from nat64_operator.kubectl.agents import Agent, Report
from nat64_operator.kubectl.checks import end
from tests.lab.site import SERVER, Member, Site, site
from tests.lab.topology import HTTP_PORT

pytestmark = pytest.mark.root


@pytest.fixture(scope="module", params=["Tunnel", "Direct"])
def routed(request: pytest.FixtureRequest) -> Iterator[Site]:
    """A pod behind a router node, and two gateway nodes."""
    with site(gateways=2, topology={"transport": request.param}) as built:
        yield built


def traced(member: Member, client: str) -> Any:
    where = ("--client", client, "--destination", str(SERVER), "--port", str(HTTP_PORT))
    return json.loads(member.agent.run("trace", "--config", str(member.agent.file), *where))


def test_a_trace_goes_from_the_router_node_to_the_gateway_node_and_back(routed: Site) -> None:
    router = routed.routers[0]
    client = router.clients[3]
    expected = routed.gateway_of(router, client)  # after which the client has it
    here = traced(router, str(client))
    assert here["role"] == "Router"
    way = topology.steered(here)
    assert way is not None
    assert way["gateway"]["node"] == expected.name
    assert way["gateway"]["address"] == str(expected.address)
    there = traced(expected, str(client))
    agent = Agent("default", expected.name, "nat64-system", "nat64-g", "", topology=True)
    steps = [
        trace_egress.route(router.name, here, way),
        *topology.walk(router.name, way, Report(agent, there, "")),
        *topology.way_back(expected.name, there["destinations"][0], there["interface"]),
        *trace_egress.walk(expected.name, there, there["destinations"][0]),
    ]
    assert end(steps) is None, end(steps)
    names = [step.name for step in steps]
    assert names[:4] == ["route", "steering", "tunnel", "way back"]
    assert names[-1] == "packets"


def test_what_each_node_says_of_the_other_role_is_what_doctor_reads(routed: Site) -> None:
    for member in (*routed.gateways, *routed.routers):
        said = member.agent.json("topology")
        agent = Agent("default", member.name, "nat64-system", "nat64-x", "", topology=True)
        steps = list(topology.examine(Report(agent, said, "")))
        assert steps
        assert end(steps) is None, end(steps)


def test_doctor_finds_nothing_broken_on_a_router_node_without_ipv4(routed: Site) -> None:
    router = routed.routers[0]
    found = json.loads(router.agent.run("inspect", "--config", str(router.agent.file)))
    agent = Agent("default", router.name, "nat64-system", "nat64-r", "", router=True)
    [said] = router.agent.json("status")
    steps = [*doctor_node.room(said, agent), *doctor_node.examine(found, agent)]
    assert end(steps) is None, end(steps)
    assert status.node(Report(agent, [said], ""))["programmed"] is True
