"""When a link's Router Advertisements are sent (RFC 4861 sections 6.2.4 to 6.2.6). Pure: the time,
in seconds of any clock that never goes back, and chance are given.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from ipaddress import IPv6Network

from nat64_dataplane.translator.advertise.message import Offer

MIN_DELAY_BETWEEN_RAS = 3.0
MAX_RA_DELAY_TIME = 0.5
MAX_INITIAL_RTR_ADVERT_INTERVAL = 16.0
MAX_INITIAL_RTR_ADVERTISEMENTS = 3
MAX_FINAL_RTR_ADVERTISEMENTS = 3
"""Constants of RFC 4861 section 10, in seconds and in messages."""

Draw = Callable[[float, float], float]
"""A number between two, as `random.uniform` gives it."""


def shortest_interval(longest: float) -> float:
    """MinRtrAdvInterval for a MaxRtrAdvInterval of 4 seconds or more (RFC 4861 section 6.2.1)."""
    return max(MIN_DELAY_BETWEEN_RAS, 0.33 * longest if longest >= 9 else 0.75 * longest)


class Schedule:
    """One link's. It says what to send and when, and is told what has been sent."""

    def __init__(
        self, draw: Draw, before: Collection[IPv6Network] = (), last: float | None = None
    ) -> None:
        """`before` is what this node has advertised on the link until now, `last` when."""
        self._draw = draw
        self._before = frozenset(before)
        self._last = last
        self._offer: Offer | None = None
        self._longest = 0.0
        self._usable = False
        self._ending: dict[IPv6Network, int] = {}
        self._initial = 0
        self._answering = False
        self.next_at: float | None = None
        """When to send; None where nothing is to be sent."""

    @property
    def offer(self) -> Offer | None:
        """What hosts are offered, if anything."""
        return self._offer

    @property
    def known(self) -> frozenset[IPv6Network]:
        """The prefixes that hosts may have from us and that aren't withdrawn."""
        offered = {self._offer.prefix} if self._offer else set()
        return self._before | offered | self._ending.keys()

    @property
    def last(self) -> float | None:
        """When the last advertisement was sent."""
        return self._last

    @property
    def kind(self) -> str:
        """What the next advertisement is: `unsolicited`, `solicited` or `withdrawal`."""
        if self._offer is None:
            return "withdrawal"
        return "solicited" if self._answering else "unsolicited"

    def content(self) -> tuple[Offer, ...]:
        """What the next advertisement says."""
        ended = tuple(Offer.withdrawing(prefix) for prefix in sorted(self._ending))
        return (self._offer, *ended) if self._offer else ended

    def offers(self, now: float, offer: Offer | None, longest: float) -> None:
        """Offer this from now on, or nothing. What was offered before is withdrawn; `longest` is
        MaxRtrAdvInterval.
        """
        gone = self._before | ({self._offer.prefix} if self._offer else set())
        if offer:
            gone -= {offer.prefix}
        if not gone and (offer, longest) == (self._offer, self._longest):
            return
        self._before = frozenset()
        if offer:
            self._ending.pop(offer.prefix, None)
        self._ending |= dict.fromkeys(gone, MAX_FINAL_RTR_ADVERTISEMENTS)
        self._offer, self._longest = offer, longest
        self._begin(now)

    def usable(self, now: float, usable: bool) -> None:
        """Whether the link can carry messages. One that comes back is told everything anew."""
        if usable == self._usable:
            return
        self._usable = usable
        self._begin(now)

    def solicited(self, now: float) -> None:
        """A host asks. Answers are multicast, so that one is enough for all who ask meanwhile."""
        if self._answering or self._offer is None or not self._usable:
            return
        self._answering = True
        self._not_later(self._allowed(now) + self._draw(0, MAX_RA_DELAY_TIME))

    def sent(self, now: float) -> None:
        """The advertisement has been sent, or sending it has failed: which comes to the same, as
        for one that was lost on its way.
        """
        self._last = now
        self._answering = False
        self._ending = {prefix: left - 1 for prefix, left in self._ending.items() if left > 1}
        self._initial = max(0, self._initial - 1)
        if self._offer:
            interval = self._draw(shortest_interval(self._longest), self._longest)
            if self._initial:
                interval = min(interval, MAX_INITIAL_RTR_ADVERT_INTERVAL)
            self.next_at = now + interval
        else:
            self.next_at = now + MIN_DELAY_BETWEEN_RAS if self._ending else None

    def _begin(self, now: float) -> None:
        self._initial = MAX_INITIAL_RTR_ADVERTISEMENTS
        self._answering = False
        self.next_at = None
        if self._usable and self.content():
            # Nodes that start together don't speak together. That a way is gone is said at once.
            delay = self._draw(0, MAX_RA_DELAY_TIME) if self._offer else 0
            self.next_at = self._allowed(now) + delay

    def _allowed(self, now: float) -> float:
        if self._last is None:
            return now
        return max(now, self._last + MIN_DELAY_BETWEEN_RAS)

    def _not_later(self, at: float) -> None:
        self.next_at = at if self.next_at is None else min(self.next_at, at)
