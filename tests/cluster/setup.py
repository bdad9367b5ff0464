"""What may differ from one cluster to another; the defaults are what `make cluster-up` starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import yaml

from tests.cluster import controlplane
from tests.cluster.paths import HERE
from tests.cluster.podnetwork import Bridge, PodNetwork

if TYPE_CHECKING:
    from tests.cluster.cluster import Cluster
    from tests.cluster.node import Node

CLUSTER_DNS = "fd00:10:96::a"

# Objects of Kubernetes by their kinds.
Objects: TypeAlias = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Setup:
    """The parameters of a cluster."""

    name: str = "default"
    pod_network: PodNetwork = field(default_factory=Bridge)
    # kube-proxy's mode; without one nothing is started, and the pod network must serve Services.
    kube_proxy: str = "nftables"
    # Pods and Services have IPv4 as well, IPv6 comes first.
    dual_stack: bool = False
    # What an installer makes of kubeadm's objects for CoreDNS, changed in place.
    coredns: Callable[[Objects], None] | None = None
    # What pods ask.
    cluster_dns: str = CLUSTER_DNS
    # Done to each node when it has booted: a firewall, a program beside us.
    on_node: tuple[Callable[[Node], None], ...] = ()
    # Done to the cluster when CoreDNS has been applied.
    on_cluster: tuple[Callable[[Cluster], None], ...] = ()
    # Further programs of binaries.py that must be built before the nodes boot.
    programs: tuple[str, ...] = ()

    def coredns_objects(self) -> str:
        """What is applied for CoreDNS, as YAML."""
        text = (HERE / "manifests" / "coredns.yaml").read_text()
        objects = {item["kind"]: item for item in yaml.safe_load_all(text)}
        if self.coredns:
            self.coredns(objects)
        return yaml.safe_dump_all(objects.values(), sort_keys=False)

    @property
    def pod_ranges(self) -> str:
        """The pods' address ranges, as Kubernetes' flags take them."""
        return self._ranges(controlplane.POD_RANGE, controlplane.POD_RANGE_IPV4)

    @property
    def service_ranges(self) -> str:
        """The Services' address ranges."""
        return self._ranges(controlplane.SERVICE_RANGE, controlplane.SERVICE_RANGE_IPV4)

    def _ranges(self, ipv6: str, ipv4: str) -> str:
        return f"{ipv6},{ipv4}" if self.dual_stack else ipv6
