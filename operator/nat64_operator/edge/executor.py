"""Carrying a plan out: one object after the other, each with its own time to wait after a failure.

Only the loop's task calls it, so there is one writer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from kubernetes import client

from nat64_operator.apiserver import TROUBLE, say
from nat64_operator.edge import metrics
from nat64_operator.edge.backoff import Backoffs
from nat64_operator.edge.kube import Kube
from nat64_operator.edge.lease import Lease
from nat64_operator.edge.store import Store
from nat64_operator.reconcile.actions import (
    Action,
    Apply,
    Delete,
    Emit,
    Group,
    Plan,
    Replace,
    SetFinalizers,
    SetStatus,
    WriteCorefile,
)
from nat64_operator.render.manifest import Ref

log = logging.getLogger("nat64_operator")

UNSAID_EVENTS, UNSAID_SECONDS = 200, 5
"""How many Events wait for an API server that doesn't take them, and how long for a next try."""


class Actor:
    """Does what is decided, and tells the store what came of it."""

    def __init__(self, kube: Kube, store: Store, lease: Lease | None) -> None:
        self._kube, self._store, self._lease = kube, store, lease
        self._backoffs = Backoffs()
        self._unsaid: deque[Emit] = deque(maxlen=UNSAID_EVENTS)

    def times(self) -> Iterable[float]:
        """When something that failed is due again."""
        yield from self._backoffs.times()
        if self._unsaid:
            yield time.monotonic() + UNSAID_SECONDS

    async def act(
        self, plan: Plan, decide: Callable[[], Plan], conflict: Callable[[], None]
    ) -> bool:
        """Carry a plan out; whether anything was done. `decide` decides once more, for what is to
        be said of a refusal; `conflict` is called where someone else was faster.
        """
        done = False
        refused: set[Ref] = set()
        await self._say_unsaid()
        subjects = {group.subject for group in plan.groups}
        self._backoffs.keep(subjects)
        for subject in self._store.refused.keys() - subjects:  # nothing is asked for any more
            self._forgive(subject)
        for group in plan.groups:
            if self._backoffs.holds(group.subject):
                continue
            try:
                done = await self._perform(group) or done
            except Exception as error:
                metrics.FAILURES.labels("action").inc()
                self._failed(group, error)
                if isinstance(error, client.ApiException) and error.status == 409:
                    conflict()
                if _is_refusal(error):
                    refused |= self._note_refusal(group.subject, say(error))
            else:
                self._backoffs.succeeded(group.subject)
                self._forgive(group.subject)
        if refused:
            await self._tell(refused, decide())
        return done

    async def _perform(self, group: Group) -> bool:
        """Do what a group asks for, and say so only then: what failed is no news twice."""
        done = False
        for action in sorted(group.actions, key=lambda a: isinstance(a, Emit)):
            if self._lease is not None and not self._lease.holds:
                return done
            if isinstance(action, Emit):
                self._unsaid.append(action)
                continue
            result = await asyncio.to_thread(self._kube.perform, action)
            self._remember(action, result)
            done = True
        await self._say_unsaid()
        return done

    async def _say_unsaid(self) -> None:
        """Make the Events that are due. One that fails waits for the next pass."""
        while self._unsaid:
            try:
                await asyncio.to_thread(self._kube.perform, self._unsaid[0])
            except client.ApiException as error:
                if not _is_refusal(error):
                    log.warning("an Event can't be made yet: %s", say(error))
                    return
                log.warning("an Event is refused: %s", say(error))
            except Exception as error:
                log.warning("an Event can't be made yet: %s", say(error))
                return
            self._unsaid.popleft()

    def _note_refusal(self, subject: Ref, message: str) -> set[Ref]:
        """What the status has to say of it, if that is news."""
        if subject.kind == "ConfigMap" or self._store.refused.get(subject) == message:
            return set()
        self._store.refused[subject] = message
        return {subject}

    def _forgive(self, subject: Ref) -> None:
        if self._store.refused.pop(subject, None) is not None:
            self._store.changed.set()

    async def _tell(self, refused: set[Ref], plan: Plan) -> None:
        """Write the statuses of objects for which the API server refuses something else."""
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
            case Apply() | Replace() | SetFinalizers() | SetStatus() if result is not None:
                log.info("%s %s", type(action).__name__, Ref.of(result))
                if isinstance(action, SetFinalizers) and not _remains(result):
                    self._store.drop(action.ref.kind, Ref.of(result))
                else:
                    self._store.put(result)
            case Delete(ref):
                log.info("Delete %s", ref)
                self._store.drop(ref.kind, ref)
                self._store.corefiles.pop((ref.namespace, ref.name), None)
            case WriteCorefile(namespace, name) if result is not None:
                log.info("WriteCorefile %s/%s", namespace, name)
                self._store.corefiles[namespace, name] = result

    def _failed(self, group: Group, error: Exception) -> None:
        asked = 0.0
        if isinstance(error, client.ApiException):
            header = (error.headers or {}).get("Retry-After", "")
            asked = float(header) if header.isdigit() else 0.0
        wait = self._backoffs.failed(group.subject, asked)
        if isinstance(error, TROUBLE):
            log.warning("%s: %s; again in %.0f s", group.subject, say(error), wait)
        else:
            log.error("%s: failed; again in %.0f s", group.subject, wait, exc_info=error)


def _is_refusal(error: Exception) -> bool:
    """Whether to ask again is of no use before someone changes something."""
    return (
        isinstance(error, client.ApiException)
        and 400 <= (error.status or 0) < 500
        and error.status not in (401, 408, 409, 429)
    )


def _remains(obj: dict[str, object]) -> bool:
    metadata = obj["metadata"]
    assert isinstance(metadata, dict), "every object has metadata"
    return not metadata.get("deletionTimestamp") or bool(metadata.get("finalizers"))
