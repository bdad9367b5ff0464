"""The usual replies, read and turned into an answer in one pass over their bytes.

`wire.parse_reply` and `compose.splice` do the same in two passes for any reply. This module handles
replies of addresses and aliases, with name servers and their addresses beside them, and returns
None for every other reply, good or bad. A test compares it with the other two.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from struct import error as StructError  # noqa: N812

from nat64_dataplane.dns64.message import wire
from nat64_dataplane.dns64.message.answer import SUCCESS, Answer
from nat64_dataplane.dns64.message.malformed import Malformed

_COUNTS = Struct("!3H")
_RECORD = Struct("!HHIH")
_HEAD = Struct("!HHIH")
_AAAA_SIZE = 16
_NAMES = (wire.CNAME, wire.NS)
_MAX_POINTER = 0x3FFF
_OPT = b"\0\0\x29"


def no_data(message: bytes, at: int) -> int | None:
    """Read the usual reply without data: only a SOA, and OPT without options.

    `at` is the end of the question. Returns the TTL of the SOA; None if the reply has another
    shape, good or bad.
    """
    size = len(message)
    # QR set; opcode, TC and RCODE zero; one question, no answers, one authority
    if message[2] & 0xFA != 0x80 or message[3] & 0x0F or message[4:11] != b"\0\1\0\0\0\1\0":
        return None
    try:
        at = wire.skip_name(message, at)
        if at + 10 > size:
            return None
        rdtype, rdclass, ttl, length = _RECORD.unpack_from(message, at)
        end = at + 10 + length
        if rdtype != wire.SOA or rdclass != wire.IN or end > size:
            return None
        if wire.skip_name(message, wire.skip_name(message, at + 10)) + 20 != end:
            return None
    except Malformed:
        return None
    if message[11]:
        opt = message[end:]
        plain = len(opt) == 11 and opt[:3] == b"\0\0\x29" and opt[5:7] + opt[9:] == bytes(4)
        if message[11] != 1 or not plain:
            return None
    elif end != size:
        return None
    return 0 if ttl >> 31 else ttl


def is_question(question: bytes) -> bool:
    """Whether these bytes are one whole question, its name not compressed."""
    at, last = 0, len(question) - 5
    while at < last and 0 < question[at] < 64:
        at += question[at] + 1
    return at == last <= wire.MAX_NAME - 1 and question[at] == 0


class _Unusual(Exception):  # noqa: N818 -- the other way is taken
    """The reply doesn't have the shape that this module reads."""


def synthesized(
    message: bytes, first: int, embed: Callable[[bytes], tuple[bytes, ...]], ttl: int
) -> Answer | None:
    """Make the answer with AAAA in the place of A; `first` is the end of the question.

    `embed` gives the IPv6 addresses for an A; `ttl` is their maximum TTL. None also if no A becomes
    an AAAA.
    """
    # QR set; opcode, TC and RCODE zero; one question
    if message[2] & 0xFA != 0x80 or message[3] & 0x0F or message[4:6] != b"\0\1":
        return None
    try:
        return _Pass(message, first).run(embed, ttl)
    except (IndexError, KeyError, StructError, _Unusual):
        return None


class _Pass:
    """The position of the pass in the old message and in the new body."""

    __slots__ = ("_at", "_first", "_message", "_parts", "_places", "_size")

    def __init__(self, message: bytes, first: int) -> None:
        self._message = message
        self._first = first
        self._at = first
        self._parts: list[bytes] = []
        self._size = 0
        self._places: dict[int, int] = {}
        """The old and the new offset of every label that a pointer may point at."""
        at = wire.HEADER_SIZE
        while length := message[at]:
            self._places[at] = at
            at += length + 1

    def run(self, embed: Callable[[bytes], tuple[bytes, ...]], ttl: int) -> Answer | None:
        message, parts = self._message, self._parts
        sections = _COUNTS.unpack_from(message, 6)
        counts, offsets, least, found = list(sections), [], ttl, 0
        for section, count in enumerate(sections):
            for _ in range(count):
                owner = self._name()
                rdtype, rdclass, record_ttl, length = _RECORD.unpack_from(message, self._at)
                data = self._at + 10
                self._at = data + length
                if self._at > len(message):
                    raise _Unusual
                if rdtype == wire.OPT:
                    self._opt(section, data, length)
                    counts[2] -= 1
                    continue
                if rdclass != wire.IN or record_ttl >> 31:
                    raise _Unusual
                if section == 0 and record_ttl < least:
                    least = record_ttl
                if rdtype == wire.A and length == 4 and section == 0:
                    addresses = embed(message[data : self._at])
                    if not addresses:
                        raise _Unusual
                    head = _HEAD.pack(wire.AAAA, 1, min(ttl, record_ttl), _AAAA_SIZE)
                    for address in addresses:
                        offsets.append(self._size + len(owner) + 4)
                        parts += (owner, head, address)
                        self._size += len(owner) + 26
                    counts[0] += len(addresses) - 1
                    found += len(addresses)
                    continue
                offsets.append(self._size + len(owner) + 4)
                self._size += len(owner) + 10
                if section == 0 and rdtype == wire.AAAA:
                    raise _Unusual  # it may be excluded
                if rdtype in _NAMES:
                    end, self._at = self._at, data
                    kept = self._name()
                    if self._at != end:
                        raise _Unusual
                elif length == (4 if rdtype == wire.A else 16) and rdtype in (wire.A, wire.AAAA):
                    kept = message[data : self._at]
                else:
                    raise _Unusual
                parts += (owner, _HEAD.pack(rdtype, 1, record_ttl, len(kept)), kept)
                self._size += len(kept)
        if self._at != len(message) or not found or self._first + self._size > _MAX_POINTER:
            return None
        flags = int.from_bytes(message[2:4], "big") & wire.RA
        an, ns, ar = counts
        return Answer(
            flags,
            (an, ns, ar),
            b"".join(parts),
            offsets=tuple(offsets),
            ttl=least,
            kind=SUCCESS,
            synthesized=True,
        )

    def _name(self) -> bytes:
        """Read the name here and return it as it must be written there."""
        message, at = self._message, self._at
        if message[at] >= 192:
            self._at = at + 2
            target = self._places[(message[at] & 63) << 8 | message[at + 1]]
            return (0xC000 | target).to_bytes(2, "big")
        start, shift = at, self._first + self._size - at
        while length := message[at]:
            if length >= 192:
                target = self._places[(length & 63) << 8 | message[at + 1]]
                self._at = at + 2
                return message[start:at] + (0xC000 | target).to_bytes(2, "big")
            if length > 63 or at - start > 127:  # with what a pointer adds it stays below 255
                raise _Unusual
            self._places[at] = at + shift
            at += length + 1
        self._at = at + 1
        return message[start : at + 1]

    def _opt(self, section: int, data: int, length: int) -> None:
        """Accept an OPT record that says nothing: it is the last, has no options, and doesn't
        extend RCODE.
        """
        message = self._message
        if section != 2 or length or data != len(message) or message[data - 11 : data - 8] != _OPT:
            raise _Unusual
        if message[data - 6]:
            raise _Unusual
