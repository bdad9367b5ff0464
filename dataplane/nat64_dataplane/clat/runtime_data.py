"""What the container runtime has on disk of its pods: whose a network namespace is.

The runtime writes an OCI config file for each pod's sandbox a moment after the pod has its network.
Only names and one annotation are read from there. Where there are no such files, pods have no
names in reports, and none can opt out.

containerd hands over the annotations that its `pod_annotations` names; CRI-O all of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

DEFAULT_DIRECTORIES = (
    Path("/run/containerd/io.containerd.runtime.v2.task/k8s.io"),
    Path("/run/containers/storage/overlay-containers"),
)
ANNOTATION = "nat64-operator.io/clat"
OFF = "Off"

_LARGEST = 4 << 20
_NAMES = (
    ("io.kubernetes.cri.sandbox-namespace", "io.kubernetes.cri.sandbox-name"),
    ("io.kubernetes.pod.namespace", "io.kubernetes.pod.name"),
)
_CRIO_ANNOTATIONS = "io.kubernetes.cri-o.Annotations"
_KINDS = ("io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType")


class PodName(NamedTuple):
    """Whose a network namespace is."""

    namespace: str
    name: str
    opted_out: bool

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class RuntimeData:
    """Reads each file once. Only for one thread."""

    def __init__(self, directories: tuple[Path, ...] = DEFAULT_DIRECTORIES) -> None:
        self._directories = directories
        self._read: dict[Path, tuple[str, PodName] | None] = {}

    def pods(self) -> dict[str, PodName]:
        """The pods of this node by the file name of their network namespace."""
        present = set(self._files())
        for gone in self._read.keys() - present:
            del self._read[gone]
        for path in present - self._read.keys():
            try:
                self._read[path] = _of(path)
            except (OSError, ValueError):
                continue  # it has gone, or is being written: the next call reads it again
        return dict(one for one in self._read.values() if one)

    def _files(self) -> Iterator[Path]:
        for directory in self._directories:
            try:
                containers = list(directory.iterdir())
            except OSError:
                continue
            for container in containers:
                for path in (container / "config.json", container / "userdata" / "config.json"):
                    if path.is_file():
                        yield path


def _of(path: Path) -> tuple[str, PodName] | None:
    """The namespace's file name and the pod; None for a container that is no sandbox."""
    with path.open("rb") as file:
        content = file.read(_LARGEST)
    return parse(json.loads(content))


def parse(config: Any) -> tuple[str, PodName] | None:
    """What an OCI config says. Raises ValueError where it isn't one."""
    if not isinstance(config, dict):
        raise ValueError("not an object")
    annotations = config.get("annotations")
    linux = config.get("linux")
    if not isinstance(annotations, dict) or not isinstance(linux, dict):
        return None
    if not any(annotations.get(kind) == "sandbox" for kind in _KINDS):
        return None
    network = [
        one.get("path")
        for one in linux.get("namespaces") or ()
        if isinstance(one, dict) and one.get("type") == "network"
    ]
    if len(network) != 1 or not isinstance(network[0], str) or not network[0]:
        return None  # the node's own network
    for namespace, name in _NAMES:
        if namespace in annotations and name in annotations:
            pod = PodName(
                str(annotations[namespace]), str(annotations[name]), _opted_out(annotations)
            )
            return Path(network[0]).name, pod
    return None


def _opted_out(annotations: dict[str, Any]) -> bool:
    if annotations.get(ANNOTATION) == OFF:
        return True
    try:
        of_pod = json.loads(annotations.get(_CRIO_ANNOTATIONS) or "{}")
    except (TypeError, ValueError):
        return False
    return isinstance(of_pod, dict) and of_pod.get(ANNOTATION) == OFF
