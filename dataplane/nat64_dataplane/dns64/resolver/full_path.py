"""One question that is being resolved, for every client that asks it meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from nat64_dataplane.dns64.instrumentation.internal_faults import faults
from nat64_dataplane.dns64.message import domain_names, wire
from nat64_dataplane.dns64.message.answer import failure
from nat64_dataplane.dns64.message.failed import Failed
from nat64_dataplane.dns64.message.wire import Reply
from nat64_dataplane.dns64.synthesis.alias_chain import Ask
from nat64_dataplane.dns64.synthesis.dns64_policy import Dns64Policy
from nat64_dataplane.dns64.synthesis.rfc6147 import Decision, Question, Rule, resolve
from nat64_dataplane.dns64.upstream.upstream_group import UpstreamGroup

Known = Callable[[bytes, Callable[[Reply | None], None]], None]
"""Gives the reply to a question that a client has asked, now or later; or None."""
Finished = Callable[[Decision, str], None]
"""Called with the decision and, after a failure upstream, its reason."""


class FullResolution:
    """Drives `rfc6147.resolve` with replies from the `forward` stanzas."""

    __slots__ = (
        "_finished", "_given", "_groups", "_known", "_over", "_question", "_reason", "_skip",
        "_steps", "waiting",
    )  # fmt: skip

    def __init__(
        self,
        policy: Dns64Policy | None,
        groups: Sequence[UpstreamGroup],
        question: Question,
        finished: Finished,
        given: Sequence[Reply | Failed] = (),
        known: Known | None = None,
    ) -> None:
        """`given` are the results of the first questions, if those were asked before; `known` gives
        replies that need not be asked for.
        """
        self.waiting: list[Callable[[Decision], None]] = []
        self._groups = groups
        self._question = question
        self._finished = finished
        self._steps = resolve(policy, question)
        self._given = list(given)
        self._known = known
        self._reason = ""
        self._skip = 0
        self._over = False

    def start(self) -> None:
        """Ask the first question. The resolution may end before this returns."""
        self._guarded(self._step, None)

    def _guarded(self, go_on: Callable[..., None], *arguments: object) -> None:
        """Continue, or end with SERVFAIL. In any case the waiting clients get one result."""
        try:
            go_on(*arguments)
        except Exception as error:  # a fault of the sidecar costs one answer, not the server
            faults.log(f"resolving {domain_names.to_text(self._question.name)}")
            self._reason = f"internal error: {type(error).__name__}"
            self._end(Decision(failure(wire.SERVFAIL), Rule.FAULT))

    def _end(self, decision: Decision) -> None:
        if not self._over:
            self._over = True
            self._finished(decision, self._reason)

    def _step(self, result: Reply | Failed | None) -> None:
        try:
            # the generator starts with None, and then gets what it asked for
            ask = self._steps.send(result)  # type: ignore[arg-type]
        except StopIteration as end:
            self._end(end.value)
            return
        self._skip = 0
        self._forward(ask)

    def _forward(self, ask: Ask) -> None:
        group = self._next_group(ask.name)
        if group is None:
            self._received(ask, None, Failed("no forward stanza is for this name", wire.REFUSED))
            return
        if self._given:
            self._received(ask, group, self._given.pop(0))
            return
        asked = self._question
        question = ask.name + _TAILS[ask.type, asked.rdclass]

        def ask_upstream() -> None:
            done = partial(self._guarded, self._received, ask, group)
            group.ask(question, do=asked.do, cd=asked.cd, rd=asked.rd, done=done)

        if self._known is None or (ask.type, asked.type) != (wire.A, wire.AAAA):
            ask_upstream()
            return

        def found(reply: Reply | None) -> None:
            if reply is None:
                ask_upstream()
            else:
                self._received(ask, None, reply)

        self._known(question, partial(self._guarded, found))

    def _next_group(self, name: bytes) -> UpstreamGroup | None:
        for index in range(self._skip, len(self._groups)):
            if self._groups[index].serves(name):
                self._skip = index + 1
                return self._groups[index]
        return None

    def _received(self, ask: Ask, group: UpstreamGroup | None, result: Reply | Failed) -> None:
        if isinstance(result, Failed):
            self._reason = result.reason
        elif group is not None and group.passes_on(result) and self._has_next(ask.name):
            self._forward(ask)
            return
        self._step(result)

    def _has_next(self, name: bytes) -> bool:
        return any(group.serves(name) for group in self._groups[self._skip :])


class _Tails(dict[tuple[int, int], bytes]):
    """The end of a question by type and class."""

    def __missing__(self, key: tuple[int, int]) -> bytes:
        rdtype, rdclass = key
        return rdtype.to_bytes(2, "big") + rdclass.to_bytes(2, "big")


_TAILS = _Tails({(wire.A, wire.IN): b"\0\x01\0\x01", (wire.AAAA, wire.IN): b"\0\x1c\0\x01"})
