"""The Corefile's owner stays its owner: its next write works, by whatever tool.

Helm is the real one, with a chart that has CoreDNS's ConfigMap; the others' writes are made as they
make them, by kubectl with their field manager.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster import ControlPlane, binaries
from tests.operator.conftest import (
    PREFIX,
    SAMPLE,
    Api,
    ClusterDns,
    Operator,
    condition,
    coredns,
    eventually,
    gateway,
    policy,
)
from tests.operator.test_flow import (
    is_ready,
    roll_out,
    service_address,
    sidecars_ready,
    the_corefile,
)

pytestmark = pytest.mark.apiserver

ORIGINAL = SAMPLE.read_text()
CHANGED = ORIGINAL.replace("cache 30 {", "cache 77 {")


class Release:
    """CoreDNS's chart, by the real Helm."""

    def __init__(self, control_plane: ControlPlane, folder: Path) -> None:
        self._kubeconfig, self._folder = control_plane.kubeconfig, folder
        (folder / "templates").mkdir(parents=True)
        chart = {"apiVersion": "v2", "name": "coredns", "version": "1.0.0"}
        (folder / "Chart.yaml").write_text(yaml.safe_dump(chart))

    def write(self, text: str, *flags: str) -> subprocess.CompletedProcess[str]:
        """Install it, or upgrade it to this Corefile."""
        (self._folder / "templates" / "coredns.yaml").write_text(yaml.safe_dump(coredns(text)))
        return self._run("upgrade", "--install", "coredns", str(self._folder), *flags)

    def remove(self) -> None:
        self._run("uninstall", "coredns", "--ignore-not-found")

    def _run(self, *args: str) -> subprocess.CompletedProcess[str]:
        argv = [str(binaries.ensure("helm")["helm"]), f"--kubeconfig={self._kubeconfig}"]
        argv += ["--namespace=kube-system", *args]
        return subprocess.run(argv, capture_output=True, text=True)


@pytest.fixture
def release(cluster: Api, control_plane: ControlPlane, tmp_path: Path) -> Iterator[Release]:
    """Not installed yet; there is no ConfigMap of anybody's."""
    cluster.control_plane.kubectl("-n", "kube-system", "delete", "configmap", "coredns")
    made = Release(control_plane, tmp_path / "coredns")
    yield made
    made.remove()


def wire(api: Api, operator: Operator, dns: ClusterDns) -> None:
    api.apply(gateway(prefix=PREFIX), policy())
    operator.start()
    eventually(lambda: api.get("daemonset", "nat64-default"), about="the DaemonSet")
    roll_out(api)
    sidecars_ready(api)
    eventually(lambda: is_in(api), about="wired")
    dns.synthesizes = True
    eventually(lambda: is_ready(api, "dns64policy"), about="policy Ready")
    eventually(lambda: "nat64-operator" not in owners(api), about="the ownership is given up")


def is_in(api: Api) -> bool:
    return f"[{service_address(api)}]:53" in the_corefile(api)


def owners(api: Api) -> set[str]:
    """Field managers that own the key, as the API server sees it."""
    found = api.control_plane.kubectl(
        "-n", "kube-system", "get", "configmap", "coredns", "-o", "yaml", "--show-managed-fields"
    )
    entries: list[Any] = yaml.safe_load(found)["metadata"].get("managedFields") or []
    return {
        entry["manager"]
        for entry in entries
        if "f:Corefile" in (entry.get("fieldsV1", {}).get("f:data") or {})
    }


def reason(api: Api) -> str:
    return condition(api.get("dns64policy", "default"), "Programmed")[1]


def remove_policy(api: Api, dns: ClusterDns) -> None:
    api.delete("dns64policy", "default")
    dns.synthesizes = False
    eventually(lambda: api.get("dns64policy", "default") is None, timeout=150, about="policy gone")


