"""The map `pod_links`: the links that lead to one pod each, and those that packets may skip."""

from __future__ import annotations

from nat64_dataplane.bpf import Map
from nat64_dataplane.translator.datapath import abi

STRAIGHT_SECONDS = 30
"""For so long packets go straight into a pod without an agent that watches its link."""

_RENEWED_BEFORE = 20
_NEVER = 0


def follow(table: Map, links: frozenset[int], straight: frozenset[int], now: int) -> bool:
    """Bring the map in line. Returns whether notes of packets are out of date now.

    `straight` are those of `links`, by interface index, by which packets may go straight into the
    pod. `now` is a second of the programs' clock. Raises BpfError.
    """
    known = {abi.U32.unpack(key)[0]: abi.U32.unpack(value)[0] for key, value in table.items()}
    outdated = known.keys() != links
    for index in known.keys() - links:
        table.delete(abi.U32.pack(index))
    kept = known.keys() & links
    new = sorted(links - kept)[: table.layout.max_entries - len(kept)]
    for index in (*kept, *new):
        before = known.get(index)
        until = now + STRAIGHT_SECONDS if index in straight else _NEVER
        if until and before and until - before < STRAIGHT_SECONDS - _RENEWED_BEFORE:
            continue  # it was renewed not long ago
        if until != before:
            table.set(abi.U32.pack(index), abi.U32.pack(until))
            outdated |= until == _NEVER
    return outdated
