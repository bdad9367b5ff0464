"""The Lease: of several operators only its holder acts. The others watch, and are ready.

A holder that cannot renew stops acting before the Lease expires, by its own clock.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
import uuid
from datetime import UTC, datetime
from typing import Any

from kubernetes import client

from nat64_operator.apiserver import TROUBLE, say
from nat64_operator.edge.backoff import wait_after
from nat64_operator.edge.kube import Kube
from nat64_operator.render.manifest import Ref

log = logging.getLogger("nat64_operator")

DURATION_SECONDS = 30
"""How long a holder that doesn't renew keeps the lease."""
RENEW_SECONDS = 5
STANDBY_SECONDS = 1
"""How often a waiting operator checks the Lease: a holder that ends releases it."""
MARGIN_SECONDS = 15
"""A holder stops this long before others may start."""
MOST_RETRY_SECONDS = 8
"""The longest pause after a failed renewal."""
LEASE_TIMEOUT = (3, 10)
"""Seconds to connect and to answer. Together they are less than the margin: a request that a holder
makes in its last moment has ended before another holder starts."""


class Lease:
    """One operator's view of the lease."""

    def __init__(self, kube: Kube, namespace: str, name: str = "nat64-operator") -> None:
        self._kube = kube
        self._ref = Ref("Lease", name, namespace)
        self.identity = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self.held = asyncio.Event()
        self._renewed = float("-inf")
        # When another holder was last seen to renew, by our own clock: theirs may be wrong.
        self._seen: tuple[str, float] = ("", time.monotonic())

    @property
    def holds(self) -> bool:
        """Whether this operator may act now."""
        return time.monotonic() - self._renewed < DURATION_SECONDS - MARGIN_SECONDS

    async def run(self) -> None:
        """Get the lease, and keep it, for ever."""
        failures = 0
        while True:
            pause: float = RENEW_SECONDS if self.holds else STANDBY_SECONDS
            try:
                if await asyncio.to_thread(self._try):
                    self.held.set()
                    pause = RENEW_SECONDS
                failures = 0
            except TROUBLE as error:
                log.warning("the lease can't be renewed: %s", say(error))
                pause = min(wait_after(failures), MOST_RETRY_SECONDS)
                failures += 1
            except Exception:  # anybody may have written anything into it
                log.exception("the lease can't be renewed")
                pause = RENEW_SECONDS
            if self.held.is_set() and not self.holds:
                self.held.clear()
                log.warning("the lease is lost: others may act now")
            await asyncio.sleep(pause)

    async def release(self) -> None:
        """Release the Lease, so that another operator takes over at once. Call it only when no
        request of this one can still have an effect.
        """
        if not self.holds:
            return
        self._renewed = float("-inf")
        self.held.clear()
        try:
            await asyncio.to_thread(self._give_up)
        except TROUBLE as error:
            log.warning("the lease can't be released, it expires: %s", say(error))

    def _give_up(self) -> None:
        found = self._kube.get(self._ref)
        if found is None or (found.get("spec") or {}).get("holderIdentity") != self.identity:
            return
        version = found["metadata"]["resourceVersion"]
        spec = {**self._spec(int(found["spec"].get("leaseTransitions") or 0)), "holderIdentity": ""}
        self._kube.merge(self._ref, {"metadata": {"resourceVersion": version}, "spec": spec})
        log.info("released the lease")

    def _try(self) -> bool:
        asked = time.monotonic()
        found = self._kube.get(self._ref)
        if found is None:
            self._kube.create(self._ref, {"spec": self._spec(0)})
        else:
            spec = found.get("spec") or {}
            mine = spec.get("holderIdentity") == self.identity
            if not mine and not self._has_run_out(spec, asked):
                return False
            moves = int(spec.get("leaseTransitions") or 0) + (not mine)
            version = found["metadata"]["resourceVersion"]
            body = {"metadata": {"resourceVersion": version}, "spec": self._spec(moves)}
            try:
                self._kube.merge(self._ref, body)
            except client.ApiException as error:
                if error.status == 409:  # another was faster
                    return False
                raise
        if not self.holds:
            log.info("holding the lease as %s", self.identity)
        self._renewed = asked
        return True

    def _has_run_out(self, spec: dict[str, Any], now: float) -> bool:
        state = f"{spec.get('holderIdentity')} {spec.get('renewTime')}"
        if state != self._seen[0]:
            self._seen = (state, now)
        return not spec.get("holderIdentity") or now - self._seen[1] > DURATION_SECONDS

    def _spec(self, transitions: int) -> dict[str, Any]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": DURATION_SECONDS,
            "renewTime": now,
            "leaseTransitions": transitions,
        }
