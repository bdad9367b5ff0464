"""The cache's entries: an answer that ages, and what many answers have in common."""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from nat64_dataplane.dns64.message import wire
from nat64_dataplane.dns64.message.answer import Answer

_HEAD = Struct("!5H")
_TTL = Struct("!I")


class AnswerVariant(NamedTuple):
    """What an answer depends on apart from the question."""

    synthesize: bool
    do: bool
    cd: bool
    rd: bool = True
    """False for questions without recursion: their answers aren't kept."""


VARIANTS = {
    (synthesize, do, cd): AnswerVariant(synthesize, do, cd)
    for synthesize in (False, True)
    for do in (False, True)
    for cd in (False, True)
}


class EntryShape:
    """What most answers share: flags, counts, and offsets of TTLs. Many answers use one object."""

    __slots__ = ("counts", "flags", "head", "head_opt", "kind", "offsets", "ttl")

    def __init__(self, answer: Answer, ttl: int) -> None:
        self.flags = answer.flags
        self.counts = answer.counts
        self.offsets = answer.offsets
        self.kind = answer.kind
        self.ttl = ttl
        written = wire.QR | wire.RD | answer.flags & ~wire.AD
        an, ns, ar = answer.counts
        self.head = _HEAD.pack(written, 1, an, ns, ar)
        self.head_opt = _HEAD.pack(written, 1, an, ns, ar + 1)


class CacheEntry:
    """A cached answer. `body` has been aged by `age` seconds."""

    __slots__ = (
        "age", "body", "errors", "hits", "last_hit", "served", "shape", "stored", "synthesized",
    )  # fmt: skip

    def __init__(self, shape: EntryShape, answer: Answer, stored: int, served: list[int]) -> None:
        self.shape = shape
        self.body = answer.body
        self.errors = answer.errors
        self.stored = stored
        self.synthesized = answer.synthesized
        self.served = served
        """The counts of responses from the hot path; all similar entries share it."""
        self.age = 0
        self.hits = 0
        """How often it was asked for without a pause longer than `prefetch` allows."""
        self.last_hit = stored

    def seen(self, now: int, pause: float) -> None:
        """Count a hit. If it comes later than `pause` after the last one, the count starts anew."""
        self.hits = self.hits + 1 if now - self.last_hit <= pause else 1
        self.last_hit = now

    def count_down(self, age: int) -> None:
        """Make every TTL `age` seconds less than it was when stored, but not below zero."""
        body = bytearray(self.body)
        elapsed = age - self.age
        for offset in self.shape.offsets:
            (ttl,) = _TTL.unpack_from(body, offset)
            _TTL.pack_into(body, offset, ttl - elapsed if ttl > elapsed else 0)
        self.body = bytes(body)
        self.age = age

    def left(self, now: int) -> int:
        """Seconds until it expires; negative once it has."""
        return self.shape.ttl - (now - self.stored)

    def answer(self) -> Answer:
        """The answer as it is now, for responses that need rendering."""
        shape = self.shape
        return Answer(
            shape.flags,
            shape.counts,
            self.body,
            offsets=shape.offsets,
            ttl=shape.ttl,
            kind=shape.kind,
            errors=self.errors,
            synthesized=self.synthesized,
        )
