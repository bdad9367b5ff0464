"""Warnings about connections that are refused because something is used up. Pure.

A refusal is answered at once with ICMPv6 1/3 and counted. A warning stays for a minute after the
last one, so that a client which retries doesn't switch it on and off.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

from nat64_dataplane.translator.node_warning import NodeWarning, warn

REMEMBERED = 60.0
"""Seconds."""

_WARNINGS: Mapping[str, tuple[str, ...]] = {
    "PortsExhausted": ("ports_exhausted",),
    "SessionTableFull": ("session_table_full",),
    "ClientAtLimit": (
        "client_port_limit",
        "client_port_share",
        "client_session_limit",
        "client_session_rate",
    ),
}
"""What each warning is about: reasons to drop."""


class Refusals:
    """Notices that counters of refusals move from one look to the next."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counted: dict[str, int] | None = None
        self._last: dict[str, float] = {}

    def warnings(self, counters: Mapping[str, int]) -> Iterator[NodeWarning]:
        """One for each kind of refusal in the last minute.

        None names a client: whoever reaches a node's probes may read them.
        """
        counted = {
            reason: counters[f"dropped_{reason}_6to4"]
            for reasons in _WARNINGS.values()
            for reason in reasons
        }
        now = self._clock()
        for reason, number in counted.items():
            if self._counted is not None and number != self._counted[reason]:
                self._last[reason] = now
        self._counted = counted
        for warning, reasons in _WARNINGS.items():
            recent = [
                reason for reason in reasons if now - self._last.get(reason, -9e9) <= REMEMBERED
            ]
            if recent:
                yield warn(warning, *(recent if len(reasons) > 1 else ()))
