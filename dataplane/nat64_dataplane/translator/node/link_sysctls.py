"""Per-link IPv4 settings by netlink: /proc/sys is read-only in an unprivileged pod.

Only IPv4 settings of one link can be set so (IFLA_INET_CONF); those of `all`, and every IPv6
one, are what `nat64-translator prepare` is for. pyroute2 reads the attribute but can't write it.
"""

from __future__ import annotations

import os
import socket
import struct

from nat64_dataplane.translator.node.facts import Devconf

_RTM_SETLINK = 19
_NLM_F_REQUEST, _NLM_F_ACK = 0x1, 0x4
_IFLA_AF_SPEC, _IFLA_INET_CONF = 26, 1
_FORWARDING, _RP_FILTER, _ACCEPT_LOCAL = 1, 8, 23  # IPV4_DEVCONF_


def set_devconf(index: int, conf: Devconf) -> None:
    """Set the three settings of one link. Raises OSError."""
    settings = b"".join(
        _attribute(number, struct.pack("=I", value))
        for number, value in (
            (_FORWARDING, conf.forwarding),
            (_RP_FILTER, conf.rp_filter),
            (_ACCEPT_LOCAL, conf.accept_local),
        )
    )
    inet = _attribute(socket.AF_INET, _attribute(_IFLA_INET_CONF, settings))
    link = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, 0, 0)  # struct ifinfomsg
    body = link + _attribute(_IFLA_AF_SPEC, inet)
    header = struct.pack("=IHHII", 16 + len(body), _RTM_SETLINK, _NLM_F_REQUEST | _NLM_F_ACK, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.send(header + body)
        # struct nlmsgerr follows the header: a negative errno, 0 for an acknowledgement.
        error = -struct.unpack_from("=i", netlink.recv(4096), 16)[0]
    if error:
        raise OSError(error, os.strerror(error))


def _attribute(kind: int, payload: bytes) -> bytes:
    size = 4 + len(payload)
    return struct.pack("=HH", size, kind) + payload + b"\0" * (-size % 4)
