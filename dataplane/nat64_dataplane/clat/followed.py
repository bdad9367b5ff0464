"""One mount that the agent follows, and how it is reported."""

from __future__ import annotations

import asyncio
import errno
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nat64_dataplane.clat import pace
from nat64_dataplane.clat.keeper import Pod
from nat64_dataplane.clat.plan import LeftAlone, Setup
from nat64_dataplane.clat.runtime_data import PodName
from nat64_dataplane.clat.state import PodStatus, explain
from nat64_dataplane.errors import HostError


@dataclass
class Followed:
    """One mount."""

    path: Path
    born: float
    rate: pace.Pace
    pod: Pod | None = None
    seen: bool = False
    """Whether it has been visited, or found to be no namespace."""
    result: Setup | LeftAlone | None = None
    name: PodName | None = None
    timer: asyncio.TimerHandle | None = None
    task: asyncio.Task[None] | None = None
    gone: bool = False
    again: bool = False
    """Something has changed while it was visited."""
    next_delay: float = pace.VERIFY_SECONDS
    """Seconds from the end of a visit to the next one that nothing else asks for."""

    @property
    def title(self) -> str:
        """The pod for a person."""
        return f"pod {self.name} ({self.path.name})" if self.name else f"pod {self.path.name}"

    def status(
        self,
        state: Literal["SetUp", "LeftAlone", "Failed"],
        reason: str = "",
        message: str = "",
        address: str = "",
    ) -> PodStatus:
        """The pod for the status file."""
        return PodStatus(
            netns=self.path.name,
            state=state,
            namespace=self.name.namespace if self.name else "",
            name=self.name.name if self.name else "",
            address=address,
            reason=reason,
            message=message,
        )


def say(result: Setup | LeftAlone) -> str:
    """What a visit has found, for the log."""
    if isinstance(result, LeftAlone):
        return f"left alone: {explain(result)}"
    return f"has a CLAT: {result.address} over {result.name}, next hop {result.via}"


def reason_of(error: Exception) -> str:
    """One word for an error."""
    if isinstance(error, HostError):
        return error.reason
    if isinstance(error, OSError) and error.errno:
        return errno.errorcode.get(error.errno, str(error.errno))
    return type(error).__name__
