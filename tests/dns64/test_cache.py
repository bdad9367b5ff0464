"""The cache alone: bounds, lifetimes, views, and what may be kept."""

from __future__ import annotations

import dns.message
import pytest

from nat64_dataplane.dns64.cache.answer_cache import AnswerCache
from nat64_dataplane.dns64.cache.cache_entry import VARIANTS
from nat64_dataplane.dns64.instrumentation.counters import MAX_KEYS, Counters
from nat64_dataplane.dns64.message import domain_names, wire
from nat64_dataplane.dns64.message.answer import DENIAL, ERROR, SUCCESS, Answer, failure, from_reply
from nat64_dataplane.dns64.settings import from_text
from tests.dns64.messages import SOA, empty, reply

VIEW = VARIANTS[True, False, False]


def cache(options: str = "") -> AnswerCache:
    (server,) = from_text(f". {{\ncache {{\n{options}\n}}\n}}").servers
    assert server.cache is not None
    return AnswerCache(server.cache, Counters({b"\0": "."}))


def question(name: str, rdtype: int = wire.AAAA) -> bytes:
    return domain_names.from_text(name) + rdtype.to_bytes(2, "big") + b"\0\1"


def positive(name: str = "www.example.", ttl: int = 300) -> Answer:
    return from_reply(reply(name, "AAAA", f"{name} {ttl} IN AAAA 2001:db8::1"))


def ttls(store: AnswerCache, now: int, name: str = "www.example.") -> list[int]:
    query = dns.message.make_query(name, "AAAA", use_edns=False).to_wire()
    response = store.hit(query, now, synthesize=True, family=2)
    return [] if response is None else [r.ttl for r in dns.message.from_wire(response).answer]


def test_an_answer_lives_as_long_as_its_ttl_and_counts_down() -> None:
    store = cache()
    store.put(question("www.example."), VIEW, positive(), 100)
    assert ttls(store, 100) == [300]
    assert ttls(store, 250) == [150]
    assert ttls(store, 399) == [1]
    assert ttls(store, 400) == []


@pytest.mark.parametrize(
    ("options", "ttl", "shown", "lives"),
    [
        ("success 1024 60", 300, 60, 60),
        ("success 1024 3600 120", 30, 30, 120),
        ("success 1024 3600 0", 0, 0, 0),
        ("", 0, 0, 5),
        ("", 86400, 3600, 3600),
    ],
)
def test_ttls_are_capped_and_short_ones_kept_for_the_minimum(
    options: str, ttl: int, shown: int, lives: int
) -> None:
    store = cache(options)
    store.put(question("www.example."), VIEW, positive(ttl=ttl), 100)
    if lives:
        assert ttls(store, 100) == [shown]
        assert ttls(store, 100 + lives - 1) == [max(shown - lives + 1, 0)]
    assert ttls(store, 100 + lives) == []


def test_keepttl_shows_the_ttl_that_came() -> None:
    store = cache("keepttl")
    store.put(question("www.example."), VIEW, positive(), 100)
    assert ttls(store, 250) == [300]


def test_denials_live_by_rfc_2308_and_not_at_all_without_soa() -> None:
    store = cache()
    gone = from_reply(reply("no.example.", "AAAA", rcode=3, authority=[SOA]))
    store.put(question("no.example."), VIEW, gone, 100)
    entry = store.find(question("no.example."), VIEW, 399)
    assert entry is not None
    assert entry.left(399) == 1  # the least of the SOA's TTL and its last field
    bare = from_reply(reply("no.example.", "AAAA", rcode=3))
    other = cache()
    other.put(question("no.example."), VIEW, bare, 100)
    assert other.entries(DENIAL) == 0


def test_failures_live_for_servfails_time_and_do_not_replace_what_was_known() -> None:
    store = cache("servfail 7s")
    store.put(question("www.example."), VIEW, positive(ttl=10), 100)
    store.put(question("www.example."), VIEW, failure(wire.SERVFAIL), 105)
    assert ttls(store, 106) == [4]
    entry = store.find(question("www.example."), VIEW, 111)
    assert entry is not None
    assert entry.shape.kind == ERROR
    store.put(question("x.example."), VIEW, failure(wire.REFUSED), 105)
    assert store.find(question("x.example."), VIEW, 105) is None


