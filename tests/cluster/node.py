"""A node: the programs that run on one, and a way to run a command there."""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

from tests.cluster import binaries
from tests.cluster.controlplane import ADMIN
from tests.cluster.network import DNS_IPV6, Host, first_process, processes
from tests.cluster.paths import CACHE, HERE, REPO, STATE
from tests.cluster.run import ClusterError, run, wait_for
from tests.cluster.setup import Setup

CGROUP = "nat64-cluster"
PAUSE_IMAGE = "localhost/nat64-operator/pause:dev"
# From Debian's containernetworking-plugins, which buildah asks for as well.
CNI_PLUGINS = "/usr/lib/cni"


class Node:
    """One node of a running cluster."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.name = host.name
        self.folder = STATE / host.name
        self.log_folder = self.folder / "logs"

    def boot(self) -> None:
        """Start the node's first process, which makes its file system."""
        for folder in (self.log_folder, self.folder / "root"):
            folder.mkdir(parents=True)
        for hierarchy in _cgroup_hierarchies():
            (hierarchy / CGROUP / self.name).mkdir(parents=True, exist_ok=True)
            for level in (hierarchy, hierarchy / CGROUP):
                _pass_controllers_down(level)
        enter = ["nsenter", f"--net=/run/netns/{self.host.namespace}"]
        unshare = ["unshare", "--mount", "--uts", "--pid", "--fork"]
        init = ["sh", str(HERE / "node-init.sh"), self.name, str(STATE), DNS_IPV6]
        shared = map(str, (STATE, CACHE, REPO))
        detach([*enter, *unshare, *init, *shared], self.log_folder / "init.log")
        wait_for(f"{self.name} to boot (see {self.log_folder}/init.log)", self._booted, timeout=10)
        # For whoever takes a shell here.
        self.run(["ln", "-s", *map(str, binaries.ensure().values()), "/usr/local/bin/"])
        config = STATE / "pki" / f"{ADMIN}.kubeconfig"
        self.run(["sh", "-c", f"mkdir -p /root/.kube && ln -sf {config} /root/.kube/config"])

    def run(self, argv: Sequence[str], *, input: str | None = None, check: bool = True) -> str:
        """Run a command on the node and return its output."""
        return run([*self.enter(), *argv], input=input, check=check)

    def enter(self) -> list[str]:
        """The words that put a command into the node's namespaces."""
        spaces = ["--mount", "--net", "--uts", "--pid", "--root"]
        return ["nsenter", "--target", str(self._init()), *spaces, "--"]

    def start(self, name: str, argv: Sequence[str]) -> None:
        """Start a program on the node, in the background; its output goes to its log."""
        log = self.log_folder / f"{name}.log"
        detach([*self.enter(), *argv], log)
        what = f"{name} to start on {self.name} (see {log})"
        wait_for(what, lambda: log not in self.ended(), timeout=5, every=0.02)

    def ended(self) -> list[Path]:
        """The logs of the programs that were started here and do not run any more."""
        running = set()
        for pid in processes(self.host.namespace):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                running.add(Path(f"/proc/{pid}/comm").read_text().strip())
        logs = [log for log in self.log_folder.glob("*.log") if log.stem != "init"]
        # The kernel keeps fifteen letters of a name.
        return [log for log in logs if log.stem[:15] not in running]

    def write(self, path: str, text: str) -> None:
        """Write a file on the node."""
        self.run(["sh", "-c", 'mkdir -p "${0%/*}" && cat > "$0"', path], input=text)

    def start_containerd(self) -> None:
        runtime = "io.containerd.cri.v1.runtime"
        config = f"""\
version = 3
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = '{PAUSE_IMAGE}'
[plugins.'{runtime}']
# Not every root may shield a process from the OOM killer, and pods ask for it.
restrict_oom_score_adj = true
[plugins.'{runtime}'.cni]
bin_dirs = ['{CNI_PLUGINS}']
conf_dir = '/etc/cni/net.d'
[plugins.'{runtime}'.containerd.runtimes.runc]
runtime_type = 'io.containerd.runc.v2'
options = {{ SystemdCgroup = false }}
"""
        self.write("/etc/containerd/config.toml", config)
        programs = binaries.ensure("containerd", "containerd-shim-runc-v2")
        self.start("containerd", [str(programs["containerd"])])
        wait_for(
            f"containerd on {self.name} (see {self.log_folder}/containerd.log)",
            lambda: bool(self.ctr("version")),
            timeout=30,
        )

    def ctr(self, *args: str) -> str:
        """Run containerd's client in the namespace that the kubelet uses."""
        return self.run([str(binaries.ensure("ctr")["ctr"]), "--namespace", "k8s.io", *args])

    def start_kubelet(self, setup: Setup, kubeconfig: Path, authority: Path) -> None:
        """Start a kubelet, which registers the node."""
        config = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": "::",
            "authentication": {"x509": {"clientCAFile": str(authority)}},
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "clusterDNS": [setup.cluster_dns],
            "clusterDomain": "cluster.local",
            # Two kubelets share one machine: each keeps to its own corner of its cgroups, neither
            # judges the disk, and whatever cgroup version and swap the machine has will do.
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{CGROUP}/{self.name}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "evictionHard": {
                "memory.available": "1Mi",
                "nodefs.available": "0%",
                "nodefs.inodesFree": "0%",
                "imagefs.available": "0%",
                "imagefs.inodesFree": "0%",
            },
            "imageGCHighThresholdPercent": 100,
            "localStorageCapacityIsolation": False,
            # Pods come and go quickly in tests.
            "nodeStatusUpdateFrequency": "2s",
            "syncFrequency": "10s",
            "shutdownGracePeriod": "0s",
        }
        self.write("/var/lib/kubelet/config.yaml", json.dumps(config, indent=1))
        further = f",{self.host.ipv4}" if setup.dual_stack and self.host.ipv4 else ""
        addresses = self.host.ipv6 + further
        self.start(
            "kubelet",
            [
                str(binaries.ensure("kubelet")["kubelet"]),
                "--config=/var/lib/kubelet/config.yaml",
                f"--kubeconfig={kubeconfig}",
                f"--hostname-override={self.name}",
                f"--node-ip={addresses}",
            ],
        )

    def start_kube_proxy(self, setup: Setup, kubeconfig: Path) -> None:
        """Start kube-proxy, where the cluster has one."""
        if not setup.kube_proxy:
            return
        config = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "bindAddress": "::",
            "clientConnection": {"kubeconfig": str(kubeconfig)},
            "clusterCIDR": setup.pod_ranges,
            "hostnameOverride": self.name,
            "mode": setup.kube_proxy,
            # The size of the connection table is the machine's affair.
            "conntrack": {"maxPerCore": 0, "min": 0},
        }
        self.write("/var/lib/kube-proxy/config.yaml", json.dumps(config, indent=1))
        kube_proxy = str(binaries.ensure("kube-proxy")["kube-proxy"])
        self.start("kube-proxy", [kube_proxy, "--config=/var/lib/kube-proxy/config.yaml"])

    def _booted(self) -> bool:
        try:
            return Path(f"/proc/{self._init()}/root/run/node-is-up").exists()
        except ClusterError:
            return False

    def _init(self) -> int:
        """The node's first process: in its network, and number 1 of the next PID namespace."""
        if pid := first_process(self.host.namespace):
            return pid
        raise ClusterError(f"{self.name} is not up; start the cluster with `make cluster-up`")


def detach(argv: Sequence[str], log: Path) -> None:
    """Start a program that outlives this one, with its output in a log."""
    script = 'log=$1; shift; setsid "$@" >>"$log" 2>&1 </dev/null &'
    run(["sh", "-c", script, "detach", str(log), *argv])


def remove_cgroups(node: str = "") -> None:
    """Remove what the kubelets made, or that of one node; only works once nothing runs in there
    any more.
    """
    for hierarchy in _cgroup_hierarchies():
        top = hierarchy / CGROUP / node
        for folder in sorted([top, *top.rglob("*/")], reverse=True) if top.exists() else []:
            folder.rmdir()


def _cgroup_hierarchies() -> list[Path]:
    """Every version 1 hierarchy, or the only one of version 2."""
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        return [root]
    return [folder for folder in root.iterdir() if (folder / "cgroup.procs").exists()]


def _pass_controllers_down(level: Path) -> None:
    """In version 2 a cgroup has only the controllers that its parent passes on."""
    switch = level / "cgroup.subtree_control"
    if switch.exists():
        for controller in (level / "cgroup.controllers").read_text().split():
            switch.write_text(f"+{controller}")
