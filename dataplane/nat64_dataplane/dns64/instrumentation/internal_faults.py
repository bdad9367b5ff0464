"""Faults of this program: each one is counted and logged, and costs one answer, not the server."""

from __future__ import annotations

import logging
import time

logger = logging.getLogger("nat64_dns64")

LOG_SECONDS = 10.0
"""At most one traceback in this many seconds, because a fault may come with every query."""


class Faults:
    """Counts exceptions that should never be raised."""

    def __init__(self) -> None:
        self.total = 0
        self._next = 0.0

    def log(self, what: str) -> None:
        """Count the exception that is being handled; `what` is the clause that failed."""
        self.total += 1
        now = time.monotonic()
        if now >= self._next:
            self._next = now + LOG_SECONDS
            logger.exception("%s failed; others may have, too", what)


faults = Faults()
"""Those of the process: a fault belongs to no server block."""
