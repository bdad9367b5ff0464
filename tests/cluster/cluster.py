"""The whole cluster: two nodes, a control plane on the first, and an IPv4 internet beside them; a
third node, without IPv4, may join.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tests.cluster import binaries, images, network
from tests.cluster.controlplane import (
    ADMIN,
    api_server_argv,
    etcd_argv,
    issue_for_api_server,
)
from tests.cluster.internet import Internet
from tests.cluster.network import HOSTS, JOINING, NODE1
from tests.cluster.node import Node, remove_cgroups
from tests.cluster.paths import CACHE, STATE
from tests.cluster.pki import Authority
from tests.cluster.run import ClusterError, locked, run, say, wait_for
from tests.cluster.setup import Setup

API = f"https://[{NODE1.ipv6}]:6443"
SETUP_NAME = STATE / "setup"
_PACKAGES_OF = {
    "buildah": "buildah",
    "debootstrap": "debootstrap",
    "ip": "iproute2",
    "nft": "nftables",
    "nsd": "nsd",
    "openssl": "openssl",
    "runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
}


class Cluster:
    """The cluster on this machine; there is at most one, and every object of this class is it.

    `setup` is what `up` makes of it; where another is up, `up` replaces that.
    """

    def __init__(self, setup: Setup | None = None) -> None:
        self.setup = setup or Setup()
        self._nodes = tuple(Node(host) for host in HOSTS)
        self._joining = tuple(Node(host) for host in JOINING)
        self.internet = Internet()
        self.kubeconfig = STATE / "pki" / f"{ADMIN}.kubeconfig"
        self.audit_log = STATE / "audit.log"

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The two that are started with the cluster, and what has joined."""
        there = network.existing()
        return (*self._nodes, *(n for n in self._joining if n.host.namespace in there))

    def node(self, name: str) -> Node:
        for node in self.nodes:
            if node.name == name:
                return node
        raise ClusterError(f"no node {name!r}; there are {', '.join(n.name for n in self.nodes)}")

    def kubectl(self, *args: str, input: str | None = None, check: bool = True) -> str:
        """Run kubectl as the administrator, with the machine's files and the node's network."""
        return run(self.client("kubectl", *args), input=input, check=check)

    def helm(self, *args: str, check: bool = True) -> str:
        """Run Helm as the administrator, with the machine's files and the node's network."""
        return run(self.client("helm", *args), check=check)

    def client(self, name: str, *args: str) -> list[str]:
        """The words that run kubectl or Helm; no interface of the machine leads to the API."""
        return [*self.beside_api(), str(binaries.ensure(name)[name]), *args]

    def beside_api(self) -> list[str]:
        """The words that run a program of the machine as the administrator, where the API is."""
        if NODE1.namespace not in network.existing():
            raise ClusterError("the cluster is not up; `make cluster-up` starts it")
        home = STATE / "home"  # what they cache is not to stay behind
        env = ["env", f"HOME={home}", f"KUBECONFIG={self.kubeconfig}"]
        return ["nsenter", f"--net=/run/netns/{NODE1.namespace}", "--", *env]

    def up(self, *, audit: bool = False) -> None:
        """Start the cluster, unless it runs; clean up first what an earlier one left."""
        _check_machine()
        with locked(CACHE / "locks" / "cluster"):
            as_wanted = _running_setup() == self.setup.name
            if as_wanted and not self.problems() and (self.audit_log.exists() or not audit):
                say("cluster: already up")
                return
            archives = self.build()
            began = time.monotonic()
            self._clean()
            try:
                self._start(archives, audit=audit)
            except BaseException:
                say(f"cluster: failed to start; logs are in {STATE} until the next up or down")
                raise
            say(f"cluster: up in {time.monotonic() - began:.0f} s")

    def build(self) -> dict[images.Image, Path]:
        """Build the programs that are missing; return the images that every node needs."""
        binaries.ensure()
        if further := (*self.setup.programs, *self.setup.pod_network.programs):
            binaries.ensure(*further)
        self.setup.pod_network.build()
        return images.ensure(images.equipment())

    def lacking(self) -> list[str]:
        """What the cache lacks: `build` would take minutes for it."""
        further = (*self.setup.programs, *self.setup.pod_network.programs)
        return [name for name in further if not binaries.path_of(name).exists()]

    def down(self) -> None:
        """Stop everything and leave nothing behind but the cache."""
        with locked(CACHE / "locks" / "cluster"):
            self._clean()
        say("cluster: down")

    def load_images(self) -> None:
        """Build the product's images and import them into all nodes."""
        archives = images.ensure(images.PRODUCT)
        _together(partial(images.load, node, archives) for node in self.nodes)
        say("cluster: all nodes have " + " and ".join(image.name for image in archives))

    def problems(self) -> list[str]:
        """What keeps the cluster from being usable; empty when it is."""
        if not self._is_up():
            return ["it is not up"]
        if ended := [log for node in self.nodes for log in node.ended()]:
            return [f"a program has ended: see {log}" for log in ended]
        try:
            if not self.internet.answers():
                return ["the internet's servers do not answer"]
            # Our own Deployments only: what others install may be broken on purpose.
            argv = self.client("kubectl", "-n", "kube-system", "get", "nodes,deploy", "-o", "json")
            items = json.loads(run(argv, timeout=10))["items"]
        except (ClusterError, subprocess.TimeoutExpired) as error:
            return [f"the API server does not answer: {error}"]
        unready = [
            f"{item['kind']} {item['metadata']['name']} is not ready"
            for item in items
            if not _is_ready(item)
        ]
        missing = len(self.nodes) - sum(item["kind"] == "Node" for item in items)
        return [*unready, f"{missing} nodes are missing"] if missing else unready

    def status(self) -> str:
        """What runs, for a person."""
        problems = self.problems()
        lines = ["cluster: " + ("healthy" if not problems else "; ".join(problems))]
        if self._is_up():
            for what in (("nodes", "-o", "wide"), ("pods", "-A", "-o", "wide")):
                lines.append(self.kubectl("get", *what, check=False))
            lines.append(f"kubeconfig {self.kubeconfig}\nlogs       {STATE}/*/logs")
        return "\n".join(lines)

    def _start(self, archives: dict[images.Image, Path], *, audit: bool) -> None:
        say("cluster: namespaces, certificates")
        network.create()
        SETUP_NAME.parent.mkdir(parents=True, exist_ok=True)
        SETUP_NAME.write_text(self.setup.name)
        authority = Authority(STATE / "pki")
        issue_for_api_server(authority, NODE1.ipv6)
        authority.kubeconfig(ADMIN, API)
        for node in self.nodes:
            self.boot(node, authority)
        for component in ("kube-controller-manager", "kube-scheduler", "kube-proxy"):
            authority.issue(component, f"system:{component}")
        self.internet.start()
        say("cluster: control plane, container runtimes")
        self._start_api_server(authority, audit=audit)
        _together(
            [
                *(partial(self.start_runtime, node, archives) for node in self.nodes),
                lambda: wait_for("the API server", self._api_is_ready, timeout=60),
            ]
        )
        say("cluster: nodes")
        self._start_controllers(authority)
        self.setup.pod_network.prepare(self)
        for node in self.nodes:
            self.start_kubelet(node, authority)
        self.setup.pod_network.connect(self, self.pod_ranges())
        say("cluster: CoreDNS")
        self.kubectl("apply", "-f", "-", input=self.setup.coredns_objects())
        self.kubectl("label", "node", NODE1.name, "node-role.kubernetes.io/control-plane=")
        for extend in self.setup.on_cluster:
            extend(self)
        self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until nothing keeps the cluster from being usable."""
        try:
            wait_for("the cluster to be ready", lambda: not self.problems(), timeout=90, every=0.5)
        except ClusterError as error:
            raise ClusterError(f"{error}: {'; '.join(self.problems())}") from error

    def _start_api_server(self, authority: Authority, *, audit: bool) -> None:
        first = self.nodes[0]
        first.start("etcd", etcd_argv(Path("/var/lib/etcd"), 2379, 2380))
        log = self.audit_log if audit else None
        argv = api_server_argv(authority, 2379, "::", 6443, log, self.setup.service_ranges)
        first.start("kube-apiserver", [*argv, f"--advertise-address={NODE1.ipv6}"])

    def _api_is_ready(self) -> bool:
        return self.kubectl("get", "--raw", "/readyz") == "ok"

    def _start_controllers(self, authority: Authority) -> None:
        first = self.nodes[0]
        for name, flags in {
            "kube-controller-manager": [
                f"--cluster-cidr={self.setup.pod_ranges}",
                f"--service-cluster-ip-range={self.setup.service_ranges}",
                *(["--node-cidr-mask-size-ipv4=27"] if self.setup.dual_stack else []),
                "--allocate-node-cidrs",
                "--use-service-account-credentials",
                f"--root-ca-file={authority.certificate('ca')}",
                f"--service-account-private-key-file={authority.key('service-accounts')}",
                f"--cluster-signing-cert-file={authority.certificate('ca')}",
                f"--cluster-signing-key-file={authority.key('ca')}",
            ],
            "kube-scheduler": [],
        }.items():
            program = str(binaries.ensure(name)[name])
            config = f"--kubeconfig={authority.kubeconfig(name, API)}"
            first.start(name, [program, config, "--leader-elect=false", *flags])

    def start_runtime(self, node: Node, archives: dict[images.Image, Path]) -> None:
        """Start a node's containerd, and import images."""
        node.start_containerd()
        images.load(node, archives)

    def boot(self, node: Node, authority: Authority) -> None:
        """Boot a node and give it its name's certificate."""
        node.boot()
        for change in self.setup.on_node:
            change(node)
        authority.issue(node.name, f"system:node:{node.name}", "system:nodes")

    def start_kubelet(self, node: Node, authority: Authority) -> None:
        """Start a node's kubelet, and kube-proxy where the cluster has one."""
        config = authority.kubeconfig(node.name, API)
        node.start_kubelet(self.setup, config, authority.certificate("ca"))
        node.start_kube_proxy(self.setup, authority.kubeconfig("kube-proxy", API))

    def _is_up(self) -> bool:
        return set(network.existing()) >= set(network.NAMESPACES)

    def pod_ranges(self) -> dict[Node, list[str]]:
        """Each node's pod ranges, once the controller manager has given them."""
        path = "jsonpath={.spec.podCIDRs[*]}"
        ranges: dict[Node, list[str]] = {}

        def all_known() -> bool:
            for node in self.nodes:
                for log in node.ended():
                    raise ClusterError(f"a program has ended: see {log}")
                ranges[node] = self.kubectl("get", "node", node.name, "-o", path).split()
            return all(ranges.values())

        wait_for("the nodes to register", all_known, timeout=60)
        return ranges

    def _clean(self) -> None:
        """Remove whatever there is of a cluster, whole or in pieces."""
        network.end(network.existing())
        wait_for("the cgroups to empty", _cgroups_removed, timeout=10)
        shutil.rmtree(STATE, ignore_errors=True)


