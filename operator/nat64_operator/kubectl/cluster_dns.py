"""Which Service is the cluster's DNS. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from nat64_operator.kubectl.exec_output import Json

NAMESPACE = "kube-system"
SELECTOR = "k8s-app in (kube-dns, coredns)"
"""Of Service and pods: installers call them `kube-dns`, CoreDNS's Helm chart `coredns`."""
UNKNOWN = (
    f"the cluster's DNS isn't known: no Service in {NAMESPACE} with port 53 is labelled "
    "k8s-app=kube-dns or k8s-app=coredns, or it can't be read"
)


def address(services: Iterable[Json]) -> str:
    """Of the labelled Services, the one that answers pods: an installer's before a chart's. Those
    for metrics, or without an address, don't. Empty if none does.
    """
    answering = [
        service
        for service in services
        if service["spec"].get("clusterIP") not in (None, "", "None")
        and any(port["port"] == 53 for port in service["spec"].get("ports") or ())
    ]
    answering.sort(key=lambda service: service["metadata"]["labels"]["k8s-app"] != "kube-dns")
    return next((str(service["spec"]["clusterIP"]) for service in answering), "")


def list_pods(namespace: str = NAMESPACE) -> str:
    """The command that shows its pods."""
    return f"`kubectl -n {namespace} get pods -l '{SELECTOR}'`"
