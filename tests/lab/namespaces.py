"""Makes network namespaces as a runtime and a CNI make those of pods, on the node that it runs on.

`make NAME COUNT [KIND]` makes NAME-0 and so on below /run/netns; `drop NAME COUNT` ends them. The
mount comes first and the network after it. Of KIND `ipv6`, a namespace has eth0 with an address
and a default route; `ipv4` has an IPv4 address besides; `bare` has eth0 only.
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys
from pathlib import Path

from pyroute2 import IPRoute

DIRECTORY = Path("/run/netns")
_CLONE_NEWNET, _MS_BIND, _MNT_DETACH = 0x40000000, 4096, 2
_NODAD = 2

libc = ctypes.CDLL(None, use_errno=True)


def make(name: str, kind: str) -> None:
    """One namespace; the calling process is in it afterwards."""
    path = DIRECTORY / name
    path.touch()
    assert libc.unshare(_CLONE_NEWNET) == 0
    assert libc.mount(b"/proc/self/ns/net", os.fsencode(path), None, _MS_BIND, None) == 0
    with IPRoute() as ipr:
        ipr.link("add", ifname="eth0", kind="veth", peer="peer0")
        (index,) = ipr.link_lookup(ifname="eth0")
        (peer,) = ipr.link_lookup(ifname="peer0")
        ipr.link("set", index=index, state="up")
        ipr.link("set", index=peer, state="up")
        if kind == "ipv4":
            ipr.addr("add", index=index, address="10.0.0.2", prefixlen=24)
        if kind != "bare":
            ipr.addr("add", index=index, address="fd64:7::10", prefixlen=64, flags=_NODAD)
            ipr.route("add", family=socket.AF_INET6, dst="::/0", gateway="fd64:7::1", oif=index)


def drop(name: str) -> None:
    """End one."""
    path = DIRECTORY / name
    assert libc.umount2(os.fsencode(path), _MNT_DETACH) == 0
    path.unlink()


def main(what: str, name: str, count: str, kind: str = "ipv6") -> None:
    for number in range(int(count)):
        if what == "make":
            make(f"{name}-{number}", kind)
        else:
            drop(f"{name}-{number}")


if __name__ == "__main__":
    main(*sys.argv[1:])
