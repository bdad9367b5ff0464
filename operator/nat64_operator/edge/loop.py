"""The reconcile loop: observe, decide, act; then again after a change, or when something is due.

It is one task, so there is one writer. Each object that fails is retried by itself: one that the
API server refuses does not delay the others.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from functools import partial

import msgspec

from nat64_operator.apiserver import TROUBLE, say
from nat64_operator.coredns.wiring_case import Answer
from nat64_operator.edge import metrics, probe
from nat64_operator.edge.backoff import wait_after
from nat64_operator.edge.executor import Executor
from nat64_operator.edge.kube import Kube
from nat64_operator.edge.lease import Lease
from nat64_operator.edge.resync import Reader
from nat64_operator.edge.store import Store
from nat64_operator.reconcile import Pod, reconcile
from nat64_operator.reconcile.actions import Plan, Question
from nat64_operator.render.manifest import Ref
from nat64_operator.settings import Settings

log = logging.getLogger("nat64_operator")

NOWHERE = "nowhere"
"""The sidecars can't be reached from here."""
STANDBY_SECONDS = 0.2
"""How often an operator without the Lease checks whether it has it."""
QUIET_SECONDS = 0.3
"""How long changes are collected before the next pass."""
ALONE_SECONDS = 0.05
"""The same, where nothing has happened for a second: a change that comes alone, as a node that is
cordoned, is carried out at once.
"""


class Loop:
    """The loop."""

    def __init__(
        self,
        kube: Kube,
        store: Store,
        settings: Settings,
        *,
        cluster_dns: str,
        sidecar_dns: str = "",
        probe_zones: Sequence[str] = probe.ZONES,
        lease: Lease | None = None,
    ) -> None:
        self._kube, self._store = kube, store
        self._cluster_dns, self._lease = cluster_dns, lease
        self._sidecar_dns, self._probe_zones = sidecar_dns, probe_zones
        self._asking: set[str] = set()
        self._reader = Reader(kube, store, settings, cluster_dns)
        self._executor = Executor(kube, store, lease)
        self._defects: dict[Ref, str] = {}
        self._round = time.monotonic()
        self.ready = False
        """Whether everything that decisions depend on has been read once."""

    @property
    def alive(self) -> float:
        """When it last started a pass or got an answer, for the liveness probe."""
        return max(self._round, self._kube.answered)

    def touch(self) -> None:
        """Count as alive before the first pass."""
        self._round = time.monotonic()

    def lists_again(self) -> None:
        """Read all objects again: something may have been missed."""
        self._reader.lists_again()
        self._store.changed.set()

    async def run(self) -> None:
        """Run until cancelled."""
        try:
            await self._run()
        finally:
            self._executor.cancel()

    async def _run(self) -> None:
        trouble = 0
        while True:
            self.touch()
            if self._lease is not None and not self._lease.holds:
                self.ready = True  # a standby is ready when it can take over
                await asyncio.sleep(STANDBY_SECONDS)
                continue
            self._store.changed.clear()
            try:
                wake = await self._pass()
                trouble = 0
            except Exception as error:
                # A process that exits here would restart and meet the same error.
                wake = wait_after(trouble)
                trouble += 1
                metrics.FAILURES.labels("pass").inc()
                if isinstance(error, TROUBLE):
                    log.warning(
                        "the API server can't be read: %s; next try in %d s", say(error), wake
                    )
                else:
                    log.exception("a pass failed; next try in %d s", wake)
                await asyncio.sleep(wake)
                continue
            await self._rest(wake)

    async def _rest(self, wake: float) -> None:
        try:
            async with asyncio.timeout(max(wake, QUIET_SECONDS)):
                await self._store.changed.wait()
        except TimeoutError:
            return
        alone = time.monotonic() - self._round > 1
        await asyncio.sleep(ALONE_SECONDS if alone else QUIET_SECONDS)

    async def _pass(self) -> float:
        await self._reader.refresh()
        pods = await self._reader.pods()
        self.ready = True
        plan = self._decide(pods)
        acted = await self._executor.act(
            plan, lambda: self._decide(pods), self._reader.corefiles_again
        )
        metrics.LAST_PASS.set_to_current_time()
        if plan.questions:
            self._ask(plan.questions)
        if acted:
            self._store.changed.set()  # a finished action may allow the next step
        now = time.monotonic()
        times = [at - now for at in (*self._reader.times(), *self._executor.times())]
        return max(min([*times, *([] if plan.wake is None else [plan.wake])]), QUIET_SECONDS)

    def _decide(self, pods: dict[str, tuple[Pod, ...]]) -> Plan:
        with metrics.RECONCILE.time():
            plan = reconcile(self._store.world(time.time(), pods))
        known = self._defects
        self._defects = {defect.subject: repr(defect.error) for defect in plan.defects}
        for defect in plan.defects:
            metrics.FAILURES.labels("decision").inc()
            if known.get(defect.subject) != repr(defect.error):
                log.error("%s: a bug in the operator", defect.subject, exc_info=defect.error)
        return plan

    def _ask(self, questions: tuple[Question, ...]) -> None:
        """Ask in the thread pool, one question per policy at a time. A server that doesn't answer
        takes seconds, in which the loop has other things to do.
        """
        # Futures, not tasks: kopf cancels all tasks when it stops.
        running = asyncio.get_running_loop()
        for question in questions:
            if question.policy in self._asking:
                continue
            asked = running.run_in_executor(
                None, probe.ask, self._aimed(question), self._cluster_dns, self._probe_zones
            )
            self._asking.add(question.policy)
            asked.add_done_callback(partial(self._note_answer, question.policy))

    def _aimed(self, question: Question) -> Question:
        """The question, with the addresses at which this operator reaches the sidecars."""
        if not self._sidecar_dns or not question.sidecars:
            return question
        there = () if self._sidecar_dns == NOWHERE else (self._sidecar_dns,)
        return msgspec.structs.replace(question, sidecars=there)

    def _note_answer(self, policy: str, asked: asyncio.Future[Answer]) -> None:
        self._asking.discard(policy)
        if asked.cancelled():
            return
        if error := asked.exception():
            log.error("DNS64Policy %s: the cluster's DNS can't be asked", policy, exc_info=error)
            return
        self._store.answers[policy] = asked.result()
        self._store.changed.set()
