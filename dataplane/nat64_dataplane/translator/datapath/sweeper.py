"""Removes what has expired, in many short runs of nat64_sweep.

While a run lasts, its CPU receives no packets, so no run visits more than a chunk of a table. State
tables are read here, which delays nobody, and their keys are handed to the program chunk by chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nat64_dataplane.bpf import Map, Program
from nat64_dataplane.translator.datapath import abi
from nat64_dataplane.translator.datapath.abi import SweepHow, SweepResult, SweepTable

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


class Sweeper:
    """Sweeps of one instance's maps. Harmless from several processes at once."""

    def __init__(self, maps: Mapping[str, Map], program: Program) -> None:
        self._maps = maps
        self._program = program
        self.longest_run = 0
        """Nanoseconds that the longest run has taken since this was made."""

    def sweep(self, *, state: bool, hold: int, purge: bool = False) -> SweepResult:
        """Look through the tables, those of state too if asked. Raises BpfError.

        `hold`: seconds that a port rests before another client may have it. `purge`: also take
        what the active config no longer allows.
        """
        noted = abi.SWEEP.unpack(self._report())[abi.SWEEP_NOTED]
        how = SweepHow(0)
        if noted:
            how |= SweepHow.FOLLOW
        if purge:
            how |= SweepHow.PURGE
        # From the first binding to the last session, notes are not complete.
        values = [0, how, 0, hold, 0 if state else noted, *[0] * 10]
        self._maps["sweep"].set(_ZERO, abi.SWEEP.pack(*values))
        for table in _WHOLE:
            self._look_through(table)
        if state:
            for table in _TABLES:
                if purge or table is not SweepTable.BIB6:
                    self._visit(table)
            self._run(SweepTable.END, keys=0, noted=1)
        return SweepResult(*abi.SWEEP.unpack(self._report())[-8:])

    def _visit(self, table: SweepTable) -> None:
        for chunk, count in _chunks(self._maps[_TABLES[table]]):
            self._maps["sweep_keys"].set(_ZERO, chunk)
            self._run(table, keys=count)

    def _look_through(self, table: SweepTable) -> None:
        """Sweep a small table: run again for as long as a run removes as much as it may."""
        taken = abi.SWEEP_MOST
        while taken >= abi.SWEEP_MOST:
            before = sum(abi.SWEEP.unpack(self._report())[-2:])
            self._run(table, keys=0)
            taken = sum(abi.SWEEP.unpack(self._report())[-2:]) - before

    def _run(self, table: SweepTable, *, keys: int, noted: int | None = None) -> None:
        values = list(abi.SWEEP.unpack(self._report()))
        values[0], values[2] = table, keys
        if noted is not None:
            values[abi.SWEEP_NOTED] = noted
        self._maps["sweep"].set(_ZERO, abi.SWEEP.pack(*values))
        self.longest_run = max(self.longest_run, self._program.run(_PACKET).nanoseconds)

    def _report(self) -> bytes:
        value = self._maps["sweep"].get(_ZERO)
        assert value is not None, "an array has every entry"
        return value


def _chunks(table: Map) -> Iterator[tuple[bytes, int]]:
    """All keys of a table by chunks, each filled up to the size of `sweep_keys`."""
    step = abi.SWEEP_CHUNK * table.layout.key_size
    for keys, _ in table.batches():
        for start in range(0, len(keys), step):
            chunk = keys[start : start + step]
            yield chunk.ljust(abi.SWEEP_KEYS_BYTES, b"\0"), len(chunk) // table.layout.key_size
