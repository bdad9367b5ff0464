"""What the maps must agree on whenever no packet is under way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from nat64_dataplane.translator.datapath import abi, port_bitmap
from nat64_dataplane.translator.datapath.abi import SessionFlag
from nat64_dataplane.translator.datapath.datapath import Datapath

_INDEX = {abi.TCP: 0, abi.UDP: 1, abi.ICMP: 2}
_ZERO = abi.U32.pack(0)
_SHARED_PORTS = slice(2, 2 + 3 * abi.MAX_ZONES)
_SHARED_CLOSED = slice(_SHARED_PORTS.stop, _SHARED_PORTS.stop + abi.MAX_ZONES)
_SHARED_LENT = _SHARED_CLOSED.stop + 2
"""Of the words of `struct shared`."""


def broken(datapath: Datapath, mapped: bytes = b"") -> list[str]:
    """Every rule that the maps break, in words. Empty where all is well.

    `mapped`: the bib6 key of a client's port that has had a static mapping. That takes the place of
    what was bound before, which then ends with its sessions.
    """
    return [*_bindings(datapath, mapped), *_sessions(datapath), *_counts(datapath)]


def _bindings(datapath: Datapath, mapped: bytes) -> Iterator[str]:
    """Each binding holds its port's bit and is found from the IPv6 side, and nothing else is."""
    bound, ways = set(), dict(datapath.map("bib6").items())
    ways.pop(mapped, None)
    for key, value in datapath.map("bib4").items():
        address, port, protocol = abi.BIB4_KEY.unpack(key)
        client, client_port, flags, zone, *_ = abi.BIB4.unpack(value)
        way_key = abi.BIB6_KEY.pack(client, client_port, protocol, zone)
        way = ways.pop(way_key, None)
        if way_key == mapped:
            pass
        elif way is None:
            yield f"binding {key.hex()} has no bib6 entry"
        elif abi.BIB6.unpack(way)[:2] != (address, port):
            yield f"binding {key.hex()} has the bib6 entry of another"
        if not flags & abi.BIB_STATIC:
            bound.add((address, protocol, int.from_bytes(port, "big")))
    yield from (f"bib6 entry {key.hex()} has no binding" for key in ways)
    taken = set(_taken(datapath))
    yield from (f"port {port} is taken by no binding" for port in sorted(taken - bound))
    yield from (f"port {port} is bound and not taken" for port in sorted(bound - taken))


def _taken(datapath: Datapath) -> Iterator[tuple[bytes, int, int]]:
    for key, value in datapath.map("ports").items():
        address, kind, protocol, block = port_bitmap.split_key(key)
        bits = int.from_bytes(value, "little") if kind == abi.PORTS_TAKEN else 0
        while bits:
            lowest = (bits & -bits).bit_length() - 1
            yield address.packed, protocol, block * abi.PORTS_PER_BLOCK + lowest
            bits &= bits - 1


def _sessions(datapath: Datapath) -> Iterator[str]:
    """Each session that lives has its binding, which lives as long and knows how many it has."""
    now = datapath.now()
    bib4 = {key: abi.BIB4.unpack(value) for key, value in datapath.map("bib4").items()}
    using: Counter[tuple[bytes, int]] = Counter()
    lent = set()
    for key, value in datapath.map("sessions").items():
        pool, remote, pool_port, remote_port, protocol = abi.SESSION_KEY.unpack(key)
        client, client_port, flags, zone, generation, expires, *_ = abi.SESSION.unpack(value)
        if not expires:
            yield f"session {key.hex()} was left half removed"
        if flags & SessionFlag.OVERLOAD:
            lent.add((client, remote, client_port, remote_port, pool, pool_port))
        if flags & (SessionFlag.OVERLOAD | SessionFlag.CONTACT):
            continue
        name = abi.BIB4_KEY.pack(pool, pool_port, protocol)
        using[name, generation] += 1
        if expires <= now:
            continue
        binding = bib4.get(name)
        if binding is None:
            yield f"session {key.hex()} has no binding, {SessionFlag(flags)!r}"
        elif binding[:2] + binding[3:5] != (client, client_port, zone, generation):
            yield f"session {key.hex()} has a binding of another"
        elif binding[5] < expires and flags & SessionFlag.CONFIRMED:
            yield f"session {key.hex()} outlives its binding by {expires - binding[5]} s"
    for name, (_, _, _, _, generation, expires, sessions, *_) in bib4.items():
        if not expires:
            yield f"binding {name.hex()} was left half removed"
        if sessions != using[name, generation]:
            yield f"binding {name.hex()} counts {sessions} of {using[name, generation]} sessions"
    noted = {
        abi.OVERLOAD_KEY.unpack(key) + abi.OVERLOAD.unpack(value)
        for key, value in datapath.map("overloads").items()
    }
    yield from (f"lent port of {entry} isn't found from IPv6" for entry in lent - noted)
    yield from (f"lent port of {entry} has no session" for entry in noted - lent)


