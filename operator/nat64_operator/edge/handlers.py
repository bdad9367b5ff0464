"""kopf: it watches, we note. Nothing is decided here, and nothing is stored in anyone's object."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import kopf

from nat64_operator.api import gateway as gateway_api
from nat64_operator.api import policy as policy_api
from nat64_operator.api.meta import GROUP, VERSION
from nat64_operator.edge.kube import PAGE
from nat64_operator.edge.resync import selector_of
from nat64_operator.edge.store import Store
from nat64_operator.render.manifest import Ref

ENDING_SECONDS = 10
"""A watch that can't be stopped keeps the process for so long, and then it is killed."""

_RESOURCES = {
    gateway_api.KIND: (GROUP, VERSION, gateway_api.PLURAL),
    policy_api.KIND: (GROUP, VERSION, policy_api.PLURAL),
    "Node": ("", "v1", "nodes"),
    "EndpointSlice": ("discovery.k8s.io", "v1", "endpointslices"),
    "DaemonSet": ("apps", "v1", "daemonsets"),
    "Service": ("", "v1", "services"),
    "ConfigMap": ("", "v1", "configmaps"),
}


def registry(store: Store) -> kopf.OperatorRegistry:
    """Everything that kopf calls."""
    handlers = kopf.OperatorRegistry()
    # By the client's configuration, whose address is the API server's own: logging in must not
    # need the cluster's DNS, which we are here to repair.
    kopf.on.login(registry=handlers)(kopf.login_via_client)
    kopf.on.startup(registry=handlers)(_configure)
    for kind, resource in _RESOURCES.items():
        kopf.on.event(*resource, registry=handlers, id=kind.lower())(_note(kind, store))
    return handlers


def _note(kind: str, store: Store) -> Any:
    async def note(event: kopf.RawEvent, **_: Any) -> None:
        obj: dict[str, Any] = dict(event["object"])
        obj.setdefault("kind", kind)
        if event["type"] == "DELETED":
            store.drop(kind, Ref.of(obj))
        else:
            store.put(obj)

    return note


class _ForEver:
    """Waits between attempts, without end: an API server that is away for an hour is no reason to
    stop, and what is not asked again every second comes back the sooner.
    """

    def __iter__(self) -> Iterator[float]:
        return itertools.chain((1, 2, 4, 8), itertools.repeat(15))


async def _configure(settings: kopf.OperatorSettings, **_: Any) -> None:
    settings.posting.enabled = False  # Events are ours, on transitions only
    settings.scanning.disabled = True  # no right to watch CRDs and namespaces is needed
    settings.peering.standalone = True
    settings.networking.error_backoffs = _ForEver()
    settings.networking.connect_timeout = 10
    settings.watching.chunk_size = PAGE
    settings.watching.reconnect_backoff = 1.0
    # A worker is for one object and notes it in no time. One that waited for a next event would
    # keep its place among the few, and thousands of whole Nodes in the queue behind it.
    settings.queueing.worker_limit = 50
    settings.queueing.idle_timeout = 0.02
    settings.process.ultimate_exiting_timeout = ENDING_SECONDS
    for kind, resource in _RESOURCES.items():
        if selector := selector_of(kind):
            settings.watching.label_selectors[resource] = selector
