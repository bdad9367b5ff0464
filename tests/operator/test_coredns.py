"""Edited Corefiles in a real CoreDNS, before real sidecars and a real upstream.

Only what can't be on one machine is put in other places: ports, paths, and the sidecars' address.
"""

import contextlib
import json
import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dns.exception
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import pytest

from nat64_operator.api.gateway import Gateway
from nat64_operator.api.policy import FailMode, Mode, PolicySpec
from nat64_operator.coredns import corefile_edits
from nat64_operator.render.sidecar_corefile import clients_config, render_corefile
from nat64_operator.settings import Settings
from tests.cluster import ControlPlane, binaries

pytestmark = pytest.mark.apiserver

SAMPLES = Path(__file__).parents[1] / "unit" / "corefiles"
SIDECARS = "fd00:10:96::64"
PREFIX = "64:ff9b:1::/96"
SYNTHESIZED = "64:ff9b:1::c633:6450"

ZONE = """\
example. 60 IN SOA ns.example. admin.example. 1 60 60 60 5
example. 60 IN NS ns.example.
ns.example. 60 IN AAAA ::1
v4only.example. 60 IN A 198.51.100.80
dual.example. 60 IN A 198.51.100.80
dual.example. 60 IN AAAA 2001:db8:64::80
"""


class Server:
    """One DNS server as a process."""

    def __init__(self, folder: Path, *argv: str | Path) -> None:
        self.port = free_port()
        self.folder, self._argv = folder, [str(word) for word in argv]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, corefile: str) -> None:
        path = self.folder / f"Corefile-{self.port}"
        path.write_text(corefile)
        argv = ["setpriv", "--pdeathsig", "KILL", "--", *self._argv, str(path)]
        with (self.folder / f"log-{self.port}").open("wb") as log:
            self._process = subprocess.Popen(argv, cwd=self.folder, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(dns.exception.DNSException, OSError):
                ask(self.port, "up.example", timeout=0.3)
                return
            log_text = (self.folder / f"log-{self.port}").read_text()
            assert self._process.poll() is None, log_text
            assert time.monotonic() < deadline, log_text
            time.sleep(0.1)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def free_port() -> int:
    """A port that is free for UDP and TCP, outside the range that connections take theirs from."""
    while True:
        port = random.randrange(20000, 30000)
        with contextlib.suppress(OSError), contextlib.ExitStack() as probes:
            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                probe = probes.enter_context(socket.socket(socket.AF_INET6, kind))
                probe.bind(("::", port))
            return port


def ask(port: int, name: str, kind: str = "AAAA", timeout: float = 30) -> tuple[str, set[str]]:
    response = dns.query.udp(dns.message.make_query(name, kind), "::1", timeout=timeout, port=port)
    found = {
        rdata.to_text()
        for rrset in response.answer
        if rrset.rdtype == dns.rdatatype.from_text(kind)
        for rdata in rrset
    }
    return dns.rcode.to_text(response.rcode()), found


class Cluster:
    """CoreDNS with a sample's Corefile, sidecars, and an upstream that has IPv4-only names."""

    def __init__(self, folder: Path, control_plane: ControlPlane) -> None:
        coredns = binaries.ensure("coredns")["coredns"]
        self.folder, self._kubeconfig = folder, control_plane.kubeconfig
        self.upstream = Server(folder, coredns, "-conf")
        self.sidecar = Server(
            folder, Path(sys.executable).with_name("nat64-dns64"), "run", "--corefile"
        )
        self.coredns = Server(folder, coredns, "-conf")
        (folder / "custom").mkdir()
        (folder / "hosts").write_text("")
        (folder / "zone").write_text(ZONE)
        (folder / "status.json").write_text(
            json.dumps({"programmed": True, "prefix": PREFIX, "reason": "", "since": 0})
        )

    def start(self) -> None:
        self.upstream.start(f".:{self.upstream.port} {{\n  bind ::1\n  file zone example.\n}}\n")
        self.start_sidecar()

    def start_sidecar(self) -> None:
        gateway = Gateway.parse({"metadata": {"name": "default"}, "spec": {"prefix": PREFIX}})
        upstreams = (f"[::1]:{self.upstream.port}",)
        text = render_corefile(gateway.config(), gateway.ports, PolicySpec(), upstreams)
        settings = Settings(dataplane_image="")
        (self.folder / "clients").write_text(clients_config([], settings)["data"]["clients"])
        status = str(self.folder / "status.json")
        text = text.replace("/run/nat64-operator/default/status.json", status)
        text = text.replace(f".:{gateway.ports.dns}", f".:{self.sidecar.port}")
        for port in (gateway.ports.dns_health, gateway.ports.dns_ready, gateway.ports.dns_metrics):
            text = text.replace(f" :{port}", f" :{free_port()}")
        self.sidecar.start(text)

    def here(self, corefile: str) -> str:
        """The Corefile with ports and paths of this machine."""
        text = corefile.replace(f"[{SIDECARS}]:53", f"[::1]:{self.sidecar.port}")
        text = text.replace("/etc/resolv.conf", f"[::1]:{self.upstream.port}")
        text = text.replace("/etc/coredns/custom/", "custom/")
        text = text.replace("/etc/coredns/NodeHosts", "hosts")
        text = text.replace(".:53 {", f".:{self.coredns.port} {{\n    bind ::1")
        text = text.replace("pods insecure", f"pods insecure\n kubeconfig {self._kubeconfig}")
        # What listens for others than us, and what finds that the upstream is on this machine.
        text = re.sub(r"^ +(prometheus|ready|loop).*\n", "", text, flags=re.M)
        return re.sub(r"^ +health( \{\n.*\n +\}|.*)\n", "", text, flags=re.M)

    def run(self, corefile: str) -> None:
        """(Re)start CoreDNS with it."""
        self.coredns.stop()
        self.coredns.start(self.here(corefile))

    def stop(self) -> None:
        for server in (self.coredns, self.sidecar, self.upstream):
            server.stop()

    def cluster_names_resolve(self) -> bool:
        code, found = ask(self.coredns.port, "kubernetes.default.svc.cluster.local")
        return code == "NOERROR" and found == {"fd00:10:96::1"}


@pytest.fixture
def cluster(tmp_path: Path, control_plane: ControlPlane) -> Iterator[Cluster]:
    running = Cluster(tmp_path, control_plane)
    try:
        running.start()
        yield running
    finally:
        running.stop()


def wired(name: str, fail_mode: FailMode = FailMode.FALLBACK) -> str:
    site = corefile_edits.find(Mode.FORWARD, (SAMPLES / name).read_text())
    return site.replaced(corefile_edits.Forward(SIDECARS, fail_mode).wired(site))


def answers(cluster: Cluster, name: str) -> tuple[str, set[str]]:
    return ask(cluster.coredns.port, name)


SERVED = ["aks", "k3s", "kind", "kubeadm-1.20", "kubeadm-1.33"]


@pytest.mark.parametrize("name", SERVED)
def test_forward_synthesizes_with_each_corefile(cluster: Cluster, name: str) -> None:
    cluster.run(wired(name))
    assert answers(cluster, "v4only.example") == ("NOERROR", {SYNTHESIZED})
    assert answers(cluster, "dual.example") == ("NOERROR", {"2001:db8:64::80"})
    assert cluster.cluster_names_resolve()


def test_with_every_sidecar_stopped_fallback_leaves_ipv6_names(cluster: Cluster) -> None:
    cluster.run(wired("kubeadm-1.33"))
    cluster.sidecar.stop()
    assert cluster.cluster_names_resolve()
    assert answers(cluster, "dual.example") == ("NOERROR", {"2001:db8:64::80"})
    assert answers(cluster, "v4only.example") == ("NOERROR", set())


def test_with_every_sidecar_stopped_fail_gives_an_error(cluster: Cluster) -> None:
    cluster.run(wired("kubeadm-1.33", FailMode.FAIL))
    cluster.sidecar.stop()
    assert cluster.cluster_names_resolve()
    assert answers(cluster, "dual.example")[0] == "SERVFAIL"
    cluster.start_sidecar()
    eventually_synthesizes(cluster)


def eventually_synthesizes(cluster: Cluster) -> None:
    deadline = time.monotonic() + 60
    while answers(cluster, "v4only.example")[1] != {SYNTHESIZED}:
        assert time.monotonic() < deadline
        time.sleep(0.5)


@pytest.mark.parametrize("name", ["k3s", "aks"])
def test_an_imported_file_synthesizes_and_its_absence_does_not(cluster: Cluster, name: str) -> None:
    text = (SAMPLES / name).read_text()
    wins = corefile_edits.overrides(text, "nat64.override")
    assert wins == (name == "k3s")
    forward = corefile_edits.Forward(SIDECARS, FailMode.FALLBACK) if wins else None
    content = corefile_edits.imported(corefile_edits.Plugin(PREFIX), forward, ("/etc/resolv.conf",))
    path = cluster.folder / "custom" / "nat64.override"
    path.write_text(cluster.here(content))
    cluster.run(text)
    assert answers(cluster, "v4only.example") == ("NOERROR", {SYNTHESIZED})
    assert cluster.cluster_names_resolve()
    path.unlink()
    cluster.run(text)
    assert answers(cluster, "v4only.example") == ("NOERROR", set())


@pytest.mark.parametrize("name", SERVED)
def test_corednss_own_plugin_synthesizes(cluster: Cluster, name: str) -> None:
    cluster.sidecar.stop()
    site = corefile_edits.find(Mode.PLUGIN, (SAMPLES / name).read_text())
    cluster.run(site.replaced(corefile_edits.Plugin(PREFIX).wired(site)))
    assert answers(cluster, "v4only.example") == ("NOERROR", {SYNTHESIZED})
    assert answers(cluster, "dual.example") == ("NOERROR", {"2001:db8:64::80"})
    assert cluster.cluster_names_resolve()


def test_coredns_takes_an_edit_by_reload(cluster: Cluster) -> None:
    text = (SAMPLES / "kubeadm-1.33").read_text().replace("reload\n", "reload 2s 1s\n")
    cluster.run(text)
    assert answers(cluster, "v4only.example") == ("NOERROR", set())
    site = corefile_edits.find(Mode.FORWARD, text)
    edited = site.replaced(corefile_edits.Forward(SIDECARS, FailMode.FALLBACK).wired(site))
    (cluster.folder / f"Corefile-{cluster.coredns.port}").write_text(cluster.here(edited))
    eventually_synthesizes(cluster)
