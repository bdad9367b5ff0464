"""Short-lived pods for `kubectl nat64 test`: their manifests, and their life cycle."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from nat64_operator.kubectl.exec_output import ClusterError, Json, Output, parse_output

CONTAINER = "probe"
LABELS = {
    "app.kubernetes.io/name": "nat64-test",
    "app.kubernetes.io/component": "connectivity-test",
    "app.kubernetes.io/part-of": "nat64-operator",
}
PROBE = Path(__file__).with_name("pod_probe.py")
RUN_PROBE = "import os; exec(compile(os.environ['PROBE'], 'probe', 'exec'))"
SLEEP = "import time; time.sleep(86400)"
OPERATOR = "app.kubernetes.io/name=nat64-operator"
OVERALL_SECONDS = 600
"""A pod ends by itself after this time if nobody deletes it; flows get their time in addition."""


class Access(Protocol):
    """The part of `Cluster` that creates pods and gives them requests."""

    def get(self, path: str, **query: str) -> Json:
        """One object. Raises ClusterError."""

    def items(self, path: str, **query: str) -> list[Json]:
        """A list of objects. Raises ClusterError."""

    def create(self, path: str, body: Json) -> Json:
        """Make an object. Raises ClusterError."""

    def delete(self, path: str) -> None:
        """Delete an object; one that is gone is no error. Raises ClusterError."""

    def exec(self, namespace: str, pod: str, container: str, argv: Sequence[str]) -> Output:
        """Run a command in a pod. Raises ClusterError."""


class Image(NamedTuple):
    """What the pods run, and the names of the Secrets to pull it with."""

    name: str
    pull_secrets: tuple[str, ...] = ()


def operators_image(cluster: Access, namespace: str) -> Image:
    """The operator's own image: the nodes can pull it, and it has Python. Raises ClusterError."""
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments"
    for found in cluster.items(path, labelSelector=OPERATOR):
        spec = found["spec"]["template"]["spec"]
        pull = tuple(secret["name"] for secret in spec.get("imagePullSecrets") or ())
        return Image(spec["containers"][0]["image"], pull)
    raise ClusterError(
        f"namespace {namespace} has no nat64-operator whose image the test could use: name its "
        "namespace by --operator-namespace, or an image with python3 by --image"
    )


def manifest(
    name: str, node: str, image: Image, flows: Mapping[str, Any] | None, seconds: int
) -> Json:
    """A pod that waits for questions, or keeps `flows` open. It is `restricted` (Pod Security)."""
    if flows is None:
        command = ["python3", "-c", SLEEP]
    else:
        command = ["python3", "-c", RUN_PROBE, "flows", json.dumps(flows)]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": LABELS},
        "spec": {
            # This bypasses the scheduler, because a node that is cordoned or tainted translates
            # too.
            "nodeName": node,
            "tolerations": [{"operator": "Exists"}],
            "restartPolicy": "Never",
            "activeDeadlineSeconds": seconds,
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "imagePullSecrets": [{"name": secret} for secret in image.pull_secrets],
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "runAsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
                # This allows pings without a capability; it is one of the sysctls that Kubernetes
                # calls safe.
                "sysctls": [{"name": "net.ipv4.ping_group_range", "value": "0 2147483647"}],
            },
            "containers": [
                {
                    "name": CONTAINER,
                    "image": image.name,
                    "command": command,
                    "env": [{"name": "PROBE", "value": PROBE.read_text()}],
                    "resources": {
                        "requests": {"cpu": "10m", "memory": "32Mi"},
                        "limits": {"memory": "128Mi"},
                    },
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108
                }
            ],
            "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "16Mi"}}],
        },
    }


class Pods:
    """The pods of one run."""

    def __init__(self, cluster: Access, namespace: str, image: Image) -> None:
        self._cluster, self.namespace, self._image = cluster, namespace, image
        self._path = f"/api/v1/namespaces/{namespace}/pods"
        self._run = secrets.token_hex(3)
        self.by_node: dict[str, str] = {}
        """Names of pods by node."""

    def start(
        self, nodes: Sequence[str], flows: Mapping[str, Any] | None = None, seconds: int = 0
    ) -> None:
        """Make one on each node. Raises ClusterError."""
        for number, node in enumerate(nodes):
            name = f"nat64-test-{self._run}-{number}"
            body = manifest(name, node, self._image, flows, OVERALL_SECONDS + seconds)
            # The name is noted before the pod is created, so that it is deleted even if the answer
            # gets lost.
            self.by_node[node] = name
            self._cluster.create(self._path, body)

    def why_not_running(self, limit: float, pause: Callable[[float], None]) -> dict[str, str]:
        """Wait until all run. Returns the nodes whose pod doesn't run after `limit` seconds, with
        the reason.
        """
        deadline = time.monotonic() + limit
        while True:
            waiting = {}
            for node, name in self.by_node.items():
                pod = self._cluster.get(f"{self._path}/{name}")
                if reason := why_not(pod):
                    waiting[node] = reason
            if not waiting or time.monotonic() > deadline:
                return waiting
            pause(1)

    def ask(self, node: str, requests: Sequence[Mapping[str, Any]]) -> list[Json]:
        """Have the pod of a node carry out requests. Raises ClusterError."""
        argv = ("python3", "-c", RUN_PROBE, "ask", json.dumps(requests))
        name = self.by_node[node]
        found: list[Json] = parse_output(
            name, ("probe",), self._cluster.exec(self.namespace, name, CONTAINER, argv)
        )
        return found

    def read(self, node: str, path: str) -> Json:
        """A file of JSON in the pod of a node. Raises ClusterError."""
        argv = ("python3", "-c", "import sys; print(open(sys.argv[1]).read())", path)
        name = self.by_node[node]
        found: Json = parse_output(
            name, ("read", path), self._cluster.exec(self.namespace, name, CONTAINER, argv)
        )
        return found

    def delete(self) -> list[str]:
        """Delete all; returns a text for each pod that couldn't be deleted."""
        failed = []
        for name in self.by_node.values():
            try:
                self._cluster.delete(f"{self._path}/{name}")
            except ClusterError as error:
                failed.append(f"pod {self.namespace}/{name} is left behind: {error}")
        return failed


@contextmanager
def running(pods: Pods, warn: Callable[[str], None]) -> Iterator[Pods]:
    """The pods are deleted at the end, also after an error."""
    try:
        yield pods
    finally:
        for sentence in pods.delete():
            warn(sentence)


def why_not(pod: Json) -> str:
    """Why a pod does not run; empty if it does."""
    status = pod.get("status") or {}
    if status.get("phase") == "Running":
        return ""
    for container in status.get("containerStatuses") or ():
        state = container.get("state") or {}
        waiting = state.get("waiting") or state.get("terminated") or {}
        if waiting.get("reason"):
            message = waiting.get("message")
            return f"{waiting['reason']}: {message}" if message else str(waiting["reason"])
    reason = status.get("reason") or status.get("phase") or "Pending"
    message = status.get("message")
    return f"{reason}: {message}" if message else str(reason)
