"""One question on its way through the upstreams of a `forward` stanza.

Callbacks instead of coroutines: a task for each query costs more than all the rest of a miss.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from nat64_dataplane.dns64 import wire
from nat64_dataplane.dns64.rules import Failed
from nat64_dataplane.dns64.wire import Reply

TOTAL_SECONDS = 5.0
"""All tries together, as in CoreDNS."""

Done = Callable[[Reply | Failed], None]


class Query:
    """A query in flight: what was asked, and where the reply must go."""

    __slots__ = ("answered", "cd", "deadline", "do", "done", "edns", "question", "sent", "tcp")

    def __init__(self, question: bytes, *, do: bool, cd: bool, done: Callable[..., None]) -> None:
        self.question = question
        """In lower case."""
        self.do = do
        self.cd = cd
        self.edns = True
        self.tcp = False
        self.deadline = 0.0
        self.sent = 0.0
        self.answered = False
        self.done: Callable[[Reply | Failed], None] = done

    def message(self, ident: bytes, question: bytes) -> bytes:
        """The message to send, with `question` in the letter case that this try uses."""
        head = _HEADS[self.cd, self.edns]
        opt = _OPTS[self.do] if self.edns else b""
        return b"".join((ident, head, question, opt))

    def finish(self, result: Reply | Failed) -> None:
        """Hand over the result, once: what comes later is for nobody."""
        if not self.answered:
            self.answered = True
            self.done(result)


_HEADS = {
    (cd, edns): (wire.RD | (wire.CD if cd else 0)).to_bytes(2, "big")
    + bytes((0, 1, 0, 0, 0, 0, 0, edns))
    for cd in (False, True)
    for edns in (False, True)
}
_OPTS = {
    do: b"\0\0\x29" + (1232).to_bytes(2, "big") + (b"\0\0\x80\0" if do else bytes(4)) + b"\0\0"
    for do in (False, True)
}


class Transport(Protocol):
    """A way to one server: datagrams or streams."""

    def send(self, query: Query, *, deadline: float) -> None:
        """Send a query; its `finish` is called by `deadline`, in loop time."""

    def close(self) -> None:
        """Fail what is under way and free the sockets."""
