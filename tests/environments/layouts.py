"""CoreDNS as installers other than kubeadm lay it out: after their manifests, written by hand."""

from __future__ import annotations

from typing import Any

from tests.cluster import binaries
from tests.cluster.network import HOSTS
from tests.cluster.node import Node
from tests.cluster.setup import CLUSTER_DNS, Objects

K3S_COREFILE = """\
.:53 {
    errors
    health
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
      pods insecure
      fallthrough in-addr.arpa ip6.arpa
    }
    hosts /etc/coredns/NodeHosts {
      ttl 60
      reload 15s
      fallthrough
    }
    prometheus :9153
    cache 30
    loop
    reload
    loadbalance
    import /etc/coredns/custom/*.override
    forward . /etc/resolv.conf
}
import /etc/coredns/custom/*.server
"""

CHART_COREFILE = """\
.:53 {
    errors
    health {
        lameduck 10s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 30
    }
    prometheus 0.0.0.0:9153
    forward . /etc/resolv.conf
    cache 30
    loop
    reload
    loadbalance
}
"""

# An address of every node that nobody else has, in place of the 169.254.20.10 of IPv4 clusters.
NODE_LOCAL = "fd00:10:97::a"
_NODE_LOCAL_COREFILE = f"""\
cluster.local:53 in-addr.arpa:53 ip6.arpa:53 {{
    errors
    cache {{
        success 9984 30
        denial 9984 5
    }}
    reload
    loop
    bind {NODE_LOCAL}
    forward . {CLUSTER_DNS} {{
        force_tcp
    }}
}}
.:53 {{
    errors
    cache 30
    reload
    loop
    bind {NODE_LOCAL}
    forward . {CLUSTER_DNS}
}}
"""


def k3s(objects: Objects) -> None:
    """One replica, the nodes' names in a file, and two imports of what a user may add."""
    names = "".join(f"{host.ipv6} {host.name}\n" for host in HOSTS)
    objects["ConfigMap"]["data"] = {"Corefile": K3S_COREFILE, "NodeHosts": names}
    spec = objects["Deployment"]["spec"]
    spec["replicas"] = 1
    pod = spec["template"]["spec"]
    items = [{"key": key, "path": key} for key in ("Corefile", "NodeHosts")]
    pod["volumes"] = [
        {"name": "config-volume", "configMap": {"name": "coredns", "items": items}},
        {
            "name": "custom-config-volume",
            "configMap": {"name": "coredns-custom", "optional": True},
        },
    ]
    pod["containers"][0]["volumeMounts"].append(
        {"name": "custom-config-volume", "mountPath": "/etc/coredns/custom", "readOnly": True}
    )


def helm_chart(objects: Objects) -> None:
    """The CoreDNS chart as release `coredns`: other labels, Service and Corefile; one replica."""
    release = {"app.kubernetes.io/instance": "coredns", "app.kubernetes.io/name": "coredns"}
    labels = {"k8s-app": "coredns", **release}
    managed = {**labels, "app.kubernetes.io/managed-by": "Helm"}
    objects["ConfigMap"]["data"] = {"Corefile": CHART_COREFILE}
    for kind in ("ConfigMap", "Service", "Deployment"):
        objects[kind]["metadata"]["labels"] = managed
    service: dict[str, Any] = objects["Service"]
    service["metadata"]["name"] = "coredns"
    service["spec"]["selector"] = labels
    spec = objects["Deployment"]["spec"]
    spec["replicas"] = 1
    spec["selector"] = {"matchLabels": labels}
    spec["template"]["metadata"]["labels"] = labels


def node_local_cache(node: Node) -> None:
    """NodeLocal DNSCache: CoreDNS on the node, asked before the cluster's, on an address there."""
    node.run(["ip", "link", "add", "nodelocaldns", "type", "bridge"])
    node.run(["ip", "addr", "add", f"{NODE_LOCAL}/128", "dev", "nodelocaldns", "nodad"])
    node.run(["ip", "link", "set", "nodelocaldns", "up"])
    node.write("/etc/nodelocaldns/Corefile", _NODE_LOCAL_COREFILE)
    coredns = str(binaries.ensure("coredns")["coredns"])
    node.start("coredns", [coredns, "-conf", "/etc/nodelocaldns/Corefile"])
