"""The bpf(2) calls that attach programs by link: create, update, inspect, pin.

libbpf knows tcx since 1.3, and Debian 12 has 1.1; the calls themselves are few.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_SYSCALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}

_OBJ_PIN, _OBJ_GET, _OBJ_GET_INFO, _PROG_QUERY, _LINK_CREATE, _LINK_UPDATE = 6, 7, 15, 16, 28, 29
_LINK_DETACH = 34
_MOST_PROGRAMS = 64  # BPF_MPROG_MAX
_LINK_TYPE_TCX = 11
_BEFORE = 1 << 3  # BPF_F_BEFORE; with no program named, it means the head of the chain

TCX_INGRESS, TCX_EGRESS = 46, 47

_libc = ctypes.CDLL(None, use_errno=True)


class LinkInfo(NamedTuple):
    """A tcx link. `ifindex` is 0 once its interface is gone or someone detached it."""

    program_id: int
    ifindex: int
    attach_type: int


def attach_tcx(program_fd: int, ifindex: int, attach_type: int) -> int:
    """Attach at the head of the chain and return the link's descriptor.

    The head, because a program of someone else's may end the chain, and ours passes on what is
    not its own. Raises OSError: EINVAL from a kernel before 6.6.
    """
    attr = struct.pack("=IIIIIIQ", program_fd, ifindex, attach_type, _BEFORE, 0, 0, 0)
    return _bpf(_LINK_CREATE, attr)


def update(link_fd: int, program_fd: int) -> None:
    """Replace the link's program; every packet meets one of the two. Raises OSError."""
    _bpf(_LINK_UPDATE, struct.pack("=IIII", link_fd, program_fd, 0, 0))


def detach(link_fd: int) -> None:
    """Take the program off its hook at once; closing the link does so some time later.

    Raises OSError.
    """
    _bpf(_LINK_DETACH, struct.pack("=I", link_fd))


def tcx_info(link_fd: int) -> LinkInfo | None:
    """What a link is attached to, or None where it isn't a tcx link. Raises OSError."""
    # struct bpf_link_info: type, id, prog_id, padding, then for tcx: ifindex, attach_type.
    kind, _, program_id, _, ifindex, attach_type = struct.unpack_from("=6I", _info(link_fd, 64))
    return LinkInfo(program_id, ifindex, attach_type) if kind == _LINK_TYPE_TCX else None


def tcx_chain(ifindex: int, attach_type: int) -> list[int]:
    """The ids of the programs at a tcx hook in the order in which they run. Raises OSError."""
    ids = (ctypes.c_uint32 * _MOST_PROGRAMS)()
    attr = struct.pack(
        "=IIIIQIIQQQQ",
        *(ifindex, attach_type, 0, 0, ctypes.addressof(ids), _MOST_PROGRAMS, 0, 0, 0, 0, 0),
    )
    buffer = ctypes.create_string_buffer(attr, 128)
    _call(_PROG_QUERY, buffer)
    (count,) = struct.unpack_from("=I", buffer.raw, 24)
    return list(ids[:count])


def program_id(program_fd: int) -> int:
    """The kernel's number for a loaded program. Raises OSError."""
    return int(struct.unpack_from("=II", _info(program_fd, 64))[1])


def pin(fd: int, path: Path) -> None:
    """Keep an object alive under a name on bpffs. Raises OSError."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    _bpf(_OBJ_PIN, struct.pack("=QII", ctypes.addressof(name), fd, 0))


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """The descriptor of a pinned object, closed at the end. Raises OSError."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    fd = _bpf(_OBJ_GET, struct.pack("=QII", ctypes.addressof(name), 0, 0))
    try:
        yield fd
    finally:
        os.close(fd)


def _info(fd: int, size: int) -> bytes:
    buffer = ctypes.create_string_buffer(size)
    _bpf(_OBJ_GET_INFO, struct.pack("=IIQ", fd, size, ctypes.addressof(buffer)))
    return buffer.raw


def _bpf(command: int, attr: bytes) -> int:
    # The kernel takes a longer attr than it knows, as long as the rest is zero.
    return _call(command, ctypes.create_string_buffer(attr, 128))


def _call(command: int, buffer: ctypes.Array[ctypes.c_char]) -> int:
    number = _SYSCALL.get(platform.machine())
    if number is None:
        raise OSError(f"bpf(2) has no known number on {platform.machine()}")
    result = int(_libc.syscall(number, command, buffer, ctypes.c_uint(len(buffer))))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result
