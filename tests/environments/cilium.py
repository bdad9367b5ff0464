"""Cilium from its Go module: agent and operator as programs of the nodes, configured by its chart.

There is no image of it here, so what its DaemonSet would run runs beside the kubelet instead, from
the same settings: the chart's ConfigMap, one file a key. Envoy and Hubble, which are projects of
their own, are left out.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tests.cluster import binaries, network
from tests.cluster.controlplane import POD_RANGE, POD_RANGE_IPV4
from tests.cluster.network import INTERNET, NODE1
from tests.cluster.node import CGROUP, CNI_PLUGINS
from tests.cluster.paths import CACHE, STATE
from tests.cluster.podnetwork import PodNetwork
from tests.cluster.run import locked, run, wait_for

if TYPE_CHECKING:
    from tests.cluster.cluster import Cluster
    from tests.cluster.node import Node

_CONFIG = "/etc/cilium/config"
_CNI_CONFIG = "/etc/cni/net.d/05-cilium.conflist"
_CGROUPS = "/run/cilium/cgroupv2"
# The agent compiles its programs with the first clang that it finds, and Debian's own is too old.
_PATH = "PATH=/usr/lib/llvm-19/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LIBRARY = "/var/lib/cilium"
# Settings of the chart that suppose Cilium's own pods, or that aren't settings when empty.
_LEFT_OUT = ("devices", "vtep-endpoint", "vtep-cidr", "vtep-mask", "vtep-mac")
_INSTEAD = {
    "procfs": "/proc",
    "write-cni-conf-when-ready": _CNI_CONFIG,
    "enable-health-checking": "false",
    "enable-endpoint-health-checking": "false",
    "enable-dynamic-config": "false",
    "enable-drift-checker": "false",
    "set-cilium-node-taints": "false",
    "remove-cilium-node-taints": "false",
    "set-cilium-is-up-condition": "false",
}
_ALWAYS: dict[str, Any] = {
    "ipv6.enabled": True,
    "hubble.enabled": False,
    "envoy.enabled": False,
    "l7Proxy": False,
    "routingMode": "native",
    "autoDirectNodeRoutes": True,
    "ipv6NativeRoutingCIDR": POD_RANGE,
    "enableIPv6Masquerade": True,
}
HOST_ROUTING: dict[str, Any] = {
    "ipv4.enabled": False,
    "kubeProxyReplacement": True,
    "bpf.hostLegacyRouting": False,
    "bpf.masquerade": True,
    "ipam.mode": "cluster-pool",
    "ipam.operator.clusterPoolIPv6PodCIDRList": f"{{{POD_RANGE}}}",
    "ipam.operator.clusterPoolIPv6MaskSize": 64,
}
VXLAN: dict[str, Any] = HOST_ROUTING | {
    "routingMode": "tunnel",
    "tunnelProtocol": "vxlan",
    "underlayProtocol": "ipv6",
    "autoDirectNodeRoutes": False,
}
HOST_FIREWALL: dict[str, Any] = HOST_ROUTING | {"hostFirewall.enabled": True}
ENDPOINT_ROUTES: dict[str, Any] = HOST_ROUTING | {"endpointRoutes.enabled": True}
LEGACY_ROUTING: dict[str, Any] = {
    "ipv4.enabled": False,
    "kubeProxyReplacement": False,
    "bpf.hostLegacyRouting": True,
    "bpf.masquerade": False,
    "ipam.mode": "kubernetes",
}
# With Cilium's host firewall, which drops all IPv4 where Cilium's own is off.
DUAL_STACK: dict[str, Any] = {
    "ipv4.enabled": True,
    "ipv4NativeRoutingCIDR": POD_RANGE_IPV4,
    "enableIPv4Masquerade": True,
    "kubeProxyReplacement": True,
    "bpf.hostLegacyRouting": False,
    "bpf.masquerade": True,
    "hostFirewall.enabled": True,
    "ipam.mode": "kubernetes",
}


class Cilium(PodNetwork):
    """Cilium with some values of its chart, by their dotted names."""

    programs = ("cilium-agent", "cilium-operator", "cilium-cni", "cilium-dbg")
    enforces_network_policy = True
    link_per_pod = True

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def prepare(self, cluster: Cluster) -> None:
        """Give the nodes what its image would, and the API the settings for whoever reads them."""
        config_map = self._config_map()
        cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump(config_map))
        for node in cluster.nodes:
            _equip(node)
            for key, value in config_map["data"].items():
                if key not in _LEFT_OUT:
                    node.write(f"{_CONFIG}/{key}", _INSTEAD.get(key, str(value)))

    def connect(self, cluster: Cluster, ranges: dict[Node, list[str]]) -> None:
        kubeconfig = f"--k8s-kubeconfig-path={cluster.kubeconfig}"
        programs = binaries.ensure(*self.programs)
        common = [f"--config-dir={_CONFIG}", kubeconfig]
        environment = ["env", _PATH, "CILIUM_K8S_NAMESPACE=kube-system"]
        operator = [*environment, str(programs["cilium-operator"]), *common]
        cluster.node(NODE1.name).start("cilium-operator", operator)
        for node in cluster.nodes:
            agent = [*environment, f"K8S_NODE_NAME={node.name}", str(programs["cilium-agent"])]
            node.start("cilium-agent", [*agent, *common, f"--lib-dir={_LIBRARY}"])
        for node in cluster.nodes:
            log = node.log_folder / "cilium-agent.log"
            wait_for(f"Cilium on {node.name} (see {log})", partial(_configured, node), 180)
            # containerd does not hear of a file that is renamed on an overlay.
            node.run(["sh", "-c", f"cat {_CNI_CONFIG} > /tmp/cni && cat /tmp/cni > {_CNI_CONFIG}"])
        if self._values["ipam.mode"] != "kubernetes":
            ranges = _ciliums_ranges(cluster)
        network.route_pods({node.host: pods for node, pods in ranges.items()}, (INTERNET,))

    def _config_map(self) -> dict[str, Any]:
        helm = str(binaries.ensure("helm")["helm"])
        sets = [
            f"--set={name}={_word(value)}" for name, value in {**_ALWAYS, **self._values}.items()
        ]
        chart = str(sources() / "chart")
        where = ("--namespace=kube-system", "--show-only=templates/cilium-configmap.yaml")
        env = {"HOME": str(STATE / "home")}
        return dict(
            yaml.safe_load(run([helm, "template", "cilium", chart, *where, *sets], env=env))
        )


def sources() -> Path:
    """The eBPF sources and the chart of the release that the programs are of, in the cache."""
    home = CACHE / f"cilium-{binaries.CILIUM.version}"
    with locked(CACHE / "locks" / "cilium-sources"):
        if not home.exists():
            module = binaries.module_folder(binaries.CILIUM)
            unfinished = home.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            for name, path in {"bpf": "bpf", "chart": "install/kubernetes/cilium"}.items():
                shutil.copytree(module / path, unfinished / name)
            run(["chmod", "-R", "u+w", unfinished])
            unfinished.rename(home)
    return home


def _equip(node: Node) -> None:
    """The files of Cilium's image, and a cgroup for each node's socket programs."""
    programs = binaries.ensure("cilium-cni", "cilium-dbg")
    # Where the machine has version 1 and 2 side by side, the second has a folder of its own.
    tree = "/sys/fs/cgroup/unified" if Path("/sys/fs/cgroup/unified").exists() else "/sys/fs/cgroup"
    script = f"""
mkdir -p {_LIBRARY} {_CGROUPS} {_CONFIG} /var/run/cilium
cp -r {sources()}/bpf {_LIBRARY}/bpf
ln -s {programs["cilium-cni"]} {CNI_PLUGINS}/cilium-cni
ln -s {programs["cilium-dbg"]} /usr/local/bin/cilium-dbg
mount --bind {tree}/{CGROUP}/{node.name} {_CGROUPS}
"""
    node.run(["sh", "-euc", script])


def _configured(node: Node) -> bool:
    return bool(node.run(["cat", _CNI_CONFIG]))


def _ciliums_ranges(cluster: Cluster) -> dict[Node, list[str]]:
    """The pods' ranges that Cilium's operator has handed out."""
    ranges: dict[Node, list[str]] = {}

    def all_known() -> bool:
        for node in cluster.nodes:
            path = "jsonpath={.spec.ipam.podCIDRs[*]}"
            ranges[node] = cluster.kubectl("get", "ciliumnode", node.name, "-o", path).split()
        return all(ranges.values())

    # An agent may write its CNI configuration before its CiliumNode is there.
    wait_for("Cilium to give the nodes pods' ranges", all_known, timeout=60)
    return ranges


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
