"""What must hold where nothing on the nodes lets IPv4 back in: whoever looks is told."""

from __future__ import annotations

import json

import pytest

from tests.cluster import Cluster
from tests.cluster.product import Product
from tests.cluster.run import wait_for
from tests.e2e.test_kubectl import Plugin, plugin
from tests.e2e.test_product import SERVER, running_pod
from tests.environments.environment import Environment
from tests.environments.test_suite import uninstall_and_look_for_traces

pytestmark = pytest.mark.cluster

__all__ = ["plugin"]

# More connections than the agent takes for bad luck, none of which is waited for.
_CONNECT = """
import socket, sys
for port in range(40):
    tcp = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    tcp.setblocking(False)
    tcp.connect_ex((sys.argv[1], 9000 + port))
"""


def test_doctor_stops_at_what_is_wrong_here(plugin: Plugin, environment: Environment) -> None:
    found = plugin.json("doctor")
    assert plugin.code != 0
    stops = " ".join(check["text"] for check in found if check["result"] == "stop")
    assert [part for part in environment.stops if part not in stops] == []


def test_degraded_says_that_no_connection_is_answered(product: Product, cluster: Cluster) -> None:
    def said() -> bool:
        """Before the nodes were asked, there is no such condition."""
        found = json.loads(cluster.kubectl("get", "nat64gateway/default", "-o", "json"))
        return any(
            (condition["type"], condition["status"]) == ("Degraded", "True")
            and "NoReplies on node2" in condition["message"]
            for condition in found["status"]["conditions"]
        )

    with running_pod(cluster, "unheard", "node2") as pod:
        pod.exec("python3", "-c", _CONNECT, SERVER)
        wait_for("Degraded to say so", said, timeout=180, every=1)


def test_uninstalling_removes_every_trace(
    product: Product, cluster: Cluster, corefile_before: str
) -> None:
    """Last in the file: what comes after would find no product."""
    uninstall_and_look_for_traces(product, cluster, corefile_before)
