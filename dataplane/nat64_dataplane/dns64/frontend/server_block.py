"""A running server block: from a query's bytes to its response.

`hit` is the hot path and uses only the cache. `quick` takes the usual miss. `accept` does all the
rest: access rules, views, stale answers, limits, counts and logs.
"""

from __future__ import annotations

import asyncio
import socket

from nat64_dataplane.dns64.access.client_acl import MAX_REMEMBERED, Client, ClientAcl
from nat64_dataplane.dns64.access.client_limits import LIMITS, ClientLimits
from nat64_dataplane.dns64.cache.answer_cache import AnswerCache
from nat64_dataplane.dns64.cache.cache_entry import VARIANTS, AnswerVariant, CacheEntry
from nat64_dataplane.dns64.frontend.query_origin import QueryOrigin, count_response, log_event
from nat64_dataplane.dns64.frontend.translator_coupling import TranslatorCoupling
from nat64_dataplane.dns64.host.random_bytes import Entropy
from nat64_dataplane.dns64.instrumentation.counters import Counters
from nat64_dataplane.dns64.instrumentation.internal_faults import faults
from nat64_dataplane.dns64.instrumentation.query_log import QueryLog
from nat64_dataplane.dns64.message import domain_names, wire
from nat64_dataplane.dns64.message.answer import (
    DENIAL,
    EDE_STALE,
    ERROR,
    TCP_SIZE,
    WITHHELD_TTL,
    Answer,
    failure,
    refusal,
    respond,
    short_lived,
    udp_limit,
    unprogrammed,
    with_ttl,
)
from nat64_dataplane.dns64.message.wire import Query
from nat64_dataplane.dns64.resolver.fast_path import PendingMessage, fast_path_question
from nat64_dataplane.dns64.resolver.in_flight import Resolver
from nat64_dataplane.dns64.settings import Server
from nat64_dataplane.dns64.synthesis.dns64_policy import Dns64Policy
from nat64_dataplane.dns64.synthesis.rfc6147 import Decision
from nat64_dataplane.dns64.upstream.upstream_group import Observe, UpstreamGroup


