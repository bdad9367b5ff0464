"""The table from which new clients get their gateway node: a consistent hash with weights. Pure.

Rendezvous hashing (Thaler and Ravishankar 1998) with the weights of Schindler and Schomaker (2005):
every entry of the table goes to the gateway that draws the shortest straw for it, of length
-ln(u) / weight. A gateway that goes leaves only its own entries to others; one that comes takes
only what it will have. What it draws depends on its address alone, so all router nodes have the
same table.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import IPv6Address

ENTRIES = 4096
"""TABLE_ENTRIES of the eBPF program."""
NO_GATEWAY = 0xFF
"""In the table: there is none."""
_MOST_KNOWN = 256  # gateways whose draws are kept
_WORDS = struct.Struct(f">{ENTRIES}Q")


def fill(gateways: Mapping[int, tuple[IPv6Address, int]]) -> list[int]:
    """The table for the gateways that take new clients: index, then address and weight.

    Returns ENTRIES indexes; NO_GATEWAY everywhere where there are no gateways.
    """
    best = [math.inf] * ENTRIES
    table = [NO_GATEWAY] * ENTRIES
    # Of equal draws, which hardly are, the lower address wins: wherever the indexes stand.
    for index, (address, weight) in sorted(gateways.items(), key=lambda each: each[1]):
        for entry, straw in enumerate(_straws(address)):
            if (length := straw / weight) < best[entry]:
                best[entry] = length
                table[entry] = index
    return table


@lru_cache(_MOST_KNOWN)
def _straws(address: IPv6Address) -> tuple[float, ...]:
    """What a gateway of weight 1 draws for each entry: exponentially distributed."""
    drawn = hashlib.shake_128(b"nat64-operator steering 1" + address.packed).digest(8 * ENTRIES)
    return tuple(-math.log((word + 1) / 2**64) for word in _WORDS.unpack(drawn))
