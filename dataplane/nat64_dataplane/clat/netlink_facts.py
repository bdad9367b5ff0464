"""Reads the network namespace that the calling thread is in."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Network

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from nat64_dataplane.clat.plan import (
    DIRECTIONS,
    Direction,
    Facts,
    Filter,
    IPv4Route,
    Link,
    Route,
    is_ipv4_of_pod,
)
from nat64_dataplane.translator.node import address_dump
from nat64_dataplane.translator.node.netlink_dump import attributes, dump

PROTOCOL = 64
"""Of our routes, so that they are told from others'."""
NAME = "nat64-clat:"
PARENTS: dict[Direction, int] = {"egress": 0xFFFFFFF3, "ingress": 0xFFFFFFF2}
_CLSACT = 0xFFFFFFF1
MAJOR = 0xFFFF0000
_UNICAST = 1

_RTM_GETROUTE, _RTM_GETQDISC, _RTM_GETTFILTER = 26, 38, 46
_RTMSG = struct.Struct("=8BI")
_TCMSG = struct.Struct("=BxxxiIII")
_RTA_OIF, _RTA_METRICS, _RTA_VIA, _RTAX_MTU = 4, 8, 18, 2
_TCA_KIND, _TCA_OPTIONS = 1, 2
_TCA_BPF_CLASSID, _TCA_BPF_NAME, _TCA_BPF_ID = 3, 7, 11
_NLA_TYPE = 0x3FFF
_U32 = struct.Struct("=I")
_NO_ROUTE = {
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
    errno.EINVAL,
    errno.EACCES,
    errno.EAGAIN,
    errno.EADDRNOTAVAIL,
}


def read(prefix: IPv6Network) -> Facts:
    """What the namespace looks like on the way to `prefix`. Raises OSError."""
    with routing() as ipr:
        route = _route(ipr, prefix)
        link = _link(ipr, route.ifindex) if route else None
    filters: dict[Direction, tuple[Filter, ...]] = dict.fromkeys(DIRECTIONS, ())
    strays = []
    for index in _with_clsact():
        for direction in DIRECTIONS:
            found = tuple(one for one in all_filters(index, direction) if one.instance)
            if link and index == link.ifindex:
                filters[direction] = found
            else:
                strays += [(index, direction, one) for one in found]
    return Facts(
        route=route,
        link=link,
        addresses=_addresses(),
        filters=filters,
        ipv4_routes=_ipv4_routes(),
        strays=tuple(strays),
    )


def _route(ipr: IPRoute, prefix: IPv6Network) -> Route | None:
    destination = str(prefix[1])
    try:
        (message,) = ipr.route("get", family=socket.AF_INET6, dst=destination)
    except NetlinkError as error:
        if error.code in _NO_ROUTE:
            return None
        raise
    if message["type"] != _UNICAST or not message.get_attr("RTA_OIF"):
        return None
    source, via = message.get_attr("RTA_PREFSRC"), message.get_attr("RTA_GATEWAY")
    metrics = message.get_attr("RTA_METRICS")
    return Route(
        ifindex=message.get_attr("RTA_OIF"),
        source=IPv6Address(source) if source else None,
        via=IPv6Address(via) if via else None,
        mtu=(metrics.get_attr("RTAX_MTU") if metrics else 0) or 0,
    )


def _link(ipr: IPRoute, index: int) -> Link | None:
    try:
        (message,) = ipr.link("get", index=index)
    except NetlinkError as error:
        if error.code == errno.ENODEV:
            return None
        raise
    return Link(
        ifindex=index,
        name=message.get_attr("IFLA_IFNAME"),
        kind=message["ifi_type"],
        mtu=message.get_attr("IFLA_MTU"),
    )


def _addresses() -> frozenset[tuple[int, IPv4Interface]]:
    return frozenset(
        (one.ifindex, IPv4Interface((one.address, one.length)))
        for one in address_dump.ipv4_addresses()
        if is_ipv4_of_pod(IPv4Address(one.address))
    )


def _ipv4_routes() -> tuple[IPv4Route, ...]:
    """Default routes of ours; the kernel leaves out those with another protocol number."""
    body = _RTMSG.pack(socket.AF_INET, 0, 0, 0, 0, PROTOCOL, 0, 0, 0)
    return tuple(dump(_RTM_GETROUTE, body, _read_ipv4_route))


def _read_ipv4_route(data: bytes, at: int, end: int) -> IPv4Route | None:
    _, length, _, _, _, protocol, _, _, _ = _RTMSG.unpack_from(data, at)
    if length or protocol != PROTOCOL:
        return None
    index, mtu, via = 0, 0, None
    for kind, first, last in attributes(data, at + _RTMSG.size, end):
        if kind == _RTA_OIF:
            (index,) = _U32.unpack_from(data, first)
        elif kind == _RTA_VIA and last - first == 18:
            via = IPv6Address(data[first + 2 : last])
        elif kind & _NLA_TYPE == _RTA_METRICS:
            for metric, start, _ in attributes(data, first, last):
                if metric == _RTAX_MTU:
                    (mtu,) = _U32.unpack_from(data, start)
    return IPv4Route(index, via, mtu)


def all_filters(index: int, direction: Direction) -> list[Filter]:
    """All filters; those of others have no instance."""
    return dump(_RTM_GETTFILTER, _TCMSG.pack(0, index, 0, PARENTS[direction], 0), _read_filter)


def _with_clsact() -> list[int]:
    return dump(_RTM_GETQDISC, _TCMSG.pack(0, 0, 0, 0, 0), _read_clsact)


def _read_clsact(data: bytes, at: int, end: int) -> int | None:
    _, index, _, parent, _ = _TCMSG.unpack_from(data, at)
    if parent != _CLSACT:
        return None
    for kind, first, last in attributes(data, at + _TCMSG.size, end):
        if kind == _TCA_KIND and data[first:last].rstrip(b"\0") == b"clsact":
            return int(index)
    return None


def _read_filter(data: bytes, at: int, end: int) -> Filter | None:
    _, _, handle, _, info = _TCMSG.unpack_from(data, at)
    if not handle:
        return None
    name, program, slot = b"", 0, 0
    for kind, first, last in attributes(data, at + _TCMSG.size, end):
        if kind & _NLA_TYPE != _TCA_OPTIONS:
            continue
        for option, start, stop in attributes(data, first, last):
            if option == _TCA_BPF_NAME:
                name = data[start:stop].rstrip(b"\0")
            elif option == _TCA_BPF_ID:
                (program,) = _U32.unpack_from(data, start)
            elif option == _TCA_BPF_CLASSID:
                slot = _U32.unpack_from(data, start)[0] & ~MAJOR
    ours = name.startswith(NAME.encode())
    instance = name.removeprefix(NAME.encode()).decode("ascii", "replace") if ours else ""
    return Filter(instance, program, slot, handle, priority=info >> 16)


@contextlib.contextmanager
def routing() -> Iterator[IPRoute]:
    """Requests to this namespace's kernel, whose errors are OSError."""
    try:
        with IPRoute() as ipr:
            yield ipr
    except NetlinkError as error:
        raise OSError(error.code, os.strerror(error.code)) from error
