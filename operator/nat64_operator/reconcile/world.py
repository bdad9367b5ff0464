"""The observed state at one moment: everything that a decision depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from ipaddress import IPv6Network
from typing import Any, NamedTuple, Self

import msgspec

from nat64_operator.api.meta import Object
from nat64_operator.coredns import corefile_edits
from nat64_operator.coredns.wiring_case import Answer
from nat64_operator.coredns.wiring_record import POLICY_LABEL, Record
from nat64_operator.errors import UnsupportedCorefileError
from nat64_operator.reconcile import pod_ranges
from nat64_operator.reconcile.cluster_ranges import ClusterRanges
from nat64_operator.reconcile.node_warnings import Asked
from nat64_operator.reconcile.nodes import Node, NodeIndex
from nat64_operator.render import names
from nat64_operator.render.manifest import Ref
from nat64_operator.settings import Settings


class Pod(NamedTuple):
    """A gateway's pod, reduced to what removals and conditions depend on."""

    node: str
    removing: bool
    ready: bool
    trouble: str = ""
    """Why a container is not ready, as the kubelet reports it."""
    unready: tuple[str, ...] = ()
    """The containers that are not ready."""
    name: str = ""
    uid: str = ""
    template: str = ""
    """The hash of the template that it was made of."""
    deleting: bool = False
    generation: str = ""
    """What the DaemonSet controller says that it was made of."""
    translates: bool = False
    """Whether its translator's container is ready, whatever the sidecar's is."""
    router: bool = False
    """Whether it steers to those that translate."""
    answers: bool = False
    """Whether its sidecar's container is ready, whatever the translator's is."""

    @classmethod
    def of(cls, obj: Object) -> Self:
        """Read the object."""
        conditions = (obj.get("status") or {}).get("conditions") or ()
        metadata = obj["metadata"]
        command = obj["spec"]["containers"][0].get("command") or ()
        return cls(
            obj["spec"].get("nodeName") or "",
            "remove" in command and not metadata.get("deletionTimestamp"),
            any(c["type"] == "Ready" and c["status"] == "True" for c in conditions),
            _trouble(obj),
            tuple(c["name"] for c in _containers(obj) if not c.get("ready")),
            metadata.get("name", ""),
            metadata.get("uid", ""),
            (metadata.get("annotations") or {}).get(names.TEMPLATE, ""),
            "deletionTimestamp" in metadata,
            (metadata.get("labels") or {}).get("pod-template-generation", ""),
            any(c["name"] == "translator" and c.get("ready") for c in _containers(obj)),
            (metadata.get("labels") or {}).get(names.NAME) == names.ROUTER_NAME,
            any(c["name"] == names.DNS64 and c.get("ready") for c in _containers(obj)),
        )


def _containers(pod: Object) -> Sequence[Object]:
    return (pod.get("status") or {}).get("containerStatuses") or ()


def _trouble(pod: Object) -> str:
    status = pod.get("status") or {}
    for kind in ("initContainerStatuses", "containerStatuses"):
        for container in status.get(kind) or ():
            if container.get("ready"):
                continue
            for state in (container.get("state") or {}, container.get("lastState") or {}):
                found = state.get("waiting") or state.get("terminated") or {}
                said = (found.get("message") or "").strip().splitlines()
                words = [found.get("reason") or "", said[-1] if said else ""]
                if found and found.get("reason") not in ("PodInitializing", "Completed"):
                    return f"{container['name']}: " + ": ".join(filter(None, words))[:200]
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return str(condition.get("message") or "not scheduled")[:200]
    idle = next((c for c in _containers(pod) if not c.get("ready")), None)
    return f"{idle['name']}: running, not ready" if idle else ""


