"""A cluster of network namespaces for one question: who loses names, and for how long.

Real are CoreDNS, two sidecars, the operator, the API server and an upstream; each in a namespace
where its packets take the way that they take in a cluster. Played are the kubelet (mounted
ConfigMaps), the EndpointSlice controller and kube-proxy (one DNAT rule).

    pod fd00:9::53 (CoreDNS) ─┐
    n1  2001:db8:1::11 ───────┤ hub: operator, API server, kube-proxy; upstream at fd00:53::53
    n2  2001:db8:1::12 ───────┘
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from nat64_operator.render import names
from nat64_operator.render.containers import READY_TIMING
from tests.cluster import ControlPlane, binaries
from tests.cluster.run import run
from tests.lab.node import Lab, Node
from tests.operator.conftest import (
    NAMESPACE,
    PREFIX,
    REPO,
    Api,
    apply_chart,
    coredns,
    gateway,
    node,
    policy,
    report_ready,
)
from tests.operator.test_flow import roll_out

POD, UPSTREAM = "fd00:9::53", "fd00:53::53"
SIDECARS = {"n1": "2001:db8:1::11", "n2": "2001:db8:1::12"}
EVERY = 0.2
"""Seconds between two looks of what is played here, and between two questions."""
CLIENT_TIMEOUT = 5.0
"""What a pod's resolver waits (resolv.conf(5))."""

COREFILE = """\
.:53 {
    errors
    ready
    template ANY ANY cluster.local {
        rcode NXDOMAIN
    }
    forward . FORWARD
    reload 2s 1s
}
"""
ZONE = """\
example. 1 IN SOA ns.example. admin.example. 1 60 60 60 1
example. 1 IN NS ns.example.
ns.example. 1 IN AAAA fd00:53::53
v4only.example. 1 IN A 198.51.100.80
*.v4only.example. 1 IN A 198.51.100.80
dual.example. 1 IN A 198.51.100.80
dual.example. 1 IN AAAA 2001:db8:64::80
"""
UPSTREAM_COREFILE = """\
.:53 {
    bind fd00:53::53
    file zone example.
    template ANY ANY invalid {
        rcode NXDOMAIN
    }
}
"""

# Names that resolve without us. Asked from the hub, as a pod elsewhere would ask.
PROBE = """
import sys, time, threading
import dns.exception, dns.message, dns.query, dns.rcode
server, timeout, every = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
NAMES = (("v4only.example", "A"), ("dual.example", "A"), ("dual.example", "AAAA"))
lock = threading.Lock()
def ask(name, kind):
    began = time.time()
    try:
        reply = dns.query.udp(dns.message.make_query(name, kind), server, timeout=timeout)
        said = dns.rcode.to_text(reply.rcode()) if not reply.answer else "ok"
    except (dns.exception.DNSException, OSError) as error:
        said = type(error).__name__
    with lock:
        print(began, name, kind, said, flush=True)
while True:
    for name, kind in NAMES:
        threading.Thread(target=ask, args=(name, kind), daemon=True).start()
    time.sleep(every)
"""


class LabControlPlane(ControlPlane):
    """The API server on a node of the lab."""

    def __init__(self, node: Node) -> None:
        self._node = node
        super().__init__()

    def kubectl(self, *args: str, input: str | None = None, check: bool = True) -> str:
        program = binaries.ensure("kubectl")["kubectl"]
        argv = self._node.command(program, "--kubeconfig", self.kubeconfig, *args)
        return run(argv, input=input, check=check)

    def _start(self, name: str, argv: list[str]) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            command = self._node.command(*argv)
            self._processes.append(subprocess.Popen(command, stdout=log, stderr=log))

    def _ready(self) -> bool:
        return "ok" in self.kubectl("get", "--raw", "/readyz", check=False)


