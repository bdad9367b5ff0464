"""One server block at work: from a query's bytes to its response.

`hit` is the hot path and touches nothing but the cache. `accept` does everything else: access
rules, views, stale answers, one resolution for all who ask the same, limits, counts and logs.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import NamedTuple

from nat64_dataplane.dns64 import names, wire
from nat64_dataplane.dns64.answer import (
    EDE_OTHER,
    EDE_STALE,
    ERROR,
    TCP_SIZE,
    Answer,
    failure,
    refusal,
    respond,
    udp_limit,
    with_ttl,
)
from nat64_dataplane.dns64.cache import VIEWS, Cache, Entry, View
from nat64_dataplane.dns64.clients import MAX_REMEMBERED, Client, Clients
from nat64_dataplane.dns64.entropy import Entropy
from nat64_dataplane.dns64.group import Group, Observe
from nat64_dataplane.dns64.job import Job
from nat64_dataplane.dns64.policy import Policy
from nat64_dataplane.dns64.querylog import ErrorLog, Event, QueryLog
from nat64_dataplane.dns64.quick import VIEW as QUICK_VIEW
from nat64_dataplane.dns64.quick import Asker, Quick, Waiter, possible, question_of
from nat64_dataplane.dns64.rules import Decision, Failed, Question
from nat64_dataplane.dns64.settings import Server, ServeStale, Unprogrammed
from nat64_dataplane.dns64.stats import Stats
from nat64_dataplane.dns64.translator import Watch
from nat64_dataplane.dns64.wire import Query

MAX_UNDER_WAY = 16384
"""Questions of all clients that wait for upstream at once."""
MAX_UNDER_WAY_PER_CLIENT = 4096

Send = Callable[[bytes | None], None]


class Origin(NamedTuple):
    """Where a query came from, and how to answer it."""

    client: Client
    port: int
    proto: str
    size: int
    started: float
    local: str
    send: Send


class Engine:
    """A server block: its policy, its upstreams, its cache and its counts."""

    def __init__(
        self, settings: Server, entropy: Entropy, observe: Observe, before: Engine | None = None
    ) -> None:
        """`before` ran this block until now: its counts go on, and its cache where that may be."""
        self.settings = settings
        self.zones = {names.from_text(zone): zone for zone in settings.zones}
        """What it serves, by wire name."""
        self.stats: Stats = before.stats if before is not None else Stats(self.zones)
        self.clients = Clients(settings.acls)
        self.policy = Policy(settings.dns64) if settings.dns64 else None
        self.watch = Watch(settings.dns64.translator if settings.dns64 else "")
        self.groups = [Group(forward, entropy, observe) for forward in settings.forwards]
        self.cache = Cache(settings.cache, self.stats) if settings.cache else None
        if before is not None and _same_answers(before.settings, settings):
            self.cache = before.cache
        self.log = QueryLog(settings.log)
        self.errors = ErrorLog(settings.consolidate, enabled=settings.errors)
        self.under_way = 0
        self._hits_now = 0
        self.hot = self.cache is not None and not self.log.wants_hits
        """Whether responses may come from the hot path."""
        self.probe: bytes | None = None
        """The name that `loop` asks for, while it does."""
        self.probe_seen = 0
        self._jobs: dict[tuple[bytes, View], Job | Quick] = {}
        self._quick = possible(settings)
        self._rechecks: dict[tuple[bytes, View], float] = {}
        self._hosts: dict[bytes, Client] = {}
        self._loop = asyncio.get_running_loop()
        self._synthesis: list[bool] = []
        self.look_at_translator()

    def look_at_translator(self) -> bool:
        """Read the translator's status again. Returns whether it changed."""
        changed = self.watch.look()
        dns64, programmed = self.settings.dns64, self.watch.status.programmed
        self._synthesis = [
            False,
            dns64 is not None and programmed and dns64.allow_ipv4,
            dns64 is not None and programmed,
        ]
        return changed

    def hit(self, message: bytes, host: bytes, now: int) -> bytes | None:
        """Answer from the cache at once, or not. `host` is the client as the kernel has it."""
        if not self.hot:
            return None
        assert self.cache is not None, "without a cache nothing is hot"
        client = self._hosts.get(host) or self._new_client(host)
        if not client.always:
            return None
        family = client.family
        response = self.cache.hit(message, now, synthesize=self._synthesis[family], family=family)
        if response is not None:
            self._hits_now += 1
        return response

    def quick(self, asker: Asker, host: bytes) -> bool:
        """Take a miss the short way, where it is one for that. Returns whether it was."""
        if not self._quick:
            return False
        assert self.cache is not None, "the short way needs a cache"
        client = self._hosts.get(host)
        message = asker.message
        size = self.cache.plain_size(message)
        if client is None or size is None or not client.always:
            return False
        question = question_of(message, size)
        if question is None or not self._synthesis[client.family] or self._is_full(client):
            return False
        key = (question, QUICK_VIEW)
        job = self._jobs.get(key)
        if job is None:
            assert self.policy is not None, "the short way is for dns64"
            if question[:-4] in self.policy.exempt or self.cache.knows(*key, int(asker.started)):
                return False
            job = Quick(self, self.groups[0], question)
            self._jobs[key] = job
        elif not isinstance(job, Quick):
            return False
        first = not job.waiters
        self.under_way += 1
        client.under_way += 1
        job.waiters.append(Waiter(asker, client))
        if first:
            self.groups[0].start(job)
        return True

    def quick_done(self, quick: Quick, key: tuple[bytes, View], decision: Decision) -> None:
        """Answer all who waited on the short way, from the cache."""
        assert self.cache is not None, "the short way needs a cache"
        del self._jobs[key]
        self.stats.rules[decision.rule] += 1
        loop_now = self._loop.time()
        now = int(loop_now)
        self.cache.put(*key, decision.answer, now)
        for asker, client in quick.waiters:
            self._waited(client)
            response = self.cache.hit(asker.message, now, synthesize=True, family=client.family)
            self.stats.quick += 1
            if response is None:  # too large for this client, or not to be kept at all
                asker.long_way()
                continue
            self.stats.seconds.observe(loop_now - asker.started)
            asker.send(response)
        for decided in quick.waiting:
            decided(decision)

    def quick_left(
        self, quick: Quick, key: tuple[bytes, View], given: list[wire.Reply | Failed]
    ) -> None:
        """Go on the long way with what has come, for all who waited."""
        query = wire.parse_query(quick.waiters[0].asker.message)
        job = self._jobs[key] = self._job(key, query, given)
        job.waiting.extend(quick.waiting)
        for asker, client in quick.waiters:
            self._waited(client)
            asker.long_way()  # finds the job, and joins
        job.start()

    def _waited(self, client: Client) -> None:
        self.under_way -= 1
        client.under_way -= 1

    def _is_full(self, client: Client) -> bool:
        return self.under_way >= MAX_UNDER_WAY or client.under_way >= MAX_UNDER_WAY_PER_CLIENT

    def time_hits(self, seconds: float) -> None:
        """Count the hits of one wakeup as having taken `seconds`: none took longer."""
        if self._hits_now:
            self.stats.seconds.observe(seconds, self._hits_now)
            self._hits_now = 0

    def _new_client(self, host: bytes) -> Client:
        if len(self._hosts) >= MAX_REMEMBERED:
            self._hosts.clear()
        # an IPv6 host has its scope behind it
        family = socket.AF_INET if len(host) == 4 else socket.AF_INET6
        client = self.clients.get(socket.inet_ntop(family, host[:16]))
        self._hosts[host] = client
        return client

    def accept(self, query: Query, origin: Origin) -> None:
        """Answer a query: at once, or when upstream has."""
        client = origin.client
        if query.edns is not None and query.edns.version:
            self._refuse(query, origin, wire.BADVERS)
            return
        if query.opcode:
            self._refuse(query, origin, wire.NOTIMP)
            return
        verdict = self.clients.verdict(client, query.name, query.type)
        self.stats.acl[verdict] += 1
        if verdict == "drop":
            origin.send(None)
            return
        if verdict == "block" or query.type in (wire.AXFR, wire.IXFR):
            self._refuse(query, origin, wire.REFUSED)
            return
        if verdict == "filter":
            self._respond(query, origin, failure(wire.NOERROR))
            return
        if query.name == self.probe:
            self.probe_seen += 1
        if self._withheld(query, client):
            status = self.watch.status
            answer = failure(wire.SERVFAIL, (EDE_OTHER, f"no translator: {status.reason}"))
            self._respond(query, origin, answer)
            return
        view = VIEWS[self._synthesis[client.family], query.do, query.cd]
        question = query.name + query.question[-4:]
        stale: Entry | None = None
        if self.cache is not None:
            self.stats.cache_requests += 1
            entry = self.cache.find(question, view, int(origin.started))
            if entry is not None:
                if entry.left(int(origin.started)) > 0:
                    self._cached(query, origin, entry, (question, view))
                    return
                stale = entry if self._may_serve(entry, origin.started) else None
        self._resolve(query, origin, (question, view), stale)

    def close(self) -> None:
        """Close the upstream sockets."""
        for group in self.groups:
            group.close()

    def _withheld(self, query: Query, client: Client) -> bool:
        """Whether an AAAA question falls under a translator that isn't programmed."""
        dns64 = self.settings.dns64
        if dns64 is None or self.watch.status.programmed or query.type != wire.AAAA:
            return False
        if query.cd or query.rdclass != wire.IN or not (client.family == 2 or dns64.allow_ipv4):
            return False
        self.stats.withheld += 1
        return dns64.unprogrammed is Unprogrammed.SERVFAIL

    def _cached(self, query: Query, origin: Origin, entry: Entry, key: tuple[bytes, View]) -> None:
        assert self.cache is not None, "entries come from a cache"
        self.stats.cache_hits[entry.shape.kind] += 1
        if self.cache.wants_prefetch(entry, int(origin.started)):
            entry.hits = 0
            self.stats.prefetches += 1
            self._start(key)
        self._respond(query, origin, entry.answer())

    def _may_serve(self, entry: Entry, now: float) -> bool:
        settings = self._stale_settings()
        if settings is None or entry.shape.kind == ERROR:
            return False
        return -entry.left(int(now)) < settings.duration

    def _stale_settings(self) -> ServeStale | None:
        return self.settings.cache.stale if self.settings.cache else None

    def _resolve(
        self, query: Query, origin: Origin, key: tuple[bytes, View], stale: Entry | None
    ) -> None:
        settings = self._stale_settings()
        if stale is not None and settings is not None:
            recent = self._rechecks.get(key, 0.0) > origin.started
            if not settings.verify or recent:
                if not recent:
                    self._start(key)
                self._send_stale(query, origin, stale)
                return
        client = origin.client
        if self._is_full(client):
            self.stats.over_limit += 1
            self._refuse(query, origin, wire.REFUSED)
            return
        self.under_way += 1
        client.under_way += 1
        timer: asyncio.TimerHandle | None = None
        sent = False

        def decided(decision: Decision) -> None:
            nonlocal sent
            self._waited(client)
            if timer is not None:
                timer.cancel()
            if sent:
                return
            sent = True
            if stale is not None and decision.answer.kind == ERROR:
                self._send_stale(query, origin, stale)
            else:
                self._respond(query, origin, decision.answer)

        def waited() -> None:
            nonlocal sent
            assert stale is not None, "only a stale answer is waited with"
            sent = True
            self._send_stale(query, origin, stale)

        if stale is not None and settings is not None and settings.verify_timeout:
            timer = self._loop.call_later(settings.verify_timeout, waited)
        self._start(key, decided, query)

    def _start(
        self,
        key: tuple[bytes, View],
        decided: Callable[[Decision], None] | None = None,
        query: Query | None = None,
    ) -> None:
        """Resolve a question, or join those who wait for it already."""
        job = self._jobs.get(key)
        if job is not None:
            if decided is not None:
                job.waiting.append(decided)
            return
        job = self._jobs[key] = self._job(key, query)
        if decided is not None:
            job.waiting.append(decided)
        job.start()

    def _job(
        self,
        key: tuple[bytes, View],
        query: Query | None,
        given: Sequence[wire.Reply | Failed] = (),
    ) -> Job:
        question, view = key
        asked = Question(
            question[:-4],
            int.from_bytes(question[-4:-2], "big"),
            int.from_bytes(question[-2:], "big"),
            view.do,
            view.cd,
            view.synthesize,
        )

        def finished(decision: Decision, reason: str) -> None:
            self._finished(key, decision, reason, query)

        return Job(self.policy, self.groups, asked, finished, given)

    def _finished(
        self, key: tuple[bytes, View], decision: Decision, reason: str, query: Query | None
    ) -> None:
        job = self._jobs.pop(key)
        answer = decision.answer
        self.stats.rules[decision.rule] += 1
        now = self._loop.time()
        if self.cache is not None and not self._has_better(key, answer, now):
            self.cache.put(key[0], key[1], answer, int(now))
        stale = self._stale_settings()
        if stale is not None:
            if answer.kind == ERROR and stale.recheck:
                self._rechecks[key] = now + stale.recheck
            elif self._rechecks:
                self._rechecks.pop(key, None)
        if reason and query is not None:
            self.errors.write(query, reason)
        for decided in job.waiting:
            decided(decision)

    def _has_better(self, key: tuple[bytes, View], answer: Answer, now: float) -> bool:
        """Whether a stale answer is to be served rather than this failure."""
        if answer.kind != ERROR or self.cache is None or self._stale_settings() is None:
            return False
        entry = self.cache.find(*key, int(now))
        return entry is not None and self._may_serve(entry, now)

    def _send_stale(self, query: Query, origin: Origin, entry: Entry) -> None:
        settings = self._stale_settings()
        assert settings is not None, "stale answers need serve_stale"
        self.stats.stale += 1
        answer = with_ttl(entry.answer(), settings.ttl)
        answer.errors = (*answer.errors, (EDE_STALE, ""))
        self._respond(query, origin, answer)

    def _refuse(self, query: Query, origin: Origin, rcode: int) -> None:
        self._write(query, origin, refusal(query, rcode), ERROR, synthesized=False)

    def _respond(self, query: Query, origin: Origin, answer: Answer) -> None:
        limit = udp_limit(query) if origin.proto == "udp" else TCP_SIZE
        response = respond(query, answer, limit)
        self._write(query, origin, response, answer.kind, synthesized=answer.synthesized)

    def _write(
        self, query: Query, origin: Origin, response: bytes, kind: str, *, synthesized: bool
    ) -> None:
        origin.send(response)
        seconds = self._loop.time() - origin.started
        stats = self.stats
        stats.seconds.observe(seconds)
        key = (
            stats.zone_of(query.name),
            origin.proto,
            origin.client.family,
            query.type,
            query.edns is not None and query.edns.do,
            response[3] & wire.RCODE_MASK,
            synthesized,
            origin.size,
            len(response),
        )
        stats.served[key] = stats.served.get(key, 0) + 1
        if self.log:
            self.log.write(
                Event(
                    query,
                    origin.client,
                    origin.port,
                    origin.proto,
                    origin.size,
                    response,
                    kind,
                    seconds,
                    origin.local,
                )
            )


def _same_answers(old: Server, new: Server) -> bool:
    """Whether what one block has cached is what another would answer."""
    return (old.cache, old.dns64, old.forwards) == (new.cache, new.dns64, new.forwards)
