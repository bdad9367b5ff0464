"""Bodies of responses: a reply's records, some of them changed.

There are two ways to the same message. `splice` copies the records that stay and corrects the
pointers of compressed names; it works unless a name points at a record that is gone. `Writer`
unpacks and packs every name, for all other replies and for bodies made of several replies.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from typing import NamedTuple

from nat64_dataplane.dns64.message import domain_names, wire
from nat64_dataplane.dns64.message.wire import Record, Reply

_FIXED = Struct("!HHIH")
_MAX_POINTER = 0x3FFF


class Data(NamedTuple):
    """What a record becomes: the owner and the class stay."""

    type: int
    ttl: int
    data: bytes


Changes = Mapping[int, tuple[Data, ...]]
"""By index over answer, authority, additional: what takes the record's place; () drops it."""


class Body(NamedTuple):
    """Records behind a question: with their number in each section, and where their TTLs are."""

    bytes: bytes
    counts: tuple[int, int, int]
    offsets: tuple[int, ...]


class Moved(Exception):  # noqa: N818 -- not an error: the other way is taken
    """A record that stays has a name that points at a record that is gone."""


def compose(reply: Reply, changes: Changes) -> Body:
    """Return the reply's body with its changes. Never raises for a reply that was parsed."""
    try:
        return splice(reply, changes)
    except Moved:
        writer = Writer(reply.question)
        writer.reply(reply, changes)
        return writer.body()


def splice(reply: Reply, changes: Changes) -> Body:
    """Copy the records that stay, and correct the pointers of their compressed names.

    Raises Moved if a name points into something that was left out or replaced.
    """
    message = reply.wire
    first = wire.HEADER_SIZE + len(reply.question)
    if not changes and reply.whole:
        records = reply.records
        offsets = tuple([record.data - 6 - first for record in records])
        return Body(message[first:], reply.counts, offsets)
    parts: list[bytes] = []
    offset_list: list[int] = []
    counts = list(reply.counts)
    size = 0
    shifts = _Shifts(first)
    for index, record in enumerate(reply.records):
        start, data, end = record.start, record.data, record.data + record.length
        replacement = changes.get(index)
        if replacement is None:
            shifts.kept(start, end, size)
            kept = message[start:end]
            offset_list.append(size + data - 6 - start)
            parts.append(shifts.repoint(message, record, kept) if shifts.moves else kept)
            size += end - start
            continue
        counts[_section(reply, index)] += len(replacement) - 1
        owner = message[start : data - 10]
        if shifts.moves:
            owner = shifts.repoint_name(message, start, owner, 0)
        if replacement:
            shifts.kept(start, data - 10, size)
        shifts.moves = True
        for new in replacement:
            fixed = _FIXED.pack(new.type, record.rdclass, new.ttl, len(new.data))
            offset_list.append(size + len(owner) + 4)
            parts += (owner, fixed, new.data)
            size += len(owner) + 10 + len(new.data)
    an, ns, ar = counts
    return Body(b"".join(parts), (an, ns, ar), tuple(offset_list))


def _section(reply: Reply, index: int) -> int:
    if index < len(reply.answer):
        return 0
    return 1 if index < len(reply.answer) + len(reply.authority) else 2


class _Shifts:
    """The old and new places of the parts of a message that were copied."""

    def __init__(self, first: int) -> None:
        self.moves = False
        """Whether anything has moved."""
        self._first = first
        self._kept: list[tuple[int, int, int]] = []

    def kept(self, start: int, end: int, at: int) -> None:
        """Note that the old `start` to `end` is at `at` in the new body."""
        shift = self._first + at - start
        self._kept.append((start, end, shift))
        if shift:
            self.moves = True

    def repoint(self, message: bytes, record: Record, kept: bytes) -> bytes:
        """Return a copied record with correct pointers in its compressed names."""
        start = record.start
        kept = self.repoint_name(message, start, kept, 0)
        before = wire.NAMES_IN_RDATA.get(record.type)
        if before is None or record.rdclass != wire.IN:
            return kept
        at = record.data + before
        kept = self.repoint_name(message, at, kept, at - start)
        if record.type == wire.SOA:
            at = wire.skip_name(message, at)
            kept = self.repoint_name(message, at, kept, at - start)
        return kept

    def repoint_name(self, message: bytes, at: int, kept: bytes, offset: int) -> bytes:
        """Return `kept`, in which the name at `at` is at `offset`, with its pointer right."""
        start = at
        while length := message[at]:
            if length < 192:
                at += length + 1
                continue
            target = (length & 63) << 8 | message[at + 1]
            if target < self._first:
                return kept
            pointer = self._target(target)
            place = offset + at - start
            return kept[:place] + (0xC000 | pointer).to_bytes(2, "big") + kept[place + 2 :]
        return kept

    def _target(self, target: int) -> int:
        for start, end, shift in self._kept:
            if start <= target < end and target + shift <= _MAX_POINTER:
                return target + shift
        raise Moved


