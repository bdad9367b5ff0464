"""The other modes of wiring, against the cluster's own CoreDNS."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from ipaddress import IPv6Address
from typing import Any

import pytest

from tests.cluster import Cluster
from tests.cluster.product import POLICY, Pod, Product
from tests.cluster.run import wait_for
from tests.e2e.test_lifecycle import upgrade
from tests.e2e.test_product import (
    IPV4_ONLY,
    SERVER,
    corefile,
    dig_often,
    original_corefile,
    running_pod,
)

pytestmark = pytest.mark.cluster

# Kubelets hand a ConfigMap on within about 90 s, CoreDNS reads it within 45 s more.
SLOW = 240
FORWARD = "    forward . /etc/resolv.conf {"


def policy(mode: str) -> dict[str, Any]:
    return {**POLICY, "spec": {"coreDNS": {"mode": mode}}}


def in_kube_system(cluster: Cluster, *argv: str) -> str:
    return cluster.kubectl("-n", "kube-system", *argv)


@contextlib.contextmanager
def unwired(product: Product) -> Iterator[None]:
    """Without a policy; in the end with the usual one, whatever happened."""
    delete = ("delete", "dns64policies.nat64-operator.io", "default", "--ignore-not-found")
    product.cluster.kubectl(*delete, f"--timeout={SLOW}s")
    assert corefile(product.cluster) == original_corefile()
    try:
        yield
    finally:
        product.cluster.kubectl(*delete, f"--timeout={SLOW}s")
        assert corefile(product.cluster) == original_corefile()
        product.apply()
        product.wait_ready(timeout=SLOW)


@contextlib.contextmanager
def importing_coredns(cluster: Cluster) -> Iterator[None]:
    """CoreDNS as k3s has it: its Corefile imports what ConfigMap coredns-custom holds, if it is."""
    deployment = json.loads(in_kube_system(cluster, "get", "deployment", "coredns", "-o", "json"))
    template = deployment["spec"]["template"]
    changed = json.loads(json.dumps(template))
    source = {"name": "coredns-custom", "optional": True}
    changed["spec"]["volumes"].append({"name": "custom", "configMap": source})
    mount = {"name": "custom", "mountPath": "/etc/coredns/custom", "readOnly": True}
    changed["spec"]["containers"][0]["volumeMounts"].append(mount)
    line = "    import /etc/coredns/custom/*.override\n"
    text = original_corefile().replace(FORWARD, line + FORWARD)
    assert line in text

    def patch(what: str, kind: str, body: Any) -> None:
        in_kube_system(cluster, "patch", what, f"--type={kind}", "-p", json.dumps(body))

    def roll(spec: Any) -> None:
        patch("deployment/coredns", "json", [{"op": "replace", "path": "/spec/template", **spec}])
        in_kube_system(cluster, "rollout", "status", "deployment/coredns", "--timeout=120s")

    patch("configmap/coredns", "merge", {"data": {"Corefile": text}})
    try:
        roll({"value": changed})
        yield
        assert corefile(cluster) == text, "only the imported file is ours"
    finally:
        patch("configmap/coredns", "merge", {"data": {"Corefile": original_corefile()}})
        roll({"value": template})


def synthesizes(pod: Pod) -> bool:
    """Whether every CoreDNS does: there are two, behind one address."""
    return all(found == [IPv6Address(SERVER)] for found in dig_often(pod, IPV4_ONLY, "AAAA"))


def imported(cluster: Cluster) -> dict[str, str]:
    """What is in the ConfigMap beside CoreDNS's own."""
    text = in_kube_system(cluster, "get", "configmap", "coredns-custom", "-o", "json")
    return dict(json.loads(text)["data"])


def test_import_writes_a_file_of_its_own_and_takes_it_away(product: Product) -> None:
    cluster = product.cluster
    upgrade(product, "--set=coreDNS.createCustomConfigMap=true")
    with (
        unwired(product),
        importing_coredns(cluster),
        running_pod(cluster, "import", "node1") as pod,
    ):
        product.apply(policy("Import"))
        product.wait_ready(timeout=SLOW)
        assert "configmap/coredns-custom" in in_kube_system(
            cluster, "get", "configmaps", "-o", "name"
        )
        wait_for("both CoreDNS pods to synthesize", lambda: synthesizes(pod), SLOW, every=1)
        body = pod.exec("curl", "-sS", "--max-time", "10", f"http://{IPV4_ONLY}/imported")
        assert "path /imported" in body
        data = imported(cluster)
        [key] = data
        edit = json.dumps({"data": {key: "# someone was here\n"}})
        in_kube_system(cluster, "patch", "configmap/coredns-custom", "--type=merge", "-p", edit)
        wait_for("the file to be ours again", lambda: imported(cluster) == data, timeout=60)
        cluster.kubectl(
            "delete", "dns64policies.nat64-operator.io", "default", f"--timeout={SLOW}s"
        )
        left = in_kube_system(cluster, "get", "configmaps", "-o", "name")
        assert "coredns-custom" not in left
    upgrade(product, "--set=coreDNS.createCustomConfigMap=false")


def test_plugin_has_coredns_synthesize_by_itself(product: Product) -> None:
    cluster = product.cluster
    with unwired(product), running_pod(cluster, "plugin", "node1") as pod:
        product.apply(policy("Plugin"))
        product.wait_ready(timeout=SLOW)
        wired = corefile(cluster)
        assert "dns64" in wired
        assert "6464" not in wired, "no sidecar is asked"
        wait_for("both CoreDNS pods to synthesize", lambda: synthesizes(pod), SLOW, every=1)
        body = pod.exec("curl", "-sS", "--max-time", "10", f"http://{IPV4_ONLY}/plugin")
        assert "path /plugin" in body
