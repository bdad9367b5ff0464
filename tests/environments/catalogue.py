"""All environments, in the order in which they run."""

from __future__ import annotations

from tests.cluster.setup import Setup
from tests.environments import beside, layouts
from tests.environments.calico import Calico
from tests.environments.calico_ebpf import CalicoEbpf
from tests.environments.cilium import (
    DUAL_STACK,
    ENDPOINT_ROUTES,
    HOST_FIREWALL,
    HOST_ROUTING,
    LEGACY_ROUTING,
    VXLAN,
    Cilium,
)
from tests.environments.environment import Environment
from tests.environments.kind.cluster import KindCluster
from tests.environments.kind.engine import docker_version
from tests.environments.networks import Flannel, KubeRouter, PointToPoint

# Cilium drops fragments of pings: no answer is to come in fragments that fits the pods' links.
_CILIUM = {"lowestIPv6MTU": 1500}

_ALL = (
    Environment(
        Setup("bridge"),
        "reference plugins `bridge` and `host-local`, kube-proxy nftables, kubeadm's CoreDNS",
    ),
    Environment(
        Setup("ptp", pod_network=PointToPoint()),
        "reference plugins `ptp` and `host-local`",
    ),
    Environment(
        Setup("flannel-host-gw", pod_network=Flannel("host-gw"), kube_proxy="iptables"),
        "flannel, back end `host-gw`, masquerading on; kube-proxy iptables",
        packages=("iptables",),
    ),
    Environment(
        Setup("flannel-vxlan", pod_network=Flannel("vxlan"), kube_proxy="iptables"),
        "flannel, back end `vxlan`, masquerading on; kube-proxy iptables",
        packages=("iptables",),
    ),
    Environment(
        Setup("kube-router", pod_network=KubeRouter(), kube_proxy="iptables"),
        "kube-router as router and for NetworkPolicy (`ipBlock` too; with its issues 1653 and "
        "1895, which 2.1.0 has, put right), pod egress masqueraded; kube-proxy iptables",
        packages=("iptables", "ipset"),
    ),
    Environment(
        Setup("cilium", pod_network=Cilium(HOST_ROUTING), kube_proxy=""),
        "Cilium in kube-proxy's place, BPF host routing, BPF masquerade, IPAM `cluster-pool`",
        gateway=_CILIUM,
        packages=("clang-19",),
        seconds=900,
    ),
    Environment(
        Setup("cilium-vxlan", pod_network=Cilium(VXLAN), kube_proxy=""),
        "as `cilium`, pods of other nodes by VXLAN over IPv6",
        gateway=_CILIUM,
        packages=("clang-19",),
        seconds=900,
    ),
    Environment(
        Setup("cilium-endpoint-routes", pod_network=Cilium(ENDPOINT_ROUTES), kube_proxy=""),
        "as `cilium`, a route for each pod (`endpointRoutes.enabled`)",
        gateway=_CILIUM,
        packages=("clang-19",),
        seconds=900,
    ),
    Environment(
        Setup("cilium-host-firewall", pod_network=Cilium(HOST_FIREWALL), kube_proxy=""),
        "as `cilium`, with its host firewall and its IPv4 off, which drops all IPv4 of the nodes: "
        "`doctor` stops there, and `Degraded` says so once pods connect",
        gateway=_CILIUM,
        stops=("Cilium's host firewall is on and its IPv4 is off",),
        packages=("clang-19",),
        seconds=900,
    ),
    Environment(
        Setup("cilium-kube-proxy", pod_network=Cilium(LEGACY_ROUTING)),
        "Cilium beside kube-proxy nftables, host routing by the kernel (`bpf.hostLegacyRouting`), "
        "masquerade by iptables, IPAM `kubernetes`",
        gateway=_CILIUM,
        packages=("clang-19", "iptables"),
        seconds=900,
    ),
    Environment(
        Setup("cilium-dual-stack", pod_network=Cilium(DUAL_STACK), kube_proxy="", dual_stack=True),
        "dual-stack Cilium in kube-proxy's place, BPF masquerade, host firewall; a pool below its "
        "masquerade's ports",
        gateway=_CILIUM | {"pools": [{"source": "Node", "ports": {"from": 20000, "to": 29999}}]},
        packages=("clang-19",),
        seconds=900,
    ),
    Environment(
        Setup("calico", pod_network=Calico(), kube_proxy="iptables"),
        "Calico 3.28: felix with its iptables data plane (iptables-nft), Calico's own IPAM, VXLAN, "
        "`natOutgoing`, NetworkPolicy; kube-proxy iptables",
        packages=("iptables", "ipset"),
    ),
    Environment(
        Setup("calico-ebpf", pod_network=CalicoEbpf(), kube_proxy=""),
        "as `calico`, felix with its eBPF data plane (IPv4 and IPv6) in kube-proxy's place",
        # As with Cilium; its pods' links have less.
        gateway={"lowestIPv6MTU": 1430},
        packages=("clang", "iptables", "ipset"),
    ),
    Environment(
        Setup("kind", pod_network=PointToPoint(), programs=("kind", "kubeadm")),
        "kind with this repo's `kind-config.yaml`: three nodes, kubeadm's control plane; a "
        "stand-in for kindnetd, which no source here has",
        start=KindCluster,
        further_versions=docker_version,
        seconds=1500,
    ),
    Environment(
        Setup("coredns-k3s", coredns=layouts.k3s),
        "CoreDNS as k3s has it; mode `Import`",
        policy={"coreDNS": {"mode": "Import"}},
        chart=("--set=coreDNS.createCustomConfigMap=true",),
    ),
    Environment(
        Setup("coredns-helm", coredns=layouts.helm_chart),
        "CoreDNS as its Helm chart has it",
    ),
    Environment(
        Setup("nodelocal-dns", cluster_dns=layouts.NODE_LOCAL, on_node=(layouts.node_local_cache,)),
        "NodeLocal DNSCache before CoreDNS, forwarding external names to CoreDNS too",
    ),
    Environment(
        Setup("dual-stack", dual_stack=True),
        "pods and Services with IPv4 too",
    ),
    Environment(
        Setup("docker", on_node=(beside.docker, beside.random_masquerade)),
        "Docker's bridge and rules on the nodes, FORWARD on DROP, `-i nat64-default` accepted in "
        "DOCKER-USER; all IPv4 that leaves a node masqueraded with `fully-random`",
        packages=("iptables",),
    ),
    Environment(
        Setup("firewalld", on_node=(beside.firewalld,)),
        "a firewall with firewalld's rules in form (nftables); pods' range and the link "
        "`nat64-default` trusted",
        packages=("nftables",),
    ),
    Environment(
        Setup("ufw", on_node=(beside.ufw,)),
        "a firewall with ufw's rules in form (iptables-nft), INPUT and FORWARD on DROP; "
        "pods' range and the link `nat64-default` allowed",
        packages=("iptables",),
    ),
    Environment(
        Setup("tayga", on_node=(beside.tayga,)),
        "another NAT64 on the nodes, TAYGA with a prefix of its own",
        packages=("tayga",),
    ),
)

ENVIRONMENTS = {environment.name: environment for environment in _ALL}
