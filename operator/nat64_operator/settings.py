"""What the operator is told at its start: by flags, by the environment that the chart sets."""

from __future__ import annotations

from typing import Any

import msgspec

FIELD_MANAGER = "nat64-operator"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The same for every gateway and policy."""

    namespace: str = "nat64-system"
    """Where the operator runs, and where the DaemonSets, Services and ConfigMaps go."""
    dataplane_image: str
    """The image of the translator and the sidecar, by digest where there is one."""
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    priority_class: str = "system-node-critical"
    service_account: str = "nat64-dataplane"
    """Names the pods for admission policies; it has no rights, and no token is mounted."""
    translator_resources: dict[str, Any] = msgspec.field(default_factory=dict)
    dns64_resources: dict[str, Any] = msgspec.field(default_factory=dict)

    confirm_seconds: int = 300
    """How long CoreDNS has to answer through the sidecars before its Corefile is put back. A
    kubelet takes up to two minutes to hand a ConfigMap on, CoreDNS's `reload` up to 45 seconds."""
    corefile_seconds: int = 10
    """How often a Corefile that we depend on is read again: others edit it and nobody tells us."""
    drain_seconds: int = 120
    """How long CoreDNS has to forget the sidecars, once its Corefile does, before they go."""
    retry_seconds: int = 900
    """How long a Corefile is left alone after it was put back, or fought over."""
    removal_seconds: int = 300
    """How long nodes have to remove a gateway's traces before it is let go without them."""
    node_wait_seconds: int = 10
    """How often removal on the nodes is looked at."""
