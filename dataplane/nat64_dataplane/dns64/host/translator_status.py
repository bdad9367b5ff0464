"""Whether this node's translator is programmed, according to the status file of its agent.

DNS64 without NAT64 hands out addresses that lead nowhere, and applications hang without an error.
So with `translator PATH` there is no synthesis until the file says that the hooks are attached.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Status:
    """The file's content; `reason` is for people."""

    programmed: bool
    reason: str


UNCOUPLED = Status(True, "not coupled to a translator")


def read(path: str) -> Status:
    """Read the status file. A file that can't be read means: not programmed."""
    try:
        data = json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        return Status(False, f"{path} doesn't exist: no translator has run on this node")
    except (OSError, ValueError) as error:
        return Status(False, f"{path} can't be read: {error}")
    if not isinstance(data, dict) or not isinstance(data.get("programmed"), bool):
        return Status(False, f"{path} doesn't say whether the translator is programmed")
    reason = str(data.get("reason") or ("programmed" if data["programmed"] else "no reason given"))
    return Status(data["programmed"], reason)


class TranslatorWatch:
    """The status as last read; `look` reads it again and tells whether it changed."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.status = read(path) if path else UNCOUPLED

    def look(self) -> bool:
        """Read the file again. Returns whether anything changed."""
        if not self.path:
            return False
        before, self.status = self.status, read(self.path)
        return before != self.status
