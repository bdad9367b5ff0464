"""What one server has shown about EDNS (RFC 6891 section 6.2.2): for which questions it works.

An error to one question says nothing about questions of another kind, and it may be forged. So EDNS
is left out only for the kind of question for which a try without it did better, and the first reply
with an OPT record ends that. A server may also silently drop queries with an OPT record. This is
believed only after `SILENT_MOST` times in a row.
"""

from __future__ import annotations

REMEMBER_SECONDS = 600.0
"""For how long a kind of question is asked without EDNS before EDNS is tried again."""
SILENT_MOST = 2
"""Queries in a row for which only a copy without EDNS got a reply."""
MAX_KINDS = 256

_ADDRESSES = (b"\0\x01\0\x01", b"\0\x1c\0\x01")
Kind = tuple[bytes, bool]


def kind_of(question: bytes, do: bool) -> Kind:
    """The kind of a question: type, class and DO. A and AAAA are one kind."""
    tail = question[-4:]
    return (b"" if tail in _ADDRESSES else tail), do


class EdnsMemory:
    """What is known about one server. Times are on the loop's clock."""

    def __init__(self) -> None:
        self.doubtful = False
        """Whether anything is remembered or suspected."""
        self.suspected = False
        """Whether the last query with EDNS got no reply, while its copy without EDNS did."""
        self._without: dict[Kind, float] = {}
        self._silent = 0
        self._silent_until = 0.0
        self._proven_until = 0.0

    def is_proven(self, now: float) -> bool:
        """Whether the server has answered with an OPT record lately, and answers at all."""
        return now < self._proven_until

    def timed_out(self) -> None:
        """Note that a query got no reply at all, which proves nothing."""
        self._proven_until = 0.0

    def asks_with(self, question: bytes, do: bool, now: float) -> bool:
        """Whether to ask this question with EDNS."""
        if not self.doubtful:
            return True
        if now < self._silent_until:
            return False
        return self._without.get(kind_of(question, do), 0.0) <= now

    def plain_did_better(self, question: bytes, do: bool, now: float) -> None:
        """Note that the server answered a question without EDNS that it had refused with it."""
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
        """Note a reply with an OPT record: the server knows EDNS, whatever it has shown before."""
        self._proven_until = now + REMEMBER_SECONDS
        self._silent, self._silent_until, self.suspected = 0, 0.0, False
        self._without.pop(kind_of(question, do), None)
        self.doubtful = bool(self._without)
