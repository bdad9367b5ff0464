"""Wakes the agent when the node's network changes. See fact_cache.py for what is read then."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator

_RTMGRP = (
    0x1  # links
    | 0x8  # traffic control
    | 0x10  # IPv4 addresses
    | 0x40  # IPv4 routes
    | 0x80  # IPv4 policy rules
    | 0x100  # IPv6 addresses
    | 0x400  # IPv6 routes
    | 1 << 18  # IPv6 policy rules
    | 1 << 23  # settings of links
    | 1 << 31  # nexthop objects
)
_NETLINK_NETFILTER = 12
_NFTABLES_GROUP = 1 << 6  # NFNLGRP_NFTABLES is the seventh
_READ_BYTES = 1 << 16


@contextlib.contextmanager
def watching(wake: Callable[[], None]) -> Iterator[None]:
    """Call `wake`, on the running loop, after any change. Raises OSError."""
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as stack:
        for family, groups in (
            (socket.NETLINK_ROUTE, _RTMGRP),
            (_NETLINK_NETFILTER, _NFTABLES_GROUP),
        ):
            try:
                netlink = stack.enter_context(
                    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, family)
                )
                netlink.bind((0, groups))
            except OSError:
                # Without nf_tables there are no such events; route events are required.
                if family == socket.NETLINK_ROUTE:
                    raise
                continue
            netlink.setblocking(False)
            loop.add_reader(netlink, _drain, netlink, wake)
            stack.callback(loop.remove_reader, netlink)
        yield


def _drain(netlink: socket.socket, wake: Callable[[], None]) -> None:
    # Ends when nothing is left, or by an overrun, which also says that something changed.
    with contextlib.suppress(OSError):
        while netlink.recv(_READ_BYTES):
            pass
    wake()
