"""The loop: look, decide, act; again when something changed, or when it is time to look again.

It is one task, so there is one writer. What fails is tried again later, and each object on its
own: one that the API server refuses doesn't hold up the others.
"""

from __future__ import annotations

import asyncio
import logging
import time

from nat64_operator.apiserver import TROUBLE, say
from nat64_operator.edge import dns, metrics
from nat64_operator.edge.backoff import wait_after
from nat64_operator.edge.executor import Actor
from nat64_operator.edge.kube import Kube
from nat64_operator.edge.lease import Lease
from nat64_operator.edge.resync import Reader
from nat64_operator.edge.store import Store
from nat64_operator.reconcile import Pod, reconcile
from nat64_operator.reconcile.actions import Plan, Question
from nat64_operator.render.manifest import Ref
from nat64_operator.settings import Settings

log = logging.getLogger("nat64_operator")

QUIET_SECONDS = 0.3
"""How long changes are gathered before they are looked at."""


class Loop:
    """The operator at work."""

    def __init__(
        self,
        kube: Kube,
        store: Store,
        settings: Settings,
        *,
        cluster_dns: str,
        lease: Lease | None = None,
    ) -> None:
        self._kube, self._store = kube, store
        self._cluster_dns, self._lease = cluster_dns, lease
        self._reader = Reader(kube, store, settings)
        self._actor = Actor(kube, store, lease)
        self._defects: dict[Ref, str] = {}
        self._round = time.monotonic()
        self.ready = False
        """Whether all that it decides by was read once."""

    @property
    def alive(self) -> float:
        """When it last came round or had an answer, for the liveness probe."""
        return max(self._round, self._kube.answered)

    def touch(self) -> None:
        """It lives, although it has not begun."""
        self._round = time.monotonic()

    async def run(self) -> None:
        """Run until cancelled."""
        trouble = 0
        while True:
            self.touch()
            if self._lease is not None and not self._lease.holds:
                self.ready = True  # to take over is all that is asked of it
                await asyncio.sleep(1)
                continue
            self._store.changed.clear()
            try:
                wake = await self._pass()
                trouble = 0
            except Exception as error:
                # Whatever it was, an operator that dies of it would come back to it.
                wake = wait_after(trouble)
                trouble += 1
                metrics.FAILURES.labels("pass").inc()
                if isinstance(error, TROUBLE):
                    log.warning("the API server can't be read: %s; again in %d s", say(error), wake)
                else:
                    log.exception("a pass failed: again in %d s", wake)
                await asyncio.sleep(wake)
                continue
            await self._rest(wake)

    async def _rest(self, wake: float) -> None:
        try:
            async with asyncio.timeout(max(wake, QUIET_SECONDS)):
                await self._store.changed.wait()
        except TimeoutError:
            return
        await asyncio.sleep(QUIET_SECONDS)

    async def _pass(self) -> float:
        await self._reader.refresh()
        pods = await self._reader.pods()
        self.ready = True
        plan = self._decide(pods)
        acted = await self._actor.act(
            plan, lambda: self._decide(pods), self._reader.corefiles_again
        )
        metrics.LAST_PASS.set_to_current_time()
        if plan.questions:
            await self._ask(plan.questions)
        if acted:
            self._store.changed.set()  # what was done may make a next step possible
        now = time.monotonic()
        times = [at - now for at in (*self._reader.times(), *self._actor.times())]
        return max(min([*times, *([] if plan.wake is None else [plan.wake])]), QUIET_SECONDS)

    def _decide(self, pods: dict[str, tuple[Pod, ...]]) -> Plan:
        with metrics.RECONCILE.time():
            plan = reconcile(self._store.world(time.time(), pods))
        known = self._defects
        self._defects = {defect.subject: repr(defect.error) for defect in plan.defects}
        for defect in plan.defects:
            metrics.FAILURES.labels("decision").inc()
            if known.get(defect.subject) != repr(defect.error):
                log.error("%s: a defect of ours", defect.subject, exc_info=defect.error)
        return plan

    async def _ask(self, questions: tuple[Question, ...]) -> None:
        # Futures of the executor, not tasks: kopf cancels tasks that it finds when it stops.
        running = asyncio.get_running_loop()
        asked = [
            running.run_in_executor(None, dns.ask, question.prefix, self._cluster_dns)
            for question in questions
        ]
        for question, answer in zip(questions, await asyncio.gather(*asked), strict=True):
            before = self._store.answers.get(question.policy)
            self._store.answers[question.policy] = answer
            if before is None or before.synthesized != answer.synthesized:
                self._store.changed.set()
