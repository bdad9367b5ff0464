"""A real API server with the chart installed as Helm renders it, and the operator as a process
that logs in as its own ServiceAccount. There are no nodes and no controllers: tests play the
DaemonSet controller and the kubelets, and only those.
"""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Network
from pathlib import Path
from typing import Any

import dns.message
import dns.rdatatype
import dns.rrset
import pytest
import yaml

from nat64_dataplane import pref64
from tests.cluster import ControlPlane, binaries
from tests.operator.faults import FaultProxy

REPO = Path(__file__).parents[2]
NAMESPACE = "nat64-system"
PREFIX = "64:ff9b:1::/96"
SAMPLE = REPO / "tests" / "unit" / "corefiles" / "kubeadm-1.33"


class Api:
    """kubectl with JSON in and out."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self.control_plane = control_plane

    def apply(self, *objects: dict[str, Any], check: bool = True) -> str:
        return self.control_plane.kubectl(
            "apply", "-f", "-", input=yaml.safe_dump_all(objects), check=check
        )

    def get(self, *what: str, namespace: str = NAMESPACE) -> Any:
        found = self.control_plane.kubectl(
            "-n", namespace, "get", *what, "-o", "json", "--ignore-not-found"
        )
        return json.loads(found) if found.strip() else None

    def items(self, *what: str, namespace: str = NAMESPACE) -> list[Any]:
        found = self.control_plane.kubectl("-n", namespace, "get", *what, "-o", "json")
        items: list[Any] = json.loads(found)["items"]
        return items

    def delete(self, *what: str, namespace: str = NAMESPACE) -> None:
        self.control_plane.kubectl(
            "-n", namespace, "delete", *what, "--wait=false", "--ignore-not-found"
        )

    def patch(
        self, *what: str, body: Any, namespace: str = NAMESPACE, subresource: str = ""
    ) -> None:
        extra = [f"--subresource={subresource}"] if subresource else []
        self.control_plane.kubectl(
            "-n", namespace, "patch", *what, "--type=merge", "-p", json.dumps(body), *extra
        )


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server with our CRDs."""
    with ControlPlane(audit=True) as running:
        running.kubectl("apply", "--server-side", "-f", str(REPO / "crds"))
        names = ("nat64gateways.nat64-operator.io", "dns64policies.nat64-operator.io")
        for name in names:
            running.kubectl("wait", f"crd/{name}", "--for=condition=Established")
        yield running


@pytest.fixture(scope="session")
def api(control_plane: ControlPlane) -> Api:
    return Api(control_plane)


def apply_chart(api: Api, *flags: str) -> list[dict[str, Any]]:
    """Render the chart and apply its accounts and rights; all of it is returned."""
    helm = binaries.ensure("helm")["helm"]
    argv: list[str | Path] = [helm, "template", "nat64-operator"]
    argv += [REPO / "charts/nat64-operator", "-n", NAMESPACE]
    argv += ["--set=coreDNS.createCustomConfigMap=true"]  # for the mode Import
    done = subprocess.run([*argv, *flags], check=True, capture_output=True, text=True)
    objects = [obj for obj in yaml.safe_load_all(done.stdout) if obj]
    wanted = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")
    api.apply(*(obj for obj in objects if obj["kind"] in wanted))
    return objects


@pytest.fixture(scope="session")
def chart(api: Api) -> list[dict[str, Any]]:
    """The chart's objects, applied: its accounts and rights are what the operator runs with."""
    api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    return apply_chart(api)


class ClusterDns:
    """The cluster's DNS as the operator's pod sees it: synthesizes when told to."""

    def __init__(self, *, synthesizes: bool = False) -> None:
        self.synthesizes = synthesizes
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            data, client = self.socket.recvfrom(4096)
            query = dns.message.from_wire(data)
            response = dns.message.make_response(query)
            if self.synthesizes and query.question[0].rdtype == dns.rdatatype.AAAA:
                address = pref64.embed(IPv6Network(PREFIX), IPv4Address("192.0.0.170"))
                name = query.question[0].name
                response.answer.append(dns.rrset.from_text(name, 60, "IN", "AAAA", str(address)))
            self.socket.sendto(response.to_wire(), client)


