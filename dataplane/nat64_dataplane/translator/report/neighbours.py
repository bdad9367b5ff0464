"""Whether this node finds a pod on the pod's link: what reaches it has to know its MAC address."""

from __future__ import annotations

import contextlib
import socket
import time
from ipaddress import IPv6Address
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from nat64_dataplane.translator.report.node_inspection import route_to

_INCOMPLETE, _FAILED = 0x01, 0x20
_NTF_USE = 0x01
_NAMES = {
    _INCOMPLETE: "INCOMPLETE",
    0x02: "REACHABLE",
    0x04: "STALE",
    0x08: "DELAY",
    0x10: "PROBE",
    _FAILED: "FAILED",
    0x40: "NOARP",
    0x80: "PERMANENT",
}
# The kernel asks three times, a second apart, where nobody has told it otherwise (RFC 4861
# section 10).
_SECONDS = 5.0


def of_client(ipr: IPRoute, client: IPv6Address) -> dict[str, Any] | None:
    """The neighbour's entry of a client on a link of this node, as `ip neighbour` shows it.

    None where the kernel has none, or the client is behind a gateway. Where the kernel failed to
    find it, it is asked to look again, which takes up to 5 s: the pod may only just have come up.
    """
    route = route_to(ipr, client)
    if route["error"] or route["gateway"] or route["interface"] in {None, "lo"}:
        return None
    try:
        index = socket.if_nametoindex(route["interface"])
    except OSError:
        return None
    state = _state(ipr, index, client)
    if state is None:
        return None
    if state & (_FAILED | _INCOMPLETE):
        _look_again(ipr, index, client)
        end = time.monotonic() + _SECONDS
        while (state := _state(ipr, index, client) or _FAILED) & _INCOMPLETE:
            if time.monotonic() > end:
                break
            time.sleep(0.1)
    return {
        "interface": route["interface"],
        "state": _NAMES.get(state, hex(state)),
        "found": not state & (_FAILED | _INCOMPLETE),
    }


def _state(ipr: IPRoute, index: int, address: IPv6Address) -> int | None:
    for entry in ipr.neigh("dump", family=socket.AF_INET6, ifindex=index):
        if entry.get("dst") == str(address):
            state: int = entry["state"]
            return state
    return None


def _look_again(ipr: IPRoute, index: int, address: IPv6Address) -> None:
    """As `ip neighbour change ... use`: the kernel solicits, and changes nothing else."""
    # Where the entry has gone meanwhile, or this isn't for us to do, the state as read is said.
    with contextlib.suppress(NetlinkError):
        ipr.neigh("change", dst=str(address), ifindex=index, state=_FAILED, flags=_NTF_USE)
