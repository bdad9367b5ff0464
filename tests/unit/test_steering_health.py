"""When a gateway node counts as dead, and when as back; what a probe looks like."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nat64_dataplane.translator.steering import probe
from nat64_dataplane.translator.steering.health import (
    CALM,
    LONGEST_DAMPING,
    Answer,
    Health,
    State,
    Thresholds,
)

THRESHOLDS = Thresholds(interval=0.3, failure=3, recovery=5)


class Watch:
    """A gateway, and a clock that goes on by one interval with each probe."""

    def __init__(self, state: State = State.NEW) -> None:
        self.health = Health(THRESHOLDS, state)
        self.now = 0.0

    def answers(self, count: int, said: Answer = Answer.SERVING) -> State:
        for _ in range(count):
            self.now += THRESHOLDS.interval
            self.health.answer(said, self.now)
        return self.health.state

    def misses(self, count: int) -> State:
        for _ in range(count):
            self.now += THRESHOLDS.interval
            self.health.miss(self.now)
        return self.health.state

    def answers_until_back(self) -> int:
        count = 0
        while self.health.state is not State.HEALTHY:
            self.answers(1)
            count += 1
        return count


def test_the_first_answer_of_a_new_gateway_is_enough() -> None:
    assert Watch().answers(1) is State.HEALTHY


def test_a_gateway_that_never_answered_is_new_and_says_why_it_is_not_used() -> None:
    watch = Watch()
    assert watch.misses(10) is State.NEW
    assert watch.health.why == "10 probes in a row had no answer"
    assert watch.answers(1, Answer.NOT_SERVING) is State.NEW
    assert "no way out over IPv4" in watch.health.why
    assert watch.answers(1) is State.HEALTHY
    assert watch.health.why == ""


def test_three_probes_missed_in_a_row_and_no_fewer_are_death() -> None:
    watch = Watch()
    watch.answers(1)
    for _ in range(5):
        assert watch.misses(2) is State.HEALTHY
        watch.answers(1)
    assert watch.misses(3) is State.DEAD


@pytest.mark.parametrize("before", [Answer.SERVING, Answer.DRAINING])
def test_a_gateway_that_says_that_it_does_not_serve_is_left_at_once(before: Answer) -> None:
    watch = Watch()
    watch.answers(1, before)
    assert watch.answers(1, Answer.NOT_SERVING) is State.DEAD
    assert watch.health.deaths == 1


def test_draining_is_believed_at_once_and_its_end_too() -> None:
    watch = Watch()
    watch.answers(1)
    assert watch.answers(1, Answer.DRAINING) is State.DRAINING
    assert watch.answers(1) is State.HEALTHY
    assert watch.misses(3) is State.DEAD
    assert watch.answers(5, Answer.DRAINING) is State.DRAINING


def test_it_is_back_after_five_answers_in_a_row() -> None:
    watch = Watch()
    watch.answers(1)
    watch.misses(3)
    assert watch.answers(4) is State.RECOVERING
    assert watch.misses(1) is State.DEAD
    assert watch.answers(4) is State.RECOVERING
    assert watch.answers(1) is State.HEALTHY


def test_each_further_death_doubles_what_it_needs_up_to_a_minute() -> None:
    watch = Watch()
    watch.answers(1)
    needed = []
    for _ in range(8):
        watch.misses(3)
        needed.append(watch.answers_until_back())
    assert needed == [5, 10, 20, 40, 80, 160, 200, 200]
    assert needed[-1] * THRESHOLDS.interval <= LONGEST_DAMPING
    assert watch.health.deaths == 8


def test_a_calm_time_forgives() -> None:
    watch = Watch()
    watch.answers(1)
    for _ in range(3):
        watch.misses(3)
        watch.answers_until_back()
    watch.answers(int(CALM / THRESHOLDS.interval) + 1)
    watch.misses(3)
    assert watch.answers_until_back() == 5


def test_an_agent_that_starts_again_goes_on_from_what_was_known() -> None:
    assert Watch(State.HEALTHY).misses(2) is State.HEALTHY
    assert Watch(State.HEALTHY).misses(3) is State.DEAD
    assert Watch(State.DEAD).answers(1) is State.RECOVERING


@given(st.lists(st.sampled_from([None, *Answer]), max_size=60))
def test_whatever_comes_the_dead_come_back_and_the_silent_die(said: list[Answer | None]) -> None:
    watch = Watch()
    for answer in said:
        if answer is None:
            watch.misses(1)
        else:
            watch.answers(1, answer)
        assert (watch.health.state is State.HEALTHY) <= (watch.health.why == "")
    assert watch.answers(watch.health.needed) is State.HEALTHY
    assert watch.misses(3) is State.DEAD


def test_an_answer_is_the_probe_with_a_state() -> None:
    asked = probe.request(7, 0x0123456789ABCDEF)
    assert asked == b"n64p\x01\0\x07\0\x01\x23\x45\x67\x89\xab\xcd\xef"
    for state in Answer:
        answered = asked[:5] + bytes([state]) + asked[6:]
        assert probe.read_answer(answered) == (0x0123456789ABCDEF, state)


@pytest.mark.parametrize(
    "data", [b"", b"n64p", bytes(16), b"n64p\x02" + bytes(11), b"n64p\x01\x04" + bytes(10)]
)
def test_what_is_no_answer_is_told_from_one(data: bytes) -> None:
    assert probe.read_answer(data) is None
