"""The loop: look, decide, act; again when something changed, or when it is time to look again.

It is one task, so there is one writer. What fails is tried again later, and each object on its
own: one that the API server refuses doesn't hold up the others.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import Any

from kubernetes import client

from nat64_operator.api import policy as policy_api
from nat64_operator.api.policy import Mode, Policy
from nat64_operator.coredns.record import POLICY_LABEL, Record
from nat64_operator.edge import dns, metrics
from nat64_operator.edge.backoff import Backoffs, wait_after
from nat64_operator.edge.kube import TROUBLE, Kube, say
from nat64_operator.edge.lease import Lease
from nat64_operator.edge.store import OWNED, WATCHED, Entry, Store, read
from nat64_operator.errors import InvalidObjectError
from nat64_operator.reconcile import Pod, reconcile
from nat64_operator.reconcile.actions import (
    Action,
    Apply,
    Delete,
    Emit,
    Group,
    Plan,
    Question,
    Replace,
    SetFinalizers,
    SetStatus,
    WriteCorefile,
)
from nat64_operator.reconcile.plan import ailing, removing
from nat64_operator.render import names
from nat64_operator.render.manifest import Ref
from nat64_operator.settings import Settings

log = logging.getLogger("nat64_operator")

QUIET_SECONDS = 0.3
"""How long changes are gathered before they are looked at."""
RESYNC_SECONDS = 600
PODS_SECONDS = 30
"""How often the pods of a gateway that is not well are looked at."""
MISSING_SECONDS = 15
"""How often a kind that the API server no longer knows is asked for."""
UNSAID_EVENTS, UNSAID_SECONDS = 200, 5
"""How many Events wait for an API server that doesn't take them, and how long for a next try."""


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
        self._kube, self._store, self._settings = kube, store, settings
        self._cluster_dns, self._lease = cluster_dns, lease
        self._backoffs = Backoffs()
        self._synced = dict.fromkeys(WATCHED, float("-inf"))
        self.missing: set[str] = set()
        """Kinds that the API server no longer knows."""
        self._corefiles_read = float("-inf")
        self._corefiles_known: set[tuple[str, str]] = set()
        self._known_pods: dict[str, tuple[Pod, ...]] = {}
        self._pods_read: dict[str, float] = {}
        self._unsaid: deque[Emit] = deque(maxlen=UNSAID_EVENTS)
        self._defects: dict[Ref, str] = {}
        self.alive = time.monotonic()
        """When the loop last came round, for the liveness probe."""
        self.ready = False
        """Whether all that it decides by was read once."""

    def resync(self) -> None:
        """Read everything again with the next pass."""
        due = time.monotonic() - RESYNC_SECONDS
        self._synced = {kind: min(last, due) for kind, last in self._synced.items()}
        self._store.changed.set()

    async def run(self) -> None:
        """Run until cancelled."""
        trouble = 0
        while True:
            self.alive = time.monotonic()
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
                    log.warning(
                        "the API server can't be read (%s): again in %d s", say(error), wake
                    )
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
        now = time.monotonic()
        for kind, last in self._synced.items():
            if now - last >= (MISSING_SECONDS if kind in self.missing else RESYNC_SECONDS):
                await self._resync(kind)
                # Each for itself: of seven lists one may fail, and the other six hold.
                self._synced[kind] = time.monotonic()
        wanted = self._watched_corefiles()
        if (
            wanted - self._corefiles_known
            or now - self._corefiles_read >= self._settings.corefile_seconds
        ):
            await self._read_corefiles(wanted)
        pods = await self._pods()
        self.ready = True
        plan = self._decide(pods)
        acted = await self._act(plan, pods)
        metrics.LAST_PASS.set_to_current_time()
        if plan.questions:
            await self._ask(plan.questions)
        if acted:
            self._store.changed.set()  # what was done may make a next step possible
        return self._next_look(plan)

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

    def _next_look(self, plan: Plan) -> float:
        now = time.monotonic()
        times = [
            last + (MISSING_SECONDS if kind in self.missing else RESYNC_SECONDS) - now
            for kind, last in self._synced.items()
        ]
        if self._watched_corefiles():
            times.append(self._corefiles_read + self._settings.corefile_seconds - now)
        if plan.wake is not None:
            times.append(plan.wake)
        if self._unsaid:
            times.append(UNSAID_SECONDS)
        times += [at - now for at in self._backoffs.times()]
        times += [read + PODS_SECONDS - now for read in self._pods_read.values()]
        return max(min(times), QUIET_SECONDS)

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
            if kind not in self.missing:
                log.error("the API server knows no %s any more: its objects stay as they are", kind)
            self.missing.add(kind)
            return
        if kind in self.missing:
            self.missing.remove(kind)
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

    async def _pods(self) -> dict[str, tuple[Pod, ...]]:
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

    async def _act(self, plan: Plan, pods: dict[str, tuple[Pod, ...]]) -> bool:
        """Carry the plan out; whether anything was done."""
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
                if _is_refusal(error):
                    refused |= self._note_refusal(group.subject, say(error))
            else:
                self._backoffs.succeeded(group.subject)
                self._forgive(group.subject)
        if refused:
            await self._tell(refused, pods)
        return done

    async def _perform(self, group: Group) -> bool:
        """Do what a group asks for, and say so only then: what failed is no news twice."""
        done = False
        for action in sorted(group.actions, key=lambda a: isinstance(a, Emit)):
            self.alive = time.monotonic()
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

    async def _tell(self, refused: set[Ref], pods: dict[str, tuple[Pod, ...]]) -> None:
        """Write the statuses of objects for which the API server refuses something else."""
        for group in self._decide(pods).groups:
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
            if error.status == 409:  # someone was faster; what we know of the Corefile is old
                self._corefiles_read = float("-inf")
        wait = self._backoffs.failed(group.subject, asked)
        if isinstance(error, TROUBLE):
            log.warning("%s: %s; again in %.0f s", group.subject, say(error), wait)
        else:
            log.error("%s: failed; again in %.0f s", group.subject, wait, exc_info=error)

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


def _is_refusal(error: Exception) -> bool:
    """Whether to ask again is of no use before someone changes something."""
    return (
        isinstance(error, client.ApiException)
        and 400 <= (error.status or 0) < 500
        and error.status not in (401, 408, 409, 429)
    )


def selector_of(kind: str) -> str:
    """Which objects of a kind are looked at."""
    if kind == "EndpointSlice":
        return names.GATEWAY_LABEL  # Kubernetes copies a Service's labels to its slices
    return f"{names.MANAGED_BY}={names.OPERATOR}" if kind in OWNED else ""


def _remains(obj: dict[str, object]) -> bool:
    metadata = obj["metadata"]
    assert isinstance(metadata, dict), "every object has metadata"
    return not metadata.get("deletionTimestamp") or bool(metadata.get("finalizers"))
