"""What the watches have told: the latest of each object, from which a World is made.

Watches of kopf feed it, full lists correct it (a watch that restarts never tells what was deleted
meanwhile), and answers to our own writes are put in at once, so that the next decision sees them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from nat64_operator.api import gateway as gateway_api
from nat64_operator.api import policy as policy_api
from nat64_operator.coredns.wiring import Answer
from nat64_operator.reconcile import Node, Pod, World
from nat64_operator.render.manifest import Ref
from nat64_operator.settings import Settings

Object = dict[str, Any]

OWNED = ("DaemonSet", "Service", "ConfigMap")
WATCHED = (gateway_api.KIND, policy_api.KIND, "Node", "EndpointSlice", *OWNED)
SERVICE_LABEL = "kubernetes.io/service-name"


class Store:
    """All that is known of the cluster."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.changed = asyncio.Event()
        self._objects: dict[str, dict[Ref, Object]] = {kind: {} for kind in WATCHED}
        self._nodes: dict[str, Node] = {}
        self._ready: dict[Ref, tuple[str, int]] = {}
        self.corefiles: dict[tuple[str, str], Object] = {}
        self.answers: dict[str, Answer] = {}

    def put(self, obj: Object) -> None:
        """Remember an object, unless a newer version of it is known."""
        kind, ref = obj["kind"], Ref.of(obj)
        if kind == "Node":
            node = Node.of(obj)
            if self._nodes.get(node.name) != node:  # most of a Node's changes are heartbeats
                self._nodes[node.name] = node
                self.changed.set()
            return
        if kind == "EndpointSlice":
            ready = _ready_endpoints(obj)
            if self._ready.get(ref) != ready:
                self._ready[ref] = ready
                self.changed.set()
            return
        known = self._objects[kind].get(ref)
        if known is None or _is_newer(obj, known):
            obj["metadata"].pop("managedFields", None)
            self._objects[kind][ref] = obj
            self.changed.set()

    def drop(self, kind: str, ref: Ref) -> None:
        """Forget an object that was deleted."""
        if kind == "Node":
            gone: Any = self._nodes.pop(ref.name, None)
        elif kind == "EndpointSlice":
            gone = self._ready.pop(ref, None)
        else:
            gone = self._objects[kind].pop(ref, None)
        if gone is not None:
            self.changed.set()

    def replace(self, kind: str, objects: Iterable[Object]) -> None:
        """Take a full list as the truth."""
        seen = set()
        for obj in objects:
            seen.add(Ref.of(obj))
            self.put(obj)
        if kind == "Node":
            known = {Ref("Node", name) for name in self._nodes}
        elif kind == "EndpointSlice":
            known = set(self._ready)
        else:
            known = set(self._objects[kind])
        for ref in known - seen:
            self.drop(kind, ref)

    def world(self, now: float, pods: dict[str, tuple[Pod, ...]]) -> World:
        """All of it at this moment."""
        endpoints: dict[str, int] = {}
        for service, count in self._ready.values():
            endpoints[service] = endpoints.get(service, 0) + count
        return World(
            now=now,
            settings=self._settings,
            gateways={r.name: o for r, o in self._objects[gateway_api.KIND].items()},
            policies={r.name: o for r, o in self._objects[policy_api.KIND].items()},
            nodes=dict(self._nodes),
            owned={ref: obj for kind in OWNED for ref, obj in self._objects[kind].items()},
            endpoints=endpoints,
            corefiles=dict(self.corefiles),
            answers=dict(self.answers),
            pods=pods,
        )


def _ready_endpoints(obj: Object) -> tuple[str, int]:
    service = (obj["metadata"].get("labels") or {}).get(SERVICE_LABEL, "")
    ready = sum(
        (endpoint.get("conditions") or {}).get("ready") is not False
        for endpoint in obj.get("endpoints") or ()
    )
    return service, ready


def _is_newer(obj: Object, known: Object) -> bool:
    """Whether a version came after the known one. A watch may tell what our own write's answer
    has told already, or an older state. (Versions are numbers that grow, as of Kubernetes 1.35 by
    definition and before it in fact.)
    """
    new, old = obj["metadata"], known["metadata"]
    if new.get("uid") != old.get("uid"):
        return True
    try:
        return int(new["resourceVersion"]) > int(old["resourceVersion"])
    except (KeyError, ValueError):
        return True
