"""What a network namespace looks like, whether its pod gets a CLAT, and which parts are missing.

Nothing here asks the kernel or changes it.
"""

from __future__ import annotations

import enum
from ipaddress import IPv4Address, IPv4Interface, IPv6Address
from typing import Literal, NamedTuple

ADDRESS = IPv4Interface("192.0.0.2/32")
"""The pod's IPv4 address, the same in every pod (RFC 7335)."""
TRANSLATION_GROWTH = 28
"""Bytes: an IPv6 header is 20 longer than an IPv4 header, and a fragment needs 8 more."""
LOWEST_IPV6_MTU = 1280
ETHERNET = 1
"""ARPHRD_ETHER."""

Direction = Literal["egress", "ingress"]
DIRECTIONS: tuple[Direction, Direction] = ("egress", "ingress")


class LeftAlone(enum.StrEnum):
    """Why a namespace has no CLAT. The texts of `EXPLAINED` are for people."""

    NO_ROUTE = "no_ipv6_route"
    NO_ADDRESS = "no_ipv6_address"
    HAS_IPV4 = "has_ipv4"
    NO_NEXT_HOP = "no_next_hop"
    LINK_KIND = "link_kind"
    LOW_MTU = "low_mtu"
    OPTED_OUT = "opted_out"
    OTHER_GATEWAY = "other_gateway"


EXPLAINED: dict[LeftAlone, str] = {
    LeftAlone.NO_ROUTE: "no IPv6 route to the CLAT's prefix (yet)",
    LeftAlone.NO_ADDRESS: "no global IPv6 address that may be used (yet)",
    LeftAlone.HAS_IPV4: "it has an IPv4 address of its own",
    LeftAlone.NO_NEXT_HOP: "its IPv6 route has no next hop, so an IPv4 route can't have it either",
    LeftAlone.LINK_KIND: "its link has no Ethernet header",
    LeftAlone.LOW_MTU: "its link's MTU is below 1280, which IPv6 doesn't allow",
    LeftAlone.OPTED_OUT: "the pod has the annotation nat64-operator.io/clat: Off",
    LeftAlone.OTHER_GATEWAY: "the agent of another NAT64Gateway has set it up",
}


class Route(NamedTuple):
    """The way to the CLAT's prefix, as the namespace's kernel chooses it."""

    ifindex: int
    source: IPv6Address | None
    via: IPv6Address | None
    mtu: int
    """Of the route; 0 if it has none of its own."""


class Link(NamedTuple):
    """The link that the route leads to."""

    ifindex: int
    name: str
    kind: int
    """ARPHRD_*."""
    mtu: int


class Filter(NamedTuple):
    """A filter of ours, or of an agent like us, on that link."""

    instance: str
    program: int
    slot: int
    handle: int
    priority: int


class IPv4Route(NamedTuple):
    """An IPv4 default route with our protocol number."""

    ifindex: int
    via: IPv6Address | None
    mtu: int


class Facts(NamedTuple):
    """A network namespace."""

    route: Route | None
    link: Link | None
    addresses: frozenset[tuple[int, IPv4Interface]]
    """IPv4, each with its link; loopback addresses are left out."""
    filters: dict[Direction, tuple[Filter, ...]]
    ipv4_routes: tuple[IPv4Route, ...]
    strays: tuple[tuple[int, Direction, Filter], ...] = ()
    """Filters of ours on other links."""


class Setup(NamedTuple):
    """What the namespace is to have."""

    link: int
    name: str
    address: IPv6Address
    """The pod's."""
    via: IPv6Address
    mtu: int
    """Of the IPv4 default route."""


class Part(enum.StrEnum):
    """A part of the set-up, in the order in which they are made.

    The programs come first: without the egress program, IPv4 would leave the pod as it is.
    """

    EGRESS = "egress"
    INGRESS = "ingress"
    ADDRESS = "address"
    ROUTE = "route"


def decide(facts: Facts, instance: str) -> Setup | LeftAlone:
    """Whether the namespace is an IPv6-only pod's, and what it is to have then."""
    if any(address != ADDRESS for _, address in facts.addresses):
        return LeftAlone.HAS_IPV4
    if facts.route is None or facts.link is None:
        return LeftAlone.NO_ROUTE
    if facts.route.source is None or not is_global(facts.route.source):
        return LeftAlone.NO_ADDRESS
    if facts.link.kind != ETHERNET:
        return LeftAlone.LINK_KIND
    if facts.route.via is None:
        return LeftAlone.NO_NEXT_HOP
    mtu = min(facts.link.mtu, facts.route.mtu or facts.link.mtu)
    if mtu < LOWEST_IPV6_MTU:
        return LeftAlone.LOW_MTU
    if is_of_another(facts, instance):
        return LeftAlone.OTHER_GATEWAY
    return Setup(
        facts.link.ifindex,
        facts.link.name,
        facts.route.source,
        facts.route.via,
        mtu - TRANSLATION_GROWTH,
    )


def missing(
    facts: Facts, setup: Setup, instance: str, slot: int, programs: dict[Direction, int]
) -> list[Part]:
    """Which parts must be made, or made anew. `programs` are the ids of ours."""
    parts: list[Part] = []
    for direction, part in zip(DIRECTIONS, (Part.EGRESS, Part.INGRESS), strict=True):
        wanted = (instance, programs[direction], slot)
        if [one[:3] for one in facts.filters[direction]] != [wanted]:
            parts.append(part)
    if (setup.link, ADDRESS) not in facts.addresses:
        parts.append(Part.ADDRESS)
    if IPv4Route(setup.link, setup.via, setup.mtu) not in facts.ipv4_routes:
        parts.append(Part.ROUTE)
    return parts


def is_set_up(facts: Facts, instance: str) -> bool:
    """Whether anything of ours is there, so that something may have to be removed."""
    ours = any(one.instance == instance for one in _filters(facts))
    return ours or (bool(facts.ipv4_routes) and not is_of_another(facts, instance))


def is_of_another(facts: Facts, instance: str) -> bool:
    """Whether another gateway's agent has set the pod up. Address and route don't say whose they
    are: they go with the filters."""
    return any(one.instance != instance for one in _filters(facts))


def is_elsewhere(facts: Facts, setup: Setup, instance: str) -> bool:
    """Whether parts of ours are still on links by which the route went before."""
    return any(one.instance == instance for _, _, one in facts.strays) or any(
        address == ADDRESS and index != setup.link for index, address in facts.addresses
    )


def _filters(facts: Facts) -> list[Filter]:
    """On whichever link."""
    on_link = [one for of in facts.filters.values() for one in of]
    return on_link + [one for _, _, one in facts.strays]


def adopted_slot(facts: Facts, instance: str, programs: dict[Direction, int]) -> int | None:
    """The slot that our own filters name, if they agree."""
    slots = {
        (one.instance, one.program == programs[direction], one.slot)
        for direction in DIRECTIONS
        for one in facts.filters[direction]
    }
    if len(slots) == 1:
        name, current, slot = slots.pop()
        if name == instance and current and slot:
            return slot
    return None


def is_global(address: IPv6Address) -> bool:
    """Whether others can reach the address: unique local ones count."""
    return not (
        address.is_link_local
        or address.is_loopback
        or address.is_unspecified
        or address.is_multicast
    )


def is_ipv4_of_pod(address: IPv4Address) -> bool:
    """Whether the address makes a pod one with IPv4."""
    return not address.is_loopback