def test_what_is_disabled_is_not_kept() -> None:
    store = cache("disable success a.example\ndisable denial b.example")
    store.put(question("www.a.example."), VIEW, positive("www.a.example."), 100)
    store.put(question("www.b.example."), VIEW, positive("www.b.example."), 100)
    assert (ttls(store, 100, "www.a.example."), ttls(store, 100, "www.b.example.")) == ([], [300])
    gone = from_reply(reply("no.b.example.", "AAAA", rcode=3, authority=[SOA]))
    store.put(question("no.b.example."), VIEW, gone, 100)
    assert store.entries(DENIAL) == 0


def test_the_bound_of_denials_holds_too() -> None:
    store = cache("denial 1024")
    for number in range(3000):
        name = f"n{number}.example."
        store.put(question(name), VIEW, from_reply(empty(name, "AAAA")), 100)
        assert store.entries(DENIAL) <= 1024
    assert store.evictions[DENIAL] == 3000 - store.entries(DENIAL)
    assert store.entries(SUCCESS) == 0
    assert store.find(question("n2999.example."), VIEW, 100) is not None
    assert store.find(question("n0.example."), VIEW, 100) is None


def test_failures_are_bounded_too() -> None:
    store = cache("servfail 5s")
    for number in range(6000):
        store.put(question(f"n{number}.example."), VIEW, failure(wire.SERVFAIL), 100)
    assert store.entries(ERROR) <= 4096


@pytest.mark.parametrize(("pause", "popular"), [(10, True), (11, False)])
def test_what_is_asked_for_with_long_pauses_is_not_popular(pause: int, popular: bool) -> None:
    """Prefetch takes what was asked for 3 times without a pause above 10 s, near its end."""
    store = cache("prefetch 3 10s 90%")
    store.put(question("www.example."), VIEW, positive(), 100)
    now = 200
    for _ in range(2):
        now += pause
        assert ttls(store, now)
    # what is to be prefetched isn't answered from the hot path
    assert (ttls(store, now + pause) == []) is popular


def test_views_do_not_see_each_other() -> None:
    store = cache()
    store.put(question("www.example."), VIEW, positive(), 100)
    for view in VARIANTS.values():
        found = store.find(question("www.example."), view, 100)
        assert (found is not None) is (view == VIEW)


def test_the_bound_holds_and_the_oldest_go_first() -> None:
    store = cache("success 1024")
    for number in range(5000):
        name = f"n{number}.example."
        store.put(question(name), VIEW, positive(name), 100)
        assert store.entries(SUCCESS) <= 1024
    assert store.evictions[SUCCESS] == 5000 - store.entries(SUCCESS)
    assert ttls(store, 100, "n4999.example.") == [300]
    assert ttls(store, 100, "n0.example.") == []


def test_many_answers_alike_take_little_memory() -> None:
    store = cache("success 100000")
    first = positive("n00000.example.")
    for number in range(1000):
        answer = positive("n00000.example.")
        store.put(question(f"n{number:05}.example."), VIEW, answer, 100)
    shapes = {id(e.shape) for e in store._tables[VIEW].success.values()}
    assert len(shapes) == 1
    assert first.counts == (1, 0, 0)


def test_counts_of_responses_are_bounded_too() -> None:
    stats = Counters({b"\0": "."})
    for number in range(3 * MAX_KEYS):
        kind = (number % 60000, False, 0, False, 50 + number % 200, 60 + number)
        stats.count((".", "udp", 2, *kind))
        answer = Answer(0, body=bytes(number % 5000))
        stats.counter(question("x.example.", number % 60000), False, answer)[1] += 1
    assert len(stats.served) < 2 * MAX_KEYS
    assert len(stats.hot) < 2 * MAX_KEYS
    assert sum(stats.responses().values()) == 6 * MAX_KEYS
