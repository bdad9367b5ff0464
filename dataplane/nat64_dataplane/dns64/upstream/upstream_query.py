"""One question on its way through the upstreams of a `forward` stanza.

It uses callbacks instead of coroutines: a task per query costs more than the rest of a miss.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from nat64_dataplane.dns64.instrumentation.internal_faults import faults
from nat64_dataplane.dns64.message.failed import Failed
from nat64_dataplane.dns64.message.malformed import Malformed
from nat64_dataplane.dns64.message.wire import Reply, parse_reply

TOTAL_SECONDS = 5.0
"""All tries together, as in CoreDNS."""

Done = Callable[[Reply | Failed], None]


class UpstreamQuery:
    """A query in flight. Subclasses define what happens with the result."""

    __slots__ = (
        "also",
        "cd",
        "do",
        "edns",
        "end",
        "number",
        "question",
        "rd",
        "sent",
        "tcp",
        "waits",
    )

    def __init__(self, question: bytes, *, do: bool, cd: bool, rd: bool = True) -> None:
        self.question = question
        """In lower case."""
        self.do = do
        self.cd = cd
        self.rd = rd
        self.edns = True
        """Whether this try has EDNS; for a reply, whether the message that it answers had it."""
        self.tcp = False
        self.number = 0
        """Counts the tries, so that a late reply isn't taken for a reply to the present try."""
        self.also = 0
        """The number of an earlier try whose reply counts, too; 0: none."""
        self.end = math.inf
        """When all tries must have ended, on the loop's clock."""
        self.sent = 0.0
        self.waits = False
        """Whether this try has neither a reply nor failed."""

    def result(self, result: Reply | Failed) -> None:
        """Handle the result of a try."""
        raise NotImplementedError

    def plain_reply(self, reply: Reply) -> None:
        """Accept a reply to the copy without EDNS while the query with it has none."""
        self.finish(reply)

    def is_open(self, number: int) -> bool:
        """Whether a reply to the try of this number still counts."""
        return self.waits and number in (self.number, self.also)

    def fault(self) -> None:
        """End the resolution of this query after the handling of a result has raised."""

    def read(self, message: bytes) -> Reply:
        """Read a reply in which our question is where a question is. Raises Malformed."""
        reply = parse_reply(message)
        if reply.question != self.question:
            raise Malformed("no question")
        return reply

    def message(self, ident: bytes, question: bytes, *, plain: bool = False) -> bytes:
        """The message to send, with `question` in the letter case of this try.

        `plain`: without EDNS, whatever this try has.
        """
        if self.edns and not plain:
            message = b"".join((ident, _HEADS[self.cd], question, _OPTS[self.do]))
        else:
            message = b"".join((ident, _PLAIN_HEADS[self.cd], question))
        if self.rd:
            return message
        return message[:2] + bytes((message[2] & ~1,)) + message[3:]

    def finish(self, result: Reply | Failed) -> None:
        """End this try, once: later results are ignored. Never raises."""
        if not self.waits:
            return
        self.waits = False
        try:
            self.result(result)
        except Exception:  # a fault of the sidecar costs one answer, not the server
            faults.log("taking what upstream said")
            self.waits = False
            self.fault()


_HEADS = (b"\1\0\0\1\0\0\0\0\0\1", b"\1\x10\0\1\0\0\0\0\0\1")
_PLAIN_HEADS = (b"\1\0\0\1\0\0\0\0\0\0", b"\1\x10\0\1\0\0\0\0\0\0")
"""A header without its ID: RD set, and CD clear or set."""
_SIZE = (1232).to_bytes(2, "big")
_OPTS = (
    b"\0\0\x29" + _SIZE + b"\0\0\0\0\0\0",
    b"\0\0\x29" + _SIZE + b"\0\0\x80\0\0\0",
)
"""An OPT record with DO clear or set."""


class PlainCopy(UpstreamQuery):
    """A copy without EDNS of a query that got no reply: some servers drop queries with OPT."""

    __slots__ = ("_copied", "_of")

    def __init__(self, of: UpstreamQuery) -> None:
        super().__init__(of.question, do=False, cd=of.cd)
        self.edns = False
        self._of = of
        self._copied = of.number

    def message(self, ident: bytes, question: bytes, *, plain: bool = True) -> bytes:
        """The query's own message without the OPT record."""
        return self._of.message(ident, question, plain=plain)

    def read(self, message: bytes) -> Reply:
        """Read it as the query itself would, where the query still waits for it."""
        if self._of.is_open(self._copied):
            return self._of.read(message)
        return super().read(message)

    def result(self, result: Reply | Failed) -> None:
        """Hand a reply to the query. A failure is none: the query itself may get a reply."""
        if isinstance(result, Reply) and self._of.is_open(self._copied):
            self._of.plain_reply(result)
