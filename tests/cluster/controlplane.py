"""The control plane's programs: how they are started, and a small one for tests without nodes."""

import json
import socket
import ssl
import subprocess
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.cluster import binaries
from tests.cluster.pki import Authority
from tests.cluster.run import ClusterError, run, wait_for

# kind's ranges for an IPv6 cluster, which are what most people will compare with.
SERVICE_RANGE = "fd00:10:96::/112"
SERVICE_OF_API = "fd00:10:96::1"
POD_RANGE = "fd00:10:244::/56"
# For a dual-stack cluster; parts of documentation ranges in which no server of the harness is.
SERVICE_RANGE_IPV4 = "198.51.100.128/25"
POD_RANGE_IPV4 = "203.0.113.128/25"

ADMIN = "admin"


def issue_for_api_server(authority: Authority, *hosts: str) -> None:
    """Make the API server's own certificates and an administrator's."""
    names = ("localhost", "127.0.0.1", "::1", SERVICE_OF_API, "kubernetes.default.svc", *hosts)
    authority.issue("apiserver", "kube-apiserver", hosts=names)
    authority.issue("service-accounts", "service-accounts")
    authority.issue(ADMIN, "kubernetes-admin", "system:masters")


def etcd_argv(data: Path, client_port: int, peer_port: int) -> list[str]:
    """Etcd on loopback, without waiting for the disk: nothing here has to survive a crash."""
    client, peer = f"http://127.0.0.1:{client_port}", f"http://127.0.0.1:{peer_port}"
    return [
        str(binaries.ensure("etcd")["etcd"]),
        f"--data-dir={data}",
        "--unsafe-no-fsync",
        "--log-level=warn",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
    ]


def api_server_argv(
    authority: Authority,
    etcd_port: int,
    bind: str,
    port: int,
    audit_log: Path | None,
    services: str = SERVICE_RANGE,
) -> list[str]:
    """The flags that every API server here shares."""
    argv = [
        str(binaries.ensure("kube-apiserver")["kube-apiserver"]),
        f"--etcd-servers=http://127.0.0.1:{etcd_port}",
        f"--bind-address={bind}",
        f"--secure-port={port}",
        f"--service-cluster-ip-range={services}",
        "--authorization-mode=Node,RBAC",
        "--allow-privileged",
        f"--client-ca-file={authority.certificate('ca')}",
        f"--tls-cert-file={authority.certificate('apiserver')}",
        f"--tls-private-key-file={authority.key('apiserver')}",
        f"--kubelet-client-certificate={authority.certificate(ADMIN)}",
        f"--kubelet-client-key={authority.key(ADMIN)}",
        # No DNS knows the nodes' names.
        "--kubelet-preferred-address-types=InternalIP",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={authority.certificate('service-accounts')}",
        f"--service-account-signing-key-file={authority.key('service-accounts')}",
    ]
    if audit_log is not None:
        rule = {"level": "Metadata", "omitStages": ["RequestReceived"]}
        policy = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [rule]}
        path = authority.folder / "audit-policy.json"
        path.write_text(json.dumps(policy))
        argv += [f"--audit-policy-file={path}", f"--audit-log-path={audit_log}"]
    return argv


class ControlPlane:
    """Etcd and an API server on loopback, without nodes, controllers or a network of their own.

    with ControlPlane() as control_plane:
        load_kube_config(str(control_plane.kubeconfig))

    There is no controller manager: objects with owners are not collected, namespaces stay
    Terminating, and DaemonSets make no pods.
    """

    def __init__(self, *, audit: bool = False) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="nat64-control-plane-")
        self.folder = Path(self._folder.name)
        self.audit_log = self.folder / "audit.log" if audit else None
        self._processes: list[subprocess.Popen[bytes]] = []
        etcd_port, peer_port, port = _free_ports(3)
        self.url = f"https://127.0.0.1:{port}"
        self._authority = Authority(self.folder / "pki")
        issue_for_api_server(self._authority)
        self.kubeconfig = self._authority.kubeconfig(ADMIN, self.url)
        self._etcd_argv = etcd_argv(self.folder / "etcd", etcd_port, peer_port)
        self._api_server_argv = [
            *api_server_argv(self._authority, etcd_port, "127.0.0.1", port, self.audit_log),
            # Nobody makes the accounts that this plugin would ask for.
            "--disable-admission-plugins=ServiceAccount",
            # It refuses an address of another family than the services', and loopback as well.
            f"--advertise-address={SERVICE_OF_API}",
            "--endpoint-reconciler-type=none",
        ]

    def kubectl(self, *args: str, input: str | None = None, check: bool = True) -> str:
        program = binaries.ensure("kubectl")["kubectl"]
        return run([program, "--kubeconfig", self.kubeconfig, *args], input=input, check=check)

    def __enter__(self) -> Self:
        try:
            self._start("etcd", self._etcd_argv)
            self._start("kube-apiserver", self._api_server_argv)
            wait_for("the API server", self._ready, timeout=60, every=0.1)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, at: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End both programs and forget all that they stored."""
        for process in reversed(self._processes):
            process.kill()
            process.wait()
        self._folder.cleanup()

    def _start(self, name: str, argv: list[str]) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            # They die with the test run even if it is killed.
            argv = ["setpriv", "--pdeathsig", "KILL", "--", *argv]
            self._processes.append(subprocess.Popen(argv, stdout=log, stderr=log))

    def _ready(self) -> bool:
        for process in self._processes:
            if process.poll() is not None:
                logs = "\n".join(p.read_text()[-2000:] for p in self.folder.glob("*.log"))
                raise ClusterError(f"the control plane stopped as it started:\n{logs}")
        context = ssl.create_default_context(cafile=str(self._authority.certificate("ca")))
        context.load_cert_chain(self._authority.certificate(ADMIN), self._authority.key(ADMIN))
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", context=context, timeout=2) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()
