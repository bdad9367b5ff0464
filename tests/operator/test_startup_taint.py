"""The startup taint on the real API server, by the rights that the chart then gives."""

import pytest

from tests.operator.conftest import Api, Operator, apply_chart, eventually, gateway
from tests.operator.test_flow import agent_pod, roll_out

pytestmark = pytest.mark.apiserver

KEY = "nat64-operator.io/starting"
OTHER = {"key": "gpu", "effect": "NoSchedule"}


def taints(api: Api) -> set[str]:
    return {taint["key"] for taint in api.get("node/node1")["spec"].get("taints") or ()}


def test_a_node_loses_its_startup_taint_once_it_translates_and_no_other(
    cluster: Api, operator: Operator
) -> None:
    apply_chart(cluster, f"--set=dataplane.startupTaint={KEY}")
    try:
        starting = {"key": KEY, "effect": "NoSchedule"}
        cluster.patch("node/node1", body={"spec": {"taints": [starting, OTHER]}})
        cluster.apply(gateway())
        operator.start(f"--startup-taint={KEY}")
        eventually(lambda: cluster.get("daemonset", "nat64-default"), about="the DaemonSet")
        agent_pod(cluster, "node1", removing=False)
        roll_out(cluster)
        assert KEY in taints(cluster), "its translator isn't ready"
        states = [{"name": n, "ready": True, **STATE} for n in ("translator", "dns64")]
        body = {"status": {"containerStatuses": states}}
        cluster.patch("pod/agent-node1", body=body, subresource="status")
        eventually(lambda: KEY not in taints(cluster), about="taken off")
        assert taints(cluster) >= {"gpu"}
    finally:
        apply_chart(cluster)


STATE = {"image": "x", "imageID": "x", "restartCount": 0, "state": {"running": {}}}
