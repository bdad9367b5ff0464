"""A cable without Ethernet: a TUN device on each of two nodes; each receives what the other sends.

`python -m tests.lab.cable HERE PID THERE` lays one from the node that it runs on to that of process
PID, and ends with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import struct
import sys

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 1, 0x1000
_CLONE_NEWNET = 0x40000000


def main() -> None:
    here, pid, there = sys.argv[1:]
    ends = [_end(here)]
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    _enter(os.open(f"/proc/{pid}/ns/net", os.O_RDONLY))
    ends.append(_end(there))
    _enter(home)
    print("laid", flush=True)
    while True:
        for end in select.select(ends, [], [])[0]:
            packet = os.read(end, 65536)
            with contextlib.suppress(OSError):  # the other end is down
                os.write(ends[1] if end == ends[0] else ends[0], packet)


def _enter(namespace: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "entering the other node")
    os.close(namespace)


def _end(name: str) -> int:
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return device


if __name__ == "__main__":
    main()
