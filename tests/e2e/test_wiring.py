"""What only a cluster with kubelets and its own CoreDNS shows of the wiring."""

from __future__ import annotations

import json
import time
from ipaddress import ip_address, ip_network

import pytest

from tests.cluster import Cluster
from tests.cluster.product import Product
from tests.cluster.run import wait_for
from tests.e2e.test_lifecycle import rollout
from tests.e2e.test_product import corefile, original_corefile

pytestmark = pytest.mark.cluster

SECONDS = 20
"""Far less than the minute and a half that a kubelet takes by itself."""


def config_map(cluster: Cluster, namespace: str, name: str) -> dict[str, str]:
    found = cluster.kubectl("-n", namespace, "get", "configmap", name, "-o", "json")
    data: dict[str, str] = json.loads(found)["data"]
    return data


def test_coredns_own_pods_are_known_by_their_addresses(product: Product) -> None:
    def unknown() -> list[str] | None:
        """Those that no network holds; None where one has no address yet."""
        where = ("-n", "kube-system", "get", "pods", "-l", "k8s-app=kube-dns", "-o", "json")
        pods = json.loads(product.cluster.kubectl(*where))["items"]
        clients = config_map(product.cluster, "nat64-system", "nat64-clients")["clients"]
        rows = [row.split() for row in clients.splitlines()]
        allowed = [ip_network(words[2]) for words in rows if words[:2] == ["allow", "net"]]
        addresses = [pod["status"].get("podIP") for pod in pods]
        if not all(addresses) or not addresses:
            return None
        return [a for a in addresses if not any(ip_address(a) in network for network in allowed)]

    # A pod may be new, as a test before may have taken its node away.
    wait_for("the addresses of CoreDNS's pods", lambda: unknown() == [], timeout=60)


def test_the_original_is_kept_beside_coredns_and_the_file_is_nobodys_of_ours(
    product: Product,
) -> None:
    kept = config_map(product.cluster, "kube-system", "nat64-wiring")
    assert kept["default.original"] == original_corefile()
    assert kept["default.applied"] == corefile(product.cluster)
    found = product.cluster.kubectl(
        *("-n", "kube-system", "get", "configmap", "coredns", "-o", "json"),
        "--show-managed-fields",
    )
    managers = {e["manager"] for e in json.loads(found)["metadata"].get("managedFields", [])}
    assert "nat64-operator" not in managers


def test_a_changed_policy_reaches_every_sidecar_in_seconds(product: Product) -> None:
    cluster = product.cluster
    rollout(product)  # a test before may have changed the pods
    selector = ("-l", "app.kubernetes.io/component=dataplane")
    what = ("-n", "nat64-system", "get", "pods", *selector, "-o", "name")
    pods = [name.removeprefix("pod/") for name in cluster.kubectl(*what).split()]

    def running() -> dict[str, str]:
        path = "/api/v1/namespaces/nat64-system/pods/{}:6465/proxy/status"
        said = {pod: json.loads(cluster.kubectl("get", "--raw", path.format(pod))) for pod in pods}
        return {pod: status["corefile"] for pod, status in said.items()}

    before = running()
    began = time.monotonic()
    body = {"spec": {"cache": {"servfailSeconds": 4}}}
    cluster.kubectl("patch", "dns64policy", "default", "--type=merge", "-p", json.dumps(body))
    try:
        wait_for(
            "every sidecar runs another Corefile",
            lambda: all(text != before[pod] for pod, text in running().items()),
            timeout=240,
        )
        assert time.monotonic() - began < SECONDS
    finally:
        back = json.dumps({"spec": {"cache": None}})
        cluster.kubectl("patch", "dns64policy", "default", "--type=merge", "-p", back)
