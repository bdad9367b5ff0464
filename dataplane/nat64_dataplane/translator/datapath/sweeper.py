"""Removes what has expired, in many short runs of nat64_sweep.

While a run lasts, its CPU receives no packets, so no run visits more than a chunk of a table. State
tables are read here, which delays nobody, and their keys are handed to the program chunk by chunk.

A sweep visits every entry, but removes only as many as the pace of removals allows. The rest are
removed a burst at a time by `go_on`. Meanwhile they count as absent to packets, as always.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

from nat64_dataplane.bpf import Map, Program
from nat64_dataplane.translator.datapath import abi
from nat64_dataplane.translator.datapath.abi import SweepHow, SweepResult, SweepTable
from nat64_dataplane.translator.datapath.expired_keys import expired_keys
from nat64_dataplane.translator.datapath.removal_pace import BREAK, Pace

_ZERO = abi.U32.pack(0)
_TABLES = {
    SweepTable.BINDINGS: "bib4",
    SweepTable.SESSIONS: "sessions",
    SweepTable.BIB6: "bib6",
    SweepTable.OVERLOADS: "overloads",
    SweepTable.CLIENTS: "clients",
}
_WHOLE = (SweepTable.FRAGMENTS, SweepTable.HELD)
_PACKET = bytes(64)
_LONGEST_BURST = 0.02
"""Seconds after which `go_on` returns also if it has found few expired entries."""


class Sweeper:
    """Sweeps of one instance's maps. Harmless from several processes at once."""

    def __init__(self, maps: Mapping[str, Map], program: Program) -> None:
        self._maps = maps
        self._program = program
        self._paces = {
            table: Pace(maps[name].layout.max_entries) for table, name in _TABLES.items()
        }
        self._waiting: dict[SweepTable, Iterator[bytes] | None] = {}
        """Tables in which expired entries are left, and where their removal has got to."""
        self.longest_run = 0
        """Nanoseconds that the longest run has taken since this was made."""
        self.clock = time.monotonic
        """Seconds, for the pace of removals."""

    def sweep(self, *, state: bool, hold: int, purge: bool = False) -> SweepResult:
        """Look through the tables, those of state too if asked. Raises BpfError.

        `hold`: seconds that a port rests before another client may have it. `purge`: also take
        what the active config no longer allows, all of it.
        """
        noted = abi.SWEEP.unpack(self._report())[abi.SWEEP_NOTED]
        how = SweepHow(0)
        if noted:
            how |= SweepHow.FOLLOW
        if purge:
            how |= SweepHow.PURGE
        # From the first binding to the last session, notes are not complete.
        values = [0, how, 0, hold, 0 if state else noted, *[0] * 11]
        self._maps["sweep"].set(_ZERO, abi.SWEEP.pack(*values))
        self._waiting.clear()
        for table in _WHOLE:
            self._look_through(table)
        if state:
            for table in _TABLES:
                if purge or table is not SweepTable.BIB6:
                    self._visit(table)
            self._run(SweepTable.END, keys=0, noted=1)
        swept = SweepResult(*abi.SWEEP.unpack(self._report())[-8:])
        return swept._replace(unfinished=bool(self._waiting))

    def go_on(self, now: int) -> SweepResult:
        """Remove some of what the last sweep has left; count what this call removes.

        `now`: the programs' clock, in seconds. Takes some milliseconds. Raises BpfError.
        """
        values = list(abi.SWEEP.unpack(self._report()))
        before = SweepResult(*values[-8:])
        values[1] = SweepHow.REST
        self._maps["sweep"].set(_ZERO, abi.SWEEP.pack(*values))
        until = self.clock() + _LONGEST_BURST
        for table in list(self._waiting):
            self._remove(table, now, until)
        after = SweepResult(*abi.SWEEP.unpack(self._report())[-8:])
        return after._replace(
            removed_sessions=after.removed_sessions - before.removed_sessions,
            removed_bindings=after.removed_bindings - before.removed_bindings,
            removed_fragments=0,
            removed_held=0,
            unfinished=bool(self._waiting),
        )

    def finish(self, swept: SweepResult, now: Callable[[], int]) -> SweepResult:
        """Remove all that a sweep has left, resting in between; add it to what it removed."""
        while swept.unfinished:
            time.sleep(BREAK)
            more = self.go_on(now())
            swept = more._replace(
                removed_sessions=swept.removed_sessions + more.removed_sessions,
                removed_bindings=swept.removed_bindings + more.removed_bindings,
                removed_fragments=swept.removed_fragments,
                removed_held=swept.removed_held,
            )
        return swept

    def _visit(self, table: SweepTable) -> None:
        for chunk, count in _chunks(self._maps[_TABLES[table]]):
            if not self._give(table, chunk, count):
                self._waiting[table] = None

    def _remove(self, table: SweepTable, now: int, until: float) -> None:
        """Remove expired entries of one table, as far as its pace and `until` let it."""
        keys = self._waiting[table]
        if keys is None:
            hold = abi.SWEEP.unpack(self._report())[abi.SWEEP_HOLD]
            keys = expired_keys(self._maps[_TABLES[table]], table, now, hold)
            self._waiting[table] = keys
        size = self._maps[_TABLES[table]].layout.key_size
        while self._paces[table].allows(self.clock()) >= abi.SWEEP_CHUNK:
            chunk = next(keys, None)
            if chunk is None:
                del self._waiting[table]
                return
            if chunk:
                self._give(table, chunk, len(chunk) // size)
            if self.clock() > until:
                return

    def _give(self, table: SweepTable, keys: bytes, count: int) -> int:
        """Have the program visit the entries of a chunk, and remove what the pace allows.

        Returns how many more it might have removed; 0: some may be left that have expired.
        """
        pace = self._paces[table]
        most = pace.allows(self.clock())
        self._maps["sweep_keys"].set(_ZERO, keys.ljust(abi.SWEEP_KEYS_BYTES, b"\0"))
        self._run(table, keys=count, most=most)
        spare: int = abi.SWEEP.unpack(self._report())[abi.SWEEP_ALLOWED]
        pace.took(most - spare)
        return spare

    def _look_through(self, table: SweepTable) -> None:
        """Sweep a small table: run again for as long as a run removes as much as it may."""
        taken = abi.SWEEP_MOST
        while taken >= abi.SWEEP_MOST:
            before = sum(abi.SWEEP.unpack(self._report())[-2:])
            self._run(table, keys=0)
            taken = sum(abi.SWEEP.unpack(self._report())[-2:]) - before

    def _run(
        self, table: SweepTable, *, keys: int, most: int = 0, noted: int | None = None
    ) -> None:
        values = list(abi.SWEEP.unpack(self._report()))
        values[0], values[2], values[abi.SWEEP_ALLOWED] = table, keys, most
        if noted is not None:
            values[abi.SWEEP_NOTED] = noted
        self._maps["sweep"].set(_ZERO, abi.SWEEP.pack(*values))
        self.longest_run = max(self.longest_run, self._program.run(_PACKET).nanoseconds)

    def _report(self) -> bytes:
        value = self._maps["sweep"].get(_ZERO)
        assert value is not None, "an array has every entry"
        return value


def _chunks(table: Map) -> Iterator[tuple[bytes, int]]:
    """All keys of a table by chunks that `sweep_keys` has room for, and how many each has."""
    step = abi.SWEEP_CHUNK * table.layout.key_size
    for keys, _ in table.batches():
        for start in range(0, len(keys), step):
            chunk = keys[start : start + step]
            yield chunk, len(chunk) // table.layout.key_size
