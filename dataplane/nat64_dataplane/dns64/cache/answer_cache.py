"""Answers by question. The bytes of a query are the key.

The hot path slices a query if it has the usual form (one question, RD set, with or without a bare
OPT record) and looks up the question's bytes, letter case included. So a hit costs a few slices, a
lookup and a join. A query of any other form is parsed and uses `find`.

Limits are in entries. When one is reached, the oldest sixty-fourth is removed: this is cheaper than
exact LRU, and an answer in use comes back with its next question. Times are whole seconds of one
monotonic clock, given by the caller.
"""

from __future__ import annotations

from itertools import islice
from struct import Struct
from typing import NamedTuple

from nat64_dataplane.dns64.cache.cache_entry import VARIANTS, AnswerVariant, CacheEntry, EntryShape
from nat64_dataplane.dns64.instrumentation.counters import Counters
from nat64_dataplane.dns64.message import wire
from nat64_dataplane.dns64.message.answer import (
    DENIAL,
    ERROR,
    PLAIN_UDP_SIZE,
    SUCCESS,
    UDP_SIZE,
    Answer,
)
from nat64_dataplane.dns64.message.domain_names import Zones
from nat64_dataplane.dns64.message.wire import Query
from nat64_dataplane.dns64.settings import Cache as CacheSettings

_PLAIN = bytes((1, 0, 0, 1, 0, 0, 0, 0, 0, 0))
_WITH_OPT = bytes((1, 0, 0, 1, 0, 0, 0, 0, 0, 1))
_OPT_SIZE = 11
_MAX_FORMS = 256
_MAX_SHAPES = 4096
_MAX_ERRORS = 4096
_TTL = Struct("!I")


_KEEPS = (DENIAL, SUCCESS)


class _OptForm(NamedTuple):
    """A bare OPT record of queries: the response size it allows, and the OPT that answers it."""

    limit: int
    do: bool
    opt: bytes


class _Tables(NamedTuple):
    """The entries of one AnswerVariant by kind of answer."""

    success: dict[bytes, CacheEntry]
    denial: dict[bytes, CacheEntry]
    error: dict[bytes, CacheEntry]

    def of(self, kind: str) -> dict[bytes, CacheEntry]:
        """The table of one kind."""
        if kind == SUCCESS:
            return self.success
        return self.denial if kind == DENIAL else self.error


