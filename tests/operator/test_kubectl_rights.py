"""`kubectl nat64` and the examples against a real API server, under Pod Security and RBAC."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from nat64_operator.kubectl.cluster import Cluster
from nat64_operator.kubectl.exec_output import ClusterError
from nat64_operator.kubectl.probe_pods import Image, Pods, operators_image, running
from tests.operator.conftest import NAMESPACE, Api, eventually

pytestmark = pytest.mark.apiserver

PROGRAM = Path(sys.executable).with_name("kubectl-nat64")
EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
STRICT = "nat64-strict"


@pytest.fixture(scope="module")
def strict(api: Api) -> Iterator[Api]:
    """A namespace that admits nothing but `restricted` pods."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    api.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": STRICT, "labels": labels}},
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "default", "namespace": STRICT},
        },
    )
    yield api
    api.delete("namespace", STRICT)


def connect(api: Api, user: str = "") -> Cluster:
    return Cluster.connect(str(api.control_plane.kubeconfig), None, user)


def run(api: Api, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [str(PROGRAM), *arguments, "--kubeconfig", str(api.control_plane.kubeconfig)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)


def test_the_pods_are_admitted_as_restricted_and_are_gone_afterwards(strict: Api) -> None:
    said: list[str] = []
    pods = Pods(connect(strict), STRICT, Image("image.example/operator:1"))
    with running(pods, said.append):
        pods.start(["node1", "node2"], {"host": "v4.example"}, seconds=60)
        found = strict.items("pods", namespace=STRICT)
        assert sorted(pod["spec"]["nodeName"] for pod in found) == ["node1", "node2"]
        assert set(pods.why_not_running(0, lambda _: None)) == {"node1", "node2"}
    assert said == []
    # Without a kubelet a pod that is bound to a node stays, marked as deleted.
    left = strict.items("pods", namespace=STRICT)
    assert [pod for pod in left if "deletionTimestamp" not in pod["metadata"]] == []


def test_what_a_user_may_not_do_is_a_sentence(strict: Api) -> None:
    pods = Pods(connect(strict, "stranger"), STRICT, Image("i"))
    with pytest.raises(ClusterError, match='User "stranger" cannot create resource "pods"'):
        pods.start(["node1"])
    done = run(strict, "status", "--as", "stranger")
    assert (done.returncode, done.stdout) == (2, "")
    assert 'User "stranger" cannot list resource "nat64gateways"' in done.stderr


def test_status_is_for_whoever_may_read_the_objects(
    strict: Api, cluster: Api, chart: list[dict[str, Any]]
) -> None:
    """With no right to list pods, and with that but none to run commands in them."""
    labels = {
        "app.kubernetes.io/name": "nat64-gateway",
        "app.kubernetes.io/component": "dataplane",
        "nat64-operator.io/gateway": "default",
    }
    rules: list[dict[str, Any]] = [
        {
            "apiGroups": ["nat64-operator.io"],
            "resources": ["nat64gateways", "dns64policies"],
            "verbs": ["list"],
        }
    ]
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole"}
    pods = Pods(connect(strict), NAMESPACE, Image("i"))
    strict.apply(
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "default", "namespace": NAMESPACE},
        }
    )
    strict.control_plane.kubectl(
        "create",
        "clusterrolebinding",
        "nat64-looker",
        "--clusterrole=nat64-looker",
        "--user=looker",
    )
    try:
        strict.apply({**role, "metadata": {"name": "nat64-looker"}, "rules": rules})
        done = run(strict, "status", "--as", "looker")
        assert "NAT64Gateway" not in done.stderr
        assert 'agents: pods is forbidden: User "looker"' in done.stderr
        assert done.returncode == 1, "there is no gateway"
        assert "no gateways" in done.stdout
        with running(pods, lambda _: None):
            pods.start(["node1"])
            [name] = pods.by_node.values()
            where = ("-n", NAMESPACE)
            strict.control_plane.kubectl(
                *where,
                "label",
                "pod",
                name,
                "--overwrite",
                *(f"{k}={v}" for k, v in labels.items()),
            )
            state = {"containerStatuses": [{"name": "translator", "state": {"running": {}},
                     "image": "i", "imageID": "", "ready": True, "restartCount": 0}]}  # fmt: skip
            strict.patch("pod", name, body={"status": state}, subresource="status")
            rules.append({"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]})
            strict.apply({**role, "metadata": {"name": "nat64-looker"}, "rules": rules})
            eventually(lambda: "pods/exec" in run(strict, "status", "--as", "looker").stderr)
            done = run(strict, "status", "--as", "looker")
        assert 'User "looker" cannot get resource "pods/exec"' in done.stderr
        assert "Handshake" not in done.stderr
    finally:
        strict.control_plane.kubectl("delete", "clusterrolebinding,clusterrole", "nat64-looker")


def test_the_image_of_the_test_is_the_operators(strict: Api, chart: list[dict[str, Any]]) -> None:
    [deployment] = [obj for obj in chart if obj["kind"] == "Deployment"]
    strict.apply(deployment)
    try:
        found = operators_image(connect(strict), NAMESPACE)
    finally:
        strict.delete("deployment", deployment["metadata"]["name"])
    assert found.name == deployment["spec"]["template"]["spec"]["containers"][0]["image"]


def test_a_bundle_says_what_could_not_be_read(strict: Api, tmp_path: Path) -> None:
    target = tmp_path / "b.tar.gz"
    assert run(strict, "bundle", "--file", str(target)).returncode == 0
    again = run(strict, "bundle", "--file", str(target), "--as", "stranger")
    assert again.returncode == 1
    with tarfile.open(target) as tar:
        missing = tar.extractfile("b/MISSING")
        assert missing is not None
        text = missing.read().decode()
    assert 'objects/pods.yaml: pods is forbidden: User "stranger"' in text
    assert run(strict, "bundle", "--file", "b.zip").returncode == 2


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_admitted_as_it_stands(api: Api, path: Path) -> None:
    """By the CRDs' own rules, with no field that the API server would drop."""
    for obj in yaml.safe_load_all(path.read_text()):
        if obj["apiVersion"].startswith("nat64-operator.io/"):
            apply = ("apply", "-f", "-", "--dry-run=server", "--validate=strict")
            said = api.control_plane.kubectl(*apply, input=yaml.safe_dump(obj))
            assert "created" in said or "configured" in said or "unchanged" in said


def test_every_example_says_what_it_is_for() -> None:
    assert len(EXAMPLES) > 5
    for path in EXAMPLES:
        assert path.read_text().startswith("# "), path.name
