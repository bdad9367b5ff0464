"""The chart's life on the real cluster: tested, upgraded and rolled back under live flows, gone."""

from __future__ import annotations

import json
import time

import pytest

from tests.cluster import images
from tests.cluster.network import HTTP_IPV6
from tests.cluster.paths import REPO
from tests.cluster.product import GATEWAY, KINDS, NAMESPACE, PREFIX, RELEASE, Product
from tests.cluster.run import CommandError, wait_for
from tests.e2e.flow import live_flow
from tests.e2e.test_product import (
    IPV4_ONLY,
    assert_nodes_are_clean,
    corefile,
    dig,
    original_corefile,
    running_pod,
)

pytestmark = pytest.mark.cluster

DUAL = "dual.internet.example"
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


def test_helm_test_fails_where_the_connection_proves_nothing(product: Product) -> None:
    upgrade(
        product,
        f"--set=helmTest.prefix={PREFIX}",
        f"--set-string=helmTest.connect={DUAL}:80",
    )
    with pytest.raises(CommandError):
        product.cluster.helm("test", RELEASE, f"--namespace={NAMESPACE}")
    said = product.cluster.kubectl("-n", NAMESPACE, "logs", "nat64-operator-verify")
    assert f"failed: {DUAL} was reached at {HTTP_IPV6}, which is not under {PREFIX}" in said


def test_helm_test_resolves_and_connects_from_an_ipv6_only_pod(product: Product) -> None:
    run_helm_test(product)


def run_helm_test(product: Product) -> None:
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
    """To images of another tag and to other resources, and back."""
    run_upgrade(product, rollback=True)


def run_upgrade(product: Product, *, rollback: bool) -> None:
    """Replace every agent under a live flow; without a rollback the new ones stay."""
    before = generation(product)
    old = images_of_agents(product)
    flags = [f"--set={image.target}.image.tag={again(product, image)}" for image in images.PRODUCT]
    with running_pod(product.cluster, "upgrade", "node2") as pod, live_flow(pod, "upgrade") as flow:
        upgrade(product, "--set=dataplane.translator.resources.requests.cpu=21m", *flags)
        wait_for("the operator to roll it out", lambda: generation(product) > before, timeout=120)
        upgraded = rollout(product)
        assert not images_of_agents(product) & old
        flow.goes_on()
        if rollback:
            where = (f"--namespace={NAMESPACE}", "--wait", "--timeout=180s")
            product.cluster.helm("rollback", RELEASE, *where)
            wait_for(
                "the operator to roll it back", lambda: generation(product) > upgraded, timeout=120
            )
            rollout(product)
            assert images_of_agents(product) == old
            flow.goes_on()
    product.wait_ready()


def again(product: Product, image: images.Image) -> str:
    """Give an image another tag on both nodes, as a later version would have."""
    for node in product.cluster.nodes:
        node.ctr("images", "tag", "--force", image.name, f"{image.name}-again")
    return f"{image.tag}-again"


def images_of_agents(product: Product) -> set[str]:
    """What the agents' pods run."""
    path = "jsonpath={.items[*].spec.containers[*].image}"
    what = ("get", "pods", "-l", "app.kubernetes.io/name=nat64-gateway", "-o", path)
    return set(product.cluster.kubectl("-n", NAMESPACE, *what).split())


def test_another_operator_takes_over_from_the_active_one_when_it_is_killed(
    product: Product,
) -> None:
    kubectl = product.cluster.kubectl
    upgrade(product, "--set=operator.replicas=2")

    def holder() -> str:
        path = "jsonpath={.spec.holderIdentity}"
        lease = ("-n", NAMESPACE, "get", "lease", "nat64-operator", "-o", path)
        return kubectl(*lease).rsplit("-", 2)[0]  # the pod's name, a process, a random number

    wait_for("an operator to hold the lease", lambda: bool(holder()), timeout=60)
    kubectl("-n", NAMESPACE, "delete", "lease", "nat64-operator")
    wait_for("the lease to be made again", lambda: bool(holder()), timeout=60)
    active = holder()
    before = generation(product)
    with (
        running_pod(product.cluster, "handover", "node2") as pod,
        live_flow(pod, "handover") as flow,
    ):
        kubectl("-n", NAMESPACE, "delete", "pod", active, "--grace-period=0", "--force")
        wait_for("another to hold it", lambda: holder() not in ("", active), timeout=120)
        changed = {**GATEWAY, "spec": {**GATEWAY["spec"], "timeouts": {"udpSeconds": 301}}}
        product.apply(changed)
        wait_for("another to act", lambda: generation(product) > before, timeout=120)
        rollout(product)
        flow.goes_on()
    product.apply()
    upgrade(product, "--set=operator.replicas=1")
    product.wait_ready()


