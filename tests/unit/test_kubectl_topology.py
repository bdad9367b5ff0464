"""kubectl nat64 on nodes of both roles of the topology Gateway: status, trace, doctor."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from nat64_operator.kubectl import agents, doctor_node, status, topology, trace
from nat64_operator.kubectl.agents import Agent, Report
from nat64_operator.kubectl.checks import Result, Step, end
from nat64_operator.kubectl.exec_output import Output
from nat64_operator.kubectl.output import Paint
from tests.unit.test_kubectl_trace import FOUND, POD, facts

ROUTER = Agent("default", "node1", "nat64-system", "nat64-r", "", router=True, topology=True)
GATEWAY = Agent("default", "gw1", "nat64-system", "nat64-g", "", topology=True)
STEERED: dict[str, Any] = {
    "address": "64:ff9b:1::c633:640a",
    "translated": False,
    "steered": True,
    "route": {"interface": "nat64-default", "gateway": None, "error": None},
    "ipv4": "198.51.100.10",
    "sourceAllowed": True,
    "gateway": {
        "node": "gw1",
        "address": "fd00:1::1",
        "state": "healthy",
        "why": "table: place 17, by hash of the client's address",
        "route": {"interface": "eth0", "gateway": "fd00:1::ffff", "error": None},
    },
}
SEEN = {"node": "gw1", "address": "fd00:1::1", "state": "healthy", "share": 1.0, "why": ""}


def walked(way: dict[str, Any], there: Report | None, **found: Any) -> list[Step]:
    here = {**copy.deepcopy(FOUND), "destinations": [{**STEERED, **way}]}
    read = facts(report=Report(ROUTER, here, ""), gateway=there)
    return trace.judge(read)


def translating(**way: Any) -> Report:
    found = copy.deepcopy(FOUND)
    found["destinations"][0] |= way
    return Report(GATEWAY, found, "")


def test_a_trace_walks_pod_steering_tunnel_translation_and_way_back() -> None:
    back = {"wayBack": {"interface": "n64v-default", "error": None}, "neighbour": None}
    steps = walked({}, translating(**back))
    assert end(steps) is None
    names = [step.name for step in steps]
    assert names == [
        *("pod", "router", "DNS", "NetworkPolicy", "route", "steering", "tunnel"),
        *("gateway node", "way back", "route", "policy", "IPv4 route", "program", "BIB"),
        "packets",
    ]
    said = {step.name: step.text for step in steps}
    assert said["steering"] == (
        "node1 gives the packet to gw1 at fd00:1::1, which is healthy (table: place 17, by hash of "
        "the client's address)"
    )
    assert said["tunnel"] == "node1 reaches fd00:1::1 by eth0 via fd00:1::ffff"
    assert said["way back"] == "gw1 sends replies to the pod by n64v-default"
    assert said["IPv4 route"].startswith("gw1 reaches 198.51.100.10")


@pytest.mark.parametrize(
    ("way", "there", "name", "text"),
    [
        ({"gateway": None}, None, "steering", "no gateway node to give the packet to"),
        ({"gateway": {**STEERED["gateway"], "state": "dead"}}, None, "steering", "which is dead"),
        ({"sourceAllowed": False}, None, "policy", "not in the NAT64Gateway's"),
        (
            {"route": {"interface": "eth0", "error": None}},
            None,
            "route",
            "sends 64:ff9b:1::c633:640a to eth0",
        ),
        (
            {"gateway": {**STEERED["gateway"], "route": {"error": "Network is unreachable"}}},
            translating(),
            "tunnel",
            "no route to fd00:1::1",
        ),
        ({}, None, "gateway node", "has no translator that can be asked"),
        ({}, Report(GATEWAY, None, "the pod is gone"), "gateway node", "the pod is gone"),
        (
            {},
            translating(wayBack={"interface": "", "error": "no route"}),
            "way back",
            "gw1 has no route back",
        ),
        (
            {},
            translating(wayBack={"interface": "nat64-default", "error": None}),
            "way back",
            "routes the reply to nat64-default again",
        ),
        (
            {"neighbour": {"interface": "v5", "state": "FAILED", "found": False}},
            translating(neighbour=None),
            "neighbour",
            "node1 asks for the pod on v5",
        ),
    ],
)
def test_where_a_trace_through_a_gateway_node_ends(
    way: dict[str, Any], there: Report | None, name: str, text: str
) -> None:
    last = end(walked(way, there))
    assert last is not None
    assert last.name == name
    assert text in last.text
    assert last.remedy


def test_a_gateway_node_that_translates_nothing_ends_the_trace() -> None:
    there = translating()
    there.data["programmed"] = False
    there.data["reason"] = "NoUplink"
    last = end(walked({}, there))
    assert last is not None
    assert (last.name, last.text) == ("gateway node", "gw1 does not translate: NoUplink")


def test_agents_of_an_earlier_version_say_nothing_of_the_way_back() -> None:
    steps = walked({}, translating())
    assert end(steps) is None
    assert "way back" not in [step.name for step in steps]


def of_role(*found: dict[str, Any], role: str = "Router", **more: Any) -> Report:
    agent = ROUTER if role == "Router" else GATEWAY
    return Report(agent, {"role": role, "gateways": list(found), **more}, "")


@pytest.mark.parametrize(
    ("report", "result", "text"),
    [
        (of_role(SEEN), Result.OK, "all 1 gateway nodes answer"),
        (of_role(SEEN, {**SEEN, "state": "draining"}), Result.OK, "all 2 gateway nodes answer"),
        (of_role(SEEN, {**SEEN, "state": "dead"}), Result.NOTE, "1 of 2 gateway nodes answer"),
        (of_role({**SEEN, "state": "dead"}), Result.STOP, "no gateway node answers"),
        (of_role(), Result.STOP, "no gateway node is known here"),
        (of_role(role="Gateway", serving="serving", routers=3), Result.OK, "serves 3 router"),
        (of_role(role="Gateway", serving="draining", routers=3), Result.NOTE, "draining"),
        (of_role(role="Gateway", serving="not-serving", routers=3), Result.STOP, "does not serve"),
        (Report(ROUTER, None, "no exec"), Result.NOTE, "not asked: no exec"),
    ],
)
def test_doctor_knows_both_roles(report: Report, result: Result, text: str) -> None:
    [step] = topology.examine(report)
    assert step.result is result
    assert text in step.text
    assert result is Result.OK or step.remedy or report.error


def test_doctor_asks_no_ipv4_of_a_router_node() -> None:
    found: dict[str, Any] = {
        "kernel": "6.12.0",
        "bpffs": True,
        "sysctls": {"net.ipv6.conf.all.forwarding": "1"},
        "unreservedPorts": "",
        "problems": [{"reason": "NoUplink", "message": "no IPv4"}],
        "uplinks": [],
        "pool": [],
        "links": [{"name": "nat64-default", "up": True}],
        "interface": "nat64-default",
        "prefix": "64:ff9b::/96",
        "prefixRoutes": [{"destination": "64:ff9b::/96", "ours": True}],
        "modules": [],
    }
    assert end(doctor_node.examine(found, ROUTER)) is None
    last = end(doctor_node.examine(found, GATEWAY))
    assert last is not None
    assert last.name == "IPv4 uplink"


def test_status_counts_and_shows_nodes_of_both_roles() -> None:
    ready = {"type": "Ready", "status": "True", "reason": "Ready", "message": "good"}
    gateway = {
        "metadata": {"name": "default"},
        "status": {
            "conditions": [ready],
            "prefix": "64:ff9b::/96",
            "nodes": {"summary": "1/1"},
            "routers": {"summary": "2/2"},
            "gateways": {"serving": 0, "draining": ["gw1"]},
        },
    }
    reports = [
        Report(GATEWAY, [{"programmed": True, "sessions": 1, "sessionLimit": 9}], ""),
        Report(ROUTER, [{"programmed": True, "reason": "", "pools": []}], ""),
    ]
    built = status.build([gateway], [], reports, (), [of_role({**SEEN, "state": "dead"})])
    assert [one["role"] for one in built["nodes"]] == ["Gateway", "Router"]
    [router] = built["routers"]
    assert (router["node"], router["programmed"]) == ("node1", True)
    assert router["gateways"] == [{"node": "gw1", "state": "dead", "share": 1.0, "why": ""}]
    text = status.render(built, Paint(False))
    assert "1/1 + 2/2" in text
    assert "gw1 dead" in text
    assert "DRAINING" in text
    lines = [line.split()[0] for line in text.splitlines() if line]
    assert lines.count("gw1") == 1, "a gateway node is in the table of nodes that translate"
    assert lines.count("node1") == 1, "and a router node is not"


def pod(name: str, node: str, kind: str, **more: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "namespace": "nat64-system",
            "labels": {"app.kubernetes.io/name": kind, "nat64-operator.io/gateway": "default"},
        },
        "spec": {"nodeName": node, "containers": [{"name": "translator", **more}]},
        "status": {"containerStatuses": [{"name": "translator", "state": {"running": {}}}]},
    }


class Played:
    """A cluster with a gateway node and a router node."""

    def items(self, path: str, **query: str) -> list[dict[str, Any]]:  # noqa: ARG002
        mounts = [{"name": "members", "mountPath": "/etc/nat64-members"}]
        found = [
            pod("nat64-g", "gw1", "nat64-gateway", volumeMounts=mounts),
            pod("nat64-r", "node1", "nat64-router", volumeMounts=mounts),
        ]
        node = query.get("fieldSelector", "").rpartition("=")[2]
        return [one for one in found if node in ("", one["spec"]["nodeName"])]

    def exec(self, *_: Any) -> Output:
        return Output('{"role": "Router"}', "", 0)


def test_agents_know_their_role() -> None:
    gateway, router = agents.find(Played(), "nat64-system")
    assert (gateway.router, gateway.topology) == (False, True)
    assert (router.router, router.topology) == (True, True)
    asked = agents.ask_topology(Played(), [gateway, router, Agent("x", "n", "s", "p", "")])
    assert [report.agent for report in asked] == [gateway, router]


def test_sessions_of_a_pod_on_a_router_node_are_on_gateway_nodes() -> None:
    here = agents.find(Played(), "nat64-system", "node1")
    assert [agent.router for agent in here] == [True]
    there = agents.translating(Played(), "nat64-system", here)
    assert [agent.node for agent in there] == ["gw1"]


def test_a_pod_on_a_gateway_node_is_traced_as_ever() -> None:
    steps = trace.judge(facts(report=Report(GATEWAY, copy.deepcopy(FOUND), "")))
    assert "steering" not in [step.name for step in steps]
    assert POD["spec"]["nodeName"] in steps[0].text