class ServerBlock:
    """A server block: its policy, its upstreams, its cache and its counts."""

    def __init__(
        self,
        settings: Server,
        entropy: Entropy,
        observe: Observe,
        before: ServerBlock | None = None,
        *,
        keep_cache: bool = True,
        limits: ClientLimits = LIMITS,
    ) -> None:
        """`before` ran this block so far: its counts go on, and its cache if that is safe."""
        self.settings = settings
        self.zones = {domain_names.from_text(zone): zone for zone in settings.zones}
        """Its zones, as wire names."""
        self.stats: Counters = before.stats if before is not None else Counters(self.zones)
        self.clients = ClientAcl(settings.acls, settings.zones)
        self.policy = Dns64Policy(settings.dns64) if settings.dns64 else None
        self.coupling = TranslatorCoupling(self.policy)
        self.groups = [UpstreamGroup(forward, entropy, observe) for forward in settings.forwards]
        self.cache = AnswerCache(settings.cache, self.stats) if settings.cache else None
        if before is not None and keep_cache and _same_answers(before.settings, settings):
            self.cache = before.cache
        self.log = QueryLog(settings.log)
        self.resolver = Resolver(
            settings,
            policy=self.policy,
            groups=self.groups,
            cache=self.cache,
            stats=self.stats,
            limits=limits,
        )
        self._hits_now = 0
        self.hot = False
        """Whether responses may come from the hot path."""
        self.probe: bytes | None = None
        """The name that the `loop` probe asks for, while it runs."""
        self.probe_seen = 0
        self._hosts: dict[bytes, Client] = {}
        self._loop = asyncio.get_running_loop()
        self._synthesis: list[bool] = []
        self.look_at_translator()

    def look_at_translator(self) -> bool:
        """Read the translator's status again. Returns whether it changed."""
        changed = self.coupling.look()
        self._synthesis = self.coupling.synthesizes
        # without a translator every answer is inspected: AAAA may be withheld, and that is counted
        programmed = self.coupling.watch.status.programmed
        self.hot = self.cache is not None and not self.log.wants_hits and programmed
        return changed

    def hit(self, message: bytes, host: bytes, now: int) -> bytes | None:
        """Answer from the cache, or not at all. `host` is the client as the kernel reports it."""
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

    def take_fast_path(self, asker: PendingMessage, host: bytes) -> bool:
        """Resolve a miss on the fast path if possible. Returns whether it is."""
        client = self._hosts.get(host)
        if client is None or self.cache is None:
            return False
        if not client.always or not self._synthesis[client.family]:
            return False
        size = self.cache.plain_size(asker.message)
        question = fast_path_question(asker.message, size) if size is not None else None
        return question is not None and self.resolver.take_fast_path(asker, client, question)

    def time_hits(self, seconds: float) -> None:
        """Count the hits of one wakeup, each as `seconds` long: none took longer."""
        if self._hits_now:
            self.stats.seconds.observe(seconds, self._hits_now)
            self._hits_now = 0

    def _new_client(self, host: bytes) -> Client:
        if len(self._hosts) >= MAX_REMEMBERED:
            self._hosts.clear()
        # an IPv6 host is followed by its scope
        family = socket.AF_INET if len(host) == 4 else socket.AF_INET6
        client = self.clients.get(socket.inet_ntop(family, host[:16]))
        self._hosts[host] = client
        return client

    def accept(self, query: Query, origin: QueryOrigin) -> None:
        """Answer a query: at once, or when the upstream has answered."""
        client = origin.client
        verdict = self.clients.verdict(client, query.name, query.type)
        self.stats.acl[verdict] += 1
        if verdict == "drop":
            origin.send(None)
            return
        if query.edns is not None and query.edns.version:
            self._refuse(query, origin, wire.BADVERS)
            return
        if query.opcode:
            self._refuse(query, origin, wire.NOTIMP)
            return
        if verdict == "block" or query.type in (wire.AXFR, wire.IXFR):
            self._refuse(query, origin, wire.REFUSED)
            return
        if verdict == "filter":
            self._respond(query, origin, failure(wire.NOERROR))
            return
        if query.name == self.probe:
            self.probe_seen += 1
        if self.coupling.fails(query, client):
            self.stats.withheld += 1
            self._respond(query, origin, unprogrammed(self.coupling.watch.status.reason))
            return
        view = VARIANTS[self._synthesis[client.family], query.do, query.cd]
        question = query.name + query.question[-4:]
        stale: CacheEntry | None = None
        if self.cache is not None:
            self.stats.cache_requests += 1
            entry = self.cache.find(question, view, int(origin.started))
            if entry is not None:
                if entry.left(int(origin.started)) > 0:
                    self._cached(query, origin, entry, (question, view))
                    return
                stale = entry if self.resolver.may_serve_stale(entry, origin.started) else None
        if not query.flags & wire.RD:
            self._resolve(query, origin, (question, view._replace(rd=False)), None)
            return
        self._resolve(query, origin, (question, view), stale)

    def close(self) -> None:
        """Close the upstream sockets."""
        self.resolver.close()

    @property
    def under_way(self) -> int:
        """Questions that wait for an upstream."""
        return self.resolver.under_way

    def _cached(
        self, query: Query, origin: QueryOrigin, entry: CacheEntry, key: tuple[bytes, AnswerVariant]
    ) -> None:
        assert self.cache is not None, "entries come from a cache"
        self.stats.cache_hits[entry.shape.kind] += 1
        if self.cache.wants_prefetch(entry, int(origin.started)):
            entry.hits = 0
            self.stats.prefetches += 1
            self.resolver.start(key)
        self._respond(query, origin, entry.answer())

    def _resolve(
        self,
        query: Query,
        origin: QueryOrigin,
        key: tuple[bytes, AnswerVariant],
        stale: CacheEntry | None,
    ) -> None:
        settings = self.resolver.stale
        if stale is not None and settings is not None:
            recent = self.resolver.failed_recently(key, origin.started)
            if not settings.verify or recent:
                if not recent:
                    self.resolver.start(key)
                self._send_stale(query, origin, stale)
                return
        client = origin.client
        if not self.resolver.enter(client):
            self.stats.over_limit += 1
            self._refuse(query, origin, wire.REFUSED)
            return
        timer: asyncio.TimerHandle | None = None
        sent = False

        def decided(decision: Decision) -> None:
            nonlocal sent
            self.resolver.leave(client)
            if timer is not None:
                timer.cancel()
            if sent:
                return
            sent = True
            failed = decision.answer.kind == ERROR
            self._end(query, origin, decision.answer, stale if failed else None)

        def waited() -> None:
            nonlocal sent
            sent = True
            self._end(query, origin, failure(wire.SERVFAIL), stale)

        if stale is not None and settings is not None and settings.verify_timeout:
            timer = self._loop.call_later(settings.verify_timeout, waited)
        self.resolver.start(key, decided, query)

    def _end(
        self, query: Query, origin: QueryOrigin, answer: Answer, stale: CacheEntry | None
    ) -> None:
        """Answer a waiting client, with the stale answer if one is given. Never raises."""
        try:
            if stale is not None:
                self._send_stale(query, origin, stale)
            else:
                self._respond(query, origin, answer)
        except (
            Exception
        ):  # a fault of the sidecar changes this answer to SERVFAIL, but there is always one
            faults.log("writing a response")
            self._refuse(query, origin, wire.SERVFAIL)

    def _send_stale(self, query: Query, origin: QueryOrigin, entry: CacheEntry) -> None:
        settings = self.resolver.stale
        assert settings is not None, "stale answers need serve_stale"
        self.stats.stale += 1
        answer = with_ttl(entry.answer(), settings.ttl)
        answer.errors = (*answer.errors, (EDE_STALE, ""))
        self._respond(query, origin, answer)

    def _refuse(self, query: Query, origin: QueryOrigin, rcode: int) -> None:
        self._write(query, origin, refusal(query, rcode), ERROR, synthesized=False)

    def _respond(self, query: Query, origin: QueryOrigin, answer: Answer) -> None:
        if (
            answer.kind == DENIAL
            and not answer.rcode
            and self.coupling.withheld(query, origin.client)
        ):
            self.stats.withheld += 1
            answer = short_lived(answer, WITHHELD_TTL)
        limit = udp_limit(query) if origin.proto == "udp" else TCP_SIZE
        response = respond(query, answer, limit)
        self._write(query, origin, response, answer.kind, synthesized=answer.synthesized)

    def _write(
        self, query: Query, origin: QueryOrigin, response: bytes, kind: str, *, synthesized: bool
    ) -> None:
        origin.send(response)
        try:
            seconds = self._loop.time() - origin.started
            count_response(self.stats, query, origin, response, seconds, synthesized=synthesized)
            if self.log:
                self.log.write(log_event(query, origin, response, kind, seconds))
        except Exception:  # the response is sent: nothing may send a second one
            faults.log("counting a response")


def _same_answers(old: Server, new: Server) -> bool:
    """Whether another block would give the same answers that one block has cached."""
    return (old.cache, old.dns64, old.forwards) == (new.cache, new.dns64, new.forwards)
