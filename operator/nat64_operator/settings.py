"""The operator's settings, which flags or the environment of the chart's Deployment give."""

from __future__ import annotations

from typing import Any

import msgspec

FIELD_MANAGER = "nat64-operator"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings that hold for every gateway and policy."""

    namespace: str = "nat64-system"
    """Where the operator runs, and where the DaemonSets, Services and ConfigMaps go."""
    dataplane_image: str
    """The image of the translator and the sidecar, by digest where there is one."""
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    priority_class: str = "system-node-critical"
    service_account: str = "nat64-dataplane"
    """Names the pods for admission policies; it has no rights, and no token is mounted."""
    service_addresses: tuple[str, ...] = ()
    """Addresses of Services that this pod was given: the API server's and the cluster's DNS."""
    translator_resources: dict[str, Any] = msgspec.field(default_factory=dict)
    dns64_resources: dict[str, Any] = msgspec.field(default_factory=dict)
    pod_labels: dict[str, str] = msgspec.field(default_factory=dict)
    """On the data plane's pods, beside the operator's own labels, which win."""
    pod_annotations: dict[str, str] = msgspec.field(default_factory=dict)
    service_labels: dict[str, str] = msgspec.field(default_factory=dict)
    """On the Services of the sidecars, beside the operator's own labels, which win."""
    service_annotations: dict[str, str] = msgspec.field(default_factory=dict)
    log_format: str = "text"
    """Of the data plane's logs: text or json."""
    startup_taint: str = ""
    """The key of a taint that nodes lose once they translate; empty for none."""
    selinux_options: dict[str, str] = msgspec.field(default_factory=dict)
    """The SELinux context of the containers that write to the node; the runtime's where empty."""

    coredns_namespace: str = "kube-system"
    """Where CoreDNS is as a rule, and where the backup of its Corefile outlives our namespace."""

    confirm_seconds: int = 300
    """How long CoreDNS has to answer through the sidecars before its Corefile is restored. A
    kubelet takes up to two minutes to update a mounted ConfigMap, CoreDNS's `reload` up to 45
    seconds."""
    corefile_seconds: int = 10
    """How often a wired Corefile is read again: others edit it, and no watch reports that."""
    drain_seconds: int = 120
    """How long CoreDNS has to reload a restored Corefile before the sidecars are removed."""
    retry_seconds: int = 900
    """How long a Corefile is left alone after a restore or a step back."""
    removal_seconds: int = 300
    """How long nodes have to clean up before a gateway's finalizer is removed without them."""
    node_wait_seconds: int = 10
    """How often the progress of a removal is checked."""
