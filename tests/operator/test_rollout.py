"""A canary on the real API server: the operator deletes its pods by its own rights, no others."""

from typing import Any

import pytest

from nat64_operator.render import names
from tests.operator.conftest import (
    NAMESPACE,
    Api,
    Operator,
    condition,
    eventually,
    gateway,
    node,
    report_ready,
)
from tests.operator.test_flow import agent_pod, roll_out

pytestmark = pytest.mark.apiserver

CANARY = {"canary": "yes"}


def counted(api: Api, **numbers: int) -> None:
    """Be the DaemonSet controller, while a rollout goes on."""
    api.patch("daemonset/nat64-default", body={"status": numbers}, subresource="status")


def pods(api: Api) -> set[str]:
    return {pod["metadata"]["name"] for pod in api.items("pods")}


@pytest.fixture
def rolled(cluster: Api, operator: Operator) -> Api:
    """Two nodes with a pod of the template of now, one of them a canary."""
    other = node("node2", "fd00:10:245::/64", "2001:db8:1::12")
    other["metadata"]["labels"] |= CANARY
    cluster.apply(other, gateway(updateStrategy={"maxUnavailable": 1}))
    report_ready(cluster, "node2", "2001:db8:1::12")
    operator.start()
    eventually(lambda: cluster.get("daemonset", "nat64-default"), about="the DaemonSet")
    roll_out(cluster, nodes=2)
    template: Any = cluster.get("daemonset", "nat64-default")["spec"]["template"]
    known = {names.TEMPLATE: template["metadata"]["annotations"][names.TEMPLATE]}
    for name in ("node1", "node2"):
        agent_pod(cluster, name, removing=False)
        cluster.patch(f"pod/agent-{name}", body={"metadata": {"annotations": known}})
    return cluster


def test_a_change_reaches_the_canarys_node_and_waits_there(rolled: Api) -> None:
    api = rolled
    held = {"maxUnavailable": 1, "canary": {"nodeSelector": CANARY}}
    api.apply(gateway(updateStrategy=held))
    eventually(
        lambda: (
            api.get("daemonset", "nat64-default")["spec"]["updateStrategy"]["type"] == "OnDelete"
        ),
        about="OnDelete",
    )
    before = api.get("daemonset", "nat64-default")["metadata"]["generation"]
    api.apply(gateway(updateStrategy=held, limits={"sessions": 2048}))

    def is_told() -> bool:
        return bool(api.get("daemonset", "nat64-default")["metadata"]["generation"] > before)

    eventually(is_told, about="another template")
    assert pods(api) == {"agent-node1", "agent-node2"}, "the controller hasn't seen it yet"

    def follow(updated: int) -> None:
        # The operator may change the object again meanwhile, and the controller sees that too.
        seen = api.get("daemonset", "nat64-default")["metadata"]["generation"]
        counted(api, observedGeneration=seen, updatedNumberScheduled=updated)

    def is_deleted() -> bool:
        follow(0)
        # A pod on a node stays, terminating, until its kubelet has ended it.
        return "deletionTimestamp" in api.get("pod", "agent-node2")["metadata"]

    eventually(is_deleted, about="deleted")
    assert "deletionTimestamp" not in api.get("pod", "agent-node1")["metadata"]

    def said() -> str:
        follow(1)
        return condition(api.get("nat64gateway", "default"), "Programmed")[2]

    eventually(lambda: "spec.updateStrategy.canary holds the other nodes back" in said())
    assert "deletionTimestamp" not in api.get("pod", "agent-node1")["metadata"]
    api.apply(gateway(updateStrategy={"maxUnavailable": 1}, limits={"sessions": 2048}))
    eventually(
        lambda: (
            api.get("daemonset", "nat64-default")["spec"]["updateStrategy"]["type"]
            == "RollingUpdate"
        ),
        about="the controller goes on with the others",
    )
    api.control_plane.kubectl("-n", NAMESPACE, "delete", "pod", "--all", "--force")
