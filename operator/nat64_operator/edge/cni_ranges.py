"""The ranges of each node's pods as a CNI with IPAM of its own says: Cilium's and Calico's objects.

They are listed, not watched: in most clusters these kinds don't exist, and kopf ends all watches
where one is missing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Iterator
from ipaddress import IPv6Network, ip_network
from typing import Any

from kubernetes import client

from nat64_operator.api import gateway as gateway_api
from nat64_operator.api.topology import TopologyKind
from nat64_operator.apiserver import say
from nat64_operator.edge.kube import Kube
from nat64_operator.edge.store import Store
from nat64_operator.reconcile.nodes import LEAST_LENGTH
from nat64_operator.reconcile.world import get

log = logging.getLogger("nat64_operator")

SELDOM_SECONDS = 600
"""How often they are read where they only say which prefixes would overlap them."""
EVERY_SECONDS = 60
"""The same, while a gateway has router nodes, whose packets are judged by them."""
SOON_SECONDS = 5
"""The same, while a node that has just joined has none."""
NEW_SECONDS = 180
PATIENCE_SECONDS = 60
"""How long a start waits for them: a defect of another's kind must not stop everything for ever."""
Ranges = dict[str, tuple[str, ...]]
"""By node."""


class CniRanges:
    """Keeps `Store.cni_ranges` up to date."""

    def __init__(self, kube: Kube, store: Store) -> None:
        self._kube, self._store = kube, store
        self._read = float("-inf")
        self._began = float("inf")
        self._by_kind: dict[str, Ranges] = {}
        self._said: set[str] = set()
        self._running: asyncio.Task[None] | None = None

    def times(self) -> Iterator[float]:
        """When it is due, by the monotonic clock."""
        if not self._has_routers():
            yield self._read + SELDOM_SECONDS
        else:
            yield self._read + (SOON_SECONDS if self._lacks_some() else EVERY_SECONDS)

    async def refresh(self) -> None:
        """Read them, if that is due. The first time, where a gateway has router nodes, nothing is
        decided without them for a while: a node's pods may have other ranges than its Node says.
        Raises then what the client raises. Later nobody waits for them, as there may be thousands,
        and what can't be read stays as it is.
        """
        now = time.monotonic()
        if any(at > now for at in self.times()):
            return
        if self._read == float("-inf"):
            self._began = min(self._began, now)
            try:
                await self._update()
            except Exception as error:
                if self._has_routers() and now - self._began < PATIENCE_SECONDS:
                    raise
                log.error("the CNI's pod ranges can't be read: %s", say(error))
            self._read = now
            return
        self._read = now
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._try(), name="CNI's ranges")

    async def _try(self) -> None:
        try:
            await self._update()
        except Exception as error:  # the next time is soon, and a task's errors reach nobody
            log.warning("the CNI's pod ranges can't be read: %s", say(error))

    async def _update(self) -> None:
        by_kind = await asyncio.to_thread(self._fetch)
        found: Ranges = {}
        for ranges in by_kind.values():
            for node, texts in ranges.items():
                found[node] = tuple(sorted({*found.get(node, ()), *texts}))
        self._by_kind = by_kind
        if found != self._store.cni_ranges:
            self._store.cni_ranges = found
            self._store.changed.set()

    def _has_routers(self) -> bool:
        return any(
            get(obj, "spec", "topology") == TopologyKind.GATEWAY.value
            for obj in self._store.objects(gateway_api.KIND)
        )

    def _lacks_some(self) -> bool:
        known, now = self._store.cni_ranges, time.time()
        return bool(known) and any(
            node.name not in known and now - node.created < NEW_SECONDS
            for node in self._store.nodes()
        )

    def _fetch(self) -> dict[str, Ranges]:
        found = {}
        for kind, read in (("CiliumNode", of_cilium), ("IPAMBlock", of_calico)):
            try:
                found[kind] = _collected(map(read, self._kube.items(kind)))
            except client.ApiException as error:
                if error.status not in (403, 404):
                    raise
                # An API server that has just started may not know its CRDs yet.
                found[kind] = self._by_kind.get(kind, {})
                if error.status == 403 and kind not in self._said:
                    self._said.add(kind)
                    log.warning("pod ranges of %s objects are not known: %s", kind, say(error))
        return found


def _collected(rows: Iterable[tuple[str, set[str]]]) -> Ranges:
    found: dict[str, set[str]] = {}
    for node, texts in rows:
        if node:
            found.setdefault(node, set()).update(texts)
    return {node: tuple(sorted(texts)) for node, texts in found.items() if texts}


def of_cilium(obj: Any) -> tuple[str, set[str]]:
    """The node of a CiliumNode and the IPv6 ranges of its pods, in each of Cilium's IPAM modes that
    gives nodes ranges.
    """
    ipam = get(obj, "spec", "ipam") or {}
    pools = get(ipam, "pools", "allocated") or ()
    texts = [*(ipam.get("podCIDRs") or ()), *(c for pool in pools for c in pool.get("cidrs") or ())]
    return obj["metadata"]["name"], set(_valid(texts))


def of_calico(obj: Any) -> tuple[str, set[str]]:
    """The node of a block of Calico's IPAM, and the block; no node where it belongs to none."""
    spec = obj.get("spec") or {}
    kind, _, node = str(spec.get("affinity") or "").partition(":")
    if kind != "host" or spec.get("deleted"):
        return "", set()
    return node, set(_valid([spec.get("cidr")]))


def _valid(texts: Iterable[Any]) -> Iterator[str]:
    for text in texts:
        try:
            network = ip_network(str(text), strict=False)
        except ValueError:
            continue
        if isinstance(network, IPv6Network) and network.prefixlen >= LEAST_LENGTH[6]:
            yield str(network)