def test_a_move_from_helm_3s_way_to_helm_4s_works_over_our_edit(
    cluster: Api, operator: Operator, cluster_dns: ClusterDns, release: Release
) -> None:
    """Installed as Helm 3 does, upgraded as Helm 4 does: server-side, and without force."""
    done = release.write(ORIGINAL, "--server-side=false")
    assert done.returncode == 0, done.stderr
    wire(cluster, operator, cluster_dns)
    done = release.write(CHANGED, "--server-side=true", "--force-conflicts=false")
    assert done.returncode == 0, done.stderr
    # Now the chart declares it: it is the owner's, and an edit would be undone by each upgrade.
    eventually(lambda: reason(cluster) == "CorefileManagedElsewhere", about="stepped back")
    assert the_corefile(cluster) == CHANGED
    remove_policy(cluster, cluster_dns)
    assert the_corefile(cluster) == CHANGED


def test_helm_3s_upgrade_is_followed(
    cluster: Api, operator: Operator, cluster_dns: ClusterDns, release: Release
) -> None:
    assert release.write(ORIGINAL, "--server-side=false").returncode == 0
    wire(cluster, operator, cluster_dns)
    done = release.write(CHANGED, "--server-side=false")
    assert done.returncode == 0, done.stderr
    eventually(
        lambda: is_in(cluster) and "cache 77 {" in the_corefile(cluster), about="in it again"
    )
    remove_policy(cluster, cluster_dns)
    assert the_corefile(cluster) == CHANGED


def test_a_chart_that_helm_4_installed_is_not_written_over(
    cluster: Api, operator: Operator, release: Release
) -> None:
    assert release.write(ORIGINAL).returncode == 0
    cluster.apply(gateway(prefix=PREFIX), policy())
    operator.start()
    eventually(lambda: cluster.get("daemonset", "nat64-default"), about="the DaemonSet")
    roll_out(cluster)
    sidecars_ready(cluster)
    eventually(lambda: reason(cluster) == "CorefileManagedElsewhere", about="said")
    assert the_corefile(cluster) == ORIGINAL
    done = release.write(CHANGED)
    assert done.returncode == 0, done.stderr
    assert the_corefile(cluster) == CHANGED


Write = Callable[[Api, str], None]


def server_side(manager: str, *flags: str) -> Write:
    def write(api: Api, text: str) -> None:
        api.control_plane.kubectl(
            *("apply", "--server-side", f"--field-manager={manager}", *flags, "-f", "-"),
            input=yaml.safe_dump(coredns(text)),
        )

    return write


def replaced_by(manager: str) -> Write:
    def write(api: Api, text: str) -> None:
        api.control_plane.kubectl(
            *("replace", f"--field-manager={manager}", "-f", "-"),
            input=yaml.safe_dump(coredns(text)),
        )

    return write


def client_side(manager: str) -> Write:
    def write(api: Api, text: str) -> None:
        api.control_plane.kubectl(
            *("apply", f"--field-manager={manager}", "-f", "-"),
            input=yaml.safe_dump(coredns(text)),
        )

    return write


@pytest.mark.parametrize(
    ("write", "declares"),
    [
        pytest.param(replaced_by("kubeadm"), False, id="kubeadm"),
        pytest.param(client_side("argocd-controller"), False, id="argocd-client-side"),
        pytest.param(server_side("argocd-controller"), True, id="argocd-server-side"),
        pytest.param(server_side("kustomize-controller", "--force-conflicts"), True, id="flux"),
        pytest.param(server_side("eks", "--force-conflicts"), True, id="eks"),
        pytest.param(client_side("deploy@server"), False, id="k3s-addon"),
    ],
)
def test_the_owners_next_write_works_over_our_edit(
    cluster: Api, operator: Operator, cluster_dns: ClusterDns, write: Write, declares: bool
) -> None:
    """One that declares the key from now on has it; one that writes it now and then keeps us."""
    wire(cluster, operator, cluster_dns)
    write(cluster, CHANGED)
    if declares:
        eventually(lambda: reason(cluster) == "CorefileManagedElsewhere", about="stepped back")
        assert the_corefile(cluster) == CHANGED
        write(cluster, ORIGINAL)
        assert the_corefile(cluster) == ORIGINAL
        return
    eventually(
        lambda: is_in(cluster) and "cache 77 {" in the_corefile(cluster), about="in it again"
    )
    remove_policy(cluster, cluster_dns)
    assert the_corefile(cluster) == CHANGED
