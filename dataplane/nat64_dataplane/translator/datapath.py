"""The translator in the kernel: loaded, pinned, configured, read and swept.

State lives in the kernel. A Datapath is a handle on it: closing one, or dying with it open,
changes nothing for packets.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self

from nat64_dataplane.bpf import OBJECT, Map, Object, Program
from nat64_dataplane.config import Config, Limits, StaticMapping
from nat64_dataplane.translator import abi, counters, pins, portmap, settings
from nat64_dataplane.translator.abi import BibEntry, Session, SweepResult
from nat64_dataplane.translator.portmap import PoolUsage
from nat64_dataplane.translator.settings import DatapathError
from nat64_dataplane.translator.view import HostView, PoolRange, Uplink

Hook = Literal["nat64_egress", "nat64_ingress"]
HOOKS: tuple[Hook, ...] = ("nat64_egress", "nat64_ingress")
SWEEP = "nat64_sweep"

ZERO = abi.U32.pack(0)
LARGEST_CLIENTS = 262_144

__all__ = [
    "HOOKS",
    "BibEntry",
    "Datapath",
    "DatapathError",
    "Hook",
    "HostView",
    "PoolRange",
    "PoolUsage",
    "Session",
    "SweepResult",
    "Uplink",
]


class Datapath:
    """One translator instance's programs and maps."""

    def __init__(self, programs: dict[str, Program], maps: dict[str, Map], directory: Path | None):
        self._programs = programs
        self._maps = maps
        self.directory = directory
        """Where everything is pinned; None for one that goes when it is closed."""

    @classmethod
    def open(cls, pin_root: Path | None, name: str, limits: Limits) -> Self:
        """Load the programs; take over pinned maps of the same ABI, pin what is new.

        Raises BpfError (VerifierError, PinMismatchError) with what the kernel said. Without
        `pin_root` nothing is pinned.
        """
        with Object(OBJECT) as loaded:
            for map_name, entries in _sizes(limits).items():
                loaded.resize(map_name, entries)
            directory = pin_root / name / pins.abi_hash(loaded.layouts) if pin_root else None
            reused = pins.reuse_all(loaded, directory) if directory else set()
            loaded.load()
            maps = {map_name: loaded.map(map_name) for map_name in loaded.layouts}
            programs = {hook: loaded.program(hook) for hook in (*HOOKS, SWEEP)}
        if directory:
            directory.mkdir(parents=True, exist_ok=True)
            for map_name, opened in maps.items():
                if map_name not in reused:
                    opened.pin(directory / map_name)
            for hook, program in programs.items():
                program.pin(directory / hook)
        return cls(programs, maps, directory)

    def program_path(self, which: Hook) -> Path:
        """Where the program is pinned."""
        assert self.directory is not None, "this datapath isn't pinned"
        return self.directory / which

    def program_fd(self, which: Hook) -> int:
        """The program's descriptor, open until `close`."""
        return self._programs[which].fd

    def program_identity(self, which: Hook) -> tuple[int, str]:
        """The kernel's id of the program, and its tag: a hash of its instructions."""
        return self._programs[which].identity

    def program(self, which: str) -> Program:
        """The program itself, for test runs."""
        return self._programs[which]

    def map(self, name: str) -> Map:
        """A map by its name in the kernel program."""
        return self._maps[name]

    def apply(self, config: Config, host: HostView) -> None:
        """Let packets follow `config` from one instant on; keep every session that still fits.

        The inactive slot is filled first. Raises DatapathError or BpfError before the switch,
        and then nothing has changed for packets.
        """
        active, offset = self._control()
        slot = (active + 1) % abi.CONFIG_SLOTS
        epoch = self._epoch(active) % 0xFFFF + 1
        built = settings.build(config, host, slot, epoch)
        self._clear(slot)
        self._fill(slot, built)
        wanted = {_static_key(mapping): mapping for mapping in config.static_mappings}
        for key, mapping in wanted.items():
            self._add_static(key, mapping)
        self._maps["config"].set(abi.U32.pack(slot), built.config)
        self._maps["control"].set(ZERO, abi.CONTROL.pack(slot, 0, offset))
        # From here on packets follow the new config; the rest is tidying up.
        self._drop_statics_but(wanted)
        for key in set(self._maps["uplinks"].keys()) - built.uplinks.keys():
            self._maps["uplinks"].delete(key)
        if self._has_state():
            self._sweep(abi.Sweep.STATE | abi.Sweep.PURGE)
        self._drop_idle_blocks(slot)

    def applied_hash(self) -> str | None:
        """The content hash of the config that packets follow, whoever applied it."""
        active, _ = self._control()
        packed = self._maps["config"].get(abi.U32.pack(active))
        assert packed is not None
        return abi.CONFIG.unpack(packed)[-1].rstrip(b"\0").decode() or None

    def counters(self) -> dict[str, int]:
        """Every counter as `NAME_DIRECTION`, as in `received_6to4`, `dropped_filtered_4to6`."""
        value = self._maps["counters"].get(ZERO)
        assert value is not None
        return counters.read(value)

    def bib(self) -> Iterator[BibEntry]:
        """All bindings."""
        now = self.now()
        for key, value in self._maps["bib4"].items():
            yield BibEntry.unpack(key, value, now)

    def sessions(self) -> Iterator[Session]:
        """All sessions."""
        now = self.now()
        for key, value in self._maps["sessions"].items():
            session = Session.unpack(key, value, now)
            if not session.flags & abi.SessionFlag.CONTACT:
                yield session

    def session_count(self) -> int:
        """How many sessions there are, expired but unswept ones included; costs nothing."""
        totals = self.counters()
        opened = totals["sessions_opened_6to4"] + totals["sessions_opened_4to6"]
        return opened - totals["sessions_closed_6to4"] - totals["sessions_closed_4to6"]

    def session_limit(self) -> int:
        """How many sessions there may be."""
        return self._maps["sessions"].layout.max_entries

    def usage(self) -> list[PoolUsage]:
        """Ports used and available, per pool address and protocol."""
        active, _ = self._control()
        return list(portmap.usage(self._maps["ports"].items(), active))

    def sweep(self, *, fragments_only: bool = False) -> SweepResult:
        """Take away what has expired. Harmless at any time and from several processes.

        Looking through the tables of state takes time in proportion to their limit, some 30 ns
        an entry, even where nothing expires: every half minute is often enough, as packets don't
        wait for it. Fragments are few and live for seconds: `fragments_only` costs next to nothing.
        """
        what = abi.Sweep.FRAGMENTS
        if not fragments_only and self._has_state():
            what |= abi.Sweep.STATE
        return self._sweep(what)

    def now(self) -> int:
        """The programs' clock, in seconds."""
        _, offset = self._control()
        return (time.clock_gettime_ns(time.CLOCK_MONOTONIC) + offset) // 10**9

    def travel(self, seconds: int) -> None:
        """Move the programs' clock forward: for tests of what takes minutes."""
        active, offset = self._control()
        self._maps["control"].set(ZERO, abi.CONTROL.pack(active, 0, offset + seconds * 10**9))

    def prune(self) -> list[Path]:
        """Unpin what other ABIs have left of this instance; return what that was."""
        if self.directory is None:
            return []
        root, name = self.directory.parent.parent, self.directory.parent.name
        others = [path for path in pins.versions(root, name) if path != self.directory]
        for path in others:
            pins.remove_version(path)
        return others

    def close(self) -> None:
        """Close descriptors; unpin nothing."""
        for program in self._programs.values():
            program.close()
        for opened in self._maps.values():
            opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def remove(pin_root: Path, name: str) -> None:
        """Unpin everything of an instance, of every ABI."""
        pins.remove_instance(pin_root, name)

    def _control(self) -> tuple[int, int]:
        value = self._maps["control"].get(ZERO)
        assert value is not None
        active, _, offset = abi.CONTROL.unpack(value)
        return active % abi.CONFIG_SLOTS, offset

    def _epoch(self, slot: int) -> int:
        packed = self._maps["config"].get(abi.U32.pack(slot))
        assert packed is not None
        return int(abi.CONFIG.unpack(packed)[abi.CONFIG_EPOCH])

    def _clear(self, slot: int) -> None:
        for name in ("sources", "destinations"):
            for key in self._maps[name].keys():  # noqa: SIM118  a Map isn't a dict
                if abi.slot_of(key) == slot:
                    self._maps[name].delete(key)
        for key, _ in list(self._maps["ports"].items()):
            if portmap.split_key(key)[1] == abi.PORTS_USABLE + slot:
                self._maps["ports"].delete(key)

    def _fill(self, slot: int, built: settings.Slot) -> None:
        first = slot * abi.MAX_POOL_RANGES
        self._maps["pool"].set_batch(
            b"".join(abi.U32.pack(first + index) for index in range(len(built.pool))),
            b"".join(built.pool),
        )
        for (address, block), bitmap in built.usable.items():
            self._maps["ports"].set(portmap.usable_key(address, slot, block), bitmap)
            for protocol in abi.PROTOCOLS.values():
                self._maps["ports"].add(
                    portmap.taken_key(address, protocol, block), bytes(abi.PORT_BLOCK_SIZE)
                )
        for key in built.sources:
            self._maps["sources"].set(key, abi.U32.pack(1))
        for key, value in built.destinations:
            self._maps["destinations"].set(key, value)
        for key, value in built.uplinks.items():
            self._maps["uplinks"].set(key, value)

    def _drop_idle_blocks(self, slot: int) -> None:
        """Blocks of addresses that no pool has any more and no binding uses."""
        items = dict(self._maps["ports"].items())
        kept = {
            (address, block)
            for address, kind, _, block in map(portmap.split_key, items)
            if kind == abi.PORTS_USABLE + slot
        }
        for key, value in items.items():
            address, kind, _, block = portmap.split_key(key)
            if kind == abi.PORTS_TAKEN and (address, block) not in kept and not any(value):
                self._maps["ports"].delete(key)

    def _add_static(self, key: bytes, mapping: StaticMapping) -> None:
        generation = _static_generation(mapping)
        current = self._maps["bib4"].get(key)
        if current and abi.BIB4.unpack(current)[3] == generation:
            return
        protocol = abi.PROTOCOLS[mapping.protocol]
        self._maps["bib4"].set(
            key,
            abi.BIB4.pack(
                mapping.client.packed,
                abi.port_bytes(mapping.client_port),
                abi.BIB_STATIC,
                generation,
                0xFFFFFFFF,
                self.now(),
            ),
        )
        self._maps["bib6"].set(
            abi.bib6_key(mapping.client, mapping.client_port, protocol),
            abi.BIB6.pack(mapping.address.packed, abi.port_bytes(mapping.port), 0, generation),
        )

    def _drop_statics_but(self, wanted: dict[bytes, StaticMapping]) -> None:
        stale = [
            (key, value)
            for key, value in self._maps["bib4"].items()
            if abi.BIB4.unpack(value)[2] & abi.BIB_STATIC and key not in wanted
        ]
        for key, value in stale:
            client, client_port, *_ = abi.BIB4.unpack(value)
            protocol = abi.BIB4_KEY.unpack(key)[2]
            self._maps["bib6"].delete(abi.BIB6_KEY.pack(client, client_port, protocol))
            self._maps["bib4"].delete(key)

    def _has_state(self) -> bool:
        """Whether there is any binding or client, live or not."""
        return any(
            self._maps[name].first_key() is not None for name in ("bib4", "sessions", "clients")
        )

    def _sweep(self, what: abi.Sweep) -> SweepResult:
        self._maps["sweep"].set(ZERO, abi.SWEEP.pack(what, *[0] * 9))
        self._programs[SWEEP].run(bytes(64))
        value = self._maps["sweep"].get(ZERO)
        assert value is not None
        return SweepResult(*abi.SWEEP.unpack(value)[2:])


def _sizes(limits: Limits) -> dict[str, int]:
    """Entries of the maps that the config bounds."""
    return {
        "sessions": limits.sessions,
        "bib4": limits.sessions,
        "bib6": limits.sessions,
        "overloads": max(limits.sessions // 4, 1024),
        "clients": min(limits.sessions, LARGEST_CLIENTS),
    }


def _static_key(mapping: StaticMapping) -> bytes:
    return abi.bib4_key(mapping.address, mapping.port, abi.PROTOCOLS[mapping.protocol])


def _static_generation(mapping: StaticMapping) -> int:
    """The same for the same client, so that its sessions outlive a change of config."""
    return zlib.crc32(mapping.client.packed + abi.port_bytes(mapping.client_port)) or 1
