"""When the agent sweeps: every few seconds, and between sweeps if more has expired than may go."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from nat64_dataplane.errors import DataplaneError
from nat64_dataplane.translator.datapath.abi import SweepResult
from nat64_dataplane.translator.datapath.removal_pace import BREAK
from nat64_dataplane.translator.report.agent_state import SweepTotals

_SECONDS = 5.0
_SHARE = 0.05  # of one CPU, unless that would be too seldom
LONGEST_PAUSE = 30.0
"""Seconds between two sweeps. LINGER in dataplane/bpf/sweep_entries.h counts on it."""

log = logging.getLogger(__name__)

InKernel = Callable[[Callable[[], SweepResult]], Awaitable[SweepResult]]
"""Runs its argument in the thread that may use the kernel."""


class Swept(Protocol):
    """What is swept; an Instance."""

    def sweep(self) -> SweepResult:
        """Take away what has expired, or as much as may go at once. Raises DataplaneError."""

    def go_on_sweeping(self) -> SweepResult:
        """Take away more of what the last sweep has left. Raises DataplaneError."""


async def run(swept: Swept, totals: SweepTotals, in_kernel: InKernel) -> None:
    """Sweep until cancelled."""
    pause = _SECONDS
    while True:
        await asyncio.sleep(pause)
        start = time.monotonic()
        try:
            result = await in_kernel(swept.sweep)
            took = time.monotonic() - start
            totals.add(result, took)
            following = time.monotonic() + pause_after(took)
            # The next sweep needn't find all of it gone.
            while result.unfinished and time.monotonic() < following:
                await asyncio.sleep(BREAK)
                start = time.monotonic()
                result = await in_kernel(swept.go_on_sweeping)
                totals.add_rest(result, time.monotonic() - start)
        except DataplaneError as error:
            log.warning("sweep failed: %s", error)
            continue
        pause = max(following - time.monotonic(), 0)


def pause_after(took: float) -> float:
    """Seconds to rest after a sweep of `took` seconds."""
    return min(max(_SECONDS, took / _SHARE), LONGEST_PAUSE)
