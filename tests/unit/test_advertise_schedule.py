"""When advertisements are sent: the rules of RFC 4861 section 6.2 hold whatever happens."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field
from ipaddress import IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nat64_dataplane.translator.advertise.message import Offer
from nat64_dataplane.translator.advertise.schedule import Schedule, shortest_interval

ONE, OTHER = IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/96")
SLACK = 1e-6  # of sums of floating-point numbers


def offer(prefix: IPv6Network = ONE) -> Offer:
    return Offer(prefix, 1800, 1800)


@dataclass
class Link:
    """A link whose clock the test moves. Advertisements leave when they are due."""

    schedule: Schedule
    interval: float = 600.0
    now: float = 1000.0
    sent: list[tuple[float, str, tuple[Offer, ...]]] = field(default_factory=list)

    def until(self, time: float) -> None:
        while (at := self.schedule.next_at) is not None and at <= time:
            assert at >= self.now - SLACK, "what is due can't be in the past"
            self.now = at
            self.sent.append((at, self.schedule.kind, self.schedule.content()))
            assert self.sent[-1][2], "nothing to say, and it was said"
            self.schedule.sent(at)
        self.now = time

    def passes(self, seconds: float) -> None:
        self.until(self.now + seconds)

    def offers(self, what: Offer | None) -> None:
        self.schedule.offers(self.now, what, self.interval)

    @property
    def gaps(self) -> list[float]:
        times = [at for at, _, _ in self.sent]
        return [later - earlier for earlier, later in itertools.pairwise(times)]


def link(seed: int = 0, interval: float = 600, **known: object) -> Link:
    one = Link(Schedule(random.Random(seed).uniform, **known), interval)  # type: ignore[arg-type]
    one.schedule.usable(one.now, True)
    return one


@pytest.mark.parametrize(
    ("longest", "shortest"), [(4, 3), (6, 4.5), (9, 3), (10, 3.3), (600, 198), (1800, 594)]
)
def test_shortest_interval_is_rfc4861s_default(longest: int, shortest: float) -> None:
    assert shortest_interval(longest) == pytest.approx(shortest)


@given(st.integers(0, 999), st.integers(4, 1800))
def test_unsolicited_ones_come_between_the_intervals_and_the_first_three_faster(
    seed: int, interval: int
) -> None:
    one = link(seed, interval)
    one.offers(offer())
    one.passes(10 * interval + 32)
    assert len(one.sent) >= 10
    assert one.sent[0][0] <= 1000.5
    assert all(gap <= min(16, interval) + SLACK for gap in one.gaps[:2])
    assert all(
        shortest_interval(interval) - SLACK <= gap <= interval + SLACK for gap in one.gaps[2:]
    )
    assert {kind for _, kind, _ in one.sent} == {"unsolicited"}


def test_intervals_differ_so_that_routers_do_not_fall_into_step() -> None:
    one = link()
    one.offers(offer())
    one.passes(100_000)
    assert len(set(one.gaps[2:])) == len(one.gaps[2:])


@given(st.integers(0, 999), st.floats(0, 20))
def test_a_solicitation_is_answered_within_half_a_second_of_when_it_may(
    seed: int, wait: float
) -> None:
    one = link(seed)
    one.offers(offer())
    one.passes(5000 + wait)
    last, asked = one.sent[-1][0], one.now
    scheduled = one.schedule.next_at
    assert scheduled is not None
    one.schedule.solicited(asked)
    allowed = max(asked, last + 3)
    one.until(allowed + 0.5)
    answer, kind, _ = one.sent[-1]
    assert min(allowed, scheduled) - SLACK <= answer <= allowed + 0.5
    assert kind == "solicited"


@given(st.integers(0, 999), st.lists(st.floats(0, 0.4), max_size=200))
def test_a_flood_of_solicitations_does_not_raise_the_rate(seed: int, pauses: list[float]) -> None:
    one = link(seed)
    one.offers(offer())
    for pause in pauses:
        one.schedule.solicited(one.now)
        one.passes(pause)
    assert all(gap >= 3 - SLACK for gap in one.gaps)


def test_solicitations_that_never_end_do_not_put_the_answer_off() -> None:
    one = link()
    one.offers(offer())
    one.passes(5000)
    before, asked = len(one.sent), one.now
    for _ in range(100):
        one.schedule.solicited(one.now)
        one.passes(0.01)
    assert len(one.sent) == before + 1
    assert one.sent[-1][0] - asked <= 0.5


@given(st.integers(0, 999), st.floats(0, 700))
def test_withdrawal_is_said_three_times_beginning_at_once(seed: int, wait: float) -> None:
    one = link(seed)
    one.offers(offer())
    one.passes(wait)
    before, last = len(one.sent), one.schedule.last or 0
    one.offers(None)
    end = one.now
    one.passes(10_000)
    ended = one.sent[before:]
    assert [(kind, what) for _, kind, what in ended] == [
        ("withdrawal", (Offer.withdrawing(ONE),))
    ] * 3
    assert ended[0][0] == pytest.approx(max(end, last + 3))
    assert not one.schedule.known
    one.schedule.solicited(one.now)
    assert one.schedule.next_at is None, "who asks a router that offers nothing gets no answer"


def test_a_changed_prefix_is_offered_and_the_old_one_withdrawn_in_the_same_messages() -> None:
    one = link()
    one.offers(offer())
    one.passes(5000)
    before = len(one.sent)
    one.offers(offer(OTHER))
    one.passes(5000)
    contents = [what for _, _, what in one.sent[before:]]
    assert contents[:3] == [(offer(OTHER), Offer.withdrawing(ONE))] * 3
    assert set(contents[3:]) == {(offer(OTHER),)}


def test_what_comes_back_is_no_longer_withdrawn() -> None:
    one = link()
    one.offers(offer())
    one.passes(100)
    one.offers(None)
    one.offers(offer())
    before = len(one.sent)
    one.passes(100)
    assert {what for _, _, what in one.sent[before:]} == {(offer(),)}


def test_the_same_said_again_changes_nothing() -> None:
    one = link()
    one.offers(offer())
    one.passes(5000)
    due = one.schedule.next_at
    one.offers(offer())
    one.schedule.usable(one.now, True)
    assert one.schedule.next_at == due


@pytest.mark.parametrize("healthy", [True, False])
def test_a_new_agent_goes_on_where_its_predecessor_stopped(healthy: bool) -> None:
    one = link(before={ONE}, last=999.0)
    assert one.schedule.next_at is None, "nothing is said before it is known how things are"
    one.offers(offer() if healthy else None)
    one.passes(100)
    assert one.sent[0][0] >= 1002, "3 s after the predecessor's last"
    assert {what for _, _, what in one.sent} == {(offer() if healthy else Offer.withdrawing(ONE),)}


def test_a_new_agent_withdraws_what_it_does_not_offer() -> None:
    one = link(before={ONE, OTHER})
    one.offers(offer())
    one.passes(100)
    assert one.sent[0][2] == (offer(), Offer.withdrawing(OTHER))


def test_a_link_that_is_down_is_silent_and_told_anew_once_it_is_up() -> None:
    one = link()
    one.offers(offer())
    one.passes(5000)
    one.schedule.usable(one.now, False)
    one.schedule.solicited(one.now)
    before = len(one.sent)
    one.passes(5000)
    assert len(one.sent) == before
    one.schedule.usable(one.now, True)
    up = one.now
    one.passes(40)
    assert one.sent[before][0] <= up + 0.5
    assert len(one.sent) >= before + 3


def test_a_withdrawal_waits_for_the_link() -> None:
    one = link()
    one.offers(offer())
    one.passes(100)
    one.schedule.usable(one.now, False)
    one.offers(None)
    one.passes(100)
    assert one.schedule.known == {ONE}
    one.schedule.usable(one.now, True)
    one.passes(100)
    assert [kind for _, kind, _ in one.sent[-3:]] == ["withdrawal"] * 3
    assert not one.schedule.known


EVENTS = st.lists(
    st.tuples(
        st.floats(0, 40),
        st.sampled_from(["asked", "asked", "one", "other", "nothing", "up", "down"]),
    ),
    max_size=60,
)


@given(seed=st.integers(0, 9999), interval=st.integers(4, 100), events=EVENTS)
def test_whatever_happens_the_rate_is_kept_and_hosts_end_up_knowing_how_things_are(
    seed: int, interval: int, events: list[tuple[float, str]]
) -> None:
    one = link(seed, interval)
    wanted, up = None, True
    for pause, event in events:
        match event:
            case "asked":
                one.schedule.solicited(one.now)
            case "up" | "down":
                up = event == "up"
                one.schedule.usable(one.now, up)
            case _:
                wanted = {"one": offer(), "other": offer(OTHER)}.get(event)
                one.offers(wanted)
        before = len(one.sent)
        one.passes(pause)
        assert up or len(one.sent) == before, "silent while it is down"
    assert all(gap >= 3 - SLACK for gap in one.gaps)
    one.schedule.usable(one.now, True)
    one.passes(100 + 4 * interval)
    lifetimes: dict[IPv6Network, int] = {}  # as a host that hears everything has them
    for _, _, what in one.sent:
        lifetimes |= {each.prefix: each.route_lifetime for each in what}
    assert {p for p, seconds in lifetimes.items() if seconds} == (
        {wanted.prefix} if wanted else set()
    )
    assert one.schedule.known == ({wanted.prefix} if wanted else set())
