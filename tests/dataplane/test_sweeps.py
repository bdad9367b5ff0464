"""Sweeps: short runs at any table size, and no harm from a sweep that is cut short."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

import pytest

from nat64_dataplane.config import Limits
from nat64_dataplane.translator.datapath import abi
from nat64_dataplane.translator.datapath.abi import SweepTable
from nat64_dataplane.translator.datapath.datapath import Datapath
from nat64_dataplane.translator.datapath.sweeper import Sweeper

pytestmark = pytest.mark.root

CLIENT = IPv6Address("2001:db8::10").packed
POOL = IPv4Address("192.0.2.1")
ENTRIES = 500_000
HOUR = 3600
LONGEST_RUN = 10_000_000
"""Nanoseconds. A run takes half a millisecond, and all entries in one run would take 350."""
LONGEST_REMOVING = 100_000_000
"""The kernel frees the memory of what was removed in one go, a tenth of a microsecond for each
entry, and may do so during a run: docs/limitations.md."""
ATTEMPTS = 5
"""A busy machine may stop a run for a while: the quietest sweep of so many is what counts."""


@pytest.fixture
def datapath() -> Iterator[Datapath]:
    """Maps of our own, with no link and no config."""
    with Datapath.open(None, "sweeps", Limits(sessions=524_288)) as opened:
        yield opened


def remote(number: int) -> bytes:
    return struct.pack(">I", int(IPv4Address("198.18.0.0")) + number)


def fill(datapath: Datapath, expires: int) -> None:
    """One binding, and many sessions of it."""
    now = datapath.now()
    keys = [
        abi.SESSION_KEY.pack(POOL.packed, remote(n), b"\xee\x48", b"\1\xbb", abi.UDP)
        for n in range(ENTRIES)
    ]
    value = abi.SESSION.pack(
        CLIENT, b"\x10\0", abi.SessionFlag.CONFIRMED, 0, 1, now + expires, 0, 0, now
    )
    for start in range(0, ENTRIES, 4096):
        chunk = keys[start : start + 4096]
        datapath.map("sessions").set_batch(b"".join(chunk), value * len(chunk))
    datapath.map("bib4").set(
        abi.bib4_key(POOL, 61000, abi.UDP),
        abi.BIB4.pack(CLIENT, b"\x10\0", 0, 0, 1, now + 2 * HOUR, ENTRIES, now, 0),
    )


def binding_expires_in(datapath: Datapath) -> int:
    [binding] = datapath.bib()
    return binding.expires_in


def test_a_run_is_short_whatever_the_size_of_the_table(datapath: Datapath) -> None:
    looking, removing = [], []
    for _ in range(ATTEMPTS):
        fill(datapath, expires=HOUR)
        looking.append(longest_run(datapath, left=ENTRIES, removed=0))
        datapath.travel(2 * HOUR)
        removing.append(longest_run(datapath, left=0, removed=ENTRIES))
        assert datapath.map("sessions").first_key() is None
        if looking[-1] < LONGEST_RUN and removing[-1] < LONGEST_REMOVING:
            break
    assert min(looking) < LONGEST_RUN
    assert min(removing) < LONGEST_REMOVING


def longest_run(datapath: Datapath, *, left: int, removed: int) -> int:
    """Sweep; return the nanoseconds of its longest run."""
    assert datapath._sweeper
    datapath._sweeper.longest_run = 0
    swept = datapath.sweep()
    assert (swept.sessions, swept.removed_sessions) == (left, removed)
    return datapath.longest_sweep_run


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
            key, abi.FRAGMENT.pack(CLIENT, POOL.packed, now + 1, 0, bytes(2), *[0] * 6)
        )
    assert datapath.sweep().fragments == count
    datapath.travel(5)
    swept = datapath.sweep()
    assert (swept.fragments, swept.removed_fragments) == (0, count)
