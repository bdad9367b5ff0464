"""The run-time directory of an agent's instance: its lock and its status file.

Agents, and commands that change what an agent has set up, hold the lock. The status file outlives
the agent, because what the agent has set up does as well.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import msgspec

from nat64_dataplane.errors import BusyError

_LOCK, _STATUS, _NEW_STATUS = "lock", "status.json", "status.new"


class InstanceDirectory:
    """`ROOT/NAME`."""

    kind: ClassVar[str]
    """What an instance is, for people."""
    files: ClassVar[tuple[str, ...]] = ()
    """Files of ours in it, beside the lock and the status."""

    def __init__(self, root: Path, instance: str) -> None:
        self.instance = instance
        self.path = root / instance
        self.status_path = self.path / _STATUS

    @contextlib.contextmanager
    def locked(self, wait: float = 0) -> Iterator[None]:
        """Hold the instance. Raises BusyError, naming the holder, after `wait` seconds."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / _LOCK).open("a+") as lock:
            end = time.monotonic() + wait
            while not _try_lock(lock.fileno()):
                if time.monotonic() >= end:
                    lock.seek(0)
                    raise BusyError(
                        f"another agent (pid {lock.read().strip() or 'unknown'}) runs {self.kind} "
                        f"{self.instance!r} here and holds {lock.name}: stop it first"
                    )
                time.sleep(0.1)
            lock.truncate(0)
            lock.write(f"{os.getpid()}\n")
            lock.flush()
            yield

    def write_status(self, status: msgspec.Struct) -> None:
        """Replace the status file; readers see the old or the new one. Raises OSError."""
        self.path.mkdir(parents=True, exist_ok=True)
        new = self.path / _NEW_STATUS
        new.write_bytes(msgspec.json.format(msgspec.json.encode(status)) + b"\n")
        new.replace(self.status_path)

    def remove(self) -> None:
        """Delete the directory's files and the directory, as far as it holds only ours."""
        for name in (_STATUS, _NEW_STATUS, *self.files, _LOCK):
            (self.path / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.rmdir()
            self.path.parent.rmdir()


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
