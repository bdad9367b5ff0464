"""When an object is tried again: each has its own backoff, so one that fails delays no other."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable, Set

from nat64_operator.render.manifest import Ref

log = logging.getLogger("nat64_operator")

SECONDS = (1, 2, 4, 8, 16, 30)
OFTEN, OFTEN_SECONDS = 20, 30
"""If the same write is due this often within this many seconds, somebody undoes it each time."""
Write = tuple[str, str]
"""What is written, and a hash of the content; empty where any content counts as the same."""


def wait_after(failures: int) -> int:
    """Seconds to wait after so many failures before the last one."""
    return SECONDS[min(failures, len(SECONDS) - 1)]


class Backoffs:
    """The objects that failed, and when each is tried again."""

    def __init__(self) -> None:
        self._failures: dict[Ref, tuple[int, float]] = {}
        self._recent: dict[tuple[Ref, str], tuple[str, deque[float]]] = {}

    def keep(self, subjects: Set[Ref]) -> None:
        """Forget all other objects: there is nothing left to do for them."""
        for subject in self._failures.keys() - subjects:
            del self._failures[subject]
        begin = time.monotonic() - OFTEN_SECONDS
        for write in [write for write, (_, times) in self._recent.items() if times[-1] < begin]:
            del self._recent[write]

    def holds(self, subject: Ref, writes: Iterable[Write] = ()) -> bool:
        """Whether an object has to wait. `writes` has the objects that are about to be written.
        Statuses and Events don't count, because they only follow what others do.
        """
        _, again = self._failures.get(subject, (0, 0.0))
        if again > time.monotonic():
            return True
        fights = [self._is_fighting(subject, write) for write in writes]  # each is counted
        return any(fights)

    def failed(self, subject: Ref, at_least: float) -> float:
        """Note a failure; returns the seconds to wait."""
        count, _ = self._failures.get(subject, (0, 0.0))
        wait = max(float(wait_after(count)), at_least)
        self._failures[subject] = (count + 1, time.monotonic() + wait)
        return wait

    def succeeded(self, subject: Ref) -> None:
        """Note a success."""
        self._failures.pop(subject, None)

    def times(self) -> Iterable[float]:
        """When each object is tried again, by the monotonic clock."""
        return [again for _, again in self._failures.values()]

    def _is_fighting(self, subject: Ref, write: Write) -> bool:
        """Whether the same write was due again and again lately. Then somebody undoes it as fast as
        we repeat it, and further writes would only load the API server. Where we want something
        else each time, nobody undoes it: a node whose labels come and go must not stop the rest.
        """
        now = time.monotonic()
        what, content = write
        before, recent = self._recent.get((subject, what), (content, deque[float](maxlen=OFTEN)))
        if before != content:
            recent.clear()
        self._recent[subject, what] = content, recent
        if len(recent) == OFTEN and now - recent[0] < OFTEN_SECONDS:
            self._failures[subject] = (1, now + SECONDS[-1])
            del self._recent[subject, what]
            log.warning("%s: %s %d times in a row, as if someone undid it", subject, what, OFTEN)
            return True
        recent.append(now)
        return False
