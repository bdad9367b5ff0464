"""Sweeps: short runs at any table size, and no harm from a sweep that is cut short."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address

import pytest

from nat64_dataplane.config import Limits
from nat64_dataplane.translator import sweep_loop
from nat64_dataplane.translator.datapath import abi
from nat64_dataplane.translator.datapath.abi import SweepResult, SweepTable
from nat64_dataplane.translator.datapath.datapath import Datapath
from nat64_dataplane.translator.datapath.removal_pace import BREAK, Pace
from nat64_dataplane.translator.datapath.sweeper import Sweeper
from nat64_dataplane.translator.report.agent_state import SweepTotals

pytestmark = pytest.mark.root

CLIENT = IPv6Address("2001:db8::10").packed
POOL = IPv4Address("192.0.2.1")
ENTRIES = 500_000
HOUR = 3600
LONGEST_RUN = 10_000_000
"""Nanoseconds. A run takes half a millisecond, and all entries in one run would take 350."""
LONGEST_REMOVING = 100_000_000
"""A run in which the kernel also moves what was removed in the last quarter of a second takes 1 to
2 ms, and twenty times that in an emulator. That no more is removed in that time is what the tests
of bursts hold."""
REMOVED = 100_000
"""Entries in the tests that remove. At the pace of removals they take six seconds."""
ATTEMPTS = 5
"""A busy machine may stop a run for a while: the quietest sweep of so many is what counts."""


@pytest.fixture
def datapath() -> Iterator[Datapath]:
    """Maps of our own, with no link and no config."""
    with Datapath.open(None, "sweeps", Limits(sessions=524_288)) as opened:
        yield opened


def remote(number: int) -> bytes:
    return struct.pack(">I", int(IPv4Address("198.18.0.0")) + number)


def fill(datapath: Datapath, expires: int, count: int = ENTRIES) -> None:
    """One binding, and many sessions of it."""
    now = datapath.now()
    keys = [
        abi.SESSION_KEY.pack(POOL.packed, remote(n), b"\xee\x48", b"\1\xbb", abi.UDP)
        for n in range(count)
    ]
    value = abi.SESSION.pack(
        CLIENT, b"\x10\0", abi.SessionFlag.CONFIRMED, 0, 1, now + expires, 0, 0, now
    )
    for start in range(0, count, 4096):
        chunk = keys[start : start + 4096]
        datapath.map("sessions").set_batch(b"".join(chunk), value * len(chunk))
    datapath.map("bib4").set(
        abi.bib4_key(POOL, 61000, abi.UDP),
        abi.BIB4.pack(CLIENT, b"\x10\0", 0, 0, 1, now + 2 * HOUR, count, now, 0),
    )


def binding_expires_in(datapath: Datapath) -> int:
    [binding] = datapath.bib()
    return binding.expires_in


@pytest.mark.bulk
def test_a_run_is_short_whatever_the_size_of_the_table(datapath: Datapath) -> None:
    fill(datapath, expires=HOUR)
    looking: list[int] = []
    while len(looking) < ATTEMPTS and min(looking, default=LONGEST_RUN) >= LONGEST_RUN:
        looking.append(longest_run(datapath, left=ENTRIES, removed=0))
    assert min(looking) < LONGEST_RUN


@pytest.mark.bulk
def test_a_run_is_short_however_much_expires_at_once(datapath: Datapath) -> None:
    removing: list[int] = []
    while len(removing) < ATTEMPTS and min(removing, default=LONGEST_REMOVING) >= LONGEST_REMOVING:
        fill(datapath, expires=HOUR, count=REMOVED)
        datapath.travel(3 * HOUR)
        removing.append(longest_run(datapath, left=0, removed=REMOVED))
        assert datapath.map("sessions").first_key() is None
        assert datapath.map("bib4").first_key() is None
    assert min(removing) < LONGEST_REMOVING


def test_what_expires_at_once_is_removed_in_bursts_and_nothing_else_is(datapath: Datapath) -> None:
    """The kernel frees what was removed within one of its grace periods in one go."""
    count = 20_000
    fill(datapath, expires=HOUR, count=count)
    datapath.travel(HOUR + 60)
    key = abi.SESSION_KEY.pack(POOL.packed, POOL.packed, b"\xee\x48", b"\1\xbb", abi.UDP)
    now = datapath.now()
    lives = abi.SESSION.pack(
        CLIENT, b"\x10\0", abi.SessionFlag.CONFIRMED, 0, 1, now + HOUR, 0, 0, now
    )
    datapath.map("sessions").set(key, lives)
    pace = Pace(datapath.session_limit())
    clock = Clock(datapath)
    swept = datapath.begin_sweep()
    assert (swept.sessions, swept.removed_sessions) == (count + 1 - pace.burst, pace.burst)
    removed = swept.removed_sessions
    assert datapath.go_on_sweeping().removed_sessions == 0, "no time has passed"
    while swept.unfinished:
        clock.seconds += BREAK
        swept = datapath.go_on_sweeping()
        removed += swept.removed_sessions
        assert swept.removed_sessions <= pace.burst
        assert removed <= pace.burst + pace.rate * clock.seconds
        assert removed + swept.sessions == count + 1
    assert (removed, swept.sessions) == (count, 1)
    assert clock.seconds < 2 * count / pace.rate
    assert [entry for entry, _ in datapath.map("sessions").items()] == [key]
    again = datapath.begin_sweep()
    assert (again.sessions, again.removed_sessions, again.unfinished) == (1, 0, False)


def test_a_sweep_that_is_slower_than_its_pace_leaves_nothing(datapath: Datapath) -> None:
    """Some may go at each run, but not all that have expired."""
    fill(datapath, expires=HOUR, count=5000)
    datapath.travel(3 * HOUR)
    clock = Clock(datapath)
    clock.ticks = 1 / Pace(datapath.session_limit()).rate
    swept = datapath.begin_sweep()
    while swept.unfinished:
        swept = datapath.go_on_sweeping()
    assert datapath.map("sessions").first_key() is None


class Clock:
    """The clock that the pace of a datapath's removals goes by."""

    def __init__(self, datapath: Datapath) -> None:
        self.seconds = 0.0
        self.ticks = 0.0
        """Seconds that pass each time it is read; otherwise it stands still."""
        assert datapath._sweeper
        datapath._sweeper.clock = self.read

    def read(self) -> float:
        self.seconds += self.ticks
        return self.seconds


