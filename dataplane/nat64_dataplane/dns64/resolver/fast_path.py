"""The short way for the usual miss: AAAA without DNSSEC, no AAAA there, A records.

It asks the same upstreams by the same tries, and its answers are those of `rules.resolve` (a test
compares the two). Whatever hasn't the usual shape goes on in `rules.resolve` with what has come so
far. Its point is what it leaves out: a query is never unpacked, the reply without data is only
looked at, and the response comes from the cache by the hot path.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from nat64_dataplane.dns64.access.client_acl import Client
from nat64_dataplane.dns64.cache.cache_entry import View
from nat64_dataplane.dns64.message import wire
from nat64_dataplane.dns64.message.answer import Answer
from nat64_dataplane.dns64.message.wire import Reply
from nat64_dataplane.dns64.settings import Server
from nat64_dataplane.dns64.synthesis import local_answers, one_pass
from nat64_dataplane.dns64.synthesis.rfc6147 import Decision, Failed, Rule
from nat64_dataplane.dns64.upstream.upstream_group import Group, Tries

if TYPE_CHECKING:
    from nat64_dataplane.dns64.resolver.in_flight import Resolver

_AAAA = b"\0\x1c\0\1"
_A = b"\0\1\0\1"
VIEW = View(True, False, False)


class Asker(Protocol):
    """A client's message that waits, as the listener has it."""

    message: bytes
    started: float

    def send(self, response: bytes) -> None:
        """Send the response."""

    def long_way(self) -> None:
        """Take the message as if it had just come, by the long way."""


class Waiter(NamedTuple):
    """Who asks, and how to answer."""

    asker: Asker
    client: Client


def possible(settings: Server) -> bool:
    """Whether a server block is so simple that the short way may be taken in it."""
    dns64, cache = settings.dns64, settings.cache
    if dns64 is None or cache is None or dns64.translate_all or settings.zones != (".",):
        return False
    if cache.stale or cache.prefetch or cache.no_success or cache.zones != (".",):
        return False
    if any(not rule.classes or "success" in rule.classes for rule in settings.log):
        return False  # what goes the short way isn't logged, and it is always a success
    forwards = settings.forwards
    return len(forwards) == 1 and forwards[0].zone == "." and not forwards[0].excepted


class Quick(Tries):
    """One name on the short way, for all who ask for it meanwhile."""

    __slots__ = ("_answer", "_first", "_key", "_resolver", "_ttl", "waiters", "waiting")

    def __init__(self, resolver: Resolver, group: Group, question: bytes) -> None:
        super().__init__(group, question, do=False, cd=False, done=self._unusual)
        self.waiters: list[Waiter] = []
        self.waiting: list[Callable[[Decision], None]] = []
        """Those who came the long way and joined."""
        self._resolver = resolver
        self._key = (question, VIEW)
        self._ttl = -1
        self._first = b""
        self._answer: Answer | None = None

    def read(self, message: bytes) -> Reply:
        """Read a reply of the usual shape in one pass; unpack any other."""
        end = wire.HEADER_SIZE + len(self.question)
        if self._ttl < 0:
            ttl = one_pass.no_data(message, end)
            if ttl is None:
                return super().read(message)
            self._ttl, self._first = ttl, message
            return _USUAL
        assert self._resolver.policy is not None, "the short way is for dns64"
        self._answer = one_pass.synthesized(message, end, self._resolver.policy.embed, self._ttl)
        return super().read(message) if self._answer is None else _USUAL

    def result(self, result: Reply | Failed) -> None:
        """Go on to the A question, or to the clients; unusual results go the long way."""
        if result is not _USUAL:
            super().result(result)
            return
        self.succeeded(wire.NOERROR)
        if self._answer is None:
            self.restart(self.question[:-4] + _A)
            return
        self.over = True
        self.group.under_way -= 1
        self._resolver.quick_done(self, self._key, Decision(self._answer, Rule.SYNTHESIZED))

    def _unusual(self, result: Reply | Failed) -> None:
        given = [result] if self._ttl < 0 else [_parsed(self._first), result]
        self._resolver.quick_left(self, self._key, given)


def _parsed(message: bytes) -> Reply | Failed:
    try:
        return wire.parse_reply(message)
    except wire.Malformed as error:
        return Failed(f"malformed reply: {error}")


def question_of(message: bytes, size: int) -> bytes | None:
    """Return the question, in lower case, that ends at `size`, where it may go the short way."""
    question = message[wire.HEADER_SIZE : size]
    if question[-4:] != _AAAA or not one_pass.is_question(question):
        return None
    name = question[:-4].lower()
    if name.endswith(local_answers.IPV4ONLY_ARPA):
        return None
    return name + _AAAA


_USUAL = Reply(b"", 0, b"", (), (), (), None)
"""Stands for every reply of which `Quick.read` has taken what it needs."""
