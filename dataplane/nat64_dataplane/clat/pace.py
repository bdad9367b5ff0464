"""How often a namespace is visited. A pod may change its own network as often as it likes; it must
not keep the agent from others."""

from __future__ import annotations

from dataclasses import dataclass

SETTLE_SECONDS = 0.01
"""Changes come in bursts: one visit for all."""
VERIFY_SECONDS = 60.0
"""Between visits that nothing asks for."""
MOUNT_SECONDS = 2.0
"""How long a new file may be without a namespace before it counts as something else."""

_SHARE, _FIRST_SHARE = 20, 4
"""A visit takes one part in so many of one CPU's time, at most: the latter while a namespace is
new, because its pod waits then."""
_PATIENT = 100
"""Visits in vain until a namespace counts as one that never gets ready."""
_SLOW_SECONDS = 1.0
_FIRST_REPAIR_SECONDS, _LONGEST_SECONDS = 0.1, 30.0
_CALM_SECONDS = 300.0


@dataclass
class Pace:
    """When the next visit may be, on the event loop's clock."""

    not_before: float = 0.0
    _vain: int = 0
    _repairs: int = 0
    _last_repair: float = 0.0
    _failures: int = 0

    def visited(self, now: float, took: float, *, set_up: bool, repaired: bool) -> None:
        """A visit that took so many seconds of CPU time has ended."""
        self._failures = 0
        pause = took * _SHARE
        if set_up:
            self._vain = 0
        else:
            self._vain += 1
            patient = self._vain <= _PATIENT
            pause = took * _FIRST_SHARE if patient else max(pause, _SLOW_SECONDS)
        if repaired:
            if now - self._last_repair > _CALM_SECONDS:
                self._repairs = 0
            self._repairs += 1
            self._last_repair = now
            pause = max(pause, _backoff(self._repairs))
        self.not_before = now + min(pause, _LONGEST_SECONDS)

    def failed(self, now: float) -> int:
        """A visit has failed; returns how many have, one after the other."""
        self._failures += 1
        self.not_before = now + _backoff(self._failures)
        return self._failures


def until_mounted(age: float) -> float:
    """Seconds until a file that is no namespace `age` seconds after it came is looked at again."""
    return SETTLE_SECONDS if age < MOUNT_SECONDS else _SLOW_SECONDS


def _backoff(times: int) -> float:
    return float(min(_LONGEST_SECONDS, _FIRST_REPAIR_SECONDS * 2 ** min(times - 1, 10)))
