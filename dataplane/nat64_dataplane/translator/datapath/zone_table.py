"""Zones by number: each way out's part of the pools, as the programs index it.

A zone is named by the source address of its way out (zones.h). Its number is part of bindings'
keys, so it stays the same for as long as the address is there, across configs and restarts: the
map `zones` remembers it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Address

from nat64_dataplane.bpf import Map
from nat64_dataplane.translator.datapath import abi, port_bitmap
from nat64_dataplane.translator.host_view import ANY_SOURCE, PoolRange

Zones = dict[IPv4Address, int]
"""The name of each zone, and its number, below abi.MAX_ZONES."""


def number(pool: Iterable[PoolRange], known: Zones) -> Zones:
    """Number the zones of `pool`: as known, the new ones by what is free.

    What finds no number any more is left out: it counts as the first zone.
    """
    pool = tuple(pool)
    names = list(dict.fromkeys(each.zone for each in pool))
    found = {name: known[name] for name in names if name in known}
    for name, address in _first_addresses(pool).items():
        # A zone of dedicated addresses is named by the node's own, which may change.
        if name not in found and address in known and known[address] not in found.values():
            found[name] = known[address]
    if names and names[0] not in found and (renamed := _former_name(pool, names, known)):
        found[names[0]] = known[renamed]
    free = [each for each in range(abi.MAX_ZONES) if each not in known.values()]
    # A number that has just become free still stands in bindings that aren't purged yet.
    gone = {n for name, n in known.items() if name not in names and n not in found.values()}
    free += sorted(gone)
    for name in names:
        if name not in found and free:
            found[name] = free.pop(0)
    return found


def _former_name(
    pool: tuple[PoolRange, ...], names: list[IPv4Address], known: Zones
) -> IPv4Address | None:
    """What the first zone was called before, if only its name has changed.

    Its name is that of the node's address, or ANY_SOURCE where it has pools that don't depend on
    that address. Bindings must outlive such a pool's coming and going.
    """
    rest = names[0]
    gone = known.keys() - set(names)
    if rest != ANY_SOURCE:
        return ANY_SOURCE if ANY_SOURCE in gone else None
    return next((each.address for each in pool if each.zone == rest and each.address in gone), None)


def _first_addresses(pool: Iterable[PoolRange]) -> dict[IPv4Address, IPv4Address]:
    """The first pool address of each zone, by the zone's name."""
    found: dict[IPv4Address, IPv4Address] = {}
    for each in pool:
        found.setdefault(each.zone, each.address)
    return found


def keys(pool: Iterable[PoolRange], zones: Zones) -> Zones:
    """What the kernel is to know the zones by: their names, and their first addresses."""
    firsts = _first_addresses(pool)
    return {firsts[name]: which for name, which in zones.items()} | zones


def default(pool: Iterable[PoolRange], zones: Zones) -> int:
    """The number of the zone that stands for all ways that have none of their own."""
    return next((zones[each.zone] for each in pool if each.zone in zones), 0)


def of_address(pool: tuple[PoolRange, ...], zones: Zones) -> Callable[[IPv4Address], int]:
    """Return what tells the zone of a pool address."""
    rest = default(pool, zones)
    found = {each.address: zones.get(each.zone, rest) for each in pool}
    return lambda address: found.get(address, rest)


def ranges(
    pool: tuple[PoolRange, ...],
    zones: Zones,
    usable: port_bitmap.Blocks,
    links: Mapping[IPv4Address, tuple[int, ...]],
) -> bytes:
    """The array of `struct zone`, which stands in the config."""
    found = [abi.ZONE.pack(0, 0, 0, 0)] * abi.MAX_ZONES
    for name, which in zones.items():
        places = [index for index, each in enumerate(pool) if each.zone == name]
        addresses = {pool[index].address for index in places}
        ports = sum(
            port_bitmap.count(bits, bits)
            for (address, _), bits in usable.items()
            if address in addresses
        )
        by = links.get(name, (0,))
        link = by[0] if len(by) == 1 else abi.MANY_LINKS
        found[which] = abi.ZONE.pack(places[0], len(places), ports, link)
    return b"".join(found)


def read(table: Map) -> Zones:
    """The zones that there are in the kernel."""
    return {IPv4Address(key): abi.U32.unpack(value)[0] for key, value in table.items()}


def write(table: Map, zones: Zones) -> None:
    """Have the kernel know these."""
    for name, which in zones.items():
        table.set(name.packed, abi.U32.pack(which))


def forget_but(table: Map, zones: Zones) -> None:
    """Have it know only these: nothing uses the numbers of the others any more."""
    for name in read(table).keys() - zones.keys():
        table.delete(name.packed)
