"""Pod networks besides the default one."""

from __future__ import annotations

import json
from typing import Any

from tests.cluster import binaries, network
from tests.cluster.cluster import Cluster
from tests.cluster.controlplane import POD_RANGE, SERVICE_RANGE
from tests.cluster.network import INTERNET
from tests.cluster.node import CNI_PLUGINS, Node
from tests.cluster.podnetwork import Bridge, PodNetwork, configure, host_local
from tests.cluster.run import wait_for


class PointToPoint(Bridge):
    """The reference plugin `ptp`: a veth and a route for each pod, no bridge."""

    link_per_pod = True

    def interface(self, pods: list[str]) -> dict[str, Any]:
        return {"type": "ptp", "ipam": host_local(pods)}


class Flannel(PodNetwork):
    """flannel as its manifest runs it, with masquerading, as a process of the node."""

    programs = ("flanneld", "flannel")

    def __init__(self, backend: str) -> None:
        self._backend = backend

    def connect(self, cluster: Cluster, ranges: dict[Node, list[str]]) -> None:
        # The nodes learn each other's ranges from flannel, the internet's router can't.
        network.route_pods({node.host: pods for node, pods in ranges.items()}, (INTERNET,))
        config = {
            "EnableIPv4": False,
            "EnableIPv6": True,
            "IPv6Network": POD_RANGE,
            "Backend": {"Type": self._backend},
        }
        programs = binaries.ensure(*self.programs)
        for node in ranges:
            node.run(["ln", "-s", str(programs["flannel"]), f"{CNI_PLUGINS}/flannel"])
            node.write("/etc/kube-flannel/net-conf.json", json.dumps(config))
            argv = ["env", f"NODE_NAME={node.name}", str(programs["flanneld"])]
            argv += ["--kube-subnet-mgr", f"--kubeconfig-file={cluster.kubeconfig}"]
            node.start("flanneld", [*argv, "--iface=eth0", "--ip-masq"])
        for node in ranges:
            _wait_for_file(node, "/run/flannel/subnet.env")
            delegate = {"hairpinMode": True, "isDefaultGateway": True}
            plugin = {"type": "flannel", "delegate": delegate}
            ports = {"type": "portmap", "capabilities": {"portMappings": True}}
            configure(node, plugin, ports, version="0.3.1")


# kube-router 2.1.0, the only release that the module proxy has, names sets of IPv6 in its rules as
# they aren't named in the kernel, so that it can enforce no policy (its issue 1653). And a policy
# for egress drops the pod's neighbour advertisements: once the node has to ask for the pod's
# address again, nothing reaches the pod any more (its issue 1895). Later releases do what this
# does: name the sets in full, and let neighbour discovery pass any policy.
_RESTORE = r"""#!/bin/sh
sed -e 's/--match-set KUBE-/--match-set inet6:KUBE-/g' \
    -e '/^-A KUBE-POD-FW-[A-Z2-7]* .*"rule to log dropped traffic/{
h
s|^\(-A [^ ]*\) .*|\1 -p ipv6-icmp -m icmp6 --icmpv6-type 135 -j MARK --set-xmark 0x10000/0x10000|p
s/type 135/type 136/p
g
}' | exec /usr/sbin/ip6tables-restore "$@"
"""


class KubeRouter(PodNetwork):
    """kube-router: BGP between the nodes, and NetworkPolicy by ip6tables and ipset.

    kube-proxy stays: kube-router's own needs IPVS.
    """

    programs = ("kube-router",)
    enforces_network_policy = True

    def connect(self, cluster: Cluster, ranges: dict[Node, list[str]]) -> None:
        network.route_pods({node.host: pods for node, pods in ranges.items()}, (INTERNET,))
        program = str(binaries.ensure(*self.programs)["kube-router"])
        for node, pods in ranges.items():
            plugin = {
                "name": "kubernetes",
                "type": "bridge",
                "bridge": "kube-bridge",
                "isDefaultGateway": True,
                "hairpinMode": True,
                # The default route is the bridge's; a second one is an error.
                "ipam": {**host_local(pods), "routes": []},
            }
            configure(node, plugin, version="0.3.1")
            node.write("/usr/local/sbin/ip6tables-restore", _RESTORE)
            node.run(["chmod", "+x", "/usr/local/sbin/ip6tables-restore"])
            argv = [program, "--run-router=true", "--run-firewall=true"]
            argv += ["--run-service-proxy=false", "--enable-cni=false"]
            argv += ["--enable-ipv4=false", "--enable-ipv6=true", f"--router-id={node.host.ipv4}"]
            argv += [f"--kubeconfig={cluster.kubeconfig}", f"--hostname-override={node.name}"]
            node.start("kube-router", [*argv, f"--service-cluster-ip-range={SERVICE_RANGE}"])


def _wait_for_file(node: Node, path: str) -> None:
    def there() -> bool:
        return bool(node.run(["cat", path]))

    wait_for(f"{path} on {node.name} (see {node.log_folder})", there, timeout=60)
