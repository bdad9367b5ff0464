"""The chart's life on the real cluster: tested, upgraded and rolled back under live flows, gone."""

from __future__ import annotations

import hashlib
import json
import threading

import pytest

from tests.cluster.paths import REPO
from tests.cluster.product import KINDS, NAMESPACE, PREFIX, RELEASE, Product
from tests.cluster.run import wait_for
from tests.e2e.test_product import (
    IPV4_ONLY,
    NODES,
    corefile,
    dig,
    node_state,
    original_corefile,
    running_pod,
)

pytestmark = pytest.mark.cluster

CHART = str(REPO / "charts" / "nat64-operator")


def upgrade(product: Product, *flags: str) -> None:
    where = (f"--namespace={NAMESPACE}", "--wait", "--timeout=180s", "--reuse-values")
    product.cluster.helm("upgrade", RELEASE, CHART, *where, *flags)


def rollout(product: Product) -> int:
    """The generation of the DaemonSet that every node runs, once they all do."""
    kubectl = product.cluster.kubectl
    what = ("-n", NAMESPACE, "rollout", "status", "daemonset/nat64-default", "--timeout=180s")
    kubectl(*what)
    return generation(product)


def daemon_set(product: Product) -> str:
    return product.cluster.kubectl("-n", NAMESPACE, "get", "daemonset/nat64-default", "-o", "json")


def generation(product: Product) -> int:
    number: int = json.loads(daemon_set(product))["metadata"]["generation"]
    return number


def test_helm_test_resolves_and_connects_from_an_ipv6_only_pod(product: Product) -> None:
    upgrade(
        product,
        f"--set=helmTest.prefix={PREFIX}",
        f"--set-string=helmTest.connect={IPV4_ONLY}:80",
    )
    said = product.cluster.helm("test", RELEASE, f"--namespace={NAMESPACE}", "--logs")
    assert "ok: this pod has no IPv4 address" in said
    assert "ok: the cluster's DNS synthesizes: ipv4only.arpa. is 64:ff9b:1::c000:a" in said
    assert f"ok: connected to {IPV4_ONLY} port 80 at 64:ff9b:1::" in said


def test_an_upgrade_and_a_rollback_lose_no_flow(product: Product) -> None:
    size, rate = 120_000_000, 1_000_000
    before = rollout(product)
    with running_pod(product.cluster, "upgrade", "node2") as pod:
        result: list[str] = []
        url = f"http://{IPV4_ONLY}/bytes/{size}?rate={rate}"
        script = f"curl -sS --max-time 240 '{url}' | sha256sum"
        transfer = threading.Thread(target=lambda: result.append(pod.sh(script, check=False)))
        transfer.start()
        upgrade(product, "--set=dataplane.translator.resources.requests.cpu=21m")
        wait_for("the operator to roll it out", lambda: generation(product) > before, timeout=60)
        upgraded = rollout(product)
        assert transfer.is_alive(), "the transfer was over before the upgrade was"
        product.cluster.helm("rollback", RELEASE, f"--namespace={NAMESPACE}", "--wait")
        wait_for("the operator to roll it back", lambda: generation(product) > upgraded, timeout=60)
        rollout(product)
        transfer.join()
    pattern = bytes(range(256))
    expected = hashlib.sha256((pattern * (size // 256 + 1))[:size]).hexdigest()
    assert [line.split()[0] for line in result] == [expected]
    product.wait_ready()


def test_external_names_resolve_with_every_pod_of_ours_stopped(product: Product) -> None:
    """Last but one: it takes all pods away, and puts them back."""
    kubectl = product.cluster.kubectl
    operator = ("-n", NAMESPACE, "scale", "deployment/nat64-operator")
    with running_pod(product.cluster, "alone", "node1") as pod:
        kubectl(*operator, "--replicas=0")
        try:
            # A label that no node has: the DaemonSet's pods go, and nobody repairs it.
            body = {"spec": {"template": {"spec": {"nodeSelector": {"nobody": "here"}}}}}
            patch = ("-n", NAMESPACE, "patch", "daemonset/nat64-default", "-p", json.dumps(body))
            kubectl(*patch)
            gone = ("-n", NAMESPACE, "get", "pods", "-l", "nat64-operator.io/gateway", "-o", "name")
            wait_for("our pods to be gone", lambda: not kubectl(*gone).strip(), timeout=90)
            service = kubectl("get", "service", "kubernetes", "-o", "jsonpath={.spec.clusterIP}")
            assert str(dig(pod, "kubernetes.default.svc.cluster.local", "AAAA")[0]) == service
            assert dig(pod, "dual.internet.example", "AAAA") != []
            # The kernel translates on, agents or not.
            assert pod.exec("curl", "-sS", "-m", "10", "http://[64:ff9b:1::c633:6450]/")
        finally:
            kubectl(*operator, "--replicas=1")
    wait_for("the operator to repair it", lambda: "nobody" not in daemon_set(product), timeout=120)
    rollout(product)
    product.wait_ready(timeout=240)


def test_helm_uninstall_leaves_a_clean_cluster_and_clean_nodes(product: Product) -> None:
    """Last in the file: it takes the product away and puts it back for whoever comes after."""
    cluster = product.cluster
    try:
        cluster.helm("uninstall", RELEASE, f"--namespace={NAMESPACE}", "--wait", "--timeout=400s")
        for kind in KINDS:
            assert cluster.kubectl("get", kind, "-o", "name").strip() == ""
        for name in NODES:
            left = node_state(cluster, name)
            for trace in ("nat64", "n64p-", "61001", PREFIX.removesuffix("/96")):
                assert trace not in left, left
        assert corefile(cluster) == original_corefile()
        # Helm doesn't wait for the pods of what it deletes.
        cluster.kubectl(
            "-n", NAMESPACE, "wait", "pod", "--all", "--for=delete", "--timeout=60s", check=False
        )
        what = "daemonsets,deployments,configmaps,services,serviceaccounts,roles,jobs,pods"
        names = cluster.kubectl("-n", NAMESPACE, "get", what, "-o", "name").split()
        assert set(names) <= {"configmap/kube-root-ca.crt", "serviceaccount/default"}
        for where in ("kube-system", "default"):
            assert "nat64" not in cluster.kubectl("-n", where, "get", "roles,rolebindings")
        assert "nat64" not in cluster.kubectl("get", "clusterroles,clusterrolebindings")
    finally:
        product.install()
        product.apply()
        product.wait_ready()
