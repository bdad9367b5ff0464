"""The topology Gateway at a real API server: two DaemonSets, membership as mounted data, drain."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from nat64_dataplane.corefile import content_hash
from tests.operator.conftest import (
    PREFIX,
    Api,
    Operator,
    condition,
    eventually,
    gateway,
    node,
    report_ready,
)
from tests.operator.test_flow import agent_pod, events_of, is_ready, roll_out

ROUTERS = "default.routers"
MOUNTED = "nat64-operator.io/mounted"
SPEC: dict[str, Any] = {
    "prefix": PREFIX,
    "topology": "Gateway",
    "nodeSelector": {"egress": "yes"},
}


def member(name: str, number: int, **labels: str) -> dict[str, Any]:
    made = node(name, f"fd00:10:{number:x}::/64", f"2001:db8:1::{number:x}")
    made["metadata"]["labels"] |= labels
    return made


@pytest.fixture
def two_roles(cluster: Api, operator: Operator) -> Api:
    """A gateway node and two router nodes, all well, and a pod of each role."""
    api = cluster
    api.control_plane.kubectl("delete", "node", "node1")
    api.apply(member("gw1", 0x11, egress="yes"), member("r1", 0x21), member("r2", 0x22))
    for name, number in (("gw1", 0x11), ("r1", 0x21), ("r2", 0x22)):
        report_ready(api, name, f"2001:db8:1::{number:x}")
    api.apply(gateway(**SPEC))
    operator.start()
    eventually(lambda: api.get("daemonset", f"nat64-{ROUTERS}"), about="the routers' DaemonSet")
    eventually(lambda: api.get("daemonset", "nat64-default"), about="the DaemonSet")
    roll_out(api)
    roll_out(api, ROUTERS, nodes=2)
    agent_pod(api, "gw1", removing=False)
    agent_pod(api, "r1", removing=False, name=ROUTERS)
    eventually(lambda: is_ready(api, "nat64gateway"), about="gateway Ready")
    return api


def file_of(api: Api, name: str) -> Any:
    data = (api.get("configmap", f"nat64-default.{name}") or {}).get("data") or {}
    return json.loads(data.get(f"{name}.json") or "{}").get(name) or []


def generations(api: Api) -> dict[str, int]:
    return {
        name: api.get("daemonset", f"nat64-{name}")["metadata"]["generation"]
        for name in ("default", ROUTERS)
    }


def mounted(api: Api, node: str) -> str:
    metadata = api.get("pod", f"agent-{node}")["metadata"]
    return str((metadata.get("annotations") or {}).get(MOUNTED, ""))


def is_told(api: Api, node: str) -> bool:
    """Whether the annotation of a router's pod stands for the present list of gateway nodes."""
    text = api.get("configmap", "nat64-default.gateways")["data"]["gateways.json"]
    return mounted(api, node) == content_hash(text)[:16]


def test_a_gateway_with_two_roles_and_its_status(two_roles: Api) -> None:
    api = two_roles
    assert file_of(api, "gateways") == [{"node": "gw1", "address": "2001:db8:1::11"}]
    assert file_of(api, "routers") == [
        {"node": "r1", "address": "2001:db8:1::21", "podRanges": ["fd00:10:21::/64"]},
        {"node": "r2", "address": "2001:db8:1::22", "podRanges": ["fd00:10:22::/64"]},
    ]

    def said() -> Any:
        obj = api.get("nat64gateway", "default")
        routers = obj["status"]["routers"]
        return (
            (obj["status"]["nodes"]["summary"], routers["summary"], routers["members"]),
            obj["status"]["gateways"],
            condition(obj, "RoutersProgrammed")[:2],
        )

    # Ready may be of the pass before the last of the routers' pods was seen
    wanted = (("1/1", "2/2", 2), {"serving": 1}, ("True", "Programmed"))
    eventually(lambda: said() == wanted, about=str(wanted))


def test_a_cordoned_node_drains_and_its_pods_hear_of_it_without_a_rollout(two_roles: Api) -> None:
    api = two_roles
    before = generations(api)
    annotated = mounted(api, "gw1")
    api.control_plane.kubectl("cordon", "gw1")
    eventually(lambda: (file_of(api, "gateways") or [{}])[0].get("draining"), about="draining")
    eventually(lambda: mounted(api, "gw1") != annotated, about="the gateway's pod is told")
    eventually(lambda: is_told(api, "r1"), about="the router's pod is told")
    uid = api.get("nat64gateway", "default")["metadata"]["uid"]
    eventually(lambda: events_of(api, uid, "GatewayDraining"), about="the Event")

    def said() -> Any:
        return api.get("nat64gateway", "default")["status"]["gateways"].get("draining")

    assert eventually(said, about="the status") == ["gw1"]
    api.control_plane.kubectl("uncordon", "gw1")
    eventually(lambda: not file_of(api, "gateways")[0].get("draining"), about="serving again")
    assert generations(api) == before


