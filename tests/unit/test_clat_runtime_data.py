"""What the container runtime's files say of a pod."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nat64_dataplane.clat.runtime_data import PodName, RuntimeData, parse

NETNS = [{"type": "pid"}, {"type": "network", "path": "/var/run/netns/cni-1"}]
CONTAINERD = {
    "io.kubernetes.cri.container-type": "sandbox",
    "io.kubernetes.cri.sandbox-namespace": "web",
    "io.kubernetes.cri.sandbox-name": "app",
}
CRIO = {
    "io.kubernetes.cri-o.ContainerType": "sandbox",
    "io.kubernetes.pod.namespace": "web",
    "io.kubernetes.pod.name": "app",
}


def config(annotations: dict[str, str], namespaces: Any = NETNS) -> dict[str, Any]:
    return {"annotations": annotations, "linux": {"namespaces": namespaces}}


@pytest.mark.parametrize("runtime", [CONTAINERD, CRIO])
def test_a_sandbox_has_a_name(runtime: dict[str, str]) -> None:
    assert parse(config(runtime)) == ("cni-1", PodName("web", "app", opted_out=False))


def test_a_pod_opts_out() -> None:
    off = {"nat64-operator.io/clat": "Off"}
    crio = {"io.kubernetes.cri-o.Annotations": json.dumps(off)}
    for opted in (CONTAINERD | off, CRIO | crio):
        found = parse(config(opted))
        assert found
        assert found[1].opted_out


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"annotations": None, "linux": None},
        config({}),
        config(CONTAINERD | {"io.kubernetes.cri.container-type": "container"}),
        config(CONTAINERD, []),
        config(CONTAINERD, None),
        config(CONTAINERD, [{"type": "network"}]),  # the node's own
        config(CONTAINERD, [{"type": "network", "path": 7}]),
    ],
)
def test_what_is_no_sandbox_of_a_pod_is_nobodys(other: dict[str, Any]) -> None:
    assert parse(other) is None


def test_an_annotation_that_is_no_json_opts_nobody_out() -> None:
    found = parse(config(CRIO | {"io.kubernetes.cri-o.Annotations": "{"}))
    assert found
    assert not found[1].opted_out


def test_files_that_are_absent_or_half_written_are_read_later(tmp_path: Path) -> None:
    data = RuntimeData((tmp_path / "absent", tmp_path))
    assert data.pods() == {}
    file = tmp_path / "sandbox" / "config.json"
    file.parent.mkdir()
    file.write_text('{"annotations"')
    assert data.pods() == {}
    file.write_text(json.dumps(config(CONTAINERD)))
    assert str(data.pods()["cni-1"]) == "web/app"
    file.unlink()
    assert data.pods() == {}
