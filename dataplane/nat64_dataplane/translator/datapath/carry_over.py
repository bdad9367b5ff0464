"""Take sessions along when maps must be made anew: another size, or another version of them.

Maps keep the size they were made with, so a changed `limits.sessions` means new ones. What is in
the old ones is copied twice: all of it before the new programs run, and what was opened in the
meantime once they do. Maps of another layout can't be copied; then the reason is said.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from nat64_dataplane.bpf import Map
from nat64_dataplane.translator.datapath import abi, pinned_maps, port_bitmap
from nat64_dataplane.translator.datapath.datapath import PROGRAMS, Datapath

_TABLES = ("bib4", "bib6", "overloads", "clients", "sessions")
_BOUNDED = ("bib4", "sessions")


class Carrier:
    """One move from the maps pinned at `source` to an opened datapath's."""

    def __init__(self, source: Path, target: Datapath) -> None:
        self.source = source
        self._target = target
        self._started = 0

    def copy_all(self) -> str:
        """Copy every entry; return why not, or an empty text. Raises BpfError."""
        names = (*_TABLES, "ports", "counters", "shared")
        with ExitStack() as stack:
            if missing := [name for name in names if not (self.source / name).exists()]:
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
            for name in _BOUNDED:
                used = sum(len(keys) for keys, _ in old[name].batches())
                used //= old[name].layout.key_size
                if used > (most := self._target.map(name).layout.max_entries):
                    return f"they hold {used} entries of {name}, and limits.sessions is {most}"
            self._started = self._target.now()
            for name in _TABLES:
                for keys, values in old[name].batches():
                    fresh = _without_notes(values) if name == "bib6" else values
                    self._target.map(name).set_batch(keys, fresh)
            for key, value in old["ports"].items():
                if port_bitmap.split_key(key)[1] == abi.PORTS_TAKEN:
                    self._target.map("ports").set(key, value)
            for name in ("counters", "shared"):
                if counted := old[name].get(abi.U32.pack(0)):
                    self._target.map(name).set(abi.U32.pack(0), counted)
        return ""

    def copy_rest(self) -> None:
        """Copy what was opened since `copy_all` began, unless the new programs have it already."""
        with Map.open_pinned(self.source / "bib4") as bib4:
            for key, value in bib4.items():
                client, port, *_, created, _ = abi.BIB4.unpack(value)
                if created < self._started or not self._target.map("bib4").add(key, value):
                    continue
                address, pool_port, protocol = abi.BIB4_KEY.unpack(key)
                self._target.map("bib6").add(
                    abi.BIB6_KEY.pack(client, port, protocol),
                    abi.bib6(address, pool_port),
                )
        with Map.open_pinned(self.source / "sessions") as sessions:
            for key, value in sessions.items():
                self._carry_session(key, value)

    def _carry_session(self, key: bytes, value: bytes) -> None:
        """Take one along that was opened or moved on meanwhile: the later state wins."""
        table = self._target.map("sessions")
        copied = table.get(key)
        if copied is None:
            if abi.SESSION.unpack(value)[-1] >= self._started:
                table.add(key, value)
        elif _same_owner(value, copied) and _progress(value) > _progress(copied):
            table.set(key, value)


_ORDER = {
    state: place
    for place, state in enumerate(
        (
            abi.TcpState.CLOSED,
            abi.TcpState.V4_INIT,
            abi.TcpState.V6_INIT,
            abi.TcpState.ESTABLISHED,
            abi.TcpState.TRANS,
            abi.TcpState.V4_FIN,
            abi.TcpState.V6_FIN,
            abi.TcpState.BOTH_FIN,
        )
    )
}


def _progress(session: bytes) -> tuple[int, int]:
    """How far a session has come: its state, and until when it lives."""
    _, _, _, _, expires, state, *_ = abi.SESSION.unpack(session)
    return _ORDER[abi.TcpState(state & ~abi.TCP_SHUT)], expires


def _same_owner(one: bytes, other: bytes) -> bool:
    """Whether both are of one binding's life."""
    return bool(abi.SESSION.unpack(one)[3] == abi.SESSION.unpack(other)[3])


def _without_notes(values: bytes) -> bytes:
    """Values of bib6 without what they remember, which is true of the old config."""
    return b"".join(abi.bib6(*value[:2]) for value in abi.BIB6.iter_unpack(values))
