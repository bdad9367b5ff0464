"""Follows the namespaces of a node from the event loop: when each is visited, and what it has."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from ipaddress import IPv6Network
from pathlib import Path
from typing import Any, Protocol

from nat64_dataplane.clat import pace
from nat64_dataplane.clat.followed import Followed, reason_of, say
from nat64_dataplane.clat.keeper import ANY_PREFIX, Keeper, Pod, Visit
from nat64_dataplane.clat.namespace import LostError, NotANamespaceError
from nat64_dataplane.clat.plan import Setup
from nat64_dataplane.clat.runtime_data import PodName
from nat64_dataplane.clat.state import State, explain
from nat64_dataplane.errors import DataplaneError

_UNNAMED_SECONDS = 20.0
"""The runtime writes its data of a pod within a few seconds, or not at all."""
_READ_BYTES = 1 << 16

log = logging.getLogger(__name__)


class InKernel(Protocol):
    """Runs work on the thread that enters namespaces."""

    def __call__(self, work: Callable[..., Any], *arguments: object) -> Awaitable[Any]:
        """Run it there, in order."""


class Follower:
    """All mounts of the node."""

    def __init__(
        self, keeper: Keeper, state: State, in_kernel: InKernel, wake: Callable[[], None]
    ) -> None:
        self._keeper = keeper
        self._state = state
        self._in_kernel = in_kernel
        self._wake = wake
        """Have `follow` called soon."""
        self._all: dict[Path, Followed] = {}
        self._prefix: IPv6Network | None = None
        self._loop = asyncio.get_running_loop()
        self._letting_go: set[asyncio.Future[Any]] = set()
        self._fatal: asyncio.Future[None] = self._loop.create_future()

    async def failed(self) -> None:
        """Wait for an error after which the agent must not go on, and raise it."""
        await asyncio.shield(self._fatal)

    async def close(self) -> None:
        """Stop. The set-ups stay."""
        for one in self._all.values():
            self._cancel(one)
        tasks = [one.task for one in self._all.values() if one.task]
        await asyncio.gather(*tasks, *self._letting_go, return_exceptions=True)
        for one in self._all.values():
            if one.pod:
                self._loop.remove_reader(one.pod.monitor)
                one.pod.monitor.close()
        self._fatal.cancel()

    @property
    def all_seen(self) -> bool:
        """Whether every mount has been looked at once."""
        return all(one.seen for one in self._all.values())

    @property
    def unnamed(self) -> bool:
        """Whether the runtime may soon say whose a new namespace is."""
        now = time.monotonic()
        return any(
            one.pod and not one.name and now - one.born < _UNNAMED_SECONDS
            for one in self._all.values()
        )

    def summary(self) -> str:
        """One line for the log."""
        pods = self._state.pods.values()
        done = sum(pod.state == "SetUp" for pod in pods)
        return f"{done} have a CLAT, {len(pods) - done} have none"

    def configure(self, prefix: IPv6Network | None) -> None:
        """Use another prefix from now on; None takes the CLAT out of all pods."""
        self._prefix = prefix
        for one in self._all.values():
            self._schedule(one, 0)

    def follow(self, present: set[Path]) -> None:
        """Begin with mounts that have come, and let go of those that have gone."""
        for path in self._all.keys() - present:
            self._let_go(self._all.pop(path))
        for path in present - self._all.keys():
            one = self._all[path] = Followed(path, time.monotonic(), pace.Pace())
            self._schedule(one, 0)

    def name(self, pods: Mapping[str, PodName]) -> None:
        """Say whose the namespaces are, by their file names."""
        for path, one in self._all.items():
            name = pods.get(path.name)
            if name and name != one.name:
                changed = name.opted_out != bool(one.name and one.name.opted_out)
                one.name = name
                self._report(one)
                if changed:
                    self._schedule(one, 0)

    async def clear_unclaimed(self) -> None:
        """Free what the last agent gave to pods that are gone."""
        await self._in_kernel(self._keeper.slots.clear_unclaimed)

    def _schedule(self, one: Followed, delay: float) -> None:
        """Visit it after so many seconds, or as soon as its pace allows."""
        if one.gone:
            return
        if one.task:
            one.again = True
            return
        when = max(self._loop.time() + delay, one.rate.not_before)
        if one.timer:
            if one.timer.when() <= when:
                return
            one.timer.cancel()
        one.timer = self._loop.call_at(when, self._start, one)

    def _start(self, one: Followed) -> None:
        one.timer = None
        one.again = False
        one.task = self._loop.create_task(self._visit(one))
        one.task.add_done_callback(lambda task: self._ended(one, task))

    def _ended(self, one: Followed, task: asyncio.Task[None]) -> None:
        one.task = None
        if not task.cancelled() and (error := task.exception()):
            if not self._fatal.done():
                self._fatal.set_exception(error)
            return
        if one.gone:
            self._release(one)
        else:
            self._schedule(one, pace.SETTLE_SECONDS if one.again else one.next_delay)

    async def _visit(self, one: Followed) -> None:
        if one.pod:
            self._listen(one, one.pod)
        one.next_delay = pace.VERIFY_SECONDS
        wanted = self._prefix is not None and not (one.name and one.name.opted_out)
        prefix = self._prefix or ANY_PREFIX
        try:
            visit: Visit = await self._in_kernel(
                self._keeper.visit, one.path, one.pod, prefix, wanted
            )
        except LostError:
            raise
        except NotANamespaceError:
            one.seen = time.monotonic() - one.born > pace.MOUNT_SECONDS
            self._forget_pod(one)
            one.next_delay = pace.until_mounted(time.monotonic() - one.born)
        except FileNotFoundError:
            # It is gone, or another one has its name: both are seen by looking again.
            one.seen = True
            self._all.pop(one.path, None)
            self._let_go(one)
            self._wake()
            return
        except (OSError, DataplaneError) as error:
            one.seen = True
            self._failed(one, error)
        else:
            one.seen = True
            self._done(one, visit)
        if one.seen and not self._state.ready:
            self._wake()

    def _done(self, one: Followed, visit: Visit) -> None:
        if one.pod is None:
            one.pod = visit.pod
            if not one.gone:
                # What has changed since the monitor was made, perhaps after the visit looked, is
                # still to be read there.
                self._loop.add_reader(visit.pod.monitor, self._heard, one, visit.pod)
        repaired = bool(visit.made) and isinstance(one.result, Setup)
        if repaired:
            for part in visit.made:
                self._state.repairs[part.value] += 1
            if one.result == visit.result:
                log.info("repaired %s: %s", one.title, ", ".join(visit.made))
        if visit.result != one.result and self._prefix is not None:
            log.info("%s: %s", one.title, say(visit.result))
        one.result = visit.result
        one.rate.visited(
            self._loop.time(), visit.took, set_up=isinstance(visit.result, Setup), repaired=repaired
        )
        self._report(one)

    def _failed(self, one: Followed, error: Exception) -> None:
        # A namespace that vanishes on the way fails once, and isn't there the next time.
        if one.rate.failed(self._loop.time()) > 1:
            reason = reason_of(error)
            self._state.failures[reason] += 1
            before = self._state.pods.get(one.path.name)
            status = one.status("Failed", reason, str(error))
            if status != before:
                log.warning("%s has no CLAT: %s: %s", one.title, reason, error)
            self._state.pods[one.path.name] = status
            one.result = None
        one.next_delay = 0  # its pace says when

    def _listen(self, one: Followed, pod: Pod) -> None:
        """Hear of changes from now on. Until the next visit, one is enough: what a pod does to its
        own network must not keep the agent busy."""
        with contextlib.suppress(OSError):
            while pod.monitor.recv(_READ_BYTES):
                pass
        self._loop.add_reader(pod.monitor, self._heard, one, pod)

    def _heard(self, one: Followed, pod: Pod) -> None:
        self._loop.remove_reader(pod.monitor)
        self._schedule(one, pace.SETTLE_SECONDS)

    def _let_go(self, one: Followed) -> None:
        one.gone = True
        self._state.pods.pop(one.path.name, None)
        if one.timer:
            one.timer.cancel()
            one.timer = None
        if not one.task:
            self._release(one)

    def _release(self, one: Followed) -> None:
        if isinstance(one.result, Setup):
            log.info("%s is gone", one.title)
        one.result = None
        self._forget_pod(one)

    def _forget_pod(self, one: Followed) -> None:
        self._state.pods.pop(one.path.name, None)
        if pod := one.pod:
            one.pod = None
            self._loop.remove_reader(pod.monitor)
            pod.monitor.close()  # at once: it keeps the namespace alive
            letting_go = asyncio.ensure_future(self._in_kernel(self._keeper.forget, pod))
            self._letting_go.add(letting_go)
            letting_go.add_done_callback(self._letting_go.discard)

    def _cancel(self, one: Followed) -> None:
        one.gone = True
        if one.timer:
            one.timer.cancel()

    def _report(self, one: Followed) -> None:
        name = one.path.name
        if self._prefix is None or one.gone or one.result is None:
            if one.gone or self._prefix is None:
                self._state.pods.pop(name, None)
            return
        if isinstance(one.result, Setup):
            self._state.pods[name] = one.status("SetUp", address=str(one.result.address))
        else:
            self._state.pods[name] = one.status("LeftAlone", one.result.value, explain(one.result))
