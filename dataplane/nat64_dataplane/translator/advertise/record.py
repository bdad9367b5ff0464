"""What this node has told hosts and not taken back, kept across restarts of the agent.

An agent that has been told to advertise elsewhere, `prepare` of the next pod, and `remove` read
it, so that hosts don't keep a route for which nobody stands any more.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from ipaddress import IPv6Network
from pathlib import Path

import msgspec

NAME = "advertised.json"
RIVAL = "another program of this node advertises a default route there"
"""Why a link is quiet."""


class Told(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was said on one link."""

    prefixes: tuple[str, ...]
    last: float | None = None
    """When the last advertisement was sent, in seconds of the monotonic clock, as far as known."""

    quiet: bool = False
    """Whether nothing may be sent there, as another program makes the node a default router."""

    @property
    def networks(self) -> frozenset[IPv6Network]:
        """`prefixes`, read."""
        return frozenset(map(IPv6Network, self.prefixes))

    def sent_at(self, now: float) -> float | None:
        """`last`, unless it can't be: the clock begins anew with the machine."""
        return self.last if self.last is not None and self.last <= now else None


class Record:
    """The file in an instance's run-time directory."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / NAME
        self._written: dict[str, Told] | None = None

    def read(self) -> dict[str, Told]:
        """By link; empty where there is no file, or one that can't be read."""
        try:
            found = msgspec.json.decode(self._path.read_bytes(), type=dict[str, Told])
            for told in found.values():
                _ = told.networks
        except (OSError, ValueError):
            return {}
        return found

    def write(self, told: Mapping[str, Told]) -> None:
        """Replace the file; without anything to say there is none. Raises OSError."""
        kept = {name: each for name, each in told.items() if each.prefixes}
        if kept == self._written:
            return
        if kept:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            new = self._path.with_suffix(".new")
            new.write_bytes(msgspec.json.encode(kept, order="deterministic") + b"\n")
            new.replace(self._path)
        else:
            self._path.unlink(missing_ok=True)
        self._written = kept


def now() -> float:
    """The record's clock, the same for all processes of a machine."""
    return time.monotonic()
