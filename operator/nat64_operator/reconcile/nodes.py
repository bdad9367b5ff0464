"""Nodes, reduced to what decisions depend on, and an index by label."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from ipaddress import IPv4Address, ip_address, ip_network
from typing import NamedTuple, Self

from nat64_operator.api.meta import Meta, Object
from nat64_operator.api.topology import POD_RANGES, WEIGHT

LEAST_LENGTH = {4: 16, 6: 48}
"""The shortest prefix that is accepted as the pod range of one node. A kubelet writes its own Node,
and the sidecars answer every range in it: a node must not open them to everybody."""


GOING = frozenset(
    {
        "ToBeDeletedByClusterAutoscaler",
        "karpenter.sh/disrupted",
        "node.kubernetes.io/out-of-service",
    }
)
"""Taints of nodes that are about to go. Cluster Autoscaler does not cordon by default."""


class Taint(NamedTuple):
    """A taint of a node."""

    key: str
    value: str
    effect: str


class Node(NamedTuple):
    """The part of a Node object that is kept."""

    name: str
    labels: Mapping[str, str]
    ready: bool
    ranges: tuple[str, ...]
    """Its pods' ranges and its own addresses, as networks."""
    ipv4: tuple[IPv4Address, ...] = ()
    """Its own IPv4 addresses."""
    problems: tuple[str, ...] = ()
    """The values that are ignored, and why."""
    addresses: tuple[str, ...] = ()
    """Its own addresses of both families, in the order in which the kubelet names them."""
    taints: tuple[Taint, ...] = ()
    """Those with the effect NoSchedule or NoExecute."""
    created: float = 0
    """When it joined the cluster, in seconds since 1970; 0 where that is unknown."""
    internal: str = ""
    """Its own IPv6 address, at which other nodes reach it; empty for none."""
    draining: bool = False
    """Whether it is to get no new work: it is cordoned, or about to go."""
    weight: int = 1
    """How many clients it is to get as a gateway node, in proportion."""
    declared: tuple[str, ...] | None = None
    """The ranges of its pods as its annotation has them; None without one."""

    @classmethod
    def of(cls, obj: Object) -> Self:
        """Read the object. The API server checks nothing of a Node's addresses."""
        spec, status = obj.get("spec") or {}, obj.get("status") or {}
        metadata = obj["metadata"]
        pods = spec.get("podCIDRs") or ([spec["podCIDR"]] if spec.get("podCIDR") else [])
        addresses = status.get("addresses") or ()
        own = [a.get("address") for a in addresses if str(a.get("type")).endswith("IP")]
        ranges: list[str] = []
        ipv4: list[IPv4Address] = []
        problems: list[str] = []
        valid: list[str] = []
        for text in pods:
            try:
                ranges.append(_pod_range(text))
            except ValueError as error:
                problems.append(f"spec.podCIDRs: {error}; its pods are refused by the sidecars")
        for text in own:
            try:
                address = ip_address(text)
                if "%" in text:
                    raise ValueError("a zone means nothing on other machines")
                ranges.append(str(ip_network(address)))
            except (ValueError, TypeError):
                problems.append(f"status.addresses: {text!r} is not an IP address; it is ignored")
                continue
            valid.append(text)
            ipv4 += [address] if isinstance(address, IPv4Address) else []
        ready = any(
            c.get("type") == "Ready" and c.get("status") == "True"
            for c in status.get("conditions") or ()
        )
        labels = metadata.get("labels") or {}
        made = Meta.of(obj).created
        created = datetime.fromisoformat(made).timestamp() if made else 0
        notes, taints = metadata.get("annotations") or {}, _taints(spec)
        weight, declared = _weight(notes, problems), _declared(notes, problems)
        return cls(
            metadata["name"],
            labels,
            ready,
            tuple(ranges),
            tuple(ipv4),
            tuple(problems),
            tuple(valid),
            taints,
            created,
            _internal(addresses),
            bool(spec.get("unschedulable") or metadata.get("deletionTimestamp"))
            or any(taint.key in GOING for taint in taints),
            weight,
            declared,
        )

    def matches(self, selector: Mapping[str, str]) -> bool:
        """Whether a nodeSelector selects it."""
        return all(self.labels.get(key) == value for key, value in selector.items())


def _internal(addresses: Iterable[Object]) -> str:
    for found in addresses:
        if found.get("type") == "InternalIP":
            try:
                address = ip_address(str(found.get("address")))
            except ValueError:
                continue
            if address.version == 6 and not (
                address.is_link_local
                or address.is_loopback
                or address.is_multicast
                or address.is_unspecified
                or getattr(address, "ipv4_mapped", None)
            ):
                return str(address)
    return ""


def _weight(annotations: Mapping[str, str], problems: list[str]) -> int:
    text = annotations.get(WEIGHT)
    if text is None:
        return 1
    if re.fullmatch(r"[1-9][0-9]?|100", text):
        return int(text)
    problems.append(f"annotation {WEIGHT}: {text[:64]!r} is not a number 1-100; it counts as 1")
    return 1


def _declared(annotations: Mapping[str, str], problems: list[str]) -> tuple[str, ...] | None:
    text = annotations.get(POD_RANGES)
    if text is None:
        return None
    found = []
    for part in filter(None, map(str.strip, text.split(","))):
        try:
            network = ip_network(part)
            if network.version != 6:
                raise ValueError(f"{part!r} is not an IPv6 range")
            found.append(_pod_range(part))
        except ValueError as error:
            problems.append(f"annotation {POD_RANGES}: {str(error)[:128]}; it is ignored")
    return tuple(found)


def _taints(spec: Object) -> tuple[Taint, ...]:
    return tuple(
        Taint(taint["key"], taint.get("value") or "", taint["effect"])
        for taint in spec.get("taints") or ()
        if taint["effect"] in ("NoSchedule", "NoExecute")
    )


def _pod_range(text: str) -> str:
    network = ip_network(text, strict=False)
    least = LEAST_LENGTH[network.version]
    if network.prefixlen < least:
        raise ValueError(f"{text!r} is too large for one node's pods, /{least} at least")
    return str(network)


class NodeIndex:
    """An index of nodes by label, so that a selector need not visit all nodes for each gateway."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self.all: frozenset[str] = frozenset()
        self._by_label: dict[tuple[str, str], set[str]] = {}
        self._known: dict[tuple[tuple[str, str], ...], frozenset[str]] = {}
        every = []
        for node in nodes:
            every.append(node.name)
            for label in node.labels.items():
                self._by_label.setdefault(label, set()).add(node.name)
        self.all = frozenset(every)

    def select(self, selector: Mapping[str, str]) -> frozenset[str]:
        """The names of the nodes."""
        key = tuple(sorted(selector.items()))
        if key not in self._known:
            chosen = self.all
            for label in key:
                chosen = chosen & self._by_label.get(label, set())
            self._known[key] = chosen
        return self._known[key]
