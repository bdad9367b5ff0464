"""Writes one config slot into the maps, and cleans up after the switch to it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Address

from nat64_dataplane.bpf import Map
from nat64_dataplane.config import StaticMapping
from nat64_dataplane.translator.datapath import abi, port_bitmap, zone_table
from nat64_dataplane.translator.datapath.config_slot import Slot


class SlotWriter:
    """The maps, seen from one slot of the config."""

    def __init__(self, maps: Mapping[str, Map], slot: int) -> None:
        self._maps = maps
        self._slot = slot

    def clear(self) -> None:
        """Empty the slot."""
        for name in ("sources", "destinations"):
            for key in self._maps[name].keys():  # noqa: SIM118  a Map isn't a dict
                if abi.slot_of(key) == self._slot:
                    self._maps[name].delete(key)
        for key, _ in list(self._maps["ports"].items()):
            if port_bitmap.split_key(key)[1] == abi.PORTS_USABLE + self._slot:
                self._maps["ports"].delete(key)

    def fill(self, built: Slot) -> None:
        """Write what the slot is to hold; the config itself comes last, by the caller."""
        first = self._slot * abi.MAX_POOL_RANGES
        self._maps["pool"].set_batch(
            b"".join(abi.U32.pack(first + index) for index in range(len(built.pool))),
            b"".join(built.pool),
        )
        for (address, block), bitmap in built.usable.items():
            self._maps["ports"].set(port_bitmap.usable_key(address, self._slot, block), bitmap)
            for protocol in abi.PROTOCOLS.values():
                self._maps["ports"].add(
                    port_bitmap.taken_key(address, protocol, block), bytes(abi.PORT_BLOCK_SIZE)
                )
        for key, value in built.sources:
            self._maps["sources"].set(key, value)
        for key, value in built.destinations:
            self._maps["destinations"].set(key, value)
        for key, value in built.uplinks.items():
            self._maps["uplinks"].set(key, value)
        zone_table.write(self._maps["zones"], built.zone_keys)

    def drop_idle_blocks(self) -> None:
        """Delete blocks of addresses that no pool has any more and no binding uses."""
        items = dict(self._maps["ports"].items())
        kept = {
            (address, block)
            for address, kind, _, block in map(port_bitmap.split_key, items)
            if kind == abi.PORTS_USABLE + self._slot
        }
        for key, value in items.items():
            address, kind, _, block = port_bitmap.split_key(key)
            if kind == abi.PORTS_TAKEN and (address, block) not in kept and not any(value):
                self._maps["ports"].delete(key)

    def _add_static(self, key: bytes, mapping: StaticMapping, now: int, zone: int) -> None:
        generation = _static_generation(mapping)
        current = self._maps["bib4"].get(key)
        if current:
            _, _, flags, found_in, held_by, *_ = abi.BIB4.unpack(current)
            if not flags & abi.BIB_STATIC or (held_by, found_in) == (generation, zone):
                return
        protocol = abi.PROTOCOLS[mapping.protocol]
        self._maps["bib4"].set(
            key,
            abi.BIB4.pack(
                mapping.client.packed,
                abi.port_bytes(mapping.client_port),
                abi.BIB_STATIC,
                zone,
                generation,
                0xFFFFFFFF,
                0,
                now,
                0,
            ),
        )
        self._maps["bib6"].set(
            abi.bib6_key(mapping.client, mapping.client_port, protocol, zone),
            abi.bib6(mapping.address.packed, abi.port_bytes(mapping.port)),
        )

    def add_statics(
        self, mappings: Iterable[StaticMapping], zone_of: Callable[[IPv4Address], int], now: int
    ) -> None:
        """Bind the static mappings that aren't bound yet and whose ports no client holds.

        The program that runs can alone take a port from a client: see the purge of a sweep. So this
        is called before it and after it.
        """
        for mapping in mappings:
            self._add_static(_static_key(mapping), mapping, now, zone_of(mapping.address))

    def drop_statics_but(self, mappings: Iterable[StaticMapping]) -> None:
        """Delete static mappings of former configs."""
        wanted = {_static_key(mapping) for mapping in mappings}
        stale = [
            (key, value)
            for key, value in self._maps["bib4"].items()
            if abi.BIB4.unpack(value)[2] & abi.BIB_STATIC and key not in wanted
        ]
        for key, value in stale:
            client, client_port, _, zone, *_ = abi.BIB4.unpack(value)
            protocol = abi.BIB4_KEY.unpack(key)[2]
            self._maps["bib6"].delete(abi.BIB6_KEY.pack(client, client_port, protocol, zone))
            self._maps["bib4"].delete(key)

    def drop_uplinks_but(self, built: Slot) -> None:
        """Delete uplinks of former configs."""
        for key in set(self._maps["uplinks"].keys()) - built.uplinks.keys():
            self._maps["uplinks"].delete(key)


def _static_key(mapping: StaticMapping) -> bytes:
    return abi.bib4_key(mapping.address, mapping.port, abi.PROTOCOLS[mapping.protocol])


def _static_generation(mapping: StaticMapping) -> int:
    """The same for the same client, so that its sessions outlive a change of config."""
    return zlib.crc32(mapping.client.packed + abi.port_bytes(mapping.client_port)) or 1