class Writer:
    """Writes records behind a question, and compresses names against those already written."""

    def __init__(self, question: bytes) -> None:
        self._out = bytearray()
        self._first = wire.HEADER_SIZE + len(question)
        self._counts = [0, 0, 0]
        self._offsets: list[int] = []
        self._names: dict[bytes, int] = {}
        self._learn(question[:-4].lower(), wire.HEADER_SIZE)

    def body(self) -> Body:
        """Return what was written."""
        an, ns, ar = self._counts
        return Body(bytes(self._out), (an, ns, ar), tuple(self._offsets))

    def reply(self, reply: Reply, changes: Changes | None = None) -> None:
        """Write a reply's records, changed, each into the section where it was."""
        for index, record in enumerate(reply.records):
            owner = domain_names.expand_name(reply.wire, record.start)
            section = _section(reply, index)
            replacement = changes.get(index) if changes else None
            if replacement is None:
                kept = Data(record.type, record.ttl, reply.data(record))
                names = _names_in(reply, record)
                self.record(section, owner, kept, names, rdclass=record.rdclass)
                continue
            for new in replacement:
                self.record(section, owner, new, rdclass=record.rdclass)

    def record(
        self,
        section: int,
        owner: bytes,
        new: Data,
        names: tuple[bytes, bytes, bytes, bytes] | None = None,
        *,
        rdclass: int = wire.IN,
    ) -> None:
        """Write one record. `names` is its data in parts: before, name, name, after."""
        self._name(owner)
        self._offsets.append(len(self._out) + 4)
        fixed = len(self._out)
        self._out += _FIXED.pack(new.type, rdclass, new.ttl, 0)
        start = len(self._out)
        if names is None:
            self._out += new.data
        else:
            before, first, second, after = names
            self._out += before
            for name in filter(None, (first, second)):
                self._name(name, pack=new.type not in (wire.SRV, wire.DNAME))  # RFC 2782, RFC 6672
            self._out += after
        self._out[fixed + 8 : fixed + 10] = (len(self._out) - start).to_bytes(2, "big")
        self._counts[section] += 1

    def _name(self, name: bytes, *, pack: bool = True) -> None:
        key = name.lower()
        at = 0
        while name[at]:
            known = self._names.get(key[at:]) if pack else None
            if known is not None:
                self._learn(key, self._first + len(self._out), known_from=at)
                self._out += name[:at] + (0xC000 | known).to_bytes(2, "big")
                return
            at += name[at] + 1
        self._learn(key, self._first + len(self._out))
        self._out += name

    def _learn(self, key: bytes, offset: int, known_from: int | None = None) -> None:
        at = 0
        while key[at] and at != known_from and offset + at <= _MAX_POINTER:
            self._names.setdefault(key[at:], offset + at)
            at += key[at] + 1


def _names_in(reply: Reply, record: Record) -> tuple[bytes, bytes, bytes, bytes] | None:
    before = wire.NAMES_IN_RDATA.get(record.type)
    if before is None or record.rdclass != wire.IN:
        return None
    at = record.data + before
    first, second, after = domain_names.expand_name(reply.wire, at), b"", b""
    if record.type == wire.SOA:
        at = wire.skip_name(reply.wire, at)
        second = domain_names.expand_name(reply.wire, at)
        after = reply.wire[wire.skip_name(reply.wire, at) : record.data + record.length]
    return reply.wire[record.data : record.data + before], first, second, after
