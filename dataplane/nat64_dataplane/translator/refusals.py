"""Warnings about connections that are refused because something is used up. Pure.

A refusal is answered at once with ICMPv6 1/3 and counted. A warning stays for a minute after the
last one, so that a client which retries doesn't switch it on and off.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import IPv6Address

from nat64_dataplane.translator.datapath.abi import Holding
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

    def warnings(
        self, counters: Mapping[str, int], holdings: Callable[[], Iterable[Holding]]
    ) -> Iterator[NodeWarning]:
        """One for each kind of refusal in the last minute.

        `holdings` is asked only where a client is at a limit, as there may be many clients.
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
            if not recent:
                continue
            if warning == "ClientAtLimit":
                greedy = str(_greediest(recent, holdings()))
                yield warn(warning, *recent, f"the client that holds most is {greedy}")
            else:
                yield warn(warning)


def _greediest(reasons: list[str], holdings: Iterable[Holding]) -> IPv6Address | None:
    """The client that holds most of what there is a limit to."""
    of_ports = any("port" in reason for reason in reasons)
    most = max(holdings, key=lambda held: held.ports if of_ports else held.sessions, default=None)
    return most.client if most else None
