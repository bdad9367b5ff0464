"""One question being resolved, for every client that asks it meanwhile."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial

from nat64_dataplane.dns64 import names, wire
from nat64_dataplane.dns64.answer import failure
from nat64_dataplane.dns64.group import Group
from nat64_dataplane.dns64.policy import Policy
from nat64_dataplane.dns64.rules import Ask, Decision, Failed, Question, Rule, resolve
from nat64_dataplane.dns64.wire import Reply

logger = logging.getLogger("nat64_dns64")

Finished = Callable[[Decision, str], None]
"""Told the decision, and what went wrong upstream, if anything did."""


FAULT_LOG_SECONDS = 10.0


class _Faults:
    """Logs faults of this program, but not one for each of many thousand queries a second."""

    def __init__(self) -> None:
        self._next = 0.0

    def log(self, name: str) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + FAULT_LOG_SECONDS
            logger.exception("resolving %s failed; others may have, too", name)


_faults = _Faults()


class Job:
    """Drives `rules.resolve` with replies from the `forward` stanzas."""

    __slots__ = (
        "_finished", "_given", "_groups", "_question", "_reason", "_skip", "_steps", "waiting",
    )  # fmt: skip

    def __init__(
        self,
        policy: Policy | None,
        groups: Sequence[Group],
        question: Question,
        finished: Finished,
        given: Sequence[Reply | Failed] = (),
    ) -> None:
        """`given` are results of the first questions, where those have been asked before."""
        self.waiting: list[Callable[[Decision], None]] = []
        self._groups = groups
        self._question = question
        self._finished = finished
        self._steps = resolve(policy, question)
        self._given = list(given)
        self._reason = ""
        self._skip = 0

    def start(self) -> None:
        """Ask the first question. The job may be finished before this returns."""
        self._step(None)

    def _step(self, result: Reply | Failed | None) -> None:
        try:
            # the generator starts with None and goes on with what it asked for
            ask = self._steps.send(result)  # type: ignore[arg-type]
        except StopIteration as end:
            self._finished(end.value, self._reason)
            return
        except Exception as error:  # a fault of ours costs one answer, not the server
            _faults.log(names.to_text(self._question.name))
            reason = f"internal error: {type(error).__name__}"
            self._finished(Decision(failure(wire.SERVFAIL), Rule.FAULT), reason)
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
        group.ask(question, do=asked.do, cd=asked.cd, done=partial(self._received, ask, group))

    def _next_group(self, name: bytes) -> Group | None:
        for index in range(self._skip, len(self._groups)):
            if self._groups[index].serves(name):
                self._skip = index + 1
                return self._groups[index]
        return None

    def _received(self, ask: Ask, group: Group | None, result: Reply | Failed) -> None:
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
