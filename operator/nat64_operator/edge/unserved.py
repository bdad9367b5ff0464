"""The pods of gateways whose Service has no ready endpoint: read while that is so, as only they say
whether the sidecars themselves are ready.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import NamedTuple

from nat64_operator.edge.kube import Kube
from nat64_operator.edge.store import Store
from nat64_operator.reconcile import Pod, sidecars_alone
from nat64_operator.render import names

FIRST_SECONDS, LONGEST_SECONDS = 2.0, 30.0
"""How soon they are read again: nothing else tells that a sidecar begins or ends to answer. Twice
as late each time, while they are as they were."""


class _Due(NamedTuple):
    at: float
    """By the monotonic clock."""
    pause: float


class Unserved:
    """Keeps `Store.unserved` up to date."""

    def __init__(self, kube: Kube, store: Store, namespace: str) -> None:
        self._kube, self._store, self._namespace = kube, store, namespace
        self._due: dict[str, _Due] = {}

    def times(self) -> Iterator[float]:
        """When each of them is due, by the monotonic clock."""
        yield from (due.at for due in self._due.values())

    async def refresh(self) -> None:
        """Read those that are due. Raises what the client raises."""
        wanted = sidecars_alone.unserved(self._store.world(time.time(), {}))
        for gateway in self._due.keys() - wanted:
            del self._due[gateway]
            self._store.unserved.pop(gateway, None)
        for gateway in sorted(wanted):
            due = self._due.get(gateway)
            if due is not None and time.monotonic() < due.at:
                continue
            found = await asyncio.to_thread(self._fetch, gateway)
            same = due is not None and found == self._store.unserved.get(gateway)
            pause = min(2 * due.pause, LONGEST_SECONDS) if due and same else FIRST_SECONDS
            self._store.unserved[gateway] = found
            self._due[gateway] = _Due(time.monotonic() + pause, pause)

    def _fetch(self, gateway: str) -> tuple[Pod, ...]:
        labels = names.pod_labels(gateway)
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        pods = (Pod.of(obj) for obj in self._kube.items("Pod", self._namespace, selector))
        return tuple(pod for pod in pods if not (pod.deleting or pod.removing))