class HarmLab:
    """The namespaces and all that runs in them."""

    def __init__(self, folder: Path, lab: Lab) -> None:
        self.folder = folder
        self.hub, self.pod = lab.node("hub"), lab.node("pod")
        self.nodes = {name: lab.node(name) for name in SIDECARS}
        self._lay_cables()
        self.control_plane = lab.enter_context(LabControlPlane(self.hub))
        self.api = Api(self.control_plane)
        self._install()
        self.processes: dict[str, subprocess.Popen[str]] = {}
        self.kubelet_holds_coredns = False
        """Whether CoreDNS's pod goes on with the file that it has."""
        self.coredns_on = ""
        """CoreDNS's node, where kube-proxy is to know it; it then goes by the Service."""
        self._failed: dict[str, list[float]] = {}
        self.served: tuple[str, ...] = ()
        """The sidecars that the Service leads to."""
        self._playing = threading.Event()
        self._trouble: list[BaseException] = []
        self._player = threading.Thread(target=self._play, daemon=True)

    def _lay_cables(self) -> None:
        for name, there, address in (("pod", self.pod, POD), *self._each()):
            self.hub.join(there, f"to-{name}", "eth0")
            there.ip(f"address add {address}/128 dev eth0", "route add default dev eth0")
            self.hub.ip(f"route add {address}/128 dev to-{name}")
            there.sysctl(net__ipv6__conf__all__forwarding=0)
        self.hub.ip(
            f"address add {UPSTREAM}/128 dev lo",
            "address add fd00:1::1/128 dev lo",
            # Service addresses lead through the kernel, where DNAT finds them.
            "route add fd00:10:96::/112 dev lo",
        )
        for name in ("pod", *SIDECARS):
            self.hub.sysctl(**{f"net__ipv6__conf__to-{name}__proxy_ndp": 1})
        self.hub.sysctl(net__ipv6__conf__all__forwarding=1)
        for _, there, _ in (("pod", self.pod, POD), *self._each()):
            there.ip("route replace default via fe80::1 dev eth0")
        for name in ("pod", *SIDECARS):
            self.hub.ip(f"address add fe80::1/64 dev to-{name}")

    def _each(self) -> Iterator[tuple[str, Node, str]]:
        return ((name, self.nodes[name], address) for name, address in SIDECARS.items())

    def _install(self) -> None:
        kubectl = self.control_plane.kubectl
        kubectl("apply", "--server-side", "-f", str(REPO / "crds"))
        for kind in ("nat64gateways", "dns64policies"):
            kubectl("wait", f"crd/{kind}.nat64-operator.io", "--for=condition=Established")
        self.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        apply_chart(self.api)
        for name, address in SIDECARS.items():
            self.api.apply(node(name, f"fd00:10:244:{name[1]}::/64", address))
            report_ready(self.api, name, address)

    # what runs

    def start(self, forward: str = UPSTREAM, *, coredns_is_known: bool = True) -> None:
        """Everything but the operator. `forward` is what CoreDNS asks without us."""
        (self.folder / "zone").write_text(ZONE)
        self.start_upstream()
        self.api.apply(coredns(COREFILE.replace("FORWARD", forward)))
        known = [POD] if coredns_is_known else ["fd00:9::99"]
        self._slice("kube-system", "kube-dns", known, 53)
        self._mount_coredns()
        self._spawn("coredns", self.pod, binaries.ensure("coredns")["coredns"], "-conf", "Corefile")
        for name, there, _ in self._each():
            document = json.dumps({"programmed": True, "prefix": PREFIX, "reason": "", "since": 0})
            there.run("mkdir", "-p", "/run/nat64-operator/default")
            there.run("tee", "/run/nat64-operator/default/status.json", input=document)
            (self.folder / name).mkdir(exist_ok=True)
        self._player.start()

    def start_upstream(self) -> None:
        folder = self.folder / "upstream"
        folder.mkdir(exist_ok=True)
        (folder / "Corefile").write_text(UPSTREAM_COREFILE)
        (folder / "zone").write_text(ZONE)
        program = binaries.ensure("coredns")["coredns"]
        self._spawn("upstream", self.hub, program, "-conf", "Corefile", folder=folder)

    def start_sidecar(self, name: str) -> None:
        program = Path(sys.executable).with_name("nat64-dns64")
        argv = (program, "run", "--corefile", self.folder / name / "Corefile")
        self._spawn(name, self.nodes[name], *argv)

    def start_operator(self, *flags: str) -> None:
        """With the chart's rights, and the cluster's DNS where CoreDNS is."""
        kubectl = self.control_plane.kubectl
        # The Lease of one that was killed expires after half a minute, which is not tested here.
        kubectl("-n", NAMESPACE, "delete", "lease", "nat64-operator", "--ignore-not-found")
        token = kubectl("-n", NAMESPACE, "create", "token", "nat64-operator", "--duration=2h")
        config = yaml.safe_load(self.control_plane.kubeconfig.read_text())
        config["users"] = [{"name": "operator", "user": {"token": token.strip()}}]
        for context in config["contexts"]:
            context["context"]["user"] = "operator"
        path = self.folder / "kubeconfig"
        path.write_text(yaml.safe_dump(config))
        argv: list[str | Path] = [Path(sys.executable).with_name("nat64-operator"), "run", "-v"]
        argv += ["--dataplane-image=dataplane:test", f"--namespace={NAMESPACE}"]
        argv += [f"--cluster-dns={POD}", "--health=", "--corefile-seconds=1", *flags]
        # In a cluster, as far as it can tell: sidecars are asked at their own addresses.
        env = {**os.environ, "KUBECONFIG": str(path), "KUBERNETES_SERVICE_HOST": "fd00:10:96::1"}
        self._spawn("operator", self.hub, *argv, env=env)

    def apply(self, **spec: Any) -> None:
        self.api.apply(gateway(prefix=PREFIX), policy(**spec))

    def _spawn(
        self, name: str, there: Node, *argv: str | Path, folder: Path | None = None, **options: Any
    ) -> None:
        log = (self.folder / f"{name}.log").open("a")
        where = folder or self.folder
        command = ["sh", "-c", 'cd "$0" && exec "$@"', where, *argv]
        self.processes[name] = there.start(*command, stdout=log, stderr=log, **options)

    def kill(self, name: str) -> None:
        """As a node that dies does."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    # what is played

    def _play(self) -> None:
        while not self._playing.wait(EVERY):
            try:
                self._look()
            except Exception as error:
                self._trouble.append(error)
                if len(self._trouble) > 20:
                    raise

    def _look(self) -> None:
        if self.api.get("daemonset", "nat64-default") is None:
            return
        found = self.api.get("daemonset", "nat64-default")
        seen = (found.get("status") or {}).get("observedGeneration")
        if seen != found["metadata"]["generation"]:
            roll_out(self.api, nodes=len(SIDECARS))
        for name in SIDECARS:
            self._mount_sidecar(name)
            if name not in self.processes and (self.folder / name / "clients").exists():
                self.start_sidecar(name) if name not in self.dead else None
        if not self.kubelet_holds_coredns:
            self._mount_coredns()
        self._serve()

    dead: frozenset[str] = frozenset()
    """Sidecars that no kubelet starts again."""

    def _mount(self, config_map: str, namespace: str, into: Path) -> None:
        data = (self.api.get("configmap", config_map, namespace=namespace) or {}).get("data") or {}
        for key, text in data.items():
            path = into / key
            if not path.exists() or path.read_text() != text:
                path.with_suffix(".new").write_text(text)
                path.with_suffix(".new").rename(path)

    def _mount_sidecar(self, name: str) -> None:
        into = self.folder / name
        self._mount(names.sidecar_config("default", "dataplane:test"), NAMESPACE, into)
        self._mount("nat64-clients", NAMESPACE, into)

    def _mount_coredns(self) -> None:
        self._mount("coredns", "kube-system", self.folder)

    def _serve(self) -> None:
        """EndpointSlice and DNAT: the sidecars that say that they are ready."""
        service = self.api.get("service", "nat64-default-dns")
        if service is None:
            return
        ready = [address for name, address in SIDECARS.items() if self._is_ready(name, address)]
        selected = "nat64-operator.io/withdrawn" not in service["spec"]["selector"]
        served = tuple(ready) if selected else ()
        if served == self.served:
            return
        self._slice(NAMESPACE, "nat64-default-dns", list(served), 6464)
        own = SIDECARS.get(self.coredns_on, "")
        near = service["spec"].get("trafficDistribution") == "PreferSameNode" and own in served
        self._proxy(service["spec"]["clusterIP"], (own,) if near else served)
        self.served = served

    def _is_ready(self, name: str, address: str) -> bool:
        """As the kubelet finds it: by a probe every second, of which two fail."""
        if self._answers(address):
            self._failed.pop(name, None)
            return True
        failed = self._failed.setdefault(name, [])
        now = time.monotonic()
        if not failed or now - failed[-1] >= READY_TIMING["periodSeconds"]:
            failed.append(now)
        return address in self.served and len(failed) < READY_TIMING["failureThreshold"]

    def _answers(self, address: str) -> bool:
        url = f"http://[{address}]:6466/ready"
        code = self.hub.run(
            *("curl", "-s", "-o", "/dev/null", "-m", "1", "-w", "%{http_code}", url), check=False
        )
        return code == "200"

    def _slice(self, namespace: str, service: str, addresses: list[str], port: int) -> None:
        self.api.apply(
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": f"{service}-x",
                    "namespace": namespace,
                    "labels": {
                        "kubernetes.io/service-name": service,
                        **({"nat64-operator.io/gateway": "default"} if port != 53 else {}),
                    },
                },
                "addressType": "IPv6",
                "endpoints": [{"addresses": [a], "conditions": {"ready": True}} for a in addresses],
                "ports": [{"name": "dns", "port": port, "protocol": "UDP"}],
            }
        )

    def _proxy(self, service: str, endpoints: tuple[str, ...]) -> None:
        """As kube-proxy does: a random endpoint for each flow, and a refusal without any."""
        rules = "add table ip6 proxy\ndelete table ip6 proxy\ntable ip6 proxy {\n"
        to = ", ".join(f"{n} : {address}" for n, address in enumerate(endpoints))
        for hook in ("prerouting", "output"):
            rules += f" chain nat-{hook} {{ type nat hook {hook} priority -100;\n"
            for kind in ("udp", "tcp") if endpoints else ():
                rules += (
                    f"  ip6 daddr {service} {kind} dport 53 dnat to "
                    f"numgen random mod {len(endpoints)} map {{ {to} }}:6464\n"
                )
            rules += " }\n"
        for hook in ("forward", "output", "input"):
            rules += f" chain {hook} {{ type filter hook {hook} priority 0;\n"
            if not endpoints:
                rules += f"  ip6 daddr {service} reject\n"
            rules += " }\n"
        self.hub.run("nft", "-f", "-", input=rules + "}\n")
        # Its own kube-proxy forgets flows to endpoints that are gone.
        forget = "from pyroute2 import NFCTSocket; NFCTSocket().flush()"
        self.hub.run(sys.executable, "-c", forget)

    # what is seen

    @contextlib.contextmanager
    def asking(self) -> Iterator[Callable[[], list[tuple[float, str, str, str]]]]:
        """Ask CoreDNS for names that resolve without us, all the while."""
        log = self.folder / "probe.log"
        with log.open("w") as output:
            argv = (sys.executable, "-c", PROBE, POD, str(CLIENT_TIMEOUT), str(EVERY))
            process = self.hub.start(*argv, stdout=output, stderr=subprocess.STDOUT)

        def answers() -> list[tuple[float, str, str, str]]:
            rows = [row.split() for row in log.read_text().splitlines()]
            return [(float(r[0]), r[1], r[2], r[3]) for r in rows if len(r) == 4]

        try:
            yield answers
            time.sleep(CLIENT_TIMEOUT + 1)  # what was asked last is answered by now
        finally:
            process.kill()
            process.wait()

    def corefile(self) -> str:
        found = self.api.get("configmap", "coredns", namespace="kube-system")
        text: str = found["data"]["Corefile"]
        return text

    def stop(self) -> None:
        self._playing.set()
        if self._player.is_alive():
            self._player.join(120)  # its last command ends first, however slow
        for name in list(self.processes):
            self.kill(name)
