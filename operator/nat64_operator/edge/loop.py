"""The loop: look, decide, act; again when something changed, or when it is time to look again.

It is one task, so there is one writer. What fails is tried again later, and each object on its
own: one that the API server refuses doesn't hold up the others.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque

from kubernetes import client

from nat64_operator.api.policy import Mode, Policy
from nat64_operator.coredns.record import Record
from nat64_operator.edge import dns
from nat64_operator.edge.kube import TROUBLE, Kube, say
from nat64_operator.edge.lease import Lease
from nat64_operator.edge.store import OWNED, WATCHED, Store
from nat64_operator.errors import InvalidObjectError
from nat64_operator.reconcile import Pod, reconcile
from nat64_operator.reconcile.actions import (
    Apply,
    Delete,
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
OFTEN, OFTEN_SECONDS = 20, 30
"""So many changes of one object in so many seconds are a fight."""
BACKOFF_SECONDS = (1, 2, 4, 8, 16, 30)


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
        self._failures: dict[Ref, tuple[int, float]] = {}
        self._synced = dict.fromkeys(WATCHED, float("-inf"))
        self._corefiles_read = float("-inf")
        self._corefiles_known: set[tuple[str, str]] = set()
        self._recent: dict[Ref, deque[float]] = {}
        self._known_pods: dict[str, tuple[Pod, ...]] = {}
        self._pods_read: dict[str, float] = {}
        self.alive = time.monotonic()
        """When the loop last came round, for the liveness probe."""
        self.passes = 0
        self.last_seconds = 0.0

    async def run(self) -> None:
        """Run until cancelled."""
        trouble = 0
        while True:
            self.alive = time.monotonic()
            if self._lease is not None and not self._lease.holds:
                await asyncio.sleep(1)
                continue
            self._store.changed.clear()
            try:
                wake = await self._pass()
                trouble = 0
            except TROUBLE as error:
                wake = BACKOFF_SECONDS[min(trouble, len(BACKOFF_SECONDS) - 1)]
                trouble += 1
                log.warning("the API server can't be read (%s): again in %d s", say(error), wake)
                await asyncio.sleep(wake)
                continue
            await self._rest(wake)

    async def _rest(self, wake: float) -> None:
        try:
            await asyncio.wait_for(self._store.changed.wait(), timeout=max(wake, QUIET_SECONDS))
        except TimeoutError:
            return
        await asyncio.sleep(QUIET_SECONDS)

    async def _pass(self) -> float:
        now = time.monotonic()
        for kind, last in self._synced.items():
            if now - last >= RESYNC_SECONDS:
                await asyncio.to_thread(self._resync, kind)
                # Each for itself: of seven lists one may fail, and the other six hold.
                self._synced[kind] = time.monotonic()
        wanted = self._watched_corefiles()
        if (
            wanted - self._corefiles_known
            or now - self._corefiles_read >= self._settings.corefile_seconds
        ):
            await asyncio.to_thread(self._read_corefiles, wanted)
            self._corefiles_read = time.monotonic()
        pods = await asyncio.to_thread(self._pods)
        began = time.perf_counter()
        plan = reconcile(self._store.world(time.time(), pods))
        decided = time.perf_counter() - began
        acted = await asyncio.to_thread(self._act, plan)
        self.passes += 1
        self.last_seconds = decided
        if plan.questions:
            await self._ask(plan.questions)
        if acted:
            self._store.changed.set()  # what was done may make a next step possible
        return self._next_look(plan)

    def _next_look(self, plan: Plan) -> float:
        now = time.monotonic()
        times = [min(self._synced.values()) + RESYNC_SECONDS - now]
        if self._watched_corefiles():
            times.append(self._corefiles_read + self._settings.corefile_seconds - now)
        if plan.wake is not None:
            times.append(plan.wake)
        times += [at - now for _, at in self._failures.values()]
        times += [read + PODS_SECONDS - now for read in self._pods_read.values()]
        return max(min(times), QUIET_SECONDS)

    def _resync(self, kind: str) -> None:
        namespace = self._settings.namespace if kind in (*OWNED, "EndpointSlice") else ""
        self._store.replace(kind, self._kube.items(kind, namespace, selector_of(kind)))

    def _watched_corefiles(self) -> set[tuple[str, str]]:
        world = self._store.world(0.0, {})
        found = set()
        for obj in world.policies.values():
            try:
                spec = Policy.parse(obj).spec.core_dns
            except InvalidObjectError:
                continue
            found.add((spec.namespace, spec.config_map_name))
            if spec.mode is Mode.IMPORT:
                found.add((spec.namespace, spec.custom_config_map_name))
        for ref, obj in world.owned.items():
            if ref.kind == "ConfigMap" and ref.name.startswith(names.wiring_record("")):
                record = Record.read(obj)
                if record is not None:
                    found.add((record.namespace, record.config_map))
        return found

    def _read_corefiles(self, wanted: set[tuple[str, str]]) -> None:
        read = {key: self._kube.config_map(*key) for key in sorted(wanted)}
        self._store.corefiles = {key: obj for key, obj in read.items() if obj is not None}
        self._corefiles_known = wanted

    def _pods(self) -> dict[str, tuple[Pod, ...]]:
        world, now = self._store.world(0.0, {}), time.monotonic()
        going, sick = removing(world), ailing(world)
        for gateway in sorted(going | sick):
            last = self._pods_read.get(gateway, float("-inf"))
            if gateway in going or now - last >= PODS_SECONDS:
                selector = ",".join(f"{k}={v}" for k, v in names.pod_labels(gateway).items())
                items = self._kube.items("Pod", self._settings.namespace, selector)
                self._known_pods[gateway] = tuple(Pod.of(obj) for obj in items)
                self._pods_read[gateway] = now
        for gateway in set(self._known_pods) - going - sick:
            del self._known_pods[gateway], self._pods_read[gateway]
        return dict(self._known_pods)

    def _act(self, plan: Plan) -> bool:
        """Carry the plan out; whether anything was done."""
        done = False
        for group in plan.groups:
            _, again = self._failures.get(group.subject, (0, 0.0))
            if again > time.monotonic() or self._is_fighting(group.subject):
                continue
            try:
                for action in group.actions:
                    if self._lease is not None and not self._lease.holds:
                        return done
                    result = self._kube.perform(action)
                    self._remember(action, result)
                    done = True
            except TROUBLE as error:
                self._failed(group, error)
            else:
                self._failures.pop(group.subject, None)
        current = {group.subject for group in plan.groups}
        for subject in set(self._failures) - current:
            del self._failures[subject]
        for subject in set(self._recent) - current:
            del self._recent[subject]
        return done

    def _is_fighting(self, subject: Ref) -> bool:
        """Whether there was always something to do for an object lately. Then someone undoes what
        we do, as fast as we do it, and the API server is not the place to have that out.
        """
        now = time.monotonic()
        recent = self._recent.setdefault(subject, deque(maxlen=OFTEN))
        if len(recent) == OFTEN and now - recent[0] < OFTEN_SECONDS:
            self._failures[subject] = (1, now + BACKOFF_SECONDS[-1])
            recent.clear()
            log.warning("%s: changed %d times in a row, as if someone undid it", subject, OFTEN)
            return True
        recent.append(now)
        return False

    def _remember(self, action: object, result: dict[str, object] | None) -> None:
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
            case WriteCorefile(namespace, name) if result is not None:
                log.info("WriteCorefile %s/%s", namespace, name)
                self._store.corefiles[namespace, name] = result

    def _failed(self, group: Group, error: Exception) -> None:
        count, _ = self._failures.get(group.subject, (0, 0.0))
        wait = float(BACKOFF_SECONDS[min(count, len(BACKOFF_SECONDS) - 1)])
        if isinstance(error, client.ApiException):
            headers = error.headers or {}
            asked = headers.get("Retry-After", "")
            wait = max(wait, float(asked)) if asked.isdigit() else wait
            if error.status == 409:  # someone was faster; what we know of the Corefile is old
                self._corefiles_read = float("-inf")
        self._failures[group.subject] = (count + 1, time.monotonic() + wait)
        log.warning("%s: %s; again in %.0f s", group.subject, say(error), wait)

    async def _ask(self, questions: tuple[Question, ...]) -> None:
        asked = (
            asyncio.to_thread(dns.ask, question.prefix, self._cluster_dns) for question in questions
        )
        for question, answer in zip(questions, await asyncio.gather(*asked), strict=True):
            before = self._store.answers.get(question.policy)
            self._store.answers[question.policy] = answer
            if before is None or before.synthesized != answer.synthesized:
                self._store.changed.set()


def selector_of(kind: str) -> str:
    """Which objects of a kind are looked at."""
    if kind == "EndpointSlice":
        return names.GATEWAY_LABEL  # Kubernetes copies a Service's labels to its slices
    return f"{names.MANAGED_BY}={names.OPERATOR}" if kind in OWNED else ""


def _remains(obj: dict[str, object]) -> bool:
    metadata = obj["metadata"]
    assert isinstance(metadata, dict), "every object has metadata"
    return not metadata.get("deletionTimestamp") or bool(metadata.get("finalizers"))
