"""The names and labels of every object that the operator creates.

No two names may be equal, whatever gateways and policies are called. A gateway's name has no dot,
so a dot separates its parts unambiguously.
"""

from __future__ import annotations

import hashlib

from nat64_operator.api.meta import GROUP

GATEWAY_LABEL = f"{GROUP}/gateway"
WITHDRAWN_LABEL = f"{GROUP}/withdrawn"
"""In the selector of a Service that has no endpoints for a while."""
MANAGED_BY = "app.kubernetes.io/managed-by"
OPERATOR = "nat64-operator"
COMPONENT = "app.kubernetes.io/component"
DATAPLANE, ROUTER = "dataplane", "router"
NAME = "app.kubernetes.io/name"
GATEWAY_NAME, ROUTER_NAME = "nat64-gateway", "nat64-router"
REVISION = f"{GROUP}/manifest-hash"
"""An annotation: the hash of the applied manifest, which shows a changed one."""
MOUNTED = f"{GROUP}/mounted"
"""An annotation of pods: the hash of the mounted data, which may change. When it changes, the
kubelet rereads the pod's ConfigMaps at once."""
TEMPLATE = f"{GROUP}/template-hash"
"""An annotation of pods: the hash of the template that they were made of."""
FINALIZER = f"{GROUP}/cleanup"
OWNED_SELECTOR = f"{MANAGED_BY}={OPERATOR},{GATEWAY_LABEL}"

TRANSLATOR_FILE = "translator.yaml"
NODE_FILE = "nodes.json"
GATEWAYS_FILE, ROUTERS_FILE = "gateways.json", "routers.json"
COREFILE = "Corefile"
DNS64 = "dns64"
"""The container of the sidecar."""
CLAT = "clat"
"""The container that gives pods a CLAT."""
REMOVE_CLAT = "remove-clat"
"""The init container that takes it away."""
CLIENTS = "nat64-clients"
"""The ConfigMap with the cluster's own ranges, which all sidecars import. With many nodes and
gateways, one file changes with the nodes, and not one per gateway."""
CLIENTS_FILE = "clients"


def daemon_set(gateway: str) -> str:
    """The DaemonSet that translates."""
    return f"nat64-{gateway}"


def translator_config(gateway: str, content_hash: str) -> str:
    """The immutable ConfigMap with one version of the translator's config."""
    return f"nat64-{gateway}-{content_hash}"


def sidecar_config(gateway: str, image: str) -> str:
    """The ConfigMap with the Corefile for the sidecars of one image. While images roll out, the
    sidecars of the previous one keep theirs: they may not know the options of the next.
    """
    version = hashlib.sha256(image.encode()).hexdigest()[:8]
    return f"nat64-{gateway}.dns64.{version}"


def nodes_record(gateway: str) -> str:
    """The ConfigMap with the record of a gateway's nodes and its accepted spec."""
    return f"nat64-{gateway}-nodes"


def node_file(gateway: str) -> str:
    """The ConfigMap with what differs by node; it is also the record of who has which addresses."""
    return f"nat64-{gateway}.nodes"


def routers(gateway: str) -> str:
    """The DaemonSet on nodes that steer to those that translate. The ConfigMap with these nodes
    has the same name.
    """
    return f"nat64-{gateway}.routers"


def gateways(gateway: str) -> str:
    """The ConfigMap with the nodes that translate for others."""
    return f"nat64-{gateway}.gateways"


def leaving(gateway: str) -> str:
    """The DaemonSet that cleans nodes that a gateway has left."""
    return f"nat64-{gateway}.leaving"


def dns_service(gateway: str) -> str:
    """The Service of the sidecars."""
    return f"nat64-{gateway}-dns"


BACKUP = "nat64-wiring"
"""The ConfigMap beside CoreDNS's own with all policies' records: it outlives our namespace."""


def wiring_record(policy: str) -> str:
    """The ConfigMap with the record of a policy's edit of a Corefile."""
    return f"nat64.wiring.{policy}"


def pod_labels(gateway: str) -> dict[str, str]:
    """The labels that select a gateway's pods."""
    return {NAME: GATEWAY_NAME, GATEWAY_LABEL: gateway}


def router_labels(gateway: str) -> dict[str, str]:
    """The labels that select the pods on nodes that steer. They have no sidecar: no Service may
    select them.
    """
    return {NAME: ROUTER_NAME, GATEWAY_LABEL: gateway}


def leaving_labels(gateway: str) -> dict[str, str]:
    """The labels that select the pods of that DaemonSet. They are not sidecars: no Service may
    select them.
    """
    return {NAME: "nat64-leaving", GATEWAY_LABEL: gateway}


def common_labels() -> dict[str, str]:
    """The labels of every object of the operator."""
    return {MANAGED_BY: OPERATOR, "app.kubernetes.io/part-of": OPERATOR}


def labels(gateway: str) -> dict[str, str]:
    """The labels of every object of a gateway."""
    return {
        **pod_labels(gateway),
        COMPONENT: DATAPLANE,
        **common_labels(),
    }
