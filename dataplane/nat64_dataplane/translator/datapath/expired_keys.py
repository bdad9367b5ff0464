"""Finds expired entries of a table by reading it, which delays no packet."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import compress

from nat64_dataplane.bpf import Map
from nat64_dataplane.translator.datapath import abi
from nat64_dataplane.translator.datapath.abi import SweepTable

_EXPIRES = {SweepTable.BINDINGS: 24, SweepTable.SESSIONS: 24}
"""Where `expires` is in a value. Of other tables the program sees each entry."""


def expired_keys(table: Map, kind: SweepTable, now: int, hold: int) -> Iterator[bytes]:
    """Keys of entries that may have expired, at most a chunk of `sweep_keys` at a time.

    Yields empty bytes for each block of the table without one, so that the caller can rest. `now`
    is the programs' clock; a binding expires for good `hold` seconds after it has ended.
    """
    size = table.layout.key_size
    step = abi.SWEEP_CHUNK * size
    before = now - (hold if kind is SweepTable.BINDINGS else 0)
    for keys, values in table.batches():
        found = keys
        if (offset := _EXPIRES.get(kind)) is not None:
            words = memoryview(values).cast("I")
            expiries = words[offset // 4 :: table.layout.value_size // 4].tolist()
            each = (keys[start : start + size] for start in range(0, len(keys), size))
            found = b"".join(compress(each, (expires <= before for expires in expiries)))
        if not found:
            yield b""
        for start in range(0, len(found), step):
            yield found[start : start + step]
