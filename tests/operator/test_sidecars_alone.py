"""The operator and a real API server, while no pod of a gateway is ready and its sidecars are."""

from __future__ import annotations

import pytest

from tests.operator.conftest import PREFIX, Api, Operator, eventually, gateway
from tests.operator.test_flow import agent_pod, roll_out, sidecars_ready

pytestmark = pytest.mark.apiserver


def publishes(api: Api) -> bool:
    return bool(api.get("service", "nat64-default-dns")["spec"].get("publishNotReadyAddresses"))


def containers_ready(api: Api, **ready: bool) -> None:
    """Be a kubelet: these containers of the pod are ready, or not."""
    statuses = [
        {
            "name": name,
            "ready": is_ready,
            "restartCount": 0,
            "image": "dataplane:test",
            "imageID": "",
        }
        for name, is_ready in ready.items()
    ]
    status = "True" if all(ready.values()) else "False"
    body = {
        "containerStatuses": statuses,
        "conditions": [{"type": "Ready", "status": status}],
    }
    api.patch("pod/agent-node1", body={"status": body}, subresource="status")


def test_sidecars_stay_in_their_service_while_only_the_agents_are_down(
    cluster: Api, operator: Operator
) -> None:
    api = cluster
    api.apply(gateway(prefix=PREFIX))
    operator.start()
    eventually(lambda: api.get("daemonset", "nat64-default"), about="the DaemonSet")
    roll_out(api)
    agent_pod(api, "node1", removing=False)
    containers_ready(api, translator=True, dns64=True)
    sidecars_ready(api)
    eventually(lambda: api.get("service", "nat64-default-dns"), about="the Service")

    containers_ready(api, translator=False, dns64=True)
    sidecars_ready(api, ready=False)
    eventually(lambda: publishes(api), about="the Service lists what is not ready")

    containers_ready(api, translator=False, dns64=False)
    eventually(lambda: not publishes(api), about="the sidecar is down too")
    containers_ready(api, translator=False, dns64=True)
    eventually(lambda: publishes(api), about="it is back")

    containers_ready(api, translator=True, dns64=True)
    sidecars_ready(api)
    eventually(lambda: not publishes(api), about="all is well")
