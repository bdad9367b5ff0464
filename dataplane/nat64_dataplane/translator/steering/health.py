"""Whether a gateway node serves, as its answers to probes tell. Pure: the caller has the clock.

What counts is probes, never time: a router node whose agent is held up for seconds has sent none in
them, and calls no gateway dead for it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

LONGEST_DAMPING = 60.0
"""Seconds of answers in a row that a gateway needs at most to be back."""
CALM = 300.0
"""Seconds of health after which former failures are forgotten."""


class Answer(enum.IntEnum):
    """The state in an answer to a probe: enum probe_state of the eBPF program."""

    SERVING = 1
    DRAINING = 2
    """It keeps its clients, and wants no new ones."""
    NOT_SERVING = 3
    """It has no IPv4 way out, or no config yet."""


class State(enum.Enum):
    """What a router node thinks of a gateway node."""

    NEW = "New"
    """It has never answered. The first answer is enough."""
    HEALTHY = "Healthy"
    DRAINING = "Draining"
    RECOVERING = "Recovering"
    """It answers again, and must go on for a while. It is used where no other is."""
    DEAD = "Dead"


@dataclass(frozen=True, slots=True)
class Thresholds:
    """How many probes it takes."""

    interval: float
    """Seconds between probes."""
    failure: int
    """Probes missed in a row: it is dead."""
    recovery: int
    """Answers in a row: it is back, the first time."""


class Health:
    """One gateway node, seen from here."""

    def __init__(self, thresholds: Thresholds, state: State = State.NEW) -> None:
        """`state`: as it was known to be before the agent started."""
        self.thresholds = thresholds
        self.state = state
        self.failures = 0
        """How often it has died; forgotten after a calm time."""
        self.deaths = 0
        """The same, never forgotten."""
        self.why = ""
        """Why it is dead or new, for people; empty where it isn't."""
        self._missed = 0
        self._answered = 0
        self._well_since: float | None = None

    @property
    def needed(self) -> int:
        """Answers in a row that it needs to be back."""
        most = max(self.thresholds.recovery, int(LONGEST_DAMPING / self.thresholds.interval))
        doubled = self.thresholds.recovery << min(max(self.failures - 1, 0), 16)
        return min(doubled, most)

    def answer(self, said: Answer, now: float) -> None:
        """It has answered a probe."""
        self._missed = 0
        if said is Answer.NOT_SERVING:
            self._die(now, "it has no way out over IPv4, or no config yet")
            return
        self.why = ""
        alive = State.DRAINING if said is Answer.DRAINING else State.HEALTHY
        if self.state in (State.DEAD, State.RECOVERING):
            self._answered += 1
            alive = alive if self._answered >= self.needed else State.RECOVERING
        self._become(alive, now)

    def miss(self, now: float) -> None:
        """A probe has had no answer by the time of the next one."""
        self._answered = 0
        self._missed += 1
        if self.state is State.RECOVERING:
            self.state = State.DEAD
        if self._missed >= self.thresholds.failure:
            self._die(now, f"{self._missed} probes in a row had no answer")

    def _die(self, now: float, why: str) -> None:
        self.why = why
        self._answered = 0
        if self.state in (State.HEALTHY, State.DRAINING):
            self._forget(now)
            self.failures += 1
            self.deaths += 1
        self._become(State.NEW if self.state is State.NEW else State.DEAD, now)

    def _become(self, state: State, now: float) -> None:
        well = state in (State.HEALTHY, State.DRAINING)
        if well and self._well_since is None:
            self._well_since = now
        if not well:
            self._well_since = None
        elif self.state is not state:
            self._answered = 0
        self.state = state
        self._forget(now)

    def _forget(self, now: float) -> None:
        if self._well_since is not None and now - self._well_since >= CALM:
            self.failures = 0