class World(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """A snapshot. Indices are computed once: a World never changes."""

    now: float
    settings: Settings
    gateways: Mapping[str, Object] = msgspec.field(default_factory=dict)
    policies: Mapping[str, Object] = msgspec.field(default_factory=dict)
    nodes: Mapping[str, Node] = msgspec.field(default_factory=dict)
    api_version: tuple[int, int] = (0, 0)
    """The API server's Kubernetes version, if it is known."""
    service_ranges: tuple[str, ...] = ()
    """The ranges of Services, if the API server says them."""
    owned: Mapping[Ref, Object] = msgspec.field(default_factory=dict)
    """DaemonSets, Services and ConfigMaps that carry our label, in our namespace."""
    endpoints: Mapping[str, int] = msgspec.field(default_factory=dict)
    """By the name of the Service, its endpoints whose pods are ready."""
    sidecars: Mapping[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    """Ready endpoints by the name of the Service, each as `[2001:db8::1]:6464`."""
    dns_clients: frozenset[str] = frozenset()
    """Addresses of CoreDNS's own pods and of the operator, which ask the sidecars. With a CNI that
    has its own IPAM, the Nodes don't show them."""
    cni_ranges: Mapping[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    """By node, the IPv6 ranges of its pods as the CNI's own objects say, where it has any."""
    dns_pods: frozenset[tuple[str, str]] = frozenset()
    """Addresses of CoreDNS's own pods, each with the name of its node."""
    corefiles: Mapping[tuple[str, str], Object] = msgspec.field(default_factory=dict)
    """CoreDNS's ConfigMaps by namespace and name. Those that could not be read are absent."""
    unreadable: frozenset[tuple[str, str]] = frozenset()
    """Those that the operator has no right to read, by namespace and name."""
    announced: Mapping[str, str] = msgspec.field(default_factory=dict)
    """By `Announce.whose`, the hash of the mounted data that pods were last annotated with."""
    answers: Mapping[str, Answer] = msgspec.field(default_factory=dict)
    """The last answer of the cluster's DNS, by policy."""
    pods: Mapping[str, tuple[Pod, ...]] = msgspec.field(default_factory=dict)
    """Pods of gateways that are being removed, have failing nodes, or a canary."""
    unserved: Mapping[str, tuple[Pod, ...]] = msgspec.field(default_factory=dict)
    """By gateway, the pods with sidecars while none of them is ready."""
    asked: Mapping[str, Asked] = msgspec.field(default_factory=dict)
    """The warnings of the nodes of each gateway; nothing before the nodes were asked."""
    not_created: Mapping[str, str] = msgspec.field(default_factory=dict)
    """By gateway, why its DaemonSet's pods can't be created, as the last Event says."""
    refused: Mapping[Ref, str] = msgspec.field(default_factory=dict)
    """The API server's message for each custom resource for which it refused a change."""
    left_behind: Mapping[str, float] = msgspec.field(default_factory=dict)
    """When a gateway that is gone was first seen to have objects left, in seconds since 1970."""

    def find(self, kind: str, name: str) -> Object | None:
        """An object of ours by kind and name."""
        return self.owned.get(Ref(kind, name, self.settings.namespace))

    @cached_property
    def records(self) -> Mapping[str, Record]:
        """The records of the policies' edits of Corefiles, by policy."""
        found = {}
        for obj in self.owned.values():
            policy = label_of(obj, POLICY_LABEL)
            record = Record.read(obj) if policy else None
            if record is not None:
                found[policy] = record
        for policy, record in self.backups.items():
            if policy not in found and self._is_in_place(record):
                found[policy] = record
        return found

    def _is_in_place(self, record: Record) -> bool:
        """Whether the file still has our part. A backup that has outlived its edit says nothing."""
        obj = self.corefiles.get((record.namespace, record.config_map))
        text = ((obj or {}).get("data") or {}).get(record.key) or ""
        try:
            applied = corefile_edits.find(record.mode, record.applied)
            return corefile_edits.find_ours(record.mode, text, applied).tokens == applied.tokens
        except UnsupportedCorefileError:
            return False

    @cached_property
    def backups(self) -> Mapping[str, Record]:
        """The same from CoreDNS's namespace, which may outlive ours."""
        found: dict[str, Record] = {}
        for (_, name), obj in self.corefiles.items():
            if name == names.BACKUP:
                found.update(Record.read_backups(obj))
        return found

    @cached_property
    def node_index(self) -> NodeIndex:
        """The nodes by their labels."""
        return NodeIndex(self.nodes.values())

    def select(self, selector: Mapping[str, str]) -> frozenset[str]:
        """The names of the nodes that a nodeSelector selects."""
        return self.node_index.select(selector)

    @cached_property
    def cluster_ranges(self) -> ClusterRanges:
        """The cluster's own ranges, which no prefix may overlap."""
        services = (obj["spec"].get("clusterIP") for r, obj in self.owned.items() if _is_service(r))
        known = (*self.service_ranges, *self.settings.service_addresses, *filter(None, services))
        return ClusterRanges.of(self.nodes.values(), known, self.cni_ranges)

    @cached_property
    def pod_ranges(self) -> tuple[IPv6Network, ...]:
        """The cluster's pod ranges, where they are truly known."""
        return pod_ranges.known(self.nodes.values(), self.dns_pods, self.now)

    @cached_property
    def unready_nodes(self) -> Sequence[Node]:
        """Nodes that are not ready. They are few, so a pass need not visit thousands of nodes."""
        return [node for node in self.nodes.values() if not node.ready]

    def new_nodes(self, seconds: float) -> Sequence[Node]:
        """Nodes that joined the cluster within so many seconds."""
        return [node for node in self.nodes.values() if self.now - node.created < seconds]

    @cached_property
    def _owned_by_gateway(self) -> Mapping[str, dict[Ref, Object]]:
        found: dict[str, dict[Ref, Object]] = {}
        for ref, obj in self.owned.items():
            if gateway := label_of(obj, names.GATEWAY_LABEL):
                found.setdefault(gateway, {})[ref] = obj
        return found

    def owned_by(self, gateway: str) -> dict[Ref, Object]:
        """What exists for a gateway."""
        return self._owned_by_gateway.get(gateway, {})

    def gateways_left_behind(self) -> set[str]:
        """Gateways that are gone, or were never seen, and still have objects."""
        return set(self._owned_by_gateway.keys() - self.gateways.keys())

    def policies_left_behind(self) -> set[str]:
        """Policies that are gone and still have a record of an edit."""
        labels = {label_of(obj, POLICY_LABEL) for obj in self.owned.values()}
        return (labels | self.backups.keys()) - {""} - self.policies.keys()


def _is_service(ref: Ref) -> bool:
    return ref.kind == "Service"


def label_of(obj: Object, label: str) -> str:
    """The value of a label; empty where the object does not have it."""
    value: str = (obj["metadata"].get("labels") or {}).get(label) or ""
    return value


def get(obj: Object | None, *path: str) -> Any:
    """A nested field, or None."""
    value: Any = obj
    for key in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value
