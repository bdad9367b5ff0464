"""Take sessions along when maps must be made anew: another size, or another version of them.

Maps keep the size they were made with, so a changed `limits.sessions` means new ones. What is in
the old ones is given to nat64_adopt twice: all of it before the new programs run, and what was
opened or moved on in the meantime once they do. Maps of another layout can't be read; then the
reason is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

from nat64_dataplane.bpf import Map
from nat64_dataplane.translator.datapath import (
    abi,
    counters,
    pinned_maps,
    port_bitmap,
    zone_table,
)
from nat64_dataplane.translator.datapath.abi import SweepTable
from nat64_dataplane.translator.datapath.datapath import ADOPT, PROGRAMS, Datapath

_TABLES = {
    SweepTable.BINDINGS: ("bib4", abi.ADOPT_BINDINGS),
    SweepTable.SESSIONS: ("sessions", abi.ADOPT_SESSIONS),
}
"""In this order: a session is counted by its binding."""
_NEEDED = ("bib4", "sessions", "ports", "zones", "counters")
_TOPOLOGY = ("topology", "peers", "serving", "steering", "affinities")
"""Taken along as they are: clients keep their gateway nodes, and these go on saying what they say.
Older versions lack them."""
_ZERO = abi.U32.pack(0)
_PACKET = bytes(64)


class Carrier:
    """One move from the maps pinned at `source` to an opened datapath's."""

    def __init__(self, source: Path, target: Datapath) -> None:
        self.source = source
        self._target = target
        self._started = 0

    def copy_all(self) -> str:
        """Copy every entry; return why not, or an empty text. Raises BpfError."""
        with ExitStack() as stack:
            if missing := [name for name in _NEEDED if not (self.source / name).exists()]:
                return f"maps {', '.join(missing)} are missing there"
            old = {
                path.name: stack.enter_context(Map.open_pinned(path))
                for path in self.source.iterdir()
                if path.name not in PROGRAMS
            }
            if pinned_maps.abi_hash({name: opened.layout for name, opened in old.items()}) != (
                self.source.name
            ):
                return "their layout is of another version"
            for name, _ in _TABLES.values():
                used = sum(len(keys) for keys, _ in old[name].batches())
                used //= old[name].layout.key_size
                if used > (most := self._target.map(name).layout.max_entries):
                    return f"they hold {used} entries of {name}, and limits.sessions is {most}"
            self._started = self._target.now()
            zone_table.write(self._target.map("zones"), zone_table.read(old["zones"]))
            for key in old["ports"].keys():  # noqa: SIM118  a Map isn't a dict
                if port_bitmap.split_key(key)[1] == abi.PORTS_TAKEN:
                    self._target.map("ports").add(key, bytes(abi.PORT_BLOCK_SIZE))
            self._adopt(old, since=0)
            for name in _TOPOLOGY:
                self._copy_topology(old.get(name), self._target.map(name))
            self._go_on_counting(old["counters"])
        return ""

    def copy_rest(self) -> None:
        """Copy what was opened or moved on since `copy_all` began. Raises BpfError.

        What the new programs have made meanwhile stays; of a session that both have, the later
        state wins.
        """
        with ExitStack() as stack:
            old = {
                name: stack.enter_context(Map.open_pinned(self.source / name))
                for name, _ in _TABLES.values()
            }
            self._adopt(old, since=self._started)

    def _adopt(self, old: dict[str, Map], *, since: int) -> None:
        program = self._target.program(ADOPT)
        for table, (name, most) in _TABLES.items():
            for count, chunk in _chunks(old[name].items(), most):
                order = abi.SWEEP.pack(table, 0, count, 0, 0, 0, since, *[0] * 9)
                self._target.map("sweep_keys").set(_ZERO, chunk)
                self._target.map("sweep").set(_ZERO, order)
                program.run(_PACKET)

    def _copy_topology(self, old: Map | None, new: Map) -> None:
        if old is None or old.layout.differences(new.layout):
            return
        for key in old.keys():  # noqa: SIM118  a Map isn't a dict
            if value := old.get(key):
                new.set(key, value)

    def _go_on_counting(self, old: Map) -> None:
        """Counters go on from the old ones'. What had no place here counts as closed."""
        adopted, value = self._target.counters(), old.get(_ZERO)
        assert value is not None, "an array has every entry"
        totals = counters.read(value)
        for what in ("sessions", "bindings"):
            opened = sum(totals[f"{what}_opened_{way}"] for way in ("6to4", "4to6"))
            closed = sum(totals[f"{what}_closed_{way}"] for way in ("6to4", "4to6"))
            left = opened - closed - adopted[f"{what}_opened_6to4"]
            totals[f"{what}_{'closed' if left > 0 else 'opened'}_6to4"] += abs(left)
        self._target.map("counters").set(_ZERO, counters.written(totals))


def _chunks(items: Iterable[tuple[bytes, bytes]], most: int) -> Iterator[tuple[int, bytes]]:
    """Keys with their values, `most` at a time, as `sweep_keys` holds them."""
    entries = (key + value for key, value in items)
    while chunk := list(islice(entries, most)):
        yield len(chunk), b"".join(chunk).ljust(abi.SWEEP_KEYS_BYTES, b"\0")
