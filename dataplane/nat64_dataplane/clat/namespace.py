"""Network namespaces by the runtime's mounts of them: opened with care, entered by one thread.

Nothing but the network namespace of a pod is entered: no process of it, none of its files.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from nat64_dataplane.errors import DataplaneError

_CLONE_NEWNET = 0x40000000
_NS_GET_NSTYPE = 0xB703
_NSFS_MAGIC = 0x6E736673
_EVENTS = 0x1 | 0x8 | 0x10 | 0x40 | 0x100 | 0x400
"""RTMGRP_LINK, TC, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE."""

_libc = ctypes.CDLL(None, use_errno=True)


class NotANamespaceError(DataplaneError):
    """What lies there is no network namespace: a file that is not mounted on yet, or anything."""


class LostError(DataplaneError):
    """The thread could not come home: it must not go on."""


class Identity(NamedTuple):
    """What tells a namespace from all others, as long as it lives."""

    device: int
    inode: int


HOME = Path("/proc/thread-self/ns/net")


def identity(fd: int) -> Identity:
    """Of an open namespace. Raises OSError."""
    status = os.fstat(fd)
    return Identity(status.st_dev, status.st_ino)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """The namespace that is mounted at `path`. Raises NotANamespaceError, OSError.

    Nothing that a pod could put there is followed, waited for or run: the path itself is opened
    first (O_PATH), and anything else only once it is known to be a network namespace.
    """
    with contextlib.ExitStack() as stack:
        name = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        stack.callback(os.close, name)
        if not stat.S_ISREG(os.fstat(name).st_mode) or _file_system(name) != _NSFS_MAGIC:
            raise NotANamespaceError(f"{path} is no namespace")
        fd = os.open(f"/proc/self/fd/{name}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        stack.callback(os.close, fd)
        if fcntl.ioctl(fd, _NS_GET_NSTYPE) != _CLONE_NEWNET:
            raise NotANamespaceError(f"{path} is a namespace, but not of networks")
        yield fd


@contextlib.contextmanager
def entered(fd: int) -> Iterator[None]:
    """Have the calling thread in that network namespace. Raises OSError, LostError.

    Only for a thread that does nothing else.
    """
    home = os.open(HOME, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(fd)
        try:
            yield
        finally:
            try:
                _enter(home)
            except OSError as error:
                raise LostError(f"can't come back from a pod's network: {error}") from error
    finally:
        os.close(home)


def monitor() -> socket.socket:
    """A socket that becomes readable when anything changes in the namespace that the thread is in.

    It keeps the namespace alive until it is closed. Raises OSError.
    """
    netlink = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
    )
    try:
        netlink.bind((0, _EVENTS))
    except OSError:
        netlink.close()
        raise
    return netlink


def _enter(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def _file_system(fd: int) -> int:
    buffer = ctypes.create_string_buffer(256)
    if _libc.fstatfs(fd, buffer):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return int.from_bytes(buffer.raw[: ctypes.sizeof(ctypes.c_long)], "little")
