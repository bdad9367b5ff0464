"""kopf's watches fill the store. Handlers decide nothing and write nothing into objects."""

from __future__ import annotations

import asyncio
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

_RESOURCES = {
    gateway_api.KIND: (GROUP, VERSION, gateway_api.PLURAL),
    policy_api.KIND: (GROUP, VERSION, policy_api.PLURAL),
    "Node": ("", "v1", "nodes"),
    "EndpointSlice": ("discovery.k8s.io", "v1", "endpointslices"),
    "DaemonSet": ("apps", "v1", "daemonsets"),
    "Service": ("", "v1", "services"),
    "ConfigMap": ("", "v1", "configmaps"),
}


def registry(store: Store, owner: asyncio.AbstractEventLoop) -> kopf.OperatorRegistry:
    """The handlers that kopf calls, in any thread: one for each watched kind. `owner` is the loop
    that the store belongs to.
    """
    handlers = kopf.OperatorRegistry()
    # The client's configuration has the API server's IP address. kopf must not need the cluster's
    # DNS, which the operator may have to repair.
    kopf.on.login(registry=handlers)(kopf.login_via_client)
    kopf.on.startup(registry=handlers)(_configure)
    for kind, resource in _RESOURCES.items():
        kopf.on.event(*resource, registry=handlers, id=kind.lower())(_note(kind, store, owner))
    return handlers


def _note(kind: str, store: Store, owner: asyncio.AbstractEventLoop) -> Any:
    async def note(event: kopf.RawEvent, **_: Any) -> None:
        obj: dict[str, Any] = dict(event["object"])
        obj.setdefault("kind", kind)
        if event["type"] == "DELETED":
            owner.call_soon_threadsafe(store.drop, kind, Ref.of(obj))
        else:
            owner.call_soon_threadsafe(store.put, obj)

    return note


class _EndlessBackoff:
    """Seconds between attempts, for ever: an API server that is down for an hour must not stop the
    operator, and one that has just come back must not be flooded with requests.
    """

    def __iter__(self) -> Iterator[float]:
        return itertools.chain((1, 2, 4, 8), itertools.repeat(20))


async def _configure(settings: kopf.OperatorSettings, **_: Any) -> None:
    settings.posting.enabled = False  # the loop posts Events, on transitions only
    settings.scanning.disabled = True  # no right to watch CRDs and namespaces is needed
    settings.peering.standalone = True
    settings.networking.error_backoffs = _EndlessBackoff()
    settings.networking.connect_timeout = 10
    settings.watching.chunk_size = PAGE
    settings.watching.reconnect_backoff = 1.5
    # A worker serves one object and ends at once. If it waited for another event, it would keep its
    # slot, and thousands of whole Nodes would pile up in the queue behind it.
    settings.queueing.worker_limit = 50
    settings.queueing.idle_timeout = 0.02
    settings.process.ultimate_exiting_timeout = None  # it would kill the whole process
    for kind, resource in _RESOURCES.items():
        if selector := selector_of(kind):
            settings.watching.label_selectors[resource] = selector
