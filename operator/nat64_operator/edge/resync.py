"""Periodic reads beside the watches: full lists, CoreDNS's ConfigMaps, pods of failing gateways."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable
from datetime import datetime
from ipaddress import ip_address
from typing import Any

from kubernetes import client

from nat64_operator.api import policy as policy_api
from nat64_operator.api.policy import Policy
from nat64_operator.apiserver import TROUBLE, say
from nat64_operator.coredns.wiring_record import POLICY_LABEL, Record
from nat64_operator.edge import dns
from nat64_operator.edge.cni_ranges import CniRanges
from nat64_operator.edge.kube import FORBIDDEN, Kube
from nat64_operator.edge.store import OWNED, WATCHED, Entry, Store, read
from nat64_operator.edge.unserved import Unserved
from nat64_operator.errors import InvalidObjectError
from nat64_operator.reconcile import Pod
from nat64_operator.reconcile.pods_wanted import removing, with_failing_nodes, without_pods
from nat64_operator.reconcile.rollout import under_way
from nat64_operator.reconcile.startup_taint import waiting
from nat64_operator.render import names
from nat64_operator.render.manifest import Ref
from nat64_operator.settings import Settings

log = logging.getLogger("nat64_operator")

RESYNC_SECONDS = 600
AGAIN_SECONDS = 5
"""How soon Corefiles are read again after a failure."""
MISSING_SECONDS = 15
"""How often the operator lists a kind that the API server no longer serves."""
PODS_SECONDS = 30
"""How often the pods of a gateway with failing nodes are read, or why it has none."""
FAILED_SECONDS = 1200
"""The DaemonSet controller tries again at least every 15 minutes: an older Event says nothing."""
MESSAGE = 300
"""How much of an Event's message a condition has."""
ROLLING_SECONDS = 5
"""The same, while its canary's pods are replaced."""


