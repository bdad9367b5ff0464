"""Nodes, as far as decisions depend on them, and which of them a selector selects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Self

from nat64_operator.api.meta import Object


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


class NodeIndex:
    """Which nodes a selector selects, without walking all of them for each gateway."""

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