@pytest.fixture(scope="session")
def _cluster_dns() -> ClusterDns:
    return ClusterDns()


@pytest.fixture(scope="session")
def sidecars() -> ClusterDns:
    """The sidecars as the operator's pod sees them."""
    return ClusterDns(synthesizes=True)


@pytest.fixture
def cluster_dns(_cluster_dns: ClusterDns) -> ClusterDns:
    """The cluster's DNS, not synthesizing yet."""
    _cluster_dns.synthesizes = False
    return _cluster_dns


def free_address() -> str:
    """An address on loopback that nothing listens at."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"127.0.0.1:{probe.getsockname()[1]}"


class Operator:
    """The operator as a process."""

    def __init__(self, kubeconfig: Path, log: Path, dns: str, sidecars: str = "") -> None:
        self.kubeconfig, self._log, self._dns = kubeconfig, log, dns
        self._sidecars = sidecars
        self._process: subprocess.Popen[bytes] | None = None
        self.health = ""
        self.expire_lease: Callable[[], object] = lambda: None

    def start(self, *flags: str) -> None:
        """Start it, if it isn't running."""
        if self.running:
            return
        argv = [str(Path(sys.executable).with_name("nat64-operator")), "run", "-v"]
        argv += ["--dataplane-image=dataplane:test", f"--namespace={NAMESPACE}"]
        self.health = free_address()
        argv += [f"--cluster-dns={self._dns}", f"--health={self.health}", "--corefile-seconds=2"]
        argv += [f"--sidecar-dns={self._sidecars}"] if self._sidecars else []
        argv += flags
        env = {**os.environ, "KUBECONFIG": str(self.kubeconfig)}
        with self._log.open("ab") as log:
            argv = ["setpriv", "--pdeathsig", "KILL", "--", *argv]
            self._process = subprocess.Popen(argv, env=env, stdout=log, stderr=log)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self, *, expire: bool = True) -> None:
        """Kill it, as a node that dies does. Its Lease expires at once, where nothing else is said:
        that takes half a minute, of which one test is enough.
        """
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            if expire:
                self.expire_lease()

    def end(self) -> int:
        """End it as the kubelet does, by SIGTERM. Returns the exit code."""
        assert self._process is not None
        self._process.terminate()
        code = self._process.wait(timeout=30)
        self._process = None
        return code

    def ask(self, path: str) -> tuple[int, str]:
        """Ask its health port; status 0 while it doesn't listen."""
        try:
            with urllib.request.urlopen(f"http://{self.health}{path}", timeout=5) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def log(self) -> str:
        return self._log.read_text()


@pytest.fixture
def operator(
    control_plane: ControlPlane,
    chart: list[dict[str, Any]],
    cluster_dns: ClusterDns,
    sidecars: ClusterDns,
    tmp_path: Path,
) -> Iterator[Operator]:
    """The operator, not started yet, with the rights that the chart gives it."""
    token = control_plane.kubectl(
        "-n", NAMESPACE, "create", "token", "nat64-operator", "--duration=2h"
    ).strip()
    kubeconfig = yaml.safe_load(control_plane.kubeconfig.read_text())
    kubeconfig["users"] = [{"name": "operator", "user": {"token": token}}]
    for context in kubeconfig["contexts"]:
        context["context"]["user"] = "operator"
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(kubeconfig))
    running = Operator(
        path, tmp_path / "operator.log", dns=cluster_dns.address, sidecars=sidecars.address
    )
    running.expire_lease = lambda: control_plane.kubectl(
        "-n", NAMESPACE, "delete", "lease", "nat64-operator", "--ignore-not-found"
    )
    yield running
    running.stop()
    if (tmp_path / "operator.log").exists():
        print(running.log()[-6000:])  # pytest shows it where the test failed


