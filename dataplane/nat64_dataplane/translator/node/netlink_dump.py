"""Bulk reading of rtnetlink: messages as bytes, for who needs only a few fields of very many."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")

ATTRIBUTE = struct.Struct("=HH")
_NLMSG = struct.Struct("=IHHII")
_ERRNO = struct.Struct("=i")
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_DUMP, _NLM_F_DUMP_INTR = 0x1, 0x300, 0x10
_SOL_NETLINK, _NETLINK_GET_STRICT_CHK = 270, 12
_READ_BYTES = 1 << 18
_ATTEMPTS = 5
_ENOENT = 2


def dump(request: int, body: bytes, read: Callable[[bytes, int, int], T | None]) -> list[T]:
    """What `read` makes of each answer to a dump request; None is left out. Raises OSError.

    `read` gets a buffer and where in it the message's body begins and ends. The kernel filters by
    what `body` says, as checking is strict.
    """
    for _ in range(_ATTEMPTS):
        found, whole = _once(request, body, read)
        if whole:
            break
    return found  # after so many changes: what was read last; a change wakes the agent again


def attributes(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Type, first and last offset of each attribute between `at` and `end`."""
    while at + ATTRIBUTE.size <= end:
        length, kind = ATTRIBUTE.unpack_from(data, at)
        if length < ATTRIBUTE.size:
            return
        yield kind, at + ATTRIBUTE.size, at + length
        at += (length + 3) & ~3


def _once(
    request: int, body: bytes, read: Callable[[bytes, int, int], T | None]
) -> tuple[list[T], bool]:
    found: list[T] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.bind((0, 0))
        netlink.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
        flags = _NLM_F_REQUEST | _NLM_F_DUMP
        netlink.send(_NLMSG.pack(_NLMSG.size + len(body), request, flags, 1, 0) + body)
        whole = True
        while True:
            data = netlink.recv(_READ_BYTES)
            at = 0
            while at + _NLMSG.size <= len(data):
                length, kind, flags, _, _ = _NLMSG.unpack_from(data, at)
                whole = whole and not flags & _NLM_F_DUMP_INTR
                if kind == _NLMSG_DONE:
                    return found, whole
                if kind == _NLMSG_ERROR:
                    error = -_ERRNO.unpack_from(data, at + _NLMSG.size)[0]
                    if error == _ENOENT:  # there is no such table
                        return [], True
                    raise OSError(error, os.strerror(error))
                one = read(data, at + _NLMSG.size, at + length)
                if one is not None:
                    found.append(one)
                at += (length + 3) & ~3
