"""The directory in which the runtime mounts its pods' network namespaces, watched by inotify."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
from collections.abc import Callable
from pathlib import Path

DEFAULT_DIRECTORY = Path("/run/netns")

_IN_NONBLOCK, _IN_CLOEXEC = 0o4000, 0o2000000
_IN_MOVED_FROM, _IN_MOVED_TO, _IN_CREATE, _IN_DELETE = 0x40, 0x80, 0x100, 0x200
_IN_DELETE_SELF, _IN_MOVE_SELF, _IN_ONLYDIR = 0x400, 0x800, 0x01000000
_MASK = (
    _IN_MOVED_FROM
    | _IN_MOVED_TO
    | _IN_CREATE
    | _IN_DELETE
    | _IN_DELETE_SELF
    | _IN_MOVE_SELF
    | _IN_ONLYDIR
)
_READ_BYTES = 1 << 16

_libc = ctypes.CDLL(None, use_errno=True)


class Mounts:
    """Calls `wake` on the running loop after any change in the directory, once it is there."""

    def __init__(self, directory: Path, wake: Callable[[], None]) -> None:
        self.directory = directory
        self._wake = wake
        self._fd = -1
        self._watched: tuple[int, int] | None = None

    def paths(self) -> set[Path]:
        """What lies in the directory now; nothing if there is none. Watches it from then on.

        Raises OSError.
        """
        self._watch()
        try:
            with os.scandir(self.directory) as entries:
                return {self.directory / entry.name for entry in entries}
        except (FileNotFoundError, NotADirectoryError):
            return set()

    def close(self) -> None:
        """Stop watching."""
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd, self._watched = -1, None

    def _watch(self) -> None:
        """Watch the directory that has the name now; it may be another one than before."""
        try:
            status = self.directory.stat()
        except OSError:
            self.close()
            return
        if self._watched == (status.st_dev, status.st_ino):
            return
        self.close()
        fd = _libc.inotify_init1(_IN_NONBLOCK | _IN_CLOEXEC)
        if fd < 0:
            raise _error("inotify_init1")
        if _libc.inotify_add_watch(fd, os.fsencode(self.directory), _MASK) < 0:
            error = _error(f"watching {self.directory}")
            os.close(fd)
            raise error
        self._fd, self._watched = fd, (status.st_dev, status.st_ino)
        asyncio.get_running_loop().add_reader(fd, self._drain)

    def _drain(self) -> None:
        with contextlib.suppress(OSError):
            while os.read(self._fd, _READ_BYTES):
                pass
        self._wake()


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")
