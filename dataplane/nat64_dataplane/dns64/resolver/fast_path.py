"""The fast path for the usual miss: an AAAA question without DNSSEC, no AAAA, A records.

It asks the same upstreams in the same way, and its answers are those of `rfc6147.resolve` (a test
compares the two). If a reply has another shape, `rfc6147.resolve` continues with the replies so
far. It is fast because of what it leaves out: it never unpacks a query, it only scans the reply
without data, and the response comes from the cache by the hot path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from nat64_dataplane.dns64.access.client_acl import Client
from nat64_dataplane.dns64.cache.cache_entry import AnswerVariant
from nat64_dataplane.dns64.message import wire
from nat64_dataplane.dns64.message.answer import Answer
from nat64_dataplane.dns64.message.failed import Failed
from nat64_dataplane.dns64.message.malformed import Malformed
from nat64_dataplane.dns64.message.wire import Reply
from nat64_dataplane.dns64.settings import Server
from nat64_dataplane.dns64.synthesis import local_answers, one_pass
from nat64_dataplane.dns64.synthesis.dns64_policy import Dns64Policy
from nat64_dataplane.dns64.synthesis.resolver_arpa import RESOLVER_ARPA
from nat64_dataplane.dns64.synthesis.rfc6147 import Decision, Rule
from nat64_dataplane.dns64.upstream.upstream_group import Attempts, UpstreamGroup

_LOCAL = (local_answers.IPV4ONLY_ARPA, RESOLVER_ARPA)
_AAAA = b"\0\x1c\0\1"
_A = b"\0\1\0\1"
VARIANT = AnswerVariant(True, False, False)


class PendingMessage(Protocol):
    """A client's waiting message, in the form of its listener."""

    message: bytes
    started: float

    def send(self, response: bytes) -> None:
        """Send the response."""

    def take_full_path(self) -> None:
        """Handle the message on the full path, as if it had just arrived."""


class Waiter(NamedTuple):
    """The client, and how to answer it."""

    asker: PendingMessage
    client: Client


class Owner(Protocol):
    """The table of questions in flight. It starts a resolution and gets its result."""

    policy: Dns64Policy | None

    def fast_done(
        self, fast: FastResolution, key: tuple[bytes, AnswerVariant], decision: Decision
    ) -> None:
        """Answer all waiting clients."""

    def known(self, key: tuple[bytes, AnswerVariant]) -> Reply | None:
        """The reply to a question, from the cache."""

    def is_in_flight(self, key: tuple[bytes, AnswerVariant]) -> bool:
        """Whether a question is being resolved."""

    def fast_to_full(
        self,
        fast: FastResolution,
        key: tuple[bytes, AnswerVariant],
        given: Sequence[Reply | Failed],
    ) -> None:
        """Continue on the full path with the results so far."""


def possible(settings: Server) -> bool:
    """Whether a server block is simple enough for the fast path."""
    dns64, cache = settings.dns64, settings.cache
    if dns64 is None or cache is None or dns64.translate_all or settings.zones != (".",):
        return False
    if cache.stale or cache.prefetch or cache.no_success or cache.zones != (".",):
        return False
    if any(not rule.classes or "success" in rule.classes for rule in settings.log):
        return False  # queries on the fast path aren't logged, and are always successes
    forwards = settings.forwards
    return len(forwards) == 1 and forwards[0].zone == "." and not forwards[0].excepted


class FastResolution(Attempts):
    """One name on the fast path, for all clients that ask for it meanwhile."""

    __slots__ = ("_answer", "_first", "_key", "_owner", "_ttl", "waiters", "waiting")

    def __init__(self, owner: Owner, group: UpstreamGroup, question: bytes) -> None:
        super().__init__(group, question, do=False, cd=False, done=self._unusual)
        self.waiters: list[Waiter] = []
        self.waiting: list[Callable[[Decision], None]] = []
        """Clients that came on the full path and joined."""
        self._owner = owner
        self._key = (question, VARIANT)
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
            return _READ_IN_ONE_PASS
        assert self._owner.policy is not None, "the fast path is for dns64"
        self._answer = one_pass.synthesized(message, end, self._owner.policy.embed, self._ttl)
        return super().read(message) if self._answer is None else _READ_IN_ONE_PASS

    def result(self, result: Reply | Failed) -> None:
        """Continue with the A question, or answer; unusual results take the full path."""
        if result is not _READ_IN_ONE_PASS:
            super().result(result)
            return
        self.succeeded(wire.NOERROR)
        if self._answer is None:
            self._ask_for_a()
            return
        self._end()
        self._owner.fast_done(self, self._key, Decision(self._answer, Rule.SYNTHESIZED))

    def _ask_for_a(self) -> None:
        """Ask for A, unless a client has asked already: many ask for A and AAAA at once."""
        question = self.question[:-4] + _A
        key = (question, VARIANT)
        known = self._owner.known(key)
        if known is None and not self._owner.is_in_flight(key):
            self.restart(question)
            return
        self._end()
        given: list[Reply | Failed] = [_parsed(self._first)]
        if known is not None:
            assert self._owner.policy is not None, "the fast path is for dns64"
            end = wire.HEADER_SIZE + len(question)
            embed = self._owner.policy.embed
            answer = one_pass.synthesized(known.wire, end, embed, self._ttl)
            if answer is not None:
                self._owner.fast_done(self, self._key, Decision(answer, Rule.SYNTHESIZED))
                return
            given.append(known)
        self._owner.fast_to_full(self, self._key, given)

    def _end(self) -> None:
        self.over = True
        self.group.under_way -= 1

    def _unusual(self, result: Reply | Failed) -> None:
        given = [result] if self._ttl < 0 else [_parsed(self._first), result]
        self._owner.fast_to_full(self, self._key, given)


def _parsed(message: bytes) -> Reply | Failed:
    try:
        return wire.parse_reply(message)
    except Malformed as error:
        return Failed(f"malformed reply: {error}")


def fast_path_question(message: bytes, size: int) -> bytes | None:
    """Return the question, in lower case, that ends at `size`, if the fast path may take it."""
    question = message[wire.HEADER_SIZE : size]
    if question[-4:] != _AAAA or not one_pass.is_question(question):
        return None
    name = question[:-4].lower()
    if name.endswith(_LOCAL):
        return None
    return name + _AAAA


_READ_IN_ONE_PASS = Reply(b"", 0, b"", (), (), (), None)
"""In place of every reply that `FastResolution.read` has used up."""
