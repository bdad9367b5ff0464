"""The local cache of watched objects: the latest version of each, from which a World is made.

kopf's watches fill it. Full lists correct it, because a watch that restarts does not report what
was deleted in between. The answers to our own writes are stored at once, so that the next pass
sees them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from nat64_operator.api import gateway as gateway_api
from nat64_operator.api import policy as policy_api
from nat64_operator.coredns.wiring_case import Answer
from nat64_operator.reconcile import Node, Pod, World
from nat64_operator.reconcile.drift import strip
from nat64_operator.reconcile.node_warnings import Asked
from nat64_operator.render.manifest import Ref
from nat64_operator.settings import Settings

log = logging.getLogger("nat64_operator")

Object = dict[str, Any]

OWNED = ("DaemonSet", "Service", "ConfigMap")
WATCHED = (gateway_api.KIND, policy_api.KIND, "Node", "EndpointSlice", *OWNED)
_DIGESTED = ("Node", "EndpointSlice")
"""Kinds of which only the part that decisions depend on is kept, because there may be thousands."""
SERVICE_LABEL = "kubernetes.io/service-name"


class Entry(NamedTuple):
    """The part of an object that is kept."""

    kind: str
    ref: Ref
    value: Any
    """A Node, the Service's endpoints of an EndpointSlice, or else the whole object."""


def read(obj: Object) -> Entry:
    """Reduce an object to the part that is kept. Any thread may call it."""
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
    """Everything that the operator knows about the cluster. Only the event loop's thread may use
    it.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.changed = asyncio.Event()
        self._known: dict[str, dict[Ref, Any]] = {kind: {} for kind in WATCHED}
        self._reported: dict[str, set[Ref]] = {}
        self.corefiles: dict[tuple[str, str], Object] = {}
        self.unreadable: frozenset[tuple[str, str]] = frozenset()
        self.service_ranges: tuple[str, ...] = ()
        self.api_version = (0, 0)
        self.dns_clients: frozenset[str] = frozenset()
        self.dns_pods: frozenset[tuple[str, str]] = frozenset()
        self.cni_ranges: dict[str, tuple[str, ...]] = {}
        """By node, the ranges of its pods as the CNI's own objects say."""
        self.announced: dict[str, str] = {}
        """By gateway, the hash of the mounted data that its pods were last annotated with."""
        self.answers: dict[str, Answer] = {}
        self.asked: dict[str, Asked] = {}
        """The warnings of the nodes of each gateway."""
        self.refused: dict[Ref, str] = {}
        """The API server's message when it last refused a change of one of our objects."""
        self.not_created: dict[str, str] = {}
        """By gateway, why the API server takes none of its pods; empty where nothing says so."""
        self.unserved: dict[str, tuple[Pod, ...]] = {}
        """By gateway, the pods with sidecars while none of them is ready."""
        self._left_behind: dict[str, float] = {}

    def put(self, obj: Object) -> None:
        """Store an object, unless a newer version of it is known."""
        entry = read(obj)
        self._reported.get(entry.kind, set()).add(entry.ref)
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
        self._reported.get(kind, set()).add(ref)
        if self._known[kind].pop(ref, None) is not None:
            self.changed.set()

    def begin(self, kind: str) -> None:
        """Note that a full list is about to be read. Objects that a watch reports from now on are
        newer.
        """
        self._reported[kind] = set()

    def replace(self, kind: str, entries: Iterable[Entry]) -> None:
        """Replace the known objects by the list that `begin` announced."""
        reported = self._reported.pop(kind, set())
        listed = [entry for entry in entries if entry.ref not in reported]
        for entry in listed:
            self._put(entry)
        for ref in set(self._known[kind]) - {entry.ref for entry in listed} - reported:
            self.drop(kind, ref)

    def count(self, kind: str) -> int:
        """How many objects of a kind are known."""
        return len(self._known[kind])

    def objects(self, kind: str) -> Iterable[Object]:
        """The objects of a kind that is kept whole."""
        return self._known[kind].values()

    def nodes(self) -> list[Node]:
        """The nodes."""
        return list(self._known["Node"].values())

    def world(self, now: float, pods: dict[str, tuple[Pod, ...]]) -> World:
        """A snapshot of it."""
        endpoints: dict[str, int] = {}
        sidecars: dict[str, tuple[str, ...]] = {}
        for service, count, addresses in self._known["EndpointSlice"].values():
            endpoints[service] = endpoints.get(service, 0) + count
            sidecars[service] = (*sidecars.get(service, ()), *addresses)
        world = World(
            now=now,
            settings=self._settings,
            gateways={r.name: o for r, o in self._known[gateway_api.KIND].items()},
            policies={r.name: o for r, o in self._known[policy_api.KIND].items()},
            nodes={r.name: node for r, node in self._known["Node"].items()},
            api_version=self.api_version,
            service_ranges=self.service_ranges,
            owned={ref: obj for kind in OWNED for ref, obj in self._known[kind].items()},
            endpoints=endpoints,
            sidecars=sidecars,
            dns_clients=self.dns_clients,
            dns_pods=self.dns_pods,
            cni_ranges=self.cni_ranges,
            announced=dict(self.announced),
            corefiles=dict(self.corefiles),
            unreadable=self.unreadable,
            answers=dict(self.answers),
            pods=pods,
            asked=dict(self.asked),
            not_created=dict(self.not_created),
            refused=dict(self.refused),
            left_behind=self._left_behind,
            unserved=dict(self.unserved),
        )
        gone = world.gateways_left_behind()
        self._left_behind = {name: self._left_behind.get(name, now) for name in gone}
        return msgspec.structs.replace(world, left_behind=self._left_behind)


class _Endpoints(NamedTuple):
    """The Service's endpoints of an EndpointSlice."""

    service: str
    ready: int
    addresses: tuple[str, ...]
    """Of those that are ready, with the port for DNS, as `[2001:db8::1]:6464`."""


def _ready_endpoints(obj: Object) -> _Endpoints:
    service = (obj["metadata"].get("labels") or {}).get(SERVICE_LABEL, "")
    ready = [
        endpoint
        for endpoint in obj.get("endpoints") or ()
        if _is_ready(endpoint.get("conditions") or {})
    ]
    port = next((p.get("port") for p in obj.get("ports") or () if p.get("name") == "dns"), None)
    addresses = sorted({a for endpoint in ready for a in endpoint.get("addresses") or ()[:1]})
    joined = tuple(f"[{a}]:{port}" if ":" in a else f"{a}:{port}" for a in addresses)
    return _Endpoints(service, len(ready), joined if port else ())


def _is_ready(conditions: Object) -> bool:
    """Whether the endpoint's pod is ready and stays. Where a Service publishes all addresses,
    `ready` is always true, and `serving` is as the pod is.
    """
    return conditions.get("ready") is not False and (
        conditions.get("serving") is not False and not conditions.get("terminating")
    )


def _is_newer(obj: Object, known: Object) -> bool:
    """Whether a version is newer than the known one. A watch may report a version that the answer
    to our own write has already brought, or an older one. Resource versions are numbers that grow:
    Kubernetes guarantees it from 1.35 on, and earlier releases behave so.
    """
    new, old = obj["metadata"], known["metadata"]
    if new.get("uid") != old.get("uid"):
        return True
    try:
        return int(new["resourceVersion"]) > int(old["resourceVersion"])
    except (KeyError, ValueError):
        return True
