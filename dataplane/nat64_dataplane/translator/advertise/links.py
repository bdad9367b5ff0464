"""The links to advertise on, as the kernel has them now."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from nat64_dataplane.errors import HostError

_IFF_UP, _IFF_MULTICAST, _IFF_LOWER_UP = 0x1, 0x1000, 0x10000
_IFA_F_DADFAILED, _IFA_F_TENTATIVE = 0x08, 0x40
_ARPHRD_ETHER = 1
_ENODEV = 19


@dataclass(frozen=True, slots=True)
class AdvertisingLink:
    """One link. Without `problem`, advertisements can be sent from `source`."""

    index: int = 0
    mac: bytes = b""
    """Empty where its neighbours have no Ethernet addresses."""
    source: IPv6Address | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class LinkLocal:
    """An address of link-local scope."""

    address: IPv6Address
    flags: int = 0


def read(
    names: Iterable[str], before: Mapping[str, AdvertisingLink] | None = None
) -> dict[str, AdvertisingLink]:
    """Those of these names, in their order. Raises HostError. `before` is the last reading: hosts
    know a router by its address, so it keeps the one that it had.
    """
    had = before or {}
    with IPRoute(strict_check=True) as ipr:
        return {name: _read_one(ipr, name, had.get(name)) for name in names}


def _read_one(ipr: IPRoute, name: str, before: AdvertisingLink | None) -> AdvertisingLink:
    try:
        (link,) = ipr.link("get", ifname=name)
        addresses = [
            LinkLocal(IPv6Address(found.get("local") or found.get("address")), _flags(found))
            for found in ipr.addr("dump", family=socket.AF_INET6, index=link["index"])
        ]
    except NetlinkError as error:
        if error.code == _ENODEV:
            return AdvertisingLink(problem="this node has no such link")
        raise HostError(
            "HostSetupFailed", f"can't read link {name}: {os.strerror(error.code)}"
        ) from error
    mac = link.get("address") if link["ifi_type"] == _ARPHRD_ETHER else None
    return judge(
        link["index"],
        link["flags"],
        bytes.fromhex(mac.replace(":", "")) if mac else b"",
        [each for each in addresses if each.address.is_link_local],
        before.source if before else None,
    )


def judge(
    index: int, flags: int, mac: bytes, addresses: list[LinkLocal], keep: IPv6Address | None
) -> AdvertisingLink:
    """Whether a link with these flags (IFF_*) and link-local addresses can be advertised on, and
    from which of them: `keep` if it is still there.
    """
    usable = [
        each.address for each in addresses if not each.flags & (_IFA_F_TENTATIVE | _IFA_F_DADFAILED)
    ]
    problem = ""
    if not flags & _IFF_MULTICAST:
        problem = "it can't send to several hosts at once (multicast)"
    elif not flags & _IFF_UP:
        problem = "it is down"
    elif not flags & _IFF_LOWER_UP:
        problem = "it has no carrier"
    elif not addresses:
        problem = "it has no link-local address"
    elif not usable:
        problem = "its link-local address is tentative, or another host has it"
    if problem:
        return AdvertisingLink(index, mac, None, problem)
    # The kernel lists the newest first: the oldest stays when one more is added.
    return AdvertisingLink(index, mac, keep if keep in usable else usable[-1])


def _flags(message: object) -> int:
    flags = message.get("flags")  # type: ignore[attr-defined]
    return int(flags or 0)
