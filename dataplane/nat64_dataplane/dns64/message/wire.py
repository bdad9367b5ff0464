"""DNS messages as bytes (RFC 1035, RFC 6891): read in place, without unpacking.

`Query` has slices of a small message, `Reply` the message and the place of each record. Both are
checked while they are read, so that later passes need not look for the message's end. Names are in
wire format throughout.
"""

from __future__ import annotations

from struct import Struct
from struct import error as StructError  # noqa: N812
from typing import NamedTuple

from nat64_dataplane.dns64.message.edns import Edns, extended_errors, parse_opt, parse_opt_leniently
from nat64_dataplane.dns64.message.malformed import Malformed

HEADER_SIZE = 12
MAX_NAME = 255
QR, AA, TC, RD, RA, AD, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0020, 0x0010
OPCODE_MASK, RCODE_MASK = 0x7800, 0x000F
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED, BADVERS = 0, 1, 2, 3, 4, 5, 16
A, NS, CNAME, SOA, PTR, MX, AAAA, SRV, DNAME, OPT, DS, RRSIG, NSEC, NSEC3, ANY = (
    1, 2, 5, 6, 12, 15, 28, 33, 39, 41, 43, 46, 47, 50, 255,
)  # fmt: skip
IXFR, AXFR = 251, 252
IN = 1
ADDITIONAL = 2
"""The index of the additional section."""

_HEADER = Struct("!6H")
_RECORD = Struct("!HHIH")
_PAIR = Struct("!HH")
_new_record = tuple.__new__  # a third of the time of calling the class

NAMES_IN_RDATA = {NS: 0, CNAME: 0, PTR: 0, DNAME: 0, SOA: 0, MX: 2, SRV: 6}
"""Types whose data holds a name, with the bytes before it. Of these, names may be compressed."""


class Record(NamedTuple):
    """A resource record's place in its message: `start` .. `data + length`."""

    start: int
    type: int
    rdclass: int
    ttl: int
    data: int
    length: int

    @property
    def ttl_at(self) -> int:
        """Offset of the TTL field."""
        return self.data - 6


class Query(NamedTuple):
    """A client's query. Its response repeats `question` byte for byte, letter case included."""

    id: int
    flags: int
    question: bytes
    name: bytes
    """In lower case."""
    type: int
    rdclass: int
    edns: Edns | None

    @property
    def do(self) -> bool:
        """The DNSSEC OK bit (RFC 3225)."""
        return self.edns is not None and self.edns.do

    @property
    def cd(self) -> bool:
        """The checking disabled bit (RFC 4035 section 3.2.2)."""
        return bool(self.flags & CD)

    @property
    def ad(self) -> bool:
        """The AD bit, which in a query asks for AD in the response (RFC 6840 section 5.7)."""
        return bool(self.flags & AD)

    @property
    def opcode(self) -> int:
        """0 for a standard query."""
        return (self.flags & OPCODE_MASK) >> 11


class Reply(NamedTuple):
    """A server's reply, with its records by section. OPT isn't among the additional records."""

    wire: bytes
    flags: int
    question: bytes
    answer: tuple[Record, ...]
    authority: tuple[Record, ...]
    additional: tuple[Record, ...]
    edns: Edns | None
    whole: bool = True
    """Whether nothing else is behind the question: no OPT, nothing left out."""

    @property
    def rcode(self) -> int:
        """The RCODE, extended by EDNS where there is EDNS."""
        return self.flags & RCODE_MASK | (self.edns.rcode if self.edns else 0)

    @property
    def records(self) -> tuple[Record, ...]:
        """All records but OPT, in order."""
        return self.answer + self.authority + self.additional

    @property
    def counts(self) -> tuple[int, int, int]:
        """The number of records in answer, authority and additional section."""
        return len(self.answer), len(self.authority), len(self.additional)

    def data(self, record: Record) -> bytes:
        """The record's data as it stands in the message."""
        return self.wire[record.data : record.data + record.length]

    def errors(self) -> tuple[tuple[int, str], ...]:
        """Extended DNS errors: code and text (RFC 8914)."""
        return tuple(extended_errors(self.edns.options)) if self.edns else ()


def skip_name(wire: bytes, at: int) -> int:
    """Return the offset past the name at `at`. Raises Malformed.

    A compression pointer must point backwards, to a name that is well formed itself, ends before
    the pointer's own and, with the labels before the pointer, is at most 255 bytes long.
    """
    end, total, lowest, bound = 0, 0, at, len(wire)
    try:
        while length := wire[at]:
            if length < 64:
                at += length + 1
                total += length + 1
            elif length >= 192:
                end = end or at + 2
                at = (length & 63) << 8 | wire[at + 1]
                if not HEADER_SIZE <= at < lowest:
                    raise Malformed("a compression pointer that doesn't point backwards")
                lowest, bound = at, lowest
            else:
                raise Malformed("a label of an unknown kind")
            if at >= bound:
                raise Malformed("a name that runs past the end")
            if total >= MAX_NAME:
                raise Malformed("a name longer than 255 bytes")
    except IndexError:
        raise Malformed("a name that runs past the end") from None
    return end or at + 1


