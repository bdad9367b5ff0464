"""Bodies that are too large for a response, cut at whole records."""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from nat64_dataplane.dns64.message import wire
from nat64_dataplane.dns64.message.compose import compose

_COUNTS = Struct("!6H")
_ALIASES = (wire.CNAME, wire.DNAME)
Counts = tuple[int, int, int]


class _Place(NamedTuple):
    """A record in a body: its type, and the offset behind it."""

    type: int
    end: int


def without_additional(question: bytes, body: bytes, counts: Counts) -> tuple[bytes, Counts]:
    """Cut the additional section off a body."""
    an, ns, _ = counts
    places = _places(question, body, an + ns)
    return body[: places[-1].end if places else 0], (an, ns, 0)


def truncate(question: bytes, body: bytes, counts: Counts, room: int) -> tuple[bytes, Counts]:
    """Keep as many records as fit into `room` bytes, from the first on; aliases before others.

    The additional section is left out.
    """
    an, ns, _ = counts
    places = _places(question, body, an + ns)
    kept = sum(place.end <= room for place in places)
    if any(place.type in _ALIASES for place in places[kept:an]):
        chosen = _aliases_first(question, body, places[:an], room)
        if chosen is not None:
            return chosen
    end = places[kept - 1].end if kept else 0
    return body[:end], (min(kept, an), max(kept - an, 0), 0)


def _aliases_first(
    question: bytes, body: bytes, places: list[_Place], room: int
) -> tuple[bytes, Counts] | None:
    """Keep the aliases of an answer section and what fits beside them; None where that fails."""
    starts = [0, *(place.end for place in places)]
    order = sorted(range(len(places)), key=lambda index: places[index].type not in _ALIASES)
    left, kept = room, set()
    for index in order:
        left -= places[index].end - starts[index]
        if left < 0:
            break
        kept.add(index)
    head = _COUNTS.pack(0, wire.QR, 1, len(places), 0, 0)
    reply = wire.parse_reply(b"".join((head, question, body[: places[-1].end])))
    made = compose(reply, {index: () for index in range(len(places)) if index not in kept})
    return (made.bytes, made.counts) if len(made.bytes) <= room else None


def _places(question: bytes, body: bytes, count: int) -> list[_Place]:
    """The first `count` records of a body."""
    message = b"".join((bytes(wire.HEADER_SIZE), question, body))
    first = at = wire.HEADER_SIZE + len(question)
    found = []
    for _ in range(count):
        at = wire.skip_name(message, at)
        rdtype = int.from_bytes(message[at : at + 2], "big")
        at += 10 + int.from_bytes(message[at + 8 : at + 10], "big")
        found.append(_Place(rdtype, at - first))
    return found
