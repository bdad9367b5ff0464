"""What one server has shown about EDNS (RFC 6891 section 6.2.2): which questions it takes with it.

An error to one question says nothing about the next of another kind, and the error may be forged.
So EDNS is left out only for the kind of question for which a try without it did better, and the
first reply with an OPT record ends that. A server may also drop what has an OPT record without a
word. That is believed after it has happened `SILENT_MOST` times in a row.
"""

from __future__ import annotations

REMEMBER_SECONDS = 600.0
"""How long a kind of question goes without EDNS before it's tried again."""
SILENT_MOST = 2
"""Queries in a row that only a copy without EDNS got a reply to."""
MAX_KINDS = 256

_ADDRESSES = (b"\0\x01\0\x01", b"\0\x1c\0\x01")
Kind = tuple[bytes, bool]


def kind_of(question: bytes, do: bool) -> Kind:
    """The kind of a question: type, class and DO. A and AAAA are one kind."""
    tail = question[-4:]
    return (b"" if tail in _ADDRESSES else tail), do


class EdnsMemory:
    """What is remembered of one server. Times are on the loop's clock."""

    def __init__(self) -> None:
        self.doubtful = False
        """Whether anything is remembered or suspected."""
        self.suspected = False
        """Whether the last query with EDNS had no reply, and its copy without had."""
        self._without: dict[Kind, float] = {}
        self._silent = 0
        self._silent_until = 0.0
        self._proven_until = 0.0

    def is_proven(self, now: float) -> bool:
        """Whether the server has answered with an OPT record lately, and answers at all."""
        return now < self._proven_until

    def timed_out(self) -> None:
        """Note that a query had no reply at all: nothing is proven any more."""
        self._proven_until = 0.0

    def asks_with(self, question: bytes, do: bool, now: float) -> bool:
        """Whether to ask this question with EDNS."""
        if not self.doubtful:
            return True
        if now < self._silent_until:
            return False
        return self._without.get(kind_of(question, do), 0.0) <= now

    def plain_did_better(self, question: bytes, do: bool, now: float) -> None:
        """Note that the server took a question that it had refused with EDNS."""
        if len(self._without) >= MAX_KINDS:
            self._without = {kind: until for kind, until in self._without.items() if until > now}
        if len(self._without) < MAX_KINDS:
            self.doubtful = True
            self._without[kind_of(question, do)] = now + REMEMBER_SECONDS

    def suspect(self) -> None:
        """Note that a copy without EDNS was answered before the query with it."""
        self._proven_until = 0.0
        self.doubtful = self.suspected = True

    def stayed_silent(self, now: float) -> None:
        """Note that the query with EDNS never got a reply, and its copy without did."""
        self.doubtful = True
        self._silent += 1
        if self._silent >= SILENT_MOST:
            self._silent_until = now + REMEMBER_SECONDS

    def works(self, question: bytes, do: bool, now: float) -> None:
        """Note a reply with an OPT record: the server knows EDNS, whatever was said before."""
        self._proven_until = now + REMEMBER_SECONDS
        self._silent, self._silent_until, self.suspected = 0, 0.0, False
        self._without.pop(kind_of(question, do), None)
        self.doubtful = bool(self._without)
