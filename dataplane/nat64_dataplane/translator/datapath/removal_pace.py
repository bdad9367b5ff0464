"""How fast entries of a table of state may be removed.

The kernel keeps removed entries until a grace period of its RCU is over, a quarter of a second or
more. Then it moves all of them from list to list with interrupts off, and frees all of them with
softirqs off: 0.1 to 0.2 us an entry for each, in which the CPU receives no packets. So what is
removed within a grace period decides how long that lasts.
"""

from __future__ import annotations

_GRACE_PERIOD = 0.25
_SHARE = 4096
"""Entries of one table in a grace period: less than a millisecond of each."""
_LONGEST = 60.0
"""Seconds in which all of a full table are removed, also if that takes a larger share."""
_BURSTS = 16
"""At most this part of a second's entries goes at once."""

BREAK = 1 / _BURSTS
"""Seconds after which the next burst may go."""


class Pace:
    """A token bucket (RFC 2697's, of one colour) for a table of `entries`."""

    def __init__(self, entries: int) -> None:
        self.rate = max(_SHARE / _GRACE_PERIOD, entries / _LONGEST)
        """Entries a second."""
        self.burst = int(self.rate / _BURSTS)
        self._tokens = float(self.burst)
        self._seen = 0.0

    def allows(self, now: float) -> int:
        """How many entries may be removed at `now`, in monotonic seconds."""
        if now > self._seen:
            self._tokens = min(self._tokens + (now - self._seen) * self.rate, self.burst)
            self._seen = now
        return int(self._tokens)

    def took(self, removed: int) -> None:
        """So many were removed; what was not asked for may be more than `allows` has said."""
        self._tokens = max(self._tokens - removed, 0)
