"""The pod network of a cluster: what makes pods' interfaces and routes between nodes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.cluster import network

if TYPE_CHECKING:
    from tests.cluster.cluster import Cluster
    from tests.cluster.node import Node

CONFIGURATION = "/etc/cni/net.d/10-pods.conflist"


class PodNetwork:
    """One way of connecting pods. Subclasses say what they are made of and how they start."""

    # What binaries.py builds for it, before the nodes boot.
    programs: tuple[str, ...] = ()
    enforces_network_policy = False
    # Each pod has a link and a route of its own on the node.
    link_per_pod = False

    def build(self) -> None:
        """Make what takes long and is no program, before the nodes boot."""

    def prepare(self, cluster: Cluster) -> None:
        """Begin what has to be there before kubelets start; the API server answers already."""

    def connect(self, cluster: Cluster, ranges: dict[Node, list[str]]) -> None:
        """Connect pods, now that each node has its ranges of pods' addresses."""
        raise NotImplementedError


class Bridge(PodNetwork):
    """The reference plugins `bridge` and `host-local`, and routes between the nodes by hand."""

    def connect(self, cluster: Cluster, ranges: dict[Node, list[str]]) -> None:  # noqa: ARG002
        network.route_pods({node.host: pods for node, pods in ranges.items()})
        for node, pods in ranges.items():
            configure(node, self.interface(pods))

    def interface(self, pods: list[str]) -> dict[str, Any]:
        """The plugin that makes a pod's interface."""
        return {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "hairpinMode": True,
            "ipam": host_local(pods),
        }


def host_local(pods: list[str]) -> dict[str, Any]:
    """Addresses from the node's ranges, one of each family that there is, with default routes."""
    return {
        "type": "host-local",
        "ranges": [[{"subnet": subnet}] for subnet in pods],
        "routes": [{"dst": "::/0" if ":" in subnet else "0.0.0.0/0"} for subnet in pods],
    }


def configure(node: Node, *plugins: dict[str, Any], version: str = "1.0.0") -> None:
    """Write a node's CNI configuration, which has containerd call the network ready."""
    content = {"cniVersion": version, "name": "pods", "plugins": list(plugins)}
    node.write(CONFIGURATION, json.dumps(content, indent=1))
