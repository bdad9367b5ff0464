"""Bitmaps of the ports of pool addresses: the ports that the programs may use. Pure.

A block is 4096 ports of one address. The ports of static mappings are not in the bitmaps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address
from typing import NamedTuple

from nat64_dataplane.translator.datapath import abi
from nat64_dataplane.translator.host_view import PoolRange

Blocks = dict[tuple[IPv4Address, int], bytes]
"""(address, block) to its bitmap, the lowest port in the lowest bit of the first byte."""


class PoolUsage(NamedTuple):
    """How full one pool address is, for one protocol."""

    address: IPv4Address
    protocol: str
    used: int
    available: int
    """Ports that the pools have here, used ones included."""


def usable(pool: Iterable[PoolRange], static: Iterable[tuple[IPv4Address, int]]) -> Blocks:
    """Return the blocks with every port that a pool holds and no static mapping has."""
    bits: dict[tuple[IPv4Address, int], int] = {}
    for address, first, last, _ in pool:
        for block in range(first // abi.PORTS_PER_BLOCK, last // abi.PORTS_PER_BLOCK + 1):
            base = block * abi.PORTS_PER_BLOCK
            low, high = max(first - base, 0), min(last - base, abi.PORTS_PER_BLOCK - 1)
            mask = (1 << high + 1) - (1 << low)
            bits[address, block] = bits.get((address, block), 0) | mask
    for address, port in static:
        block, bit = divmod(port, abi.PORTS_PER_BLOCK)
        if (address, block) in bits:
            bits[address, block] &= ~(1 << bit)
    return {place: _words(value) for place, value in bits.items()}


def _words(value: int) -> bytes:
    """The bitmap as the programs read it: 64-bit words in the machine's order."""
    mask = (1 << 64) - 1
    return b"".join(
        abi.PORT_WORD.pack(value >> 64 * index & mask) for index in range(abi.PORT_WORDS)
    )


def count(bitmap: bytes, within: bytes) -> int:
    """How many bits are set in both."""
    return (int.from_bytes(bitmap, "little") & int.from_bytes(within, "little")).bit_count()


def taken_key(address: IPv4Address, protocol: int, block: int) -> bytes:
    """The key of what is taken of a block."""
    return abi.PORT_BLOCK_KEY.pack(address.packed, abi.PORTS_TAKEN, protocol, block, 0)


def usable_key(address: IPv4Address, slot: int, block: int) -> bytes:
    """The key of what a config slot lets be taken of a block."""
    return abi.PORT_BLOCK_KEY.pack(address.packed, abi.PORTS_USABLE + slot, 0, block, 0)


def split_key(key: bytes) -> tuple[IPv4Address, int, int, int]:
    """Address, kind, protocol and block of a key."""
    address, kind, protocol, block, _ = abi.PORT_BLOCK_KEY.unpack(key)
    return IPv4Address(address), kind, protocol, block


def usage(items: Iterable[tuple[bytes, bytes]], slot: int) -> Iterator[PoolUsage]:
    """Count, per address and protocol, from the items of the map."""
    within: dict[tuple[IPv4Address, int], bytes] = {}
    taken: dict[tuple[IPv4Address, int], list[tuple[int, bytes]]] = {}
    for key, value in items:
        address, kind, protocol, block = split_key(key)
        if kind == abi.PORTS_USABLE + slot:
            within[address, block] = value
        elif kind == abi.PORTS_TAKEN:
            taken.setdefault((address, protocol), []).append((block, value))
    nothing = bytes(abi.PORT_BLOCK_SIZE)
    for address, protocol in sorted(taken):
        blocks = [
            (bitmap, within.get((address, block), nothing))
            for block, bitmap in taken[address, protocol]
        ]
        available = sum(count(usable_bits, usable_bits) for _, usable_bits in blocks)
        if available:
            used = sum(count(bitmap, usable_bits) for bitmap, usable_bits in blocks)
            yield PoolUsage(address, abi.PROTOCOL_NAMES[protocol], used, available)
