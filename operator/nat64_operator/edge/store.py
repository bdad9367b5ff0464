"""What the watches have told: the latest of each object, from which a World is made.

Watches of kopf feed it, full lists correct it (a watch that restarts never tells what was deleted
meanwhile), and answers to our own writes are put in at once, so that the next decision sees them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from nat64_operator.api import gateway as gateway_api
from nat64_operator.api import policy as policy_api
from nat64_operator.coredns.wiring import Answer
from nat64_operator.reconcile import Node, Pod, World
from nat64_operator.reconcile.drift import strip
from nat64_operator.render.manifest import Ref
from nat64_operator.settings import Settings

log = logging.getLogger("nat64_operator")

Object = dict[str, Any]

OWNED = ("DaemonSet", "Service", "ConfigMap")
WATCHED = (gateway_api.KIND, policy_api.KIND, "Node", "EndpointSlice", *OWNED)
_DIGESTED = ("Node", "EndpointSlice")
"""Kinds of which only what decisions depend on is kept: there may be thousands."""
SERVICE_LABEL = "kubernetes.io/service-name"


class Entry(NamedTuple):
    """As much of an object as is kept."""

    kind: str
    ref: Ref
    value: Any
    """A Node, what an EndpointSlice says of its Service, or else the object."""


def read(obj: Object) -> Entry:
    """Reduce an object to what is kept of it. Touches nothing else, so any thread may."""
    kind, ref = obj["kind"], Ref.of(obj)
    if kind == "Node":
        return Entry(kind, ref, Node.of(obj))
    if kind == "EndpointSlice":
        return Entry(kind, ref, _ready_endpoints(obj))
    if kind in OWNED:
        strip(obj)
    else:
        obj["metadata"].pop("managedFields", None)
    return Entry(kind, ref, obj)


class Store:
    """All that is known of the cluster. Only the event loop's thread may touch it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.changed = asyncio.Event()
        self._known: dict[str, dict[Ref, Any]] = {kind: {} for kind in WATCHED}
        self._told: dict[str, set[Ref]] = {}
        self.corefiles: dict[tuple[str, str], Object] = {}
        self.answers: dict[str, Answer] = {}
        self.refused: dict[Ref, str] = {}
        """What the API server said when it last refused a change for an object of ours."""
        self._left_behind: dict[str, float] = {}

    def put(self, obj: Object) -> None:
        """Remember an object, unless a newer version of it is known."""
        entry = read(obj)
        self._told.get(entry.kind, set()).add(entry.ref)
        self._put(entry)

    def _put(self, entry: Entry) -> None:
        kind, ref, value = entry
        known = self._known[kind].get(ref)
        if kind in _DIGESTED:
            if known == value:  # most of a Node's changes are heartbeats
                return
            for problem in getattr(value, "problems", ()):
                log.warning("%s: %s", ref, problem)
        elif known is not None and not _is_newer(value, known):
            return
        self._known[kind][ref] = value
        self.changed.set()

    def drop(self, kind: str, ref: Ref) -> None:
        """Forget an object that was deleted."""
        self._told.get(kind, set()).add(ref)
        if self._known[kind].pop(ref, None) is not None:
            self.changed.set()

    def begin(self, kind: str) -> None:
        """A full list is about to be read. What is told from now on is newer than the list."""
        self._told[kind] = set()

    def replace(self, kind: str, entries: Iterable[Entry]) -> None:
        """Take the list that was begun as the truth."""
        told = self._told.pop(kind, set())
        listed = [entry for entry in entries if entry.ref not in told]
        for entry in listed:
            self._put(entry)
        for ref in set(self._known[kind]) - {entry.ref for entry in listed} - told:
            self.drop(kind, ref)

    def count(self, kind: str) -> int:
        """How many objects of a kind are known."""
        return len(self._known[kind])

    def objects(self, kind: str) -> Iterable[Object]:
        """The objects of a kind that is kept whole."""
        return self._known[kind].values()

    def world(self, now: float, pods: dict[str, tuple[Pod, ...]]) -> World:
        """All of it at this moment."""
        endpoints: dict[str, int] = {}
        for service, count in self._known["EndpointSlice"].values():
            endpoints[service] = endpoints.get(service, 0) + count
        world = World(
            now=now,
            settings=self._settings,
            gateways={r.name: o for r, o in self._known[gateway_api.KIND].items()},
            policies={r.name: o for r, o in self._known[policy_api.KIND].items()},
            nodes={r.name: node for r, node in self._known["Node"].items()},
            owned={ref: obj for kind in OWNED for ref, obj in self._known[kind].items()},
            endpoints=endpoints,
            corefiles=dict(self.corefiles),
            answers=dict(self.answers),
            pods=pods,
            refused=dict(self.refused),
            left_behind=self._left_behind,
        )
        gone = world.gateways_left_behind()
        self._left_behind = {name: self._left_behind.get(name, now) for name in gone}
        return msgspec.structs.replace(world, left_behind=self._left_behind)


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
