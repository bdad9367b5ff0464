"""When an object is tried again. Each has its own backoff, so one that fails delays no other."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable, Set

from nat64_operator.render.manifest import Ref

log = logging.getLogger("nat64_operator")

SECONDS = (1, 2, 4, 8, 16, 30)
OFTEN, OFTEN_SECONDS = 20, 30
"""So many changes of one object in so many seconds are a fight."""


def wait_after(failures: int) -> int:
    """Seconds to wait after so many failures before the last one."""
    return SECONDS[min(failures, len(SECONDS) - 1)]


class Backoffs:
    """The objects that failed, and when each is tried again."""

    def __init__(self) -> None:
        self._failures: dict[Ref, tuple[int, float]] = {}
        self._recent: dict[Ref, deque[float]] = {}

    def keep(self, subjects: Set[Ref]) -> None:
        """Forget all other objects: nothing is left to do for them."""
        for known in (self._failures, self._recent):
            for subject in known.keys() - subjects:
                del known[subject]

    def holds(self, subject: Ref) -> bool:
        """Whether an object has to wait."""
        _, again = self._failures.get(subject, (0, 0.0))
        return again > time.monotonic() or self._is_fighting(subject)

    def failed(self, subject: Ref, at_least: float) -> float:
        """Note a failure; returns the seconds to wait."""
        count, _ = self._failures.get(subject, (0, 0.0))
        wait = max(float(wait_after(count)), at_least)
        self._failures[subject] = (count + 1, time.monotonic() + wait)
        return wait

    def succeeded(self, subject: Ref) -> None:
        """Note that all went well."""
        self._failures.pop(subject, None)

    def times(self) -> Iterable[float]:
        """When each object is tried again, by the monotonic clock."""
        return [again for _, again in self._failures.values()]

    def _is_fighting(self, subject: Ref) -> bool:
        """Whether there was always something to do for an object lately. Then someone undoes what
        we do, as fast as we do it, and the API server is not the place to have that out.
        """
        now = time.monotonic()
        recent = self._recent.setdefault(subject, deque(maxlen=OFTEN))
        if len(recent) == OFTEN and now - recent[0] < OFTEN_SECONDS:
            self._failures[subject] = (1, now + SECONDS[-1])
            recent.clear()
            log.warning("%s: changed %d times in a row, as if someone undid it", subject, OFTEN)
            return True
        recent.append(now)
        return False