class Reader:
    """Keeps the store up to date. Threads make the requests; the event loop changes the store."""

    def __init__(self, kube: Kube, store: Store, settings: Settings, cluster_dns: str) -> None:
        self._kube, self._store, self._settings = kube, store, settings
        self._cluster_dns = cluster_dns
        self._unreadable: set[str] = set()
        self._cni = CniRanges(kube, store)
        self._alone = Unserved(kube, store, settings.namespace)
        self._synced = dict.fromkeys(WATCHED, float("-inf"))
        self._missing: set[str] = set()
        self._ranges_read = float("-inf")
        self._corefiles_read = float("-inf")
        self._corefiles_known: set[tuple[str, str]] = set()
        self._fetched: dict[tuple[str, str], tuple[float, Any]] = {}
        self._known_pods: dict[str, tuple[Pod, ...]] = {}
        self._pods_read: dict[str, float] = {}
        self._creations_read: dict[str, float] = {}
        self._every: dict[str, float] = {}

    def corefiles_again(self) -> None:
        """Make the next pass read the Corefiles again."""
        self._fetched.clear()
        self._corefiles_read = float("-inf")

    def lists_again(self) -> None:
        """Make the next pass list everything again that has been listed."""
        for kind, at in self._synced.items():
            self._synced[kind] = min(at, time.monotonic() - RESYNC_SECONDS)

    async def refresh(self) -> None:
        """Read everything that is due."""
        now = time.monotonic()
        for kind, at in self._due().items():
            if now >= at:
                await self._resync(kind)
                # Per kind: where one list fails, the others have still been read.
                self._synced[kind] = time.monotonic()
        if now - self._ranges_read >= RESYNC_SECONDS:
            await self._read_service_ranges()
            self._ranges_read = time.monotonic()
        await self._cni.refresh()
        await self._alone.refresh()
        wanted = self._watched_corefiles()
        if (
            wanted - self._corefiles_known
            or now - self._corefiles_read >= self._settings.corefile_seconds
        ):
            try:
                await self._read_corefiles(wanted)
            except TROUBLE as error:
                if wanted - self._corefiles_known:
                    raise
                # The known version may be old. A write carries the version that was read, so it
                # fails if somebody else was first.
                log.warning("the Corefiles can't be read again: %s", say(error))
                self._corefiles_read = now - self._settings.corefile_seconds + AGAIN_SECONDS

    def times(self) -> Iterable[float]:
        """When each of the periodic reads is due, by the monotonic clock."""
        yield from self._due().values()
        yield self._ranges_read + RESYNC_SECONDS
        yield from self._cni.times()
        yield from self._alone.times()
        if self._watched_corefiles():
            yield self._corefiles_read + self._settings.corefile_seconds
        yield from (read + self._every[name] for name, read in self._pods_read.items())
        yield from (read + PODS_SECONDS for read in self._creations_read.values())

    def _due(self) -> dict[str, float]:
        return {
            kind: last + (MISSING_SECONDS if kind in self._missing else RESYNC_SECONDS)
            for kind, last in self._synced.items()
        }

    async def pods(self) -> dict[str, tuple[Pod, ...]]:
        """The pods of gateways that are being removed, or have failing nodes, a canary, or nodes
        that wait for them.
        """
        world, now = self._store.world(time.time(), {}), time.monotonic()
        going, failing, rolling = removing(world), with_failing_nodes(world), under_way(world)
        rolling |= waiting(world)
        wanted = going | failing | rolling

        def fetch(gateway: str) -> tuple[Pod, ...]:
            kinds = f"{names.GATEWAY_NAME}, {names.ROUTER_NAME}"
            selector = f"{names.GATEWAY_LABEL}={gateway},{names.NAME} in ({kinds})"
            items = self._kube.items("Pod", self._settings.namespace, selector)
            return tuple(Pod.of(obj) for obj in items)

        for gateway in sorted(wanted):
            last = self._pods_read.get(gateway, float("-inf"))
            self._every[gateway] = ROLLING_SECONDS if gateway in rolling else PODS_SECONDS
            if gateway in going or now - last >= self._every[gateway]:
                self._known_pods[gateway] = await asyncio.to_thread(fetch, gateway)
                self._pods_read[gateway] = now
        for gateway in set(self._known_pods) - wanted:
            del self._known_pods[gateway], self._pods_read[gateway]
        await self._read_creations(without_pods(world), now)
        return dict(self._known_pods)

    async def _read_creations(self, lacking: set[str], now: float) -> None:
        """Why the DaemonSet controller makes no pods: only its Events say so."""

        def fetch(gateway: str) -> str:
            ref = Ref("DaemonSet", names.daemon_set(gateway), self._settings.namespace)
            at, message = self._kube.newest_event(ref, "FailedCreate")
            since = time.time() - datetime.fromisoformat(at).timestamp() if at else float("inf")
            return message[:MESSAGE] if since < FAILED_SECONDS else ""

        for gateway in sorted(lacking):
            if now - self._creations_read.get(gateway, float("-inf")) >= PODS_SECONDS:
                self._store.not_created[gateway] = await asyncio.to_thread(fetch, gateway)
                self._creations_read[gateway] = now
        for gateway in self._creations_read.keys() - lacking:
            del self._creations_read[gateway]
            self._store.not_created.pop(gateway, None)

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
            # The CRD was deleted, or the API server has not read it yet. The known objects are
            # kept: if the operator forgot the gateways, every translator would be removed from its
            # node.
            if kind not in self._missing:
                log.error("the API server no longer serves %s: its objects stay as they are", kind)
            self._missing.add(kind)
            return
        if kind in self._missing:
            self._missing.remove(kind)
            log.info("the API server serves %s again", kind)
        self._store.replace(kind, entries)

    async def _read_service_ranges(self) -> None:
        """Read the API server's version and the ranges of Services, which API servers before 1.33
        don't have as objects.
        """

        def fetch() -> tuple[str, ...]:
            found = (obj["spec"].get("cidrs") or () for obj in self._kube.items("ServiceCIDR"))
            return tuple(sorted({text for texts in found for text in texts}))

        self._store.api_version = await asyncio.to_thread(self._kube.version)
        try:
            self._store.service_ranges = await asyncio.to_thread(fetch)
        except client.ApiException as error:
            if error.status not in (403, 404):
                raise

    def _watched_corefiles(self) -> set[tuple[str, str]]:
        found = {(self._settings.coredns_namespace, names.BACKUP)}
        for obj in self._store.objects(policy_api.KIND):
            try:
                spec = Policy.parse(obj).spec.core_dns
            except InvalidObjectError:
                continue
            found.add((spec.namespace, names.BACKUP))
            found.add((spec.namespace, spec.config_map_name))
            # In every mode, because its files may be imported and decide whom CoreDNS asks.
            found.add((spec.namespace, spec.custom_config_map_name))
        for obj in self._store.objects("ConfigMap"):
            if POLICY_LABEL in (obj["metadata"].get("labels") or {}):
                record = Record.read(obj)
                if record is not None:
                    found.add((record.namespace, record.config_map))
        return found

    async def _read_corefiles(self, wanted: set[tuple[str, str]]) -> None:
        def fetch() -> dict[tuple[str, str], Any]:
            # One of several requests may fail. A later try need not repeat the others.
            since = time.monotonic() - self._settings.corefile_seconds
            found = {}
            for key in sorted(wanted):
                at, obj = self._fetched.get(key, (since, None))
                if at <= since:
                    obj = self._kube.config_map(*key)
                    self._fetched[key] = (time.monotonic(), obj)
                found[key] = obj
            return found

        found = await asyncio.to_thread(fetch)
        await self._read_dns_clients({namespace for namespace, _ in wanted})
        self._store.corefiles = {key: obj for key, obj in found.items() if obj}
        self._store.unreadable = frozenset(key for key, obj in found.items() if obj is FORBIDDEN)
        self._corefiles_known = wanted
        self._fetched.clear()
        self._corefiles_read = time.monotonic()

    async def _read_dns_clients(self, namespaces: set[str]) -> None:
        """The clients that the sidecars must answer although no Node may list them: CoreDNS's pods,
        and the operator.
        """

        def fetch() -> set[tuple[str, str]]:
            found: set[tuple[str, str]] = set()
            for namespace in sorted(namespaces):
                try:
                    slices = list(self._kube.items("EndpointSlice", namespace, ""))
                except client.ApiException as error:
                    if error.status != 403:
                        raise
                    if namespace not in self._unreadable:
                        log.warning("CoreDNS's pods are unknown to the sidecars: %s", say(error))
                    self._unreadable.add(namespace)
                    continue
                found.update(pod for obj in slices for pod in dns_endpoints(obj))
            return found

        pods = frozenset(await asyncio.to_thread(fetch))
        own = await asyncio.to_thread(dns.own_address, self._cluster_dns)
        clients = frozenset(address for address, _ in pods) | ({own} if own else set())
        if (clients, pods) != (self._store.dns_clients, self._store.dns_pods):
            self._store.dns_clients, self._store.dns_pods = clients, pods
            self._store.changed.set()


def dns_endpoints(endpoint_slice: Any) -> set[tuple[str, str]]:
    """The addresses of a DNS server's pods, ready or not, each with its node; none for other
    EndpointSlices.
    """
    ports = endpoint_slice.get("ports") or ()
    if not any(str(p.get("name") or "").startswith("dns") or p.get("port") == 53 for p in ports):
        return set()
    found = set()
    for endpoint in endpoint_slice.get("endpoints") or ():
        for text in endpoint.get("addresses") or ():
            with contextlib.suppress(ValueError):
                address = ip_address(text)
                if not (address.is_loopback or address.is_link_local or address.is_multicast):
                    found.add((str(address), str(endpoint.get("nodeName") or "")))
    return found


def selector_of(kind: str) -> str:
    """The label selector for the objects of a kind; empty for all of them."""
    if kind == "EndpointSlice":
        return names.GATEWAY_LABEL  # Kubernetes copies a Service's labels to its slices
    return f"{names.MANAGED_BY}={names.OPERATOR}" if kind in OWNED else ""
