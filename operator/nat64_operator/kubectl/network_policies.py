"""NetworkPolicies: whether one of them denies a pod an address. Pure.

A CNI decides before the packet is translated, so the IPv6 address under the prefix counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv6Address, ip_network
from typing import Any

from nat64_operator.kubectl.exec_output import Json

OTHER_KINDS = {
    "CiliumNetworkPolicy": "/apis/cilium.io/v2/namespaces/{namespace}/ciliumnetworkpolicies",
    "CiliumClusterwideNetworkPolicy": "/apis/cilium.io/v2/ciliumclusterwidenetworkpolicies",
    "Calico NetworkPolicy": (
        "/apis/crd.projectcalico.org/v1/namespaces/{namespace}/networkpolicies"
    ),
    "Calico GlobalNetworkPolicy": "/apis/crd.projectcalico.org/v1/globalnetworkpolicies",
    "AdminNetworkPolicy": "/apis/policy.networking.k8s.io/v1alpha1/adminnetworkpolicies",
    "BaselineAdminNetworkPolicy": (
        "/apis/policy.networking.k8s.io/v1alpha1/baselineadminnetworkpolicies"
    ),
    "ClusterNetworkPolicy": "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies",
}
"""Kinds that may restrict a pod too and that nothing here evaluates, with the path of their list.

Calico's are read from where it stores them, not through its own API server.
"""


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector matches; the empty one matches all."""
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    return all(
        _matches(expression, labels) for expression in selector.get("matchExpressions") or ()
    )


def restricting(policies: Iterable[Json], labels: Mapping[str, str]) -> list[Json]:
    """The policies that restrict what a pod with these labels may send."""
    found = []
    for policy in policies:
        spec = policy["spec"]
        # Without policyTypes, a policy is about egress if it has egress rules.
        types = spec.get("policyTypes") or ["Ingress", *(["Egress"] if spec.get("egress") else [])]
        if "Egress" in types and selects(spec.get("podSelector") or {}, labels):
            found.append(policy)
    return found


def allowing(policies: Iterable[Json], address: IPv6Address, port: int) -> list[str]:
    """The names of those that allow TCP to an address outside of the cluster."""
    return [
        policy["metadata"]["name"]
        for policy in policies
        if any(_lets(rule, address, port) for rule in policy["spec"].get("egress") or ())
    ]


def _lets(rule: Mapping[str, Any], address: IPv6Address, port: int) -> bool:
    peers, ports = rule.get("to"), rule.get("ports")
    if ports and not any(_port_matches(entry, port) for entry in ports):
        return False
    return not peers or any(_holds(peer.get("ipBlock"), address) for peer in peers)


def _holds(block: Mapping[str, Any] | None, address: IPv6Address) -> bool:
    if not block or address not in ip_network(block["cidr"], strict=False):
        return False
    return not any(address in ip_network(text, strict=False) for text in block.get("except") or ())


def _port_matches(entry: Mapping[str, Any], port: int) -> bool:
    if entry.get("protocol", "TCP") != "TCP":
        return False
    first = entry.get("port")
    if first is None:
        return True
    # A named port belongs to a pod: it means none outside of the cluster.
    return isinstance(first, int) and first <= port <= int(entry.get("endPort") or first)


def _matches(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    key, values = expression["key"], expression.get("values") or ()
    match expression["operator"]:
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case _:
            return key not in labels
