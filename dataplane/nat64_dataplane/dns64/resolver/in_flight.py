"""Questions in flight: each is resolved once for all clients that ask it, on the fast or the full
path.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from nat64_dataplane.dns64.access.client_acl import Client
from nat64_dataplane.dns64.access.client_limits import LIMITS, ClientLimits
from nat64_dataplane.dns64.cache.answer_cache import AnswerCache
from nat64_dataplane.dns64.cache.cache_entry import AnswerVariant, CacheEntry
from nat64_dataplane.dns64.instrumentation.counters import Counters
from nat64_dataplane.dns64.instrumentation.internal_faults import faults
from nat64_dataplane.dns64.instrumentation.query_log import ErrorLog
from nat64_dataplane.dns64.message import wire
from nat64_dataplane.dns64.message.answer import ERROR, Answer, as_reply
from nat64_dataplane.dns64.message.failed import Failed
from nat64_dataplane.dns64.message.wire import Query, Reply
from nat64_dataplane.dns64.resolver.fast_path import VARIANT as FAST_VARIANT
from nat64_dataplane.dns64.resolver.fast_path import (
    FastResolution,
    PendingMessage,
    Waiter,
    possible,
)
from nat64_dataplane.dns64.resolver.full_path import FullResolution
from nat64_dataplane.dns64.settings import Server
from nat64_dataplane.dns64.synthesis.dns64_policy import Dns64Policy
from nat64_dataplane.dns64.synthesis.rfc6147 import Decision, Question
from nat64_dataplane.dns64.upstream.upstream_group import UpstreamGroup

MAX_RECHECKS = 4096
"""If there are more failed refreshes than this, those whose time is over are removed."""

Key = tuple[bytes, AnswerVariant]
Decided = Callable[[Decision], None]


class Resolver:
    """The questions that one server block is resolving."""

    def __init__(
        self,
        settings: Server,
        *,
        policy: Dns64Policy | None,
        groups: Sequence[UpstreamGroup],
        cache: AnswerCache | None,
        stats: Counters,
        limits: ClientLimits = LIMITS,
    ) -> None:
        self.policy = policy
        self.groups = groups
        self.under_way = 0
        self.stale = settings.cache.stale if settings.cache else None
        self._cache = cache
        self._stats = stats
        self._errors = ErrorLog(settings.consolidate, enabled=settings.errors)
        self._short = possible(settings)
        self._jobs: dict[Key, FullResolution | FastResolution] = {}
        self._rechecks: dict[Key, float] = {}
        self._loop = asyncio.get_running_loop()
        self._most = limits.under_way
        self._most_per_client = limits.under_way_per_client

    def enter(self, client: Client) -> bool:
        """Count a client's question as in flight; False if that would be too many."""
        if self.under_way >= self._most or client.under_way >= self._most_per_client:
            return False
        self.under_way += 1
        client.under_way += 1
        return True

    def leave(self, client: Client) -> None:
        """Count it as done."""
        self.under_way -= 1
        client.under_way -= 1

    def close(self) -> None:
        """Close the upstream sockets."""
        for group in self.groups:
            group.close()

    def start(self, key: Key, decided: Decided | None = None, query: Query | None = None) -> None:
        """Resolve a question, or join the clients that wait for it already."""
        job = self._jobs.get(key)
        if job is not None:
            if decided is not None:
                job.waiting.append(decided)
            return
        job = self._jobs[key] = self._job(key, query)
        if decided is not None:
            job.waiting.append(decided)
        job.start()

    def take_fast_path(self, asker: PendingMessage, client: Client, question: bytes) -> bool:
        """Resolve a miss on the fast path if possible. Returns whether it is."""
        if not self._short:
            return False
        assert self.policy is not None, "the fast path is for dns64"
        assert self._cache is not None, "the fast path needs a cache"
        key = (question, FAST_VARIANT)
        job = self._jobs.get(key)
        if isinstance(job, FullResolution):
            return False
        if job is None and (
            question[:-4] in self.policy.exempt or self._cache.knows(*key, int(asker.started))
        ):
            return False
        if not self.enter(client):
            return False
        if job is not None:
            job.waiters.append(Waiter(asker, client))
            return True
        fast = self._jobs[key] = FastResolution(self, self.groups[0], question)
        fast.waiters.append(Waiter(asker, client))
        self.groups[0].start(fast)
        return True

    def fast_done(self, fast: FastResolution, key: Key, decision: Decision) -> None:
        """Answer all clients that waited on the fast path, from the cache."""
        assert self._cache is not None, "the fast path needs a cache"
        cache, stats = self._cache, self._stats
        del self._jobs[key]
        stats.rules[decision.rule] += 1
        loop_now = self._loop.time()
        now = int(loop_now)
        try:
            cache.put(*key, decision.answer, now)
        except Exception:
            faults.log("keeping an answer")
        for asker, client in fast.waiters:
            self.leave(client)
            try:
                response = cache.hit(asker.message, now, synthesize=True, family=client.family)
            except Exception:
                faults.log("answering from the cache")
                response = None
            stats.quick += 1
            if response is None:  # too large for this client, or not to be cached at all
                asker.take_full_path()
                continue
            stats.seconds.observe(loop_now - asker.started)
            asker.send(response)
        _tell(fast.waiting, decision)

    def fast_to_full(
        self, fast: FastResolution, key: Key, given: Sequence[wire.Reply | Failed]
    ) -> None:
        """Continue on the full path with the replies so far, for all waiting clients."""
        query = wire.parse_query(fast.waiters[0].asker.message)
        job = self._jobs[key] = self._job(key, query, given)
        job.waiting.extend(fast.waiting)
        for asker, client in fast.waiters:
            self.leave(client)
            asker.take_full_path()  # finds the resolution, and joins
        job.start()

    def may_serve_stale(self, entry: CacheEntry, now: float) -> bool:
        """Whether an expired entry may still be served (RFC 8767)."""
        if self.stale is None or entry.shape.kind == ERROR:
            return False
        return -entry.left(int(now)) < self.stale.duration

    def known(self, key: Key) -> Reply | None:
        """The reply to a question, from the cache. None if it is near its end: an answer made of it
        would soon expire too.
        """
        if self._cache is None:
            return None
        entry = self._cache.find(*key, now := int(self._loop.time()))
        if entry is None or entry.errors or entry.shape.kind == ERROR:
            return None
        if 2 * entry.left(now) < entry.shape.ttl:
            return None
        reply = as_reply(entry.answer(), key[0])
        return reply if all(record.ttl for record in reply.records) else None

    def is_in_flight(self, key: Key) -> bool:
        """Whether a question is being resolved."""
        return key in self._jobs

    def _known_or_awaited(
        self, variant: AnswerVariant, question: bytes, found: Callable[[Reply | None], None]
    ) -> None:
        """Give the reply to a question from the cache, or when it comes if it is in flight."""
        key = (question, variant)
        job = self._jobs.get(key)
        if job is None:
            found(self.known(key))
            return

        def decided(decision: Decision) -> None:
            answer = decision.answer
            usable = answer.kind != ERROR and not answer.errors
            found(as_reply(answer, question) if usable else None)

        job.waiting.append(decided)

    def failed_recently(self, key: Key, now: float) -> bool:
        """Whether a stale answer isn't refreshed yet, as `serve_stale` says."""
        return self._rechecks.get(key, 0.0) > now

    def _job(
        self, key: Key, query: Query | None, given: Sequence[wire.Reply | Failed] = ()
    ) -> FullResolution:
        question, view = key
        asked = Question(
            question[:-4],
            int.from_bytes(question[-4:-2], "big"),
            int.from_bytes(question[-2:], "big"),
            view.do,
            view.cd,
            view.synthesize,
            view.rd,
        )

        def finished(decision: Decision, reason: str) -> None:
            self._finished(key, decision, reason, query)

        known = partial(self._known_or_awaited, view) if view.rd else None
        return FullResolution(self.policy, self.groups, asked, finished, given, known)

    def _finished(self, key: Key, decision: Decision, reason: str, query: Query | None) -> None:
        job = self._jobs.pop(key)
        self._stats.rules[decision.rule] += 1
        try:
            self._keep(key, decision.answer, self._loop.time())
            if reason and query is not None:
                self._errors.write(query, reason)
        except Exception:  # the waiting clients still get their result
            faults.log("keeping an answer")
        _tell(job.waiting, decision)

    def _keep(self, key: Key, answer: Answer, now: float) -> None:
        if not key[1].rd:
            return
        if self._has_better(key, answer, now):
            assert self.stale is not None, "only a stale answer is better than a failure"
            if len(self._rechecks) >= MAX_RECHECKS:
                self._rechecks = {k: until for k, until in self._rechecks.items() if until > now}
            self._rechecks[key] = now + self.stale.recheck
            return
        self._rechecks.pop(key, None)
        if self._cache is not None:
            self._cache.put(*key, answer, int(now))

    def _has_better(self, key: Key, answer: Answer, now: float) -> bool:
        """Whether a stale answer is better than this failure."""
        if answer.kind != ERROR or self._cache is None or self.stale is None:
            return False
        entry = self._cache.find(*key, int(now))
        return entry is not None and self.may_serve_stale(entry, now)


def _tell(waiting: Sequence[Decided], decision: Decision) -> None:
    """Give the result to every waiting client: a fault with one doesn't affect the others."""
    for decided in waiting:
        try:
            decided(decision)
        except Exception:
            faults.log("answering")
