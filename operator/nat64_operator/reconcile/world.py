"""Everything that a decision depends on, as observed at one moment. Nothing else is looked at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import msgspec

from nat64_operator.api.meta import Object
from nat64_operator.coredns.record import POLICY_LABEL, Record
from nat64_operator.coredns.wiring import Answer
from nat64_operator.render import names
from nat64_operator.render.manifest import Ref
from nat64_operator.settings import Settings


class Node(NamedTuple):
    """What matters of a Node object."""

    name: str
    labels: Mapping[str, str]
    ready: bool
    ranges: tuple[str, ...]
    """Its pods' ranges and its own addresses."""

    @classmethod
    def of(cls, obj: Object) -> Self:
        """Read the object."""
        spec, status = obj.get("spec") or {}, obj.get("status") or {}
        pods = spec.get("podCIDRs") or ([spec["podCIDR"]] if spec.get("podCIDR") else [])
        own = (a["address"] for a in status.get("addresses") or () if a["type"].endswith("IP"))
        ready = any(
            c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions") or ()
        )
        metadata = obj["metadata"]
        return cls(metadata["name"], metadata.get("labels") or {}, ready, (*pods, *own))

    def matches(self, selector: Mapping[str, str]) -> bool:
        """Whether a nodeSelector selects it."""
        return all(self.labels.get(key) == value for key, value in selector.items())


class Pod(NamedTuple):
    """What matters of a gateway's pod while its nodes are cleaned."""

    node: str
    removing: bool
    ready: bool

    @classmethod
    def of(cls, obj: Object) -> Self:
        """Read the object."""
        conditions = (obj.get("status") or {}).get("conditions") or ()
        command = obj["spec"]["containers"][0].get("command") or ()
        return cls(
            obj["spec"].get("nodeName") or "",
            "remove" in command and not obj["metadata"].get("deletionTimestamp"),
            any(c["type"] == "Ready" and c["status"] == "True" for c in conditions),
        )


class World(msgspec.Struct, frozen=True, kw_only=True):
    """One moment."""

    now: float
    settings: Settings
    gateways: Mapping[str, Object] = msgspec.field(default_factory=dict)
    policies: Mapping[str, Object] = msgspec.field(default_factory=dict)
    nodes: Mapping[str, Node] = msgspec.field(default_factory=dict)
    owned: Mapping[Ref, Object] = msgspec.field(default_factory=dict)
    """DaemonSets, Services and ConfigMaps that carry our label, in our namespace."""
    endpoints: Mapping[str, int] = msgspec.field(default_factory=dict)
    """Ready endpoints by the name of the Service."""
    corefiles: Mapping[tuple[str, str], Object] = msgspec.field(default_factory=dict)
    """CoreDNS's ConfigMaps by namespace and name; what could not be read is absent."""
    answers: Mapping[str, Answer] = msgspec.field(default_factory=dict)
    """What the cluster's DNS last answered, by policy."""
    pods: Mapping[str, tuple[Pod, ...]] = msgspec.field(default_factory=dict)
    """Pods of gateways that are being removed."""

    def find(self, kind: str, name: str) -> Object | None:
        """An object of ours by kind and name."""
        return self.owned.get(Ref(kind, name, self.settings.namespace))

    def recorded_places(self) -> set[tuple[str, str, str]]:
        """Where any policy has changed something."""
        records = (
            Record.read(obj)
            for obj in self.owned.values()
            if POLICY_LABEL in (obj["metadata"].get("labels") or {})
        )
        return {(r.namespace, r.config_map, r.key) for r in records if r is not None}

    def owned_by(self, gateway: str) -> dict[Ref, Object]:
        """What exists for a gateway."""
        return {
            ref: obj
            for ref, obj in self.owned.items()
            if (obj["metadata"].get("labels") or {}).get(names.GATEWAY_LABEL) == gateway
        }

    def gateways_left_behind(self) -> set[str]:
        """Gateways that are gone, or were never seen, and have objects still."""
        labels = (
            (obj["metadata"].get("labels") or {}).get(names.GATEWAY_LABEL)
            for obj in self.owned.values()
        )
        return {label for label in labels if label and label not in self.gateways}

    def policies_left_behind(self) -> set[str]:
        """Policies that are gone and have a record of an edit still."""
        labels = (
            (obj["metadata"].get("labels") or {}).get(POLICY_LABEL) for obj in self.owned.values()
        )
        return {label for label in labels if label and label not in self.policies}


def get(obj: Object | None, *path: str) -> Any:
    """A nested field, or None."""
    value: Any = obj
    for key in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value
