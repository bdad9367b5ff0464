"""The translator in the kernel: loaded, pinned, configured, read and swept.

State lives in the kernel. A Datapath is a handle on it: closing one, or dying with it open,
changes nothing for packets.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Address
from pathlib import Path
from typing import Literal, Self, get_args

from nat64_dataplane.bpf import OBJECT, Map, Object, Program
from nat64_dataplane.config import Config, Limits
from nat64_dataplane.translator.datapath import (
    abi,
    arp,
    config_slot,
    counters,
    pinned_maps,
    pod_links,
    port_bitmap,
    zone_table,
)
from nat64_dataplane.translator.datapath.abi import BibEntry, Session, SweepResult
from nat64_dataplane.translator.datapath.config_slot import DatapathError
from nat64_dataplane.translator.datapath.port_bitmap import PoolUsage
from nat64_dataplane.translator.datapath.slot_writer import SlotWriter
from nat64_dataplane.translator.datapath.sweeper import Sweeper
from nat64_dataplane.translator.datapath.topology_maps import TopologyMaps
from nat64_dataplane.translator.host_view import ArpAnswer, HostView

Hook = Literal[
    "nat64_egress",
    "nat64_ingress",
    "nat64_offload",
    "nat64_steer",
    "nat64_steer_offload",
    "nat64_encap",
    "nat64_decap",
]
HOOKS: tuple[Hook, ...] = get_args(Hook)
SWEEP, ANNOUNCE, ADOPT = "nat64_sweep", "nat64_announce", "nat64_adopt"
PROGRAMS = (*HOOKS, SWEEP, ANNOUNCE, ADOPT)

ZERO, _U32 = abi.U32.pack(0), 0xFFFFFFFF
PORT_REST = 120
"""Seconds that a port rests after its last session, so that late packets don't reach a stranger
(RFC 6888 REQ-8); not where ports are scarce. Its own client has it back at any time."""

__all__ = ["BibEntry", "Datapath", "DatapathError", "PoolUsage", "Session", "SweepResult"]


class Datapath:
    """One translator instance's programs and maps."""

    def __init__(self, programs: dict[str, Program], maps: dict[str, Map], directory: Path | None):
        self._programs = programs
        self._maps = maps
        # Who only looks at pinned maps has no programs.
        self._sweeper = Sweeper(maps, programs[SWEEP]) if programs else None
        self.topology = TopologyMaps(maps, self.now, self.note_route_change)
        self.directory = directory
        """Where everything is pinned; None for one that goes when it is closed."""

    @classmethod
    def open(cls, pin_root: Path | None, name: str, limits: Limits) -> Self:
        """Load the programs; take over pinned maps of the same ABI, pin what is new.

        Raises BpfError (VerifierError, PinMismatchError) with what the kernel said. Without
        `pin_root` nothing is pinned.
        """
        with Object(OBJECT) as loaded:
            for map_name, entries in pinned_maps.sizes(limits).items():
                loaded.resize(map_name, entries)
            directory = pin_root / name / pinned_maps.abi_hash(loaded.layouts) if pin_root else None
            reused = pinned_maps.reuse_all(loaded, directory) if directory else set()
            loaded.load()
            maps = {map_name: loaded.map(map_name) for map_name in loaded.layouts}
            programs = {hook: loaded.program(hook) for hook in PROGRAMS}
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

    @property
    def maps(self) -> Mapping[str, Map]:
        """All maps by their names in the kernel program."""
        return self._maps

    def map(self, name: str) -> Map:
        """A map by its name in the kernel program."""
        return self._maps[name]

    def apply(self, config: Config, host: HostView) -> None:
        """Let packets follow `config` from one instant on; keep every session that still fits.

        The inactive slot is filled first. Raises DatapathError or BpfError before the switch,
        and then nothing has changed for packets.
        """
        active, routes, offset = self._control()
        slot = (active + 1) % abi.CONFIG_SLOTS
        # New maps begin anywhere: sessions taken along from others are to be checked again, too.
        epoch = (self._epoch(active) or secrets.randbelow(0xFFFF)) % 0xFFFF + 1
        known = zone_table.read(self._maps["zones"])
        built = config_slot.build(config, host, slot, epoch, known)
        zone_of = zone_table.of_address(host.pool, built.zones)
        writer = SlotWriter(self._maps, slot)
        writer.clear()
        writer.fill(built)
        writer.add_statics(config.static_mappings, zone_of, self.now())
        self._maps["config"].set(abi.U32.pack(slot), built.config)
        self._maps["control"].set(ZERO, abi.CONTROL.pack(slot, (routes + 1) & _U32, offset))
        # From here on packets follow the new config; the rest is tidying up.
        arp.follow(self._maps, host.arp_answers)
        writer.drop_statics_but(config.static_mappings)
        writer.drop_uplinks_but(built)
        if self._has_state():
            self._sweep(state=True, purge=True)
        # What clients held of the static mappings' ports is purged now.
        writer.add_statics(config.static_mappings, zone_of, self.now())
        zone_table.forget_but(self._maps["zones"], built.zone_keys)
        writer.drop_idle_blocks()

    def announce(self, answers: Iterable[ArpAnswer]) -> None:
        """Tell the neighbours on the uplinks where pool addresses are. Raises BpfError."""
        arp.announce(self._programs[ANNOUNCE], answers)

    def follow_pod_links(
        self, links: frozenset[int], straight: frozenset[int] = frozenset()
    ) -> None:
        """Have the programs know which links lead to one pod each, by interface index, and by which
        of these they may put packets straight into the pod, for STRAIGHT_SECONDS from now.

        Apart from `apply`, as pods come and go: no session needs to be checked again for that.
        """
        if pod_links.follow(self._maps["pod_links"], links, straight, self.now()):
            self.note_route_change()  # what was found about a link is noted for a second

    def applied_hash(self) -> str | None:
        """The content hash of the config that packets follow, whoever applied it."""
        active, _, _ = self._control()
        packed = self._value("config", abi.U32.pack(active))
        return abi.CONFIG.unpack(packed)[-1].rstrip(b"\0").decode() or None

    def counters(self) -> dict[str, int]:
        """Every counter as `NAME_DIRECTION`, as in `received_6to4`, `dropped_filtered_4to6`."""
        return counters.read(self._value("counters"))

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

    def unanswered(self) -> dict[IPv4Address, int]:
        """TCP connections opened since a reply last came back, by the zone's name."""
        counted = abi.SHARED.unpack(self._value("shared"))[-abi.MAX_ZONES :]
        known = zone_table.read(self._maps["zones"])
        names = {which: name for name, which in sorted(known.items())}
        return {name: counted[which] for which, name in names.items()}

    def session_limit(self) -> int:
        """How many sessions there may be."""
        return self._maps["sessions"].layout.max_entries

    def usage(self) -> list[PoolUsage]:
        """Ports used and available, per pool address and protocol."""
        active, _, _ = self._control()
        return list(port_bitmap.usage(self._maps["ports"].items(), active))

    def resting_ports(self) -> dict[str, int]:
        """Ports of closed TCP connections, by protocol: taken, and given back when needed."""
        closed = sum(abi.SHARED.unpack(self._value("shared"))[abi.SHARED_CLOSED])
        return {name: closed if name == "tcp" else 0 for name in abi.PROTOCOLS}

    def sweep(self) -> SweepResult:
        """Take away all that has expired, resting in between; up to a minute for full tables."""
        assert self._sweeper, "opened without programs"
        return self._sweeper.finish(self.begin_sweep(), self.now)

    def begin_sweep(self) -> SweepResult:
        """Visit all entries. Harmless at any time and from several processes.

        Takes some 600 ns an entry, in short runs; what may not go yet is for `go_on_sweeping`.
        """
        return self._sweep(state=self._has_state())

    def go_on_sweeping(self) -> SweepResult:
        """Remove a burst of what the sweep has left, and count that. BREAK until the next one."""
        assert self._sweeper, "opened without programs"
        return self._sweeper.go_on(self.now())

    @property
    def longest_sweep_run(self) -> int:
        """Nanoseconds for which a sweep has held a CPU at most since this was opened."""
        assert self._sweeper, "opened without programs"
        return self._sweeper.longest_run

    def now(self) -> int:
        """The programs' clock, in seconds."""
        _, _, offset = self._control()
        return (time.clock_gettime_ns(time.CLOCK_MONOTONIC) + offset) % 2**64 // 10**9

    def travel(self, seconds: int) -> None:
        """Move the programs' clock forward: for tests of what takes minutes."""
        active, routes, offset = self._control()
        there = (offset + seconds * 10**9) % 2**64
        self._maps["control"].set(ZERO, abi.CONTROL.pack(active, routes, there))

    def note_route_change(self) -> None:
        """Have every packet look for its route anew."""
        active, routes, offset = self._control()
        self._maps["control"].set(ZERO, abi.CONTROL.pack(active, (routes + 1) & _U32, offset))

    def prune(self) -> list[Path]:
        """Unpin what other ABIs have left of this instance; return what that was."""
        return pinned_maps.remove_others(self.directory) if self.directory else []

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

    def _value(self, name: str, key: bytes = ZERO) -> bytes:
        """Of an array, which has every entry."""
        value = self._maps[name].get(key)
        assert value is not None
        return value

    def _control(self) -> tuple[int, int, int]:
        active, routes, offset = abi.CONTROL.unpack(self._value("control"))
        return active % abi.CONFIG_SLOTS, routes, offset

    def _epoch(self, slot: int) -> int:
        return int(abi.CONFIG.unpack(self._value("config", abi.U32.pack(slot)))[abi.CONFIG_EPOCH])

    def _has_state(self) -> bool:
        """Whether there is any binding or client, live or not."""
        return any(
            self._maps[name].first_key() is not None for name in ("bib4", "sessions", "clients")
        )

    def _has_ports_to_spare(self) -> bool:
        """Whether every pool address has half its ports free, for each protocol."""
        return all(2 * usage.used <= usage.available for usage in self.usage())

    def _sweep(self, *, state: bool, purge: bool = False) -> SweepResult:
        assert self._sweeper, "opened without programs"
        hold = PORT_REST if state and self._has_ports_to_spare() else 0
        return self._sweeper.sweep(state=state, hold=hold, purge=purge)
