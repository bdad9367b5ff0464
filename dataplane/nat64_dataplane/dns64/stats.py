"""Counts of one server block. Counting is on the hot path, naming and summing is for the scrape."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import NamedTuple

from nat64_dataplane.dns64.rules import Rule
from nat64_dataplane.dns64.wire import RCODE_MASK

SIZES = (0, 100, 200, 300, 400, 511, 1023, 2047, 4095, 8291, 16000, 32000, 48000, 64000)
"""CoreDNS's bounds for message sizes, in bytes."""
SECONDS = tuple(0.00025 * 2**power for power in range(16))
"""CoreDNS's bounds for durations: 0.25 ms doubled up to 8 s."""


class Histogram:
    """Counts below bounds, and the sum."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times


class Served(NamedTuple):
    """What is counted of a response. Sizes are in bytes and few differ, so this stays small."""

    zone: str
    proto: str
    family: int
    type: int
    do: bool
    rcode: int
    synthesized: bool
    request: int
    response: int


class Stats:
    """All counts of one server block."""

    def __init__(self) -> None:
        self.served: Counter[Served] = Counter()
        self.hot: Counter[tuple[str, int, bytes, bool, int, str, bool, int, int]] = Counter()
        """Responses from the hot path: zone, family, type, DO, flags, kind, synthesized, sizes."""
        self.dropped = 0
        """Messages that were no query: they get no response, or FORMERR."""
        self.seconds = Histogram(SECONDS)
        self.rules: Counter[Rule] = Counter()
        self.acl: Counter[str] = Counter()
        self.cache_hits: Counter[str] = Counter()
        self.cache_requests = 0
        self.stale = 0
        self.prefetches = 0
        self.over_limit = 0
        self.withheld = 0
        """AAAA questions answered without synthesis since the translator isn't programmed."""

    def responses(self) -> Counter[Served]:
        """Every response sent, the hot path's among them."""
        total = Counter(self.served)
        for key, count in self.hot.items():
            zone, family, rdtype, do, flags, _, synthesized, request, response = key
            served = Served(
                zone,
                "udp",
                family,
                int.from_bytes(rdtype, "big"),
                do,
                flags & RCODE_MASK,
                synthesized,
                request,
                response,
            )
            total[served] += count
        return total

    def hits(self) -> Counter[str]:
        """Cache hits by kind, the hot path's among them."""
        total = Counter(self.cache_hits)
        for key, count in self.hot.items():
            total[key[5]] += count
        return total
