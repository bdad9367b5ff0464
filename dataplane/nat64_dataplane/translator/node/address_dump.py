"""The node's IPv4 addresses, read in bulk: there may be 10,000 of them."""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address
from typing import NamedTuple

from nat64_dataplane.translator.node.netlink_dump import attributes, dump

_RTM_GETADDR = 22
_IFADDRMSG = struct.Struct("=4BI")
_U32 = struct.Struct("=I")
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFA_F_SECONDARY = 0x1
_SCOPE_GLOBAL = 0


class Address(NamedTuple):
    """An IPv4 address of a link."""

    ifindex: int
    address: IPv4Address
    is_global: bool = True
    secondary: bool = False
    length: int = 32
    """Of the prefix, in bits."""


def ipv4_addresses() -> list[Address]:
    """Those of all links. Raises OSError."""
    return dump(_RTM_GETADDR, _IFADDRMSG.pack(socket.AF_INET, 0, 0, 0, 0), _read)


def _read(data: bytes, at: int, end: int) -> Address | None:
    family, length, flags, scope, index = _IFADDRMSG.unpack_from(data, at)
    if family != socket.AF_INET:
        return None
    address = local = b""
    for kind, first, last in attributes(data, at + _IFADDRMSG.size, end):
        if kind == _IFA_LOCAL:
            local = data[first:last]
        elif kind == _IFA_ADDRESS:
            address = data[first:last]
        elif kind == _IFA_FLAGS:
            (flags,) = _U32.unpack_from(data, first)
    return Address(
        ifindex=index,
        address=IPv4Address(local or address),
        is_global=scope == _SCOPE_GLOBAL,
        secondary=bool(flags & _IFA_F_SECONDARY),
        length=length,
    )
