"""How a plan is carried out: the actions of each object in order, with a backoff of its own.

Only the loop calls it, and no object is written by two tasks, so there is one writer for each.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from kubernetes import client

from nat64_operator.apiserver import TROUBLE, say
from nat64_operator.edge import metrics
from nat64_operator.edge.backoff import Backoffs, Write
from nat64_operator.edge.kube import Kube
from nat64_operator.edge.lease import Lease
from nat64_operator.edge.store import WATCHED, Store
from nat64_operator.reconcile.actions import (
    Action,
    Announce,
    Apply,
    Delete,
    Disown,
    Emit,
    Group,
    Plan,
    Replace,
    SetFinalizers,
    SetStatus,
    Untaint,
    WriteCorefile,
    WriteKeys,
)
from nat64_operator.render.manifest import Ref

log = logging.getLogger("nat64_operator")

PENDING_EVENTS, EVENT_RETRY_SECONDS = 200, 5
"""How many Events are kept while the API server does not take them, and how long each waits."""
AT_ONCE = 8
"""How many objects are written at a time."""
PATIENCE_SECONDS = 1.0
"""How long a pass waits for its writes. Slower writes continue during the next passes."""


class Executor:
    """Performs actions, and stores their results."""

    def __init__(self, kube: Kube, store: Store, lease: Lease | None) -> None:
        self._kube, self._store, self._lease = kube, store, lease
        self._announcing: set[str] = set()
        self._backoffs = Backoffs()
        self._running: dict[Ref, asyncio.Task[bool]] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._posting = asyncio.Lock()
        self._pending_events: deque[Emit] = deque(maxlen=PENDING_EVENTS)

    def times(self) -> Iterable[float]:
        """When each failed action is tried again, by the monotonic clock."""
        yield from self._backoffs.times()
        if self._pending_events:
            yield time.monotonic() + EVENT_RETRY_SECONDS

    async def act(
        self, plan: Plan, decide: Callable[[], Plan], conflict: Callable[[], None]
    ) -> bool:
        """Carry out a plan; returns whether anything was done. `decide` makes a new plan, which has
        the statuses that report a refusal. `conflict` is called if another writer was first.

        Objects are independent: several are written at a time. A write whose request takes long
        continues during the next passes, which leave its object alone until it ends.
        """
        await self._post_events()
        self._collect()
        subjects = {group.subject for group in plan.groups}
        self._backoffs.keep(subjects)
        for subject in self._store.refused.keys() - subjects:  # there is nothing left to do for it
            self._clear_refusal(subject)
        for group in plan.groups:
            if group.subject in self._running:
                continue
            if not self._backoffs.holds(group.subject, _writes(group)):
                work = self._carry_out(group, decide, conflict)
                self._running[group.subject] = asyncio.create_task(work, name=str(group.subject))
        if not self._running:
            return False
        await asyncio.wait(self._running.values(), timeout=PATIENCE_SECONDS)
        return self._collect()

    def _collect(self) -> bool:
        """Forget the tasks that have ended; returns whether any has done anything."""
        ended = {ref: task for ref, task in self._running.items() if task.done()}
        for subject in ended:
            del self._running[subject]
        return any(not task.cancelled() and task.result() for task in ended.values())

    def cancel(self) -> None:
        """Cancel the running tasks. A request in a thread still runs to its end."""
        for task in self._running.values():
            task.cancel()

    async def _carry_out(
        self, group: Group, decide: Callable[[], Plan], conflict: Callable[[], None]
    ) -> bool:
        """Carry out one group, and note the outcome; returns whether anything was done."""
        done = False
        async with self._slots:
            try:
                done = await self._perform(group)
            except Exception as error:
                metrics.FAILURES.labels("action").inc()
                self._failed(group, error)
                if isinstance(error, client.ApiException) and error.status == 409:
                    conflict()
                refused: set[Ref] = set()
                if _is_refusal(error):
                    refused = self._note_refusal(group.subject, say(error))
                if refused:
                    await self._write_statuses(refused, decide())
            else:
                self._backoffs.succeeded(group.subject)
                self._clear_refusal(group.subject)
        # A pass that did not wait for this has to know.
        self._store.changed.set()
        return done

    async def _perform(self, group: Group) -> bool:
        """Perform a group's actions. Its Events come last, so that a retry does not repeat them."""
        done = False
        for action in sorted(group.actions, key=lambda a: isinstance(a, Emit)):
            if self._lease is not None and not self._lease.holds:
                return done
            if isinstance(action, Emit):
                if action.warning:
                    metrics.WARNINGS.labels(action.ref.kind, action.reason).inc()
                self._pending_events.append(action)
                continue
            if isinstance(action, Announce):
                self._announce(action)
                continue
            result = await asyncio.to_thread(self._kube.perform, action)
            self._remember(action, result)
            done = True
        await self._post_events()
        return done

    def _announce(self, action: Announce) -> None:
        """Patch the pods in parallel to the loop, because there may be thousands and nothing waits
        for it. If a patch fails, the kubelet rereads the data at its next sync, a minute or so
        later.
        """
        if action.whose in self._announcing:
            return
        self._announcing.add(action.whose)

        def note(done: asyncio.Future[Any]) -> None:
            self._announcing.discard(action.whose)
            if done.cancelled():
                return
            if error := done.exception():
                log.warning("NAT64Gateway %s: its pods can't be patched: %s", action.gateway, error)
            self._store.announced[action.whose] = action.whole
            self._store.changed.set()

        running = asyncio.get_running_loop()
        running.run_in_executor(None, self._kube.perform, action).add_done_callback(note)

    async def _post_events(self) -> None:
        """Post the pending Events. One that fails waits for the next pass."""
        async with self._posting:
            while self._pending_events:
                try:
                    await asyncio.to_thread(self._kube.perform, self._pending_events[0])
                except client.ApiException as error:
                    if not _is_refusal(error):
                        log.warning("an Event can't be posted yet: %s", say(error))
                        return
                    log.warning("an Event is refused: %s", say(error))
                except Exception as error:
                    log.warning("an Event can't be posted yet: %s", say(error))
                    return
                self._pending_events.popleft()

    def _note_refusal(self, subject: Ref, message: str) -> set[Ref]:
        """Store a refusal; returns the subject if its status has to report a new message."""
        if subject.kind in ("ConfigMap", "Node") or self._store.refused.get(subject) == message:
            return set()
        self._store.refused[subject] = message
        return {subject}

    def _clear_refusal(self, subject: Ref) -> None:
        if self._store.refused.pop(subject, None) is not None:
            self._store.changed.set()

    async def _write_statuses(self, refused: set[Ref], plan: Plan) -> None:
        """Write the statuses of objects for which the API server refused another change."""
        for group in plan.groups:
            if group.subject in refused:
                said = tuple(a for a in group.actions if isinstance(a, SetStatus | Emit))
                try:
                    await self._perform(Group(group.subject, said))
                except Exception as error:
                    log.warning("%s: its status can't be written: %s", group.subject, say(error))
                    self._store.refused.pop(group.subject, None)

    def _remember(self, action: Action, result: dict[str, Any] | None) -> None:
        match action:
            case Apply() | Replace() | SetFinalizers() | SetStatus() | Untaint() if (
                result is not None
            ):
                log.info("%s %s", type(action).__name__, Ref.of(result))
                if isinstance(action, SetFinalizers) and not _remains(result):
                    self._store.drop(action.ref.kind, Ref.of(result))
                else:
                    self._store.put(result)
            case Delete(ref):
                log.info("Delete %s", ref)
                if ref.kind in WATCHED:
                    self._store.drop(ref.kind, ref)
                self._store.corefiles.pop((ref.namespace, ref.name), None)
            case WriteCorefile(namespace, name) | WriteKeys(namespace, name) if result is not None:
                log.info("%s %s/%s", type(action).__name__, namespace, name)
                self._store.corefiles[namespace, name] = result
            case Disown(ref) if result is not None:
                log.info("Disown %s", ref)
                self._store.corefiles[ref.namespace, ref.name] = result

    def _failed(self, group: Group, error: Exception) -> None:
        asked = 0.0
        if isinstance(error, client.ApiException):
            header = (error.headers or {}).get("Retry-After", "")
            asked = float(header) if header.isdigit() else 0.0
        wait = self._backoffs.failed(group.subject, asked)
        if isinstance(error, TROUBLE):
            log.warning("%s: %s; next try in %.0f s", group.subject, say(error), wait)
        else:
            log.error("%s: failed; next try in %.0f s", group.subject, wait, exc_info=error)


def _writes(group: Group) -> Iterator[Write]:
    """What a group writes, and a hash of the content. A list of nodes that is written again and
    again has to wait whatever is in it: some node comes and goes.
    """
    for action in group.actions:
        match action:
            case Apply(manifest) | Replace(manifest):
                content = json.dumps(manifest, sort_keys=True)
                what = f"{type(action).__name__} {Ref.of(manifest)}"
            case WriteCorefile(namespace, name, key, content):
                what = f"WriteCorefile {namespace}/{name} {key}"
            case _:
                continue
        is_list = group.subject.kind == "ConfigMap"
        yield what, "" if is_list else hashlib.sha256(content.encode()).hexdigest()[:8]


def _is_refusal(error: Exception) -> bool:
    """Whether the API server refuses the request as it is, so that a retry changes nothing."""
    return (
        isinstance(error, client.ApiException)
        and 400 <= (error.status or 0) < 500
        and error.status not in (401, 408, 409, 429)
    )


def _remains(obj: dict[str, object]) -> bool:
    metadata = obj["metadata"]
    assert isinstance(metadata, dict), "every object has metadata"
    return not metadata.get("deletionTimestamp") or bool(metadata.get("finalizers"))
