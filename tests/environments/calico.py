"""Calico without its containers: felix and the CNI plugin as processes of the node, VXLAN."""

from __future__ import annotations

import json
from typing import Any

from tests.cluster import binaries, network
from tests.cluster.cluster import Cluster
from tests.cluster.controlplane import POD_RANGE
from tests.cluster.network import INTERNET
from tests.cluster.node import CNI_PLUGINS, Node
from tests.cluster.podnetwork import PodNetwork, configure


class Calico(PodNetwork):
    """felix with its iptables data plane, Calico's own IPAM, `natOutgoing`, no BGP."""

    felix = "calico-felix"
    programs = (felix, "calico")
    enforces_network_policy = True
    link_per_pod = True

    def prepare(self, cluster: Cluster) -> None:
        sources = binaries.module_folder(binaries.CALICO)
        crds = str(sources / "libcalico-go" / "config" / "crd")
        cluster.kubectl("apply", "--server-side", "-f", crds)
        cluster.kubectl("wait", "crd", "--all", "--for=condition=Established", "--timeout=60s")
        objects = (
            object_of("ClusterInformation", "default", {"datastoreReady": True}),
            object_of(
                "IPPool",
                "default-ipv6-ippool",
                {
                    "cidr": POD_RANGE,
                    "blockSize": 122,
                    "natOutgoing": True,
                    "ipipMode": "Never",
                    "vxlanMode": "Always",
                    "nodeSelector": "all()",
                    "allowedUses": ["Workload", "Tunnel"],
                },
            ),
        )
        for each in objects:
            cluster.kubectl("apply", "-f", "-", input=json.dumps(each))

    def connect(self, cluster: Cluster, ranges: dict[Node, list[str]]) -> None:
        programs = binaries.ensure(*self.programs)
        for node in ranges:
            for name in ("calico", "calico-ipam"):
                node.run(["ln", "-s", str(programs["calico"]), f"{CNI_PLUGINS}/{name}"])
            node.write("/var/lib/calico/nodename", node.name)
            facts = {
                "projectcalico.org/IPv6Address": f"{node.host.ipv6}/64",
                "projectcalico.org/IPv6VXLANTunnelAddr": _tunnel_address(cluster, node),
                **self.facts(node),
            }
            pairs = [f"{key}={value}" for key, value in facts.items()]
            cluster.kubectl("annotate", "node", node.name, *pairs)
        # What natOutgoing doesn't hide is nowhere: nobody outside knows where Calico's blocks are.
        network.route_pods({}, (INTERNET,))
        for node in ranges:
            node.start(self.felix, self._felix(cluster, node))
            configure(node, _plugin(cluster, node), version="0.3.1")

    def facts(self, node: Node) -> dict[str, str]:  # noqa: ARG002
        """Further annotations of a node."""
        return {}

    def settings(self) -> dict[str, str]:
        """felix's settings for its data plane."""
        return {
            # It is built without libbpf, with which it would look for an old eBPF data plane.
            "FELIX_DebugSkipCTLBCleanup": "true",
        }

    def _felix(self, cluster: Cluster, node: Node) -> list[str]:
        settings = {
            "KUBECONFIG": str(cluster.kubeconfig),
            "FELIX_DATASTORETYPE": "kubernetes",
            "FELIX_FELIXHOSTNAME": node.name,
            "FELIX_IPV6SUPPORT": "true",
            "FELIX_IPINIPENABLED": "false",
            "FELIX_XDPENABLED": "false",
            "FELIX_DEFAULTENDPOINTTOHOSTACTION": "ACCEPT",
            "FELIX_LOGSEVERITYSCREEN": "warning",
            "FELIX_LOGFILEPATH": "none",
            "FELIX_LOGSEVERITYSYS": "none",
            "FELIX_USAGEREPORTINGENABLED": "false",
            "FELIX_IPTABLESBACKEND": "NFT",
            **self.settings(),
        }
        variables = [f"{key}={value}" for key, value in settings.items()]
        return ["env", *variables, str(binaries.ensure(self.felix)[self.felix])]


def _tunnel_address(cluster: Cluster, node: Node) -> str:
    """An address of the node's own block, as calico/node takes one: answers to it need a route."""
    variables = ("COMMAND=ADD", "CONTAINERID=tunnel", "NETNS=/none", "IFNAME=vxlan", "PATH=/none")
    argv = ["env", *(f"CNI_{variable}" for variable in variables), f"{CNI_PLUGINS}/calico-ipam"]
    config = {"cniVersion": "0.3.1", "name": "pods", **_plugin(cluster, node)}
    [found] = json.loads(node.run(argv, input=json.dumps(config)))["ips"]
    return str(found["address"].partition("/")[0])


def _plugin(cluster: Cluster, node: Node) -> dict[str, Any]:
    return {
        "type": "calico",
        "datastore_type": "kubernetes",
        "nodename": node.name,
        "mtu": 1430,
        "log_level": "warning",
        "ipam": {"type": "calico-ipam", "assign_ipv4": "false", "assign_ipv6": "true"},
        "policy": {"type": "k8s"},
        "kubernetes": {"kubeconfig": str(cluster.kubeconfig)},
    }


def object_of(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """An object of Calico's, as it is stored."""
    group = "crd.projectcalico.org/v1"
    return {"apiVersion": group, "kind": kind, "metadata": {"name": name}, "spec": spec}
