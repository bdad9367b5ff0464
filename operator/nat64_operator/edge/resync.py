"""Reading what watches don't tell: full lists, CoreDNS's ConfigMaps, ailing gateways' pods."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from typing import Any

from kubernetes import client

from nat64_operator.api import policy as policy_api
from nat64_operator.api.policy import Mode, Policy
from nat64_operator.coredns.record import POLICY_LABEL, Record
from nat64_operator.edge.kube import Kube
from nat64_operator.edge.store import OWNED, WATCHED, Entry, Store, read
from nat64_operator.errors import InvalidObjectError
from nat64_operator.reconcile import Pod
from nat64_operator.reconcile.plan import ailing, removing
from nat64_operator.render import names
from nat64_operator.settings import Settings

log = logging.getLogger("nat64_operator")

RESYNC_SECONDS = 600
MISSING_SECONDS = 15
"""How often a kind that the API server no longer knows is asked for."""
PODS_SECONDS = 30
"""How often the pods of a gateway that is not well are looked at."""


class Reader:
    """Brings the store up to date. Requests are made in threads, the store is changed in none."""

    def __init__(self, kube: Kube, store: Store, settings: Settings) -> None:
        self._kube, self._store, self._settings = kube, store, settings
        self._synced = dict.fromkeys(WATCHED, float("-inf"))
        self._missing: set[str] = set()
        self._corefiles_read = float("-inf")
        self._corefiles_known: set[tuple[str, str]] = set()
        self._known_pods: dict[str, tuple[Pod, ...]] = {}
        self._pods_read: dict[str, float] = {}

    def corefiles_again(self) -> None:
        """Read Corefiles again with the next pass."""
        self._corefiles_read = float("-inf")

    async def refresh(self) -> None:
        """Read what is due."""
        now = time.monotonic()
        for kind, at in self._due().items():
            if now >= at:
                await self._resync(kind)
                # Each for itself: of seven lists one may fail, and the other six hold.
                self._synced[kind] = time.monotonic()
        wanted = self._watched_corefiles()
        if (
            wanted - self._corefiles_known
            or now - self._corefiles_read >= self._settings.corefile_seconds
        ):
            await self._read_corefiles(wanted)

    def times(self) -> Iterable[float]:
        """When something is due next."""
        yield from self._due().values()
        if self._watched_corefiles():
            yield self._corefiles_read + self._settings.corefile_seconds
        yield from (read + PODS_SECONDS for read in self._pods_read.values())

    def _due(self) -> dict[str, float]:
        return {
            kind: last + (MISSING_SECONDS if kind in self._missing else RESYNC_SECONDS)
            for kind, last in self._synced.items()
        }

    async def pods(self) -> dict[str, tuple[Pod, ...]]:
        """The pods of gateways that go, or that are not well."""
        world, now = self._store.world(time.time(), {}), time.monotonic()
        going, sick = removing(world), ailing(world)

        def fetch(gateway: str) -> tuple[Pod, ...]:
            selector = ",".join(f"{k}={v}" for k, v in names.pod_labels(gateway).items())
            items = self._kube.items("Pod", self._settings.namespace, selector)
            return tuple(Pod.of(obj) for obj in items)

        for gateway in sorted(going | sick):
            last = self._pods_read.get(gateway, float("-inf"))
            if gateway in going or now - last >= PODS_SECONDS:
                self._known_pods[gateway] = await asyncio.to_thread(fetch, gateway)
                self._pods_read[gateway] = now
        for gateway in set(self._known_pods) - going - sick:
            del self._known_pods[gateway], self._pods_read[gateway]
        return dict(self._known_pods)

    async def _resync(self, kind: str) -> None:
        namespace = self._settings.namespace if kind in (*OWNED, "EndpointSlice") else ""
        self._store.begin(kind)

        def fetch() -> list[Entry]:
            return [read(obj) for obj in self._kube.items(kind, namespace, selector_of(kind))]

        try:
            entries = await asyncio.to_thread(fetch)
        except client.ApiException as error:
            if error.status != 404 or self._synced[kind] == float("-inf"):
                raise
            # Its CRD is gone, or the API server has not read it yet: no reason to forget what is
            # known, which would take every translator off its node.
            if kind not in self._missing:
                log.error("the API server knows no %s any more: its objects stay as they are", kind)
            self._missing.add(kind)
            return
        if kind in self._missing:
            self._missing.remove(kind)
            log.info("the API server knows %s again", kind)
        self._store.replace(kind, entries)

    def _watched_corefiles(self) -> set[tuple[str, str]]:
        found = set()
        for obj in self._store.objects(policy_api.KIND):
            try:
                spec = Policy.parse(obj).spec.core_dns
            except InvalidObjectError:
                continue
            found.add((spec.namespace, spec.config_map_name))
            if spec.mode is Mode.IMPORT:
                found.add((spec.namespace, spec.custom_config_map_name))
        for obj in self._store.objects("ConfigMap"):
            if POLICY_LABEL in (obj["metadata"].get("labels") or {}):
                record = Record.read(obj)
                if record is not None:
                    found.add((record.namespace, record.config_map))
        return found

    async def _read_corefiles(self, wanted: set[tuple[str, str]]) -> None:
        def fetch() -> dict[tuple[str, str], Any]:
            return {key: self._kube.config_map(*key) for key in sorted(wanted)}

        found = await asyncio.to_thread(fetch)
        self._store.corefiles = {key: obj for key, obj in found.items() if obj is not None}
        self._corefiles_known = wanted
        self._corefiles_read = time.monotonic()


def selector_of(kind: str) -> str:
    """Which objects of a kind are looked at."""
    if kind == "EndpointSlice":
        return names.GATEWAY_LABEL  # Kubernetes copies a Service's labels to its slices
    return f"{names.MANAGED_BY}={names.OPERATOR}" if kind in OWNED else ""