def test_the_agent_removes_the_rest_between_its_sweeps(datapath: Datapath) -> None:
    count = 20_000
    fill(datapath, expires=HOUR, count=count)
    datapath.travel(3 * HOUR)
    totals = SweepTotals()

    async def in_kernel(work: Callable[[], SweepResult]) -> SweepResult:
        return work()

    async def until_all_are_removed() -> None:
        task = asyncio.create_task(sweep_loop.run(Swept(datapath), totals, in_kernel))
        while totals.removed_sessions < count:
            assert not task.done()
            await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(until_all_are_removed())
    assert (totals.removed_sessions, totals.removed_bindings) == (count, 1)
    assert datapath.map("sessions").first_key() is None


class Swept:
    """A datapath as the agent sweeps it."""

    def __init__(self, datapath: Datapath) -> None:
        self.sweep = datapath.begin_sweep
        self.go_on_sweeping = datapath.go_on_sweeping


def test_clients_that_go_at_once_are_removed_in_bursts(datapath: Datapath) -> None:
    count = 10_000
    holding = struct.pack(">QQ", 0x20010DB8_00000001, 1)
    for number in range(count):
        datapath.map("clients").set(struct.pack(">QQ", 0x20010DB8 << 32, number), bytes(40))
    datapath.map("clients").set(holding, abi.CLIENT.pack(1, *[0] * 7))
    datapath.travel(HOUR)
    clock = Clock(datapath)
    swept = datapath.begin_sweep()
    burst = Pace(datapath.map("clients").layout.max_entries).burst
    assert sum(1 for _ in datapath.map("clients").items()) == count + 1 - burst
    while swept.unfinished:
        clock.seconds += BREAK
        swept = datapath.go_on_sweeping()
    assert [key for key, _ in datapath.map("clients").items()] == [holding]


def longest_run(datapath: Datapath, *, left: int, removed: int) -> int:
    """Sweep; return the nanoseconds of its longest run."""
    assert datapath._sweeper
    datapath._sweeper.longest_run = 0
    swept = datapath.sweep()
    assert (swept.sessions, swept.removed_sessions) == (left, removed)
    return datapath.longest_sweep_run


@pytest.mark.bulk
def test_a_sweep_that_was_cut_short_takes_no_time_from_a_binding(
    datapath: Datapath, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(datapath, expires=HOUR)
    datapath.sweep()
    datapath.sweep()
    needed = binding_expires_in(datapath)
    assert HOUR - 60 < needed <= HOUR, "it follows its sessions"

    visit = Sweeper._visit

    def killed(self: Sweeper, table: SweepTable) -> None:
        if table is SweepTable.SESSIONS:
            raise ZeroDivisionError
        visit(self, table)

    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(Sweeper, "_visit", killed)
            with pytest.raises(ZeroDivisionError):
                datapath.sweep()
        assert binding_expires_in(datapath) > HOUR - 120
    datapath.sweep()
    assert binding_expires_in(datapath) > HOUR - 120
    datapath.travel(HOUR // 2)
    datapath.sweep()
    datapath.sweep()
    assert HOUR // 2 - 120 < binding_expires_in(datapath) <= HOUR // 2


def test_many_fragments_that_expire_at_once_go_in_several_runs(datapath: Datapath) -> None:
    now = datapath.now()
    count = 3 * abi.SWEEP_MOST + 1
    for number in range(count):
        key = abi.FRAGMENT_KEY.pack(CLIENT, CLIENT, number, abi.UDP, 0, 0)
        datapath.map("fragments").set(
            key, abi.FRAGMENT.pack(CLIENT, POOL.packed, now + HOUR, 0, bytes(2), *[0] * 6)
        )
    assert datapath.sweep().fragments == count
    datapath.travel(HOUR + 60)
    swept = datapath.sweep()
    assert (swept.fragments, swept.removed_fragments) == (0, count)
