"""Programs: pinning, identity, and running one on a packet without a network."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import NamedTuple

from nat64_dataplane.bpf import libbpf

SUMMED = 1 << 2
"""Flag for a test run: the device has summed the packet (CHECKSUM_COMPLETE), and the program must
leave that sum right; else the run fails with EBADMSG. Linux 6.11 brought it."""

HEADROOM = 4096
"""Bytes by which a program may lengthen the packet of a test run."""


class RunResult(NamedTuple):
    """What BPF_PROG_TEST_RUN gave back."""

    verdict: int
    """TC_ACT_*; -1 is TC_ACT_UNSPEC."""
    packet: bytes
    context: libbpf.SkbContext
    nanoseconds: int
    """Per run, averaged over `repeat`."""


class Program:
    """A loaded program by its file descriptor, which it owns."""

    def __init__(self, fd: int, name: str) -> None:
        self.fd = fd
        self.name = name
        self._library = libbpf.load()

    @classmethod
    def open_pinned(cls, path: Path) -> Program:
        """Open the program pinned at `path`."""
        fd = libbpf.check(
            libbpf.load().bpf_obj_get(os.fsencode(path)), f"opening pinned program {path}"
        )
        return cls(fd, path.name)

    @property
    def identity(self) -> tuple[int, str]:
        """The kernel's id, and the tag: a hash of the instructions."""
        info = libbpf.ProgramInfo()
        size = ctypes.c_uint32(ctypes.sizeof(info))
        libbpf.check(
            self._library.bpf_obj_get_info_by_fd(self.fd, ctypes.byref(info), ctypes.byref(size)),
            f"asking about program {self.name}",
        )
        return info.id, bytes(info.tag).hex()

    def pin(self, path: Path) -> None:
        """Pin at `path`, in place of what is pinned there."""
        beside = path.with_name(path.name + "_new")  # bpffs takes no dots
        beside.unlink(missing_ok=True)
        libbpf.check(
            self._library.bpf_obj_pin(self.fd, os.fsencode(beside)),
            f"pinning program at {path}",
        )
        beside.rename(path)

    def run(
        self,
        packet: bytes,
        *,
        ifindex: int = 0,
        ingress_ifindex: int = 0,
        gso_size: int = 0,
        gso_segs: int = 0,
        mark: int = 0,
        priority: int = 0,
        repeat: int = 1,
        flags: int = 0,
    ) -> RunResult:
        """Run the real program on `packet` in this network namespace; nothing is sent.

        Helpers that clone and send do send. With `repeat`, each run gets what the one before
        left of the packet, so that only programs that keep it fit for another run qualify.
        """
        context = libbpf.SkbContext(
            ifindex=ifindex,
            ingress_ifindex=ingress_ifindex,
            gso_size=gso_size,
            gso_segs=gso_segs,
            mark=mark,
            priority=priority,
        )
        after = libbpf.SkbContext()
        data = ctypes.create_string_buffer(packet, len(packet))
        out = ctypes.create_string_buffer(len(packet) + HEADROOM)
        options = libbpf.TestRunOptions(
            sz=ctypes.sizeof(libbpf.TestRunOptions),
            data_in=ctypes.addressof(data),
            data_out=ctypes.addressof(out),
            data_size_in=len(packet),
            data_size_out=len(out),
            ctx_in=ctypes.addressof(context),
            ctx_out=ctypes.addressof(after),
            ctx_size_in=ctypes.sizeof(context),
            ctx_size_out=ctypes.sizeof(after),
            repeat=repeat,
            flags=flags,
        )
        libbpf.check(
            self._library.bpf_prog_test_run_opts(self.fd, ctypes.byref(options)),
            f"running program {self.name} on {len(packet)} bytes",
        )
        return RunResult(
            ctypes.c_int32(options.retval).value,
            out.raw[: options.data_size_out],
            after,
            options.duration,
        )

    def close(self) -> None:
        """Close the descriptor; the program lives on if pinned or attached."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
