"""What a router node's agent has counted about each gateway node, for metrics."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

RTT_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25)
"""Seconds, upper bounds; above the last there is one more."""


@dataclass(slots=True)
class Statistics:
    """Of one gateway node since the agent started."""

    sent: int = 0
    answered: int = 0
    missed: int = 0
    """Without an answer when the next was due."""
    failed: int = 0
    """That couldn't be sent; they count as missed, too."""
    deaths: int = 0
    """How often it was healthy or draining, and then dead."""
    rtt_sum: float = 0
    """Seconds."""
    rtt_counts: list[int] = field(default_factory=lambda: [0] * (len(RTT_BUCKETS) + 1))

    def note_answer(self, seconds: float) -> None:
        """Count an answer that took so long."""
        self.answered += 1
        self.rtt_sum += seconds
        self.rtt_counts[bisect_left(RTT_BUCKETS, seconds)] += 1
