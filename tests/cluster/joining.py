"""A further node that joins a running cluster, and leaves it.

It takes seconds where a cluster takes half a minute; so the tests that want another node share the
cluster of all others.
"""

from __future__ import annotations

import shutil
import time

from tests.cluster import images, network
from tests.cluster.cluster import Cluster
from tests.cluster.network import Host
from tests.cluster.node import Node, remove_cgroups
from tests.cluster.paths import STATE
from tests.cluster.pki import Authority
from tests.cluster.run import CommandError, say, wait_for


def join(cluster: Cluster, host: Host) -> Node:
    """Start a node on a running cluster whose pods are connected by bridges."""
    leave(cluster, host)
    began = time.monotonic()
    archives = images.ensure((*images.equipment(), *images.PRODUCT))
    authority = Authority.opened(STATE / "pki")
    network.connect(host)
    node = cluster.node(host.name)
    cluster.boot(node, authority)
    cluster.start_runtime(node, archives)
    cluster.start_kubelet(node, authority)
    ranges = cluster.pod_ranges()
    network.route_pods({other.host: pods for other, pods in ranges.items()})
    cluster.setup.pod_network.connect(cluster, {node: ranges[node]})
    cluster.wait_ready()
    wait_for("Services to be served there", lambda: _serves_dns(cluster, node), timeout=60)
    say(f"cluster: {host.name} has joined in {time.monotonic() - began:.0f} s")
    return node


def _serves_dns(cluster: Cluster, node: Node) -> bool:
    """Whether kube-proxy, or what is in its place, has written its rules: Ready doesn't say so."""
    connect = f"exec 3<>/dev/tcp/{cluster.setup.cluster_dns}/53"
    try:
        node.run(["timeout", "2", "bash", "-c", connect])
    except CommandError:
        return False
    return True


def leave(cluster: Cluster, host: Host) -> None:
    """Take a node that has joined away, as a cloud does: it is gone before it is forgotten.

    Its pods are deleted now, and not after a minute in the midst of the next test, and those in
    their place are waited for.
    """
    if host.namespace not in network.existing():
        return
    node = cluster.node(host.name)
    path = "jsonpath={.spec.podCIDRs[*]}"
    pods = cluster.kubectl("get", "node", node.name, "-o", path, check=False).split()
    network.end([host.namespace])
    network.unroute_pods(pods)
    cluster.kubectl("delete", "node", node.name, "--ignore-not-found")
    its = f"--field-selector=spec.nodeName={node.name}"
    cluster.kubectl("delete", "pods", "--all-namespaces", its, "--force", "--grace-period=0")

    def empty() -> bool:
        try:
            remove_cgroups(node.name)
        except OSError:
            return False
        return True

    wait_for("the node's cgroups to empty", empty, timeout=60)
    shutil.rmtree(node.folder, ignore_errors=True)
    cluster.wait_ready()
