"""How often a network namespace is visited."""

from __future__ import annotations

from nat64_dataplane.clat.pace import Pace, until_mounted


def test_a_visit_takes_one_part_in_twenty_of_the_time() -> None:
    pace = Pace()
    pace.visited(100.0, 0.01, set_up=True, repaired=False)
    assert pace.not_before == 100.2


def test_a_new_namespace_is_looked_at_more_often() -> None:
    pace = Pace()
    pace.visited(100.0, 0.01, set_up=False, repaired=False)
    assert pace.not_before == 100.04


def test_who_changes_its_set_up_again_and_again_waits_longer_each_time() -> None:
    pace, now, waits = Pace(), 100.0, []
    for _ in range(12):
        pace.visited(now, 0.001, set_up=True, repaired=True)
        waits.append(round(pace.not_before - now, 3))
        now = pace.not_before
    assert waits[:4] == [0.1, 0.2, 0.4, 0.8]
    assert waits[-1] == 30.0
    pace.visited(now + 301, 0.001, set_up=True, repaired=True)
    assert round(pace.not_before - now - 301, 3) == 0.1, "after a while, all is forgotten"


def test_a_namespace_that_never_gets_ready_is_looked_at_once_a_second() -> None:
    pace = Pace()
    for _ in range(100):
        pace.visited(100.0, 0.001, set_up=False, repaired=False)
    assert pace.not_before < 100.1
    pace.visited(100.0, 0.001, set_up=False, repaired=False)
    assert pace.not_before == 101.0


def test_failures_in_a_row_are_counted_and_tried_less_and_less_often() -> None:
    pace = Pace()
    assert [pace.failed(100.0) for _ in range(3)] == [1, 2, 3]
    assert pace.not_before == 100.4
    pace.visited(200.0, 0, set_up=True, repaired=False)
    assert pace.failed(300.0) == 1


def test_a_new_file_is_looked_at_often_and_then_seldom() -> None:
    assert until_mounted(0.5) == 0.01
    assert until_mounted(3.0) == 1.0