def _counts(datapath: Datapath) -> Iterator[str]:
    """What is counted of each client and of all is what there is."""
    holds: dict[bytes, Counter[str | int]] = {}
    taken_in: Counter[tuple[int, int]] = Counter()
    closed_in: Counter[int] = Counter()
    sessions = bindings = 0
    for key, value in datapath.map("bib4").items():
        client, _, flags, zone, *_ = abi.BIB4.unpack(value)
        if not flags & abi.BIB_STATIC:
            bindings += 1
            index = _INDEX[abi.BIB4_KEY.unpack(key)[2]]
            holds.setdefault(client, Counter()).update(["ports", index])
            taken_in[zone, index] += 1
    for _, value in datapath.map("sessions").items():
        client, _, flags, zone, _, _, state, *_ = abi.SESSION.unpack(value)
        if flags & SessionFlag.CONTACT:
            continue
        sessions += 1
        mine = holds.setdefault(client, Counter())
        if state & abi.TCP_SHUT:
            mine["closed"] += not flags & SessionFlag.OVERLOAD
            closed_in[zone] += not flags & SessionFlag.OVERLOAD
        elif not flags & SessionFlag.INBOUND:
            mine["sessions"] += 1
    for client, value in datapath.map("clients").items():
        held, *counted, closed = abi.CLIENT.unpack(value)[:5]
        mine = holds.pop(client, Counter())
        found = [held & 0xFFFFFFFF, held >> 32, *counted, closed]
        right = [mine["sessions"], mine["ports"], mine[0], mine[1], mine[2], mine["closed"]]
        if found != right:
            yield f"client {client.hex()} is counted {found}, and holds {right}"
    yield from (f"client {client.hex()} isn't counted" for client, of in holds.items() if +of)
    yield from _totals(datapath, sessions, bindings)
    yield from _of_zones(datapath, taken_in, closed_in)


def _totals(datapath: Datapath, sessions: int, bindings: int) -> Iterator[str]:
    if datapath.session_count() != sessions:
        yield f"session_count is {datapath.session_count()} of {sessions}"
    totals = datapath.counters()
    if (open_ := totals["bindings_opened_6to4"] - totals["bindings_closed_6to4"]) != bindings:
        yield f"bindings opened less closed are {open_} of {bindings}"


def _of_zones(
    datapath: Datapath, taken: Counter[tuple[int, int]], closed: Counter[int]
) -> Iterator[str]:
    value = datapath.map("shared").get(_ZERO)
    assert value is not None
    words = abi.SHARED.unpack(value)
    for zone in range(abi.MAX_ZONES):
        found = list(words[_SHARED_PORTS][3 * zone : 3 * zone + 3])
        right = [taken[zone, index] for index in range(3)]
        if found != right:
            yield f"ports_taken of zone {zone} is {found}, of bindings {right}"
        if words[_SHARED_CLOSED][zone] != closed[zone]:
            count = words[_SHARED_CLOSED][zone]
            yield f"closed of zone {zone} is {count}, of sessions {closed[zone]}"
    lent = len(list(datapath.map("overloads").keys()))
    if words[_SHARED_LENT] != lent:
        yield f"lent is {words[_SHARED_LENT]}, of entries {lent}"