def test_a_node_that_is_cordoned_while_no_operator_runs_drains_once_one_does(
    two_roles: Api, operator: Operator
) -> None:
    """As when another operator takes over: what the last one has told the pods is not known."""
    api = two_roles
    before = generations(api)
    annotated = mounted(api, "gw1")
    operator.stop()
    api.control_plane.kubectl("cordon", "gw1")
    operator.start()
    eventually(lambda: (file_of(api, "gateways") or [{}])[0].get("draining"), about="draining")
    eventually(lambda: mounted(api, "gw1") != annotated, about="the gateway's pod is told")
    eventually(lambda: is_told(api, "r1"), about="the router's pod is told")
    uid = api.get("nat64gateway", "default")["metadata"]["uid"]
    eventually(lambda: events_of(api, uid, "GatewayDraining"), about="the Event")
    assert generations(api) == before


def test_a_router_that_joins_is_told_to_gateway_nodes_only(two_roles: Api) -> None:
    api = two_roles
    before = generations(api)
    # Something for both roles first: pods that are new have no annotation.
    api.control_plane.kubectl("annotate", "node", "gw1", "nat64-operator.io/weight=2")
    eventually(lambda: file_of(api, "gateways")[0].get("weight") == 2, about="the weight")
    eventually(lambda: is_told(api, "r1"), about="the router's pod is told")
    metadata = api.get("pod", "agent-r1")["metadata"]
    annotated = mounted(api, "gw1")
    made = member("r3", 0x23)
    made["metadata"]["annotations"] = {"nat64-operator.io/pod-ranges": "fd00:99::/64"}
    api.apply(made)
    report_ready(api, "r3", "2001:db8:1::23")

    def listed() -> bool:
        return {"node": "r3", "address": "2001:db8:1::23", "podRanges": ["fd00:99::/64"]} in (
            file_of(api, "routers")
        )

    eventually(listed, about="r3 is a member")
    eventually(lambda: mounted(api, "gw1") != annotated, about="the gateway's pod is told")
    assert api.get("pod", "agent-r1")["metadata"]["resourceVersion"] == metadata["resourceVersion"]
    assert generations(api) == before


def test_a_weight_and_a_new_role(two_roles: Api) -> None:
    api = two_roles
    api.control_plane.kubectl("annotate", "node", "gw1", "nat64-operator.io/weight=3")
    api.control_plane.kubectl("label", "node", "r2", "egress=yes")

    def moved() -> bool:
        return [one["node"] for one in file_of(api, "gateways")] == ["gw1", "r2"] and [
            one["node"] for one in file_of(api, "routers")
        ] == ["r1"]

    eventually(moved, about="r2 is a gateway node")
    eventually(lambda: file_of(api, "gateways")[0].get("weight") == 3, about="the weight")
    assert api.get("daemonset", "nat64-default.leaving") is None


def test_a_deleted_gateway_cleans_both_roles_and_leaves_nothing(two_roles: Api) -> None:
    api = two_roles
    api.delete("nat64gateway", "default")

    def removing() -> bool:
        return all(
            "remove" in found["spec"]["template"]["spec"]["containers"][0]["command"]
            for name in ("default", ROUTERS)
            if (found := api.get("daemonset", f"nat64-{name}"))
        )

    eventually(removing, about="both DaemonSets remove")
    for name, nodes in (("default", 1), (ROUTERS, 2)):
        roll_out(api, name, nodes=nodes)
    agent_pod(api, "gw1", removing=True)
    for router in ("r1", "r2"):
        agent_pod(api, router, removing=True, name=ROUTERS)
    eventually(lambda: api.get("nat64gateway", "default") is None, about="the gateway is gone")
    ours = "-lnat64-operator.io/gateway=default"
    eventually(
        lambda: not [o for k in ("daemonset", "configmap") for o in api.items(k, ours)],
        about="its objects are gone",
    )


CILIUM: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "ciliumnodes.cilium.io"},
    "spec": {
        "group": "cilium.io",
        "scope": "Cluster",
        "names": {"kind": "CiliumNode", "plural": "ciliumnodes"},
        "versions": [
            {
                "name": "v2",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "x-kubernetes-preserve-unknown-fields": True,
                    }
                },
            }
        ],
    },
}


@pytest.fixture
def cilium(api: Api) -> Iterator[None]:
    """Cilium's kind of nodes, one of them with ranges; gone afterwards."""
    api.apply(CILIUM)
    kubectl = api.control_plane.kubectl
    kubectl("wait", "--for=condition=Established", "crd/ciliumnodes.cilium.io")
    api.apply(
        {
            "apiVersion": "cilium.io/v2",
            "kind": "CiliumNode",
            "metadata": {"name": "r1"},
            "spec": {"ipam": {"podCIDRs": ["10.0.1.0/24", "fd00:c1::/64"]}},
        }
    )
    yield
    kubectl("delete", "crd", "ciliumnodes.cilium.io")


@pytest.mark.usefixtures("cilium")
def test_a_cni_s_own_ranges_count_more_than_those_of_the_node(two_roles: Api) -> None:
    def ranges() -> list[str]:
        found = {one["node"]: one.get("podRanges") for one in file_of(two_roles, "routers")}
        return found.get("r1") or []

    eventually(lambda: ranges() == ["fd00:c1::/64"], timeout=120, about="Cilium's range")
