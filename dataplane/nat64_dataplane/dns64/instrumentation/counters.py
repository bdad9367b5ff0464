"""Counts of one server block. Counting is on the hot path; the scrape names and sums."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import Any, NamedTuple

from nat64_dataplane.dns64.message import domain_names
from nat64_dataplane.dns64.message.answer import Answer
from nat64_dataplane.dns64.message.wire import RCODE_MASK
from nat64_dataplane.dns64.synthesis.rfc6147 import Rule

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
    """The properties by which a response is counted. Sizes are in bytes and few differ, so this
    stays small.
    """

    zone: str
    proto: str
    family: int
    type: int
    do: bool
    rcode: int
    synthesized: bool
    request: int
    response: int


class Alike(NamedTuple):
    """The properties of answers that are counted together on the hot path."""

    zone: str
    type: int
    do: bool
    rcode: int
    kind: str
    synthesized: bool
    request: int
    response: int


MAX_KEYS = 4096
"""How many kinds of responses are counted with their exact size. Further ones are counted in the
ranges and types that the metrics show, so that no client can use memory without limit."""
OPT_SIZE = 11
"""Bytes of a bare OPT record: what EDNS adds to a query and to its response."""
HEADER_SIZE = 12


def _rounded(size: int) -> int:
    return SIZES[min(bisect_left(SIZES, size), len(SIZES) - 1)]


def _known(rdtype: int) -> int:
    return rdtype if rdtype <= 65 or 251 <= rdtype <= 255 else 0  # what a metric has a name for


class Counters:
    """All counts of one server block; they continue if a reload keeps the block."""

    def __init__(self, zones: dict[bytes, str]) -> None:
        self.zones = zones
        self._only_zone = next(iter(zones.values()))
        self.served: dict[tuple[Any, ...], int] = {}
        """Responses with the fields of Served as key; a plain tuple is quicker to make."""
        self.hot: dict[tuple[Any, ...], list[int]] = {}
        """Responses from the hot path over UDP, with the fields of Alike as key. The list has a
        number for each family (at 1 and 2, as CoreDNS has them) without EDNS, then (at 3 and 4)
        with it."""
        self.quick = 0
        """The part of `hot` that were misses, answered on the fast path."""
        self.dropped = 0
        """Messages that aren't queries: they get no response, or FORMERR."""
        self.seconds = Histogram(SECONDS)
        self.rules: Counter[Rule] = Counter()
        self.acl: Counter[str] = Counter()
        self.cache_hits: Counter[str] = Counter()
        self.cache_requests = 0
        self.stale = 0
        self.prefetches = 0
        self.over_limit = 0
        self.refused_connections = 0
        self.withheld = 0
        """AAAA questions that got no AAAA, and might have with a programmed translator."""

    def zone_of(self, name: bytes) -> str:
        """The zone of this block that a name is in."""
        zones = self.zones
        if len(zones) == 1:
            return self._only_zone
        return next((zones[zone] for zone in domain_names.ancestors(name) if zone in zones), ".")

    def counter(self, question: bytes, do: bool, answer: Answer) -> list[int]:
        """The numbers in which responses with this answer are counted."""
        request = HEADER_SIZE + len(question)
        alike: tuple[Any, ...] = (
            self.zone_of(question[:-4]),
            question[-4] << 8 | question[-3],
            do,
            answer.flags & RCODE_MASK,
            answer.kind,
            answer.synthesized,
            request,
            request + len(answer.body),
        )
        numbers = self.hot.get(alike)
        if numbers is None:
            if len(self.hot) >= MAX_KEYS:
                zone, rdtype, *same, request, response = alike
                alike = (zone, _known(rdtype), *same, _rounded(request), _rounded(response))
            numbers = self.hot.setdefault(alike, [0] * 5)
        return numbers

    def count(self, key: tuple[Any, ...]) -> None:
        """Count a response that isn't from the hot path; `key` has the fields of Served."""
        count = self.served.get(key)
        if count is None and len(self.served) >= MAX_KEYS:
            zone, proto, family, rdtype, *same, request, response = key
            key = (
                zone, proto, family, _known(rdtype), *same, _rounded(request), _rounded(response),
            )  # fmt: skip
            count = self.served.get(key)
        self.served[key] = (count or 0) + 1

    def hot_total(self) -> int:
        """The number of responses from the hot path."""
        return sum(sum(numbers) for numbers in self.hot.values())

    def responses(self) -> Counter[Served]:
        """Every response sent, the hot path's among them."""
        total = Counter({Served(*key): count for key, count in self.served.items()})
        for key, numbers in self.hot.items():
            alike = Alike(*key)
            for index, count in enumerate(numbers):
                if not count:
                    continue
                family, opt = (index, 0) if index < 3 else (index - 2, OPT_SIZE)
                served = Served(
                    alike.zone,
                    "udp",
                    family,
                    alike.type,
                    alike.do,
                    alike.rcode,
                    alike.synthesized,
                    alike.request + opt,
                    alike.response + opt,
                )
                total[served] += count
        return total

    def hits(self) -> Counter[str]:
        """Cache hits by kind, the hot path's among them."""
        total = Counter(self.cache_hits)
        for key, numbers in self.hot.items():
            total[Alike(*key).kind] += sum(numbers)
        total["success"] -= self.quick
        total["denial"] += total.pop("error", 0)  # as CoreDNS has it: one cache for both
        return total


class UpstreamExchanges:
    """The counts of exchanges with upstream servers; they outlive reloads."""

    def __init__(self) -> None:
        self.seconds: dict[tuple[str, int | None], Histogram] = {}

    def observe(self, upstream: str, rcode: int | None, seconds: float) -> None:
        """Count one exchange; `rcode` is None where no reply came."""
        histogram = self.seconds.get((upstream, rcode))
        if histogram is None:
            histogram = self.seconds[upstream, rcode] = Histogram(SECONDS)
        histogram.observe(seconds)
