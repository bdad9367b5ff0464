"""Changes the network namespace that the calling thread is in."""

from __future__ import annotations

import contextlib
import errno
import socket
import zlib
from collections.abc import Iterable, Iterator
from ipaddress import IPv6Address
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from nat64_dataplane.clat.netlink_facts import (
    MAJOR,
    NAME,
    PARENTS,
    PROTOCOL,
    all_filters,
    routing,
)
from nat64_dataplane.clat.plan import (
    ADDRESS,
    DIRECTIONS,
    Direction,
    Facts,
    Filter,
    Part,
    Setup,
    is_of_another,
)

_PRIORITY = 1
_ONLINK = 4
_FOREVER = 0xFFFFFFFF
_DEPRECATED = {
    "address": str(ADDRESS.ip),
    "prefixlen": 32,
    "preferred_lft": 0,
    "valid_lft": _FOREVER,
}
"""A deprecated address loses against others (RFC 6724 rule 3): a name that has IPv6, also by DNS64,
is connected to by IPv6 as before, also from a ULA, and only literals come to the CLAT. The kernel
makes no difference for IPv4."""


def apply(
    facts: Facts,
    setup: Setup,
    parts: list[Part],
    instance: str,
    slot: int,
    programs: dict[Direction, int],
) -> None:
    """Make the parts that are missing. `programs` are descriptors. Raises OSError."""
    with routing() as ipr:
        for part in parts:
            if part is Part.ADDRESS:
                with _existing():
                    ipr.addr("add", index=setup.link, **_DEPRECATED)
            elif part is Part.ROUTE:
                # Somebody else's default route is not replaced: EEXIST says that it is there.
                how = "replace" if facts.ipv4_routes else "add"
                ipr.route(how, **_default(setup.link, setup.via, setup.mtu))
            else:
                direction: Direction = "egress" if part is Part.EGRESS else "ingress"
                _attach(ipr, setup.link, direction, programs[direction], instance, slot)
                for one in facts.filters[direction]:
                    if (one.handle, one.priority) != (_handle(instance), _PRIORITY):
                        _detach(ipr, setup.link, direction, one)  # it only has our name


def remove(facts: Facts, instance: str) -> None:
    """Take everything out that is ours; what is gone already is no error. Raises OSError."""
    with routing() as ipr:
        if not is_of_another(facts, instance):
            for route in facts.ipv4_routes:
                with _gone():
                    ipr.route("del", **_default(route.ifindex, route.via, route.mtu))
            _remove_addresses(ipr, facts)
        placed = list(facts.strays)
        if facts.link:
            placed += [(facts.link.ifindex, d, one) for d in DIRECTIONS for one in facts.filters[d]]
        _detach_all(ipr, placed, instance)


def remove_elsewhere(facts: Facts, setup: Setup, instance: str) -> None:
    """Take out what is on links by which the route went before. Raises OSError."""
    with routing() as ipr:
        _remove_addresses(ipr, facts, but=setup.link)
        _detach_all(ipr, facts.strays, instance)


def _remove_addresses(ipr: IPRoute, facts: Facts, but: int = 0) -> None:
    for index, address in facts.addresses:
        if address == ADDRESS and index != but:
            with _gone():
                ipr.addr("del", index=index, address=str(ADDRESS.ip), prefixlen=32)


def _detach_all(
    ipr: IPRoute, placed: Iterable[tuple[int, Direction, Filter]], instance: str
) -> None:
    ours = [(index, d, one) for index, d, one in placed if one.instance == instance]
    for index, direction, one in ours:
        _detach(ipr, index, direction, one)
    for index in {index for index, _, _ in ours}:
        if not any(all_filters(index, direction) for direction in DIRECTIONS):
            with _gone():
                ipr.tc("del", "clsact", index)


def _attach(
    ipr: IPRoute, index: int, direction: Direction, program: int, instance: str, slot: int
) -> None:
    with _existing():
        ipr.tc("add", "clsact", index)
    ipr.tc(
        "replace-filter",
        "bpf",
        index,
        _handle(instance),
        fd=program,
        name=f"{NAME}{instance}",
        parent=PARENTS[direction],
        prio=_PRIORITY,
        classid=MAJOR | slot,
        direct_action=True,
    )


def _detach(ipr: IPRoute, index: int, direction: Direction, one: Filter) -> None:
    with _gone():
        ipr.tc(
            "del-filter",
            "bpf",
            index,
            one.handle,
            parent=PARENTS[direction],
            prio=one.priority,
        )


def _handle(instance: str) -> int:
    return zlib.crc32(instance.encode()) & 0x7FFFFFFF or 1


def _default(index: int, via: IPv6Address | None, mtu: int) -> dict[str, Any]:
    """An IPv4 default route by an IPv6 next hop, as pyroute2 takes it."""
    wanted: dict[str, Any] = {
        "family": socket.AF_INET,
        "dst": "0.0.0.0/0",
        "oif": index,
        "prefsrc": str(ADDRESS.ip),
        "metrics": {"mtu": mtu},
        "proto": PROTOCOL,
        "flags": _ONLINK,
    }
    if via:
        wanted["via"] = {"family": socket.AF_INET6, "addr": str(via)}
    return wanted


@contextlib.contextmanager
def _existing() -> Iterator[None]:
    """What is there already is fine."""
    try:
        yield
    except NetlinkError as error:
        if error.code != errno.EEXIST:
            raise


@contextlib.contextmanager
def _gone() -> Iterator[None]:
    """What is gone already is fine."""
    try:
        yield
    except NetlinkError as error:
        if error.code not in (errno.ENOENT, errno.ENODEV, errno.ESRCH, errno.EADDRNOTAVAIL):
            raise
