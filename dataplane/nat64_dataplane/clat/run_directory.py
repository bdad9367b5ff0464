"""The CLAT agent's run-time directory: its lock and its status."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from nat64_dataplane.clat.state import Status
from nat64_dataplane.errors import BusyError

DEFAULT_RUN_DIR = Path("/run/nat64-clat")


class RunDir:
    """`RUN_DIR/NAME`."""

    def __init__(self, root: Path, instance: str) -> None:
        self.instance = instance
        self.path = root / instance
        self.status_path = self.path / "status.json"

    @contextlib.contextmanager
    def locked(self, wait: float = 0) -> Iterator[None]:
        """Hold the instance. Raises BusyError, naming the holder, after `wait` seconds."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("a+") as lock:
            end = time.monotonic() + wait
            while not _try_lock(lock.fileno()):
                if time.monotonic() >= end:
                    lock.seek(0)
                    raise BusyError(
                        f"another agent (pid {lock.read().strip() or 'unknown'}) runs CLAT "
                        f"{self.instance!r} here and holds {lock.name}: stop it first"
                    )
                time.sleep(0.1)
            lock.truncate(0)
            lock.write(f"{os.getpid()}\n")
            lock.flush()
            yield

    def write_status(self, status: Status) -> None:
        """Replace the status file; readers see the old or the new one. Raises OSError."""
        new = self.status_path.with_suffix(".new")
        new.write_bytes(msgspec.json.format(msgspec.json.encode(status)) + b"\n")
        new.replace(self.status_path)

    def remove(self) -> None:
        """Delete the directory's files and the directory, as far as it holds only ours."""
        for name in ("status.json", "status.new", "lock"):
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