class AnswerCache:
    """All answers of one server block."""

    def __init__(self, settings: CacheSettings, stats: Counters) -> None:
        self.settings = settings
        self._stats = stats
        self.evictions = {SUCCESS: 0, DENIAL: 0, ERROR: 0}
        self._zones = Zones(settings.zones)
        self._no_success = Zones(settings.no_success)
        self._no_denial = Zones(settings.no_denial)
        self._capacity = {
            SUCCESS: settings.success_capacity,
            DENIAL: settings.denial_capacity,
            ERROR: _MAX_ERRORS,
        }
        self._tables = {view: _Tables({}, {}, {}) for view in VARIANTS.values()}
        self._counts = {SUCCESS: 0, DENIAL: 0, ERROR: 0}
        self._hot = tuple(
            tuple(self._tables[AnswerVariant(s, d, False)] for d in (False, True))
            for s in (False, True)
        )
        self._forms: dict[bytes, _OptForm] = {}
        self._shapes: dict[tuple[object, ...], EntryShape] = {}
        self._second = 0
        """The time of the last answer: all entries of the same second share one object."""
        self._ages = not settings.keep_ttl
        self._prefetch = settings.prefetch
        self._prefetch_pause = settings.prefetch_duration
        self._prefers_positive = settings.prefer_positive

    def hit(self, query: bytes, now: int, *, synthesize: bool, family: int) -> bytes | None:
        """Answer a query in the usual form from the cache with a fresh answer, or not at all."""
        head = query[2:12]
        if head == _PLAIN:
            form, question = None, query[12:]
            success, denial, _ = self._hot[synthesize][0]
        elif head == _WITH_OPT:
            form = self._forms.get(query[-_OPT_SIZE:])
            if form is None:
                return None
            question = query[12:-_OPT_SIZE]
            success, denial, _ = self._hot[synthesize][form.do]
        else:
            return None
        entry = success.get(question) or denial.get(question)
        if entry is None or entry.errors:
            return None
        shape = entry.shape
        age = now - entry.stored
        if age >= shape.ttl:
            return None
        if self._prefetch and self.wants_prefetch(entry, now):
            return None
        if age != entry.age and self._ages:
            entry.count_down(age)
        if form is None:
            response = b"".join((query[:2], shape.head, question, entry.body))
            if len(response) > PLAIN_UDP_SIZE:
                return None
            entry.served[family] += 1
            return response
        response = b"".join((query[:2], shape.head_opt, question, entry.body, form.opt))
        if len(response) > form.limit:
            return None
        entry.served[family + 2] += 1
        return response

    def plain_size(self, query: bytes) -> int | None:
        """The end of the question in a query of the usual form without DO; None for others."""
        head = query[2:12]
        if head == _PLAIN:
            return len(query)
        if head != _WITH_OPT:
            return None
        form = self._forms.get(query[-_OPT_SIZE:])
        return len(query) - _OPT_SIZE if form is not None and not form.do else None

    def knows(self, question: bytes, view: AnswerVariant, now: int) -> bool:
        """Whether there is a fresh answer of any kind, even one that the hot path can't give."""
        for table in self._tables[view]:
            entry = table.get(question)
            if entry is not None and entry.left(now) > 0:
                return True
        return False

    def learn_opt_form(self, message: bytes, query: Query) -> None:
        """Store the form of this query, so that the next one like it can take the hot path."""
        edns = query.edns
        opt = message[-_OPT_SIZE:]
        if (
            edns is None
            or edns.options
            or edns.version
            or len(message) != wire.HEADER_SIZE + len(query.question) + _OPT_SIZE
            or opt in self._forms
            or len(self._forms) >= _MAX_FORMS
        ):
            return
        limit = min(max(edns.size, PLAIN_UDP_SIZE), UDP_SIZE)
        ttl = b"\0\0\x80\0" if edns.do else b"\0\0\0\0"
        reply = b"\0\0\x29" + UDP_SIZE.to_bytes(2, "big") + ttl + b"\0\0"
        self._forms[opt] = _OptForm(limit, edns.do, reply)

    def wants_prefetch(self, entry: CacheEntry, now: int) -> bool:
        """Count a query for an entry. Returns whether it is popular by now and near its end."""
        if not self._prefetch:
            return False
        entry.seen(now, self._prefetch_pause)
        if entry.hits < self._prefetch:
            return False
        left = entry.left(now)
        return left <= max(1, entry.shape.ttl * self.settings.prefetch_percent // 100)

    def find(self, question: bytes, view: AnswerVariant, now: int) -> CacheEntry | None:
        """Return the fresh entry, otherwise an expired one; `question` in lower case."""
        expired: CacheEntry | None = None
        for table in self._tables[view]:
            entry = table.get(question)
            if entry is None:
                continue
            age = min(now - entry.stored, entry.shape.ttl)
            if self._ages and age != entry.age:
                entry.count_down(age)
            if entry.left(now) > 0 or self._is_preferred(entry, now):
                return entry
            expired = expired or entry
        return expired

    def _is_preferred(self, entry: CacheEntry, now: int) -> bool:
        """Whether an expired answer comes before a denial: `serve_stale_policy prefer_positive`."""
        stale = self.settings.stale
        if not self._prefers_positive or entry.shape.kind != SUCCESS or stale is None:
            return False
        return -entry.left(now) < stale.duration

    def put(self, question: bytes, view: AnswerVariant, answer: Answer, now: int) -> None:
        """Keep an answer, if that is allowed; `question` in lower case.

        TTLs above the maximum of the settings are lowered in `answer` itself, so that the client
        that caused it sees the same as later ones.
        """
        name = question[:-4]
        kind = answer.kind
        lifetime = self._lifetime(answer, name)
        if lifetime is None or name not in self._zones:
            return
        tables = self._tables[view]
        table = tables.of(kind)
        counts = self._counts
        for other in (SUCCESS, DENIAL, ERROR):
            # A failure leaves the known answer, and so does a denial if positive answers are
            # preferred; anything else replaces it, and goes to the end of the order.
            if kind == ERROR != other or (self._prefers_positive and (kind, other) == _KEEPS):
                continue
            replaced = tables.of(other)
            if question in replaced:
                del replaced[question]
                counts[other] -= 1
        shape = self._shape(answer, lifetime)
        if now != self._second:
            self._second = now
        table[question] = CacheEntry(
            shape, answer, self._second, self._stats.counter(question, view.do, answer)
        )
        counts[kind] += 1
        if counts[kind] > self._capacity[kind]:
            self._evict(kind, table)

    def entries(self, kind: str) -> int:
        """The number of answers of this kind."""
        return self._counts[kind]

    def _lifetime(self, answer: Answer, name: bytes) -> int | None:
        settings = self.settings
        if answer.kind == ERROR:
            lifetime = int(settings.servfail_ttl)
            return lifetime if answer.rcode == wire.SERVFAIL and lifetime else None
        if answer.ttl < 0:
            return None
        if answer.kind == SUCCESS:
            if name in self._no_success:
                return None
            least, most = settings.success_min_ttl, settings.success_ttl
        else:
            if name in self._no_denial:
                return None
            least, most = settings.denial_min_ttl, settings.denial_ttl
        _cap(answer, most)
        return min(max(answer.ttl, least), most)

    def _shape(self, answer: Answer, ttl: int) -> EntryShape:
        key = (answer.flags, answer.counts, answer.offsets, answer.kind, ttl)
        shape = self._shapes.get(key)
        if shape is None:
            if len(self._shapes) >= _MAX_SHAPES:
                self._shapes.clear()
            shape = self._shapes[key] = EntryShape(answer, ttl)
        return shape

    def _evict(self, kind: str, table: dict[bytes, CacheEntry]) -> None:
        for old in list(islice(table, max(len(table) // 64, 1))):
            del table[old]
            self._counts[kind] -= 1
            self.evictions[kind] += 1


def _cap(answer: Answer, most: int) -> None:
    body: bytearray | None = None
    for offset in answer.offsets:
        (ttl,) = _TTL.unpack_from(answer.body, offset)
        if ttl > most:
            body = body or bytearray(answer.body)
            _TTL.pack_into(body, offset, most)
    if body is not None:
        answer.body = bytes(body)