def parse_query(wire: bytes) -> Query:
    """Read a client's message. Raises Malformed for what isn't a single, complete question."""
    if len(wire) < HEADER_SIZE:
        raise Malformed("shorter than a header")
    ident, flags, questions, answers, authorities, additionals = _HEADER.unpack_from(wire)
    if flags & QR:
        raise Malformed("a response, not a query")
    if questions != 1 or (not flags & OPCODE_MASK and (answers or authorities)):
        raise Malformed("not exactly one question and nothing else")
    end = _plain_name(wire, HEADER_SIZE)
    if end + 4 > len(wire):
        raise Malformed("a question that runs past the end")
    rdtype, rdclass = _PAIR.unpack_from(wire, end)
    question, name = wire[HEADER_SIZE : end + 4], wire[HEADER_SIZE:end].lower()
    if answers or authorities:  # NOTIFY and UPDATE, which are only refused
        return Query(ident, flags, question, name, rdtype, rdclass, None)
    at, edns = end + 4, None
    for _ in range(additionals):
        start, at = at, skip_name(wire, at)
        if at + 10 > len(wire):
            raise Malformed("a record that runs past the end")
        kind, size, ttl, length = _RECORD.unpack_from(wire, at)
        at += 10 + length
        if kind == OPT:
            if edns is not None or wire[start] != 0 or at > len(wire):
                raise Malformed("not exactly one OPT record, owned by the root")
            edns = parse_opt(size, ttl, wire[at - length : at])
    if at != len(wire):
        raise Malformed("bytes after the last record")
    return Query(ident, flags, question, name, rdtype, rdclass, edns)


def parse_reply(wire: bytes) -> Reply:
    """Read a server's message. Raises Malformed.

    Errors behind the authority section are ignored: bytes after the last record, OPT records out of
    place or after the first, unreadable additional records. A truncated message is only read up to
    its question.
    """
    try:
        return _parse_reply(wire)
    except (IndexError, StructError):
        raise Malformed("a message that ends too early") from None


def _parse_reply(wire: bytes) -> Reply:
    _, flags, questions, *counts = _HEADER.unpack_from(wire)
    if not flags & QR:
        raise Malformed("a query, not a response")
    if questions != 1:
        raise Malformed("not exactly one question")
    known: set[int] = set()
    at = _plain_name(wire, HEADER_SIZE, known) + 4
    if at > len(wire):
        raise Malformed("a question that runs past the end")
    question = wire[HEADER_SIZE:at]
    try:
        sections, end, edns, whole = _read_sections(wire, at, counts, known)
    except (Malformed, IndexError, StructError):
        if not flags & TC:
            raise
        return Reply(wire[:at], flags, question, (), (), (), None)  # asked again over TCP
    answer, authority, additional = sections
    return Reply(wire[:end], flags, question, answer, authority, additional, edns, whole)


def _read_sections(
    wire: bytes, at: int, counts: list[int], known: set[int]
) -> tuple[list[tuple[Record, ...]], int, Edns | None, bool]:
    """Read the records from `at` on. Returns them by section, where they end, what OPT says, and
    whether every record is among them. Raises Malformed, IndexError or StructError.
    """
    size, edns, whole = len(wire), None, True
    sections: list[tuple[Record, ...]] = []
    for section, count in enumerate(counts):
        records: list[Record] = []
        for _ in range(count):
            start = at
            try:
                at = _skip_known(wire, at, known)
                rdtype, rdclass, ttl, length = _RECORD.unpack_from(wire, at)
                data = at + 10
                at = data + length
                if at > size:
                    raise Malformed("a record's data that runs past the end")
            except (Malformed, IndexError, StructError):
                if section != ADDITIONAL:
                    raise
                at, whole = start, False  # the place of the next record is unknown too
                break
            if rdtype == OPT:
                whole = False
                if edns is None and section == ADDITIONAL:
                    edns = parse_opt_leniently(rdclass, ttl, wire[data:at])
                continue
            if rdclass == IN:
                try:
                    _check_data(wire, rdtype, data, at, known)
                except (Malformed, IndexError, StructError):
                    if section != ADDITIONAL:
                        raise
                    whole = False
                    continue
            if ttl >> 31:  # RFC 2181 section 8: the top bit set counts as zero
                ttl = 0
            records.append(_new_record(Record, (start, rdtype, rdclass, ttl, data, length)))
        sections.append(tuple(records))
    return sections, at, edns, whole


def _skip_known(wire: bytes, at: int, known: set[int]) -> int:
    """Skip a name, at once where it is a pointer to one that was found good before."""
    if wire[at] >= 192 and ((wire[at] & 63) << 8 | wire[at + 1]) in known:
        return at + 2
    end = skip_name(wire, at)
    known.add(at)
    return end


def _plain_name(wire: bytes, at: int, known: set[int] | None = None) -> int:
    """Skip a name without compression, as a question's must be; `known` learns its labels."""
    start = at
    try:
        while length := wire[at]:
            if length > 63:
                raise Malformed("a compressed question")
            if known is not None:
                known.add(at)
            at += length + 1
    except IndexError:
        raise Malformed("a name that runs past the end") from None
    if at + 1 - start > MAX_NAME:
        raise Malformed("a name longer than 255 bytes")
    return at + 1


def _check_data(wire: bytes, rdtype: int, data: int, end: int, known: set[int]) -> None:
    if rdtype in (A, AAAA):
        if end - data != (4 if rdtype == A else 16):
            raise Malformed("an address of the wrong length")
    elif (before := NAMES_IN_RDATA.get(rdtype)) is not None:
        at = _skip_known(wire, data + before, known)
        if rdtype == SOA:
            at = _skip_known(wire, at, known) + 20
        if at != end:
            raise Malformed("a name in a record's data that doesn't fit it")