def _running_setup() -> str:
    """The name of the setup that was last begun."""
    return SETUP_NAME.read_text() if SETUP_NAME.exists() else ""


def _cgroups_removed() -> bool:
    try:
        remove_cgroups()
    except OSError:
        return False
    return True


def _together(tasks: Iterable[Callable[[], None]]) -> None:
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(task) for task in tasks]:
            done.result()


def _is_ready(item: dict) -> bool:  # type: ignore[type-arg]
    conditions = {c["type"]: c["status"] for c in item.get("status", {}).get("conditions", [])}
    return conditions.get("Ready" if item["kind"] == "Node" else "Available") == "True"


def _check_machine() -> None:
    """Say what is missing before anything is begun."""
    if os.geteuid() != 0:
        raise ClusterError("a cluster needs root: it makes namespaces and mounts")
    here = Path("/").stat()
    there = run(["nsenter", "--mount=/proc/self/ns/mnt", "--", "stat", "-c", "%d %i", "/"]).split()
    if [str(here.st_dev), str(here.st_ino)] != there:
        # runc enters a container's mounts by their namespace, and would come out at its real root.
        raise ClusterError("a cluster does not start in a chroot; enter the folder by pivot_root")
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [
        package for name, package in _PACKAGES_OF.items() if not shutil.which(name, path=path)
    ]
    if missing:
        packages = " ".join(missing)
        raise ClusterError(f"missing: {packages}; `make deps` or `apt-get install {packages}`")