def test_a_second_release_is_refused_by_the_name_of_the_first(product: Product) -> None:
    argv = ("install", "another", CHART, "--namespace=elsewhere", "--create-namespace")
    with pytest.raises(CommandError) as refused:
        product.cluster.helm(*argv, "--set=crds.install=false")
    assert f'release "{RELEASE}" in namespace "{NAMESPACE}"' in str(refused.value)
    product.cluster.kubectl("delete", "namespace", "elsewhere", "--ignore-not-found")


def test_a_quota_that_keeps_an_agent_away_is_named(product: Product) -> None:
    kubectl = product.cluster.kubectl
    agent = ("-n", NAMESPACE, "delete", "pod", product.agent_on("node2"), "--wait=false")
    why = (
        *("get", "nat64gateway/default", "-o"),
        'jsonpath={.status.conditions[?(@.type=="Programmed")].message}',
    )
    kubectl("-n", NAMESPACE, "create", "quota", "nothing-new", "--hard=pods=0")
    try:
        kubectl(*agent)
        wait_for("the API server's words", lambda: "exceeded quota" in kubectl(*why), timeout=120)
    finally:
        kubectl("-n", NAMESPACE, "delete", "quota", "nothing-new")
        # The DaemonSet's controller waits longer after each refusal, but not after a change.
        at = f"example.org/tried-at={time.time():.0f}"
        kubectl("-n", NAMESPACE, "annotate", "daemonset/nat64-default", at, "--overwrite")
    rollout(product)
    product.wait_ready(timeout=240)


def test_external_names_resolve_with_every_pod_of_ours_stopped(product: Product) -> None:
    """Last but one: it removes all pods, and has them made again."""
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
    """Last in the file: it removes the product and installs it again for later tests."""
    cluster = product.cluster
    # A failed `helm test`, whose pod Helm leaves.
    fails = f"--set-string=helmTest.connect={DUAL}:80"
    upgrade(product, "--set=operator.replicas=2", fails)
    with pytest.raises(CommandError):
        cluster.helm("test", RELEASE, f"--namespace={NAMESPACE}")
    path = "jsonpath={.metadata.labels}"
    labels = ("get", "namespace", NAMESPACE, "-o", path)
    assert "pod-security.kubernetes.io/enforce" in cluster.kubectl(*labels)
    try:
        cluster.helm("uninstall", RELEASE, f"--namespace={NAMESPACE}", "--wait", "--timeout=12m")
        for kind in KINDS:
            assert cluster.kubectl("get", kind, "-o", "name").strip() == ""
        assert_nodes_are_clean(cluster)
        assert corefile(cluster) == original_corefile()
        # Helm doesn't wait for the pods of what it deletes.
        wait_for("our pods to be gone", lambda: product.pods() == [], timeout=90)
        what = (
            "daemonsets,deployments,configmaps,services,serviceaccounts,roles,rolebindings,jobs,"
            "pods,leases,endpointslices,poddisruptionbudgets"
        )
        names = cluster.kubectl("-n", NAMESPACE, "get", what, "-o", "name").split()
        assert set(names) <= {"configmap/kube-root-ca.crt", "serviceaccount/default"}
        assert "pod-security" not in cluster.kubectl(*labels)
        for where in ("kube-system", "default"):
            theirs = "roles,rolebindings,configmaps,services,leases"
            assert "nat64" not in cluster.kubectl("-n", where, "get", theirs, "-o", "name")
        maps = cluster.kubectl("-n", "kube-system", "get", "configmaps", "-o", "name")
        assert "coredns-custom" not in maps
        assert "nat64" not in cluster.kubectl("get", "clusterroles,clusterrolebindings")
    finally:
        product.install()
        product.apply()
        product.wait_ready()
