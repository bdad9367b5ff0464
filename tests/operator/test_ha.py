"""Two operators: one acts; once it ends or is killed, the other goes on."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nat64_dataplane import config
from tests.operator.conftest import (
    PREFIX,
    Api,
    ClusterDns,
    Operator,
    apply_chart,
    eventually,
    gateway,
)

pytestmark = pytest.mark.apiserver


@pytest.fixture
def pair(
    cluster: Api,
    operator: Operator,
    cluster_dns: ClusterDns,
    sidecars: ClusterDns,
    tmp_path: Path,
) -> Iterator[tuple[Operator, Operator]]:
    """Two, with the rights of a chart with two replicas."""
    apply_chart(cluster, "--set=operator.replicas=2")
    second = Operator(
        operator.kubeconfig, tmp_path / "second.log", cluster_dns.address, sidecars.address
    )
    yield operator, second
    operator.stop()
    second.stop()
    cluster.control_plane.kubectl("-n", "nat64-system", "delete", "lease", "--all")
    apply_chart(cluster)


def timeout_in_config(api: Api) -> int:
    status = (api.get("nat64gateway", "default") or {}).get("status") or {}
    found = api.get("configmap", f"nat64-default-{status.get('configHash')}")
    return config.parse(found["data"]["translator.yaml"]).timeouts.udp if found else 0


def test_the_other_takes_over_when_the_active_one_is_killed(
    cluster: Api, pair: tuple[Operator, Operator]
) -> None:
    first, second = pair
    cluster.apply(gateway(prefix=PREFIX))
    first.start()
    eventually(lambda: cluster.get("daemonset", "nat64-default"), about="the first acts")
    second.start()
    cluster.patch("nat64gateway/default", body={"spec": {"timeouts": {"udpSeconds": 401}}})
    eventually(lambda: timeout_in_config(cluster) == 401, about="the first goes on")
    assert "holding the lease" not in second.log()
    assert " Apply " not in second.log()
    first.stop(expire=False)
    cluster.patch("nat64gateway/default", body={"spec": {"timeouts": {"udpSeconds": 402}}})
    eventually(
        lambda: timeout_in_config(cluster) == 402, timeout=120, about="the second takes over"
    )
    assert "holding the lease" in second.log()
    first.start()
    cluster.patch("nat64gateway/default", body={"spec": {"timeouts": {"udpSeconds": 403}}})
    eventually(lambda: timeout_in_config(cluster) == 403, about="the second keeps it")
    assert first.log().count("holding the lease") == 1


def test_a_handover_takes_less_than_two_seconds(
    cluster: Api, pair: tuple[Operator, Operator]
) -> None:
    first, second = pair
    cluster.apply(gateway(prefix=PREFIX))
    first.start()
    eventually(lambda: cluster.get("daemonset", "nat64-default"), about="the first acts")
    second.start()
    eventually(lambda: second.ask("/readyz")[0] == 200, about="the second waits")
    assert first.end() == 0
    ended = time.monotonic()
    eventually(lambda: "holding the lease" in second.log(), timeout=2, about="the second acts")
    assert time.monotonic() - ended < 2
    assert "released the lease" in first.log()
    cluster.patch("nat64gateway/default", body={"spec": {"timeouts": {"udpSeconds": 404}}})
    eventually(lambda: timeout_in_config(cluster) == 404, about="the second goes on")
