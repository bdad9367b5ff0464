"""`spec.clat` at a real API server: it takes the pods, and the switch leaves nothing to write."""

from __future__ import annotations

import json
from typing import Any

from tests.operator.conftest import PREFIX, Api, ClusterDns, Operator, eventually, gateway
from tests.operator.test_flow import Quiet, bring_up, is_ready, roll_out


def names_in(api: Api, kind: str) -> list[str]:
    pod = api.get("daemonset", "nat64-default")["spec"]["template"]["spec"]
    return [each["name"] for each in pod.get(kind) or ()]


def test_the_switch_adds_a_container_and_off_again_one_that_cleans_up(
    cluster: Api, operator: Operator, cluster_dns: ClusterDns
) -> None:
    api = cluster
    bring_up(api, operator, cluster_dns)
    api.apply(gateway(prefix=PREFIX, clat={"mode": "Pods"}))
    eventually(lambda: "clat" in names_in(api, "containers"), about="the container")
    roll_out(api)
    eventually(lambda: is_ready(api, "nat64gateway"), about="gateway Ready")
    status: dict[str, Any] = api.get("nat64gateway", "default")["status"]
    assert status["hostPorts"]["clat"] == 9466
    audit = api.control_plane.audit_log
    assert audit is not None

    def writes() -> int:
        rows = [json.loads(row) for row in audit.read_text().splitlines() if row]
        return sum(
            row["verb"] in ("create", "update", "patch", "delete")
            and row["user"]["username"].endswith(":nat64-operator")
            and row["objectRef"]["resource"] != "leases"
            for row in rows
        )

    quiet = Quiet()
    eventually(lambda: quiet.settled(writes()), timeout=60, about="writes go on")

    api.apply(gateway(prefix=PREFIX))
    eventually(lambda: "remove-clat" in names_in(api, "initContainers"), about="the cleaner")
    assert names_in(api, "containers") == ["translator", "dns64"]
    assert not {"containerd", "crio"} & set(names_in(api, "volumes"))