@pytest.fixture
def proxy(control_plane: ControlPlane, operator: Operator) -> Iterator[FaultProxy]:
    """The operator's way to the API server."""
    kubeconfig = yaml.safe_load(operator.kubeconfig.read_text())
    ca = operator.kubeconfig.with_name("ca.crt")
    ca.write_bytes(Path(control_plane.folder / "pki" / "ca.crt").read_bytes())
    running = FaultProxy(control_plane.url, ca)
    for entry in kubeconfig["clusters"]:
        entry["cluster"] = {"server": running.url}
    operator.kubeconfig.write_text(yaml.safe_dump(kubeconfig))
    yield running
    operator.stop()
    running.stop()


@pytest.fixture
def cluster(api: Api, chart: list[dict[str, Any]]) -> Iterator["Api"]:
    """A clean cluster with CoreDNS's ConfigMap and one node; cleaned again afterwards."""
    _clean(api)
    api.apply(coredns(SAMPLE.read_text()), node("node1", "fd00:10:244::/64", "2001:db8:1::11"))
    report_ready(api, "node1", "2001:db8:1::11")
    yield api
    _clean(api)


def report_ready(api: Api, name: str, address: str) -> None:
    """Be a node's kubelet: without it, the node counts as dead."""
    status = {
        "conditions": [{"type": "Ready", "status": "True"}],
        "addresses": [{"type": "InternalIP", "address": address}],
    }
    api.patch(f"node/{name}", body={"status": status}, subresource="status")


def coredns(text: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "coredns", "namespace": "kube-system"},
        "data": {"Corefile": text},
    }


def node(name: str, pods: str, address: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/os": "linux"}},
        "spec": {"podCIDRs": [pods], "podCIDR": pods},
        "status": {},
    }


def gateway(name: str = "default", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "nat64-operator.io/v1alpha1",
        "kind": "NAT64Gateway",
        "metadata": {"name": name},
        "spec": spec,
    }


def policy(name: str = "default", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "nat64-operator.io/v1alpha1",
        "kind": "DNS64Policy",
        "metadata": {"name": name},
        "spec": spec,
    }


def condition(obj: Any, type_: str) -> tuple[str, str, str]:
    """Status, reason and message of a condition; empty while there is none."""
    conditions = ((obj or {}).get("status") or {}).get("conditions") or []
    for found in conditions:
        if found["type"] == type_:
            return found["status"], found["reason"], found["message"]
    return "", "", ""


def eventually(what: Callable[[], Any], timeout: float = 60, about: str = "") -> Any:
    """Wait until it holds, and return what it returned."""
    deadline = time.monotonic() + timeout
    while True:
        found = what()
        if found:
            return found
        assert time.monotonic() < deadline, f"not in {timeout:.0f} s: {about or what}"
        time.sleep(0.2)


def _clean(api: Api) -> None:
    for kind in ("nat64gateway", "dns64policy"):
        for obj in api.items(kind):
            name = obj["metadata"]["name"]
            api.delete(kind, name)
            if (api.get(kind, name) or {}).get("metadata", {}).get("finalizers"):
                api.patch(kind, name, body={"metadata": {"finalizers": []}})
    ours = "-lapp.kubernetes.io/managed-by=nat64-operator"
    for kind in ("daemonset", "service", "configmap"):
        api.control_plane.kubectl("-n", NAMESPACE, "delete", kind, ours, "--wait=false")
    kubectl = api.control_plane.kubectl
    kubectl("-n", NAMESPACE, "delete", "pods,endpointslices", "--all", "--force", "--wait=false")
    kubectl("delete", "nodes", "--all", "--wait=false")
    api.delete("configmap", "coredns", "nat64-wiring", namespace="kube-system")
