"""Which network namespaces get a CLAT, and which parts of it are missing."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv6Address

import pytest

from nat64_dataplane.clat.plan import (
    ADDRESS,
    EXPLAINED,
    Direction,
    Facts,
    Filter,
    IPv4Route,
    LeftAlone,
    Link,
    Part,
    Route,
    Setup,
    adopted_slot,
    decide,
    is_elsewhere,
    is_set_up,
    missing,
)

POD, HOP = IPv6Address("fd64:1::10"), IPv6Address("fe80::1")
LINK = Link(3, "eth0", 1, 1500)
ROUTE = Route(3, POD, HOP, 0)
IDS: dict[Direction, int] = {"egress": 70, "ingress": 71}
NOTHING = Facts(ROUTE, LINK, frozenset(), {"egress": (), "ingress": ()}, ())
SETUP = Setup(3, "eth0", POD, HOP, 1472)


def filters(slot: int = 5, instance: str = "default") -> dict[Direction, tuple[Filter, ...]]:
    return {
        "egress": (Filter(instance, 70, slot, 9, 1),),
        "ingress": (Filter(instance, 71, slot, 9, 1),),
    }


def strays(instance: str) -> tuple[tuple[int, Direction, Filter], ...]:
    """Filters on another link than the route's."""
    return ((4, "egress", Filter(instance, 70, 5, 9, 1)),)


DONE = NOTHING._replace(
    addresses=frozenset({(3, ADDRESS)}),
    filters=filters(),
    ipv4_routes=(IPv4Route(3, HOP, 1472),),
)


def test_an_ipv6_only_pod_is_set_up() -> None:
    assert decide(NOTHING, "default") == SETUP
    assert decide(DONE, "default") == SETUP


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (NOTHING._replace(route=None, link=None), LeftAlone.NO_ROUTE),
        (NOTHING._replace(link=None), LeftAlone.NO_ROUTE),
        (NOTHING._replace(route=ROUTE._replace(source=None)), LeftAlone.NO_ADDRESS),
        (NOTHING._replace(route=ROUTE._replace(source=HOP)), LeftAlone.NO_ADDRESS),
        (NOTHING._replace(route=ROUTE._replace(via=None)), LeftAlone.NO_NEXT_HOP),
        (NOTHING._replace(link=LINK._replace(kind=65534)), LeftAlone.LINK_KIND),
        (NOTHING._replace(link=LINK._replace(mtu=1279)), LeftAlone.LOW_MTU),
        (
            NOTHING._replace(addresses=frozenset({(3, IPv4Interface("10.0.0.2/24"))})),
            LeftAlone.HAS_IPV4,
        ),
        (
            DONE._replace(addresses=DONE.addresses | {(4, IPv4Interface("169.254.1.1/32"))}),
            LeftAlone.HAS_IPV4,
        ),
        (NOTHING._replace(filters=filters(instance="other")), LeftAlone.OTHER_GATEWAY),
        (NOTHING._replace(strays=strays("other")), LeftAlone.OTHER_GATEWAY),
    ],
)
def test_all_others_are_left_alone(facts: Facts, reason: LeftAlone) -> None:
    assert decide(facts, "default") == reason
    assert EXPLAINED[reason]


def test_the_mtu_leaves_room_for_a_header_and_a_fragment_header() -> None:
    narrow = NOTHING._replace(route=ROUTE._replace(mtu=1400))
    assert decide(narrow, "default") == SETUP._replace(mtu=1372)
    jumbo = NOTHING._replace(link=LINK._replace(mtu=9000))
    assert decide(jumbo, "default") == SETUP._replace(mtu=8972)


def test_only_what_is_missing_is_made_programs_first() -> None:
    assert missing(NOTHING, SETUP, "default", 5, IDS) == list(Part)
    assert missing(DONE, SETUP, "default", 5, IDS) == []
    assert missing(DONE, SETUP, "default", 6, IDS) == [Part.EGRESS, Part.INGRESS]
    assert missing(DONE, SETUP._replace(mtu=1372), "default", 5, IDS) == [Part.ROUTE]
    assert missing(DONE._replace(addresses=frozenset()), SETUP, "default", 5, IDS) == [Part.ADDRESS]


def test_a_slot_is_adopted_only_from_both_programs_of_ours() -> None:
    assert adopted_slot(DONE, "default", IDS) == 5
    assert adopted_slot(NOTHING, "default", IDS) is None
    assert adopted_slot(DONE, "default", {"egress": 70, "ingress": 99}) is None
    assert adopted_slot(DONE._replace(filters=filters(0)), "default", IDS) is None
    mixed = filters() | {"ingress": filters(6)["ingress"]}
    assert adopted_slot(DONE._replace(filters=mixed), "default", IDS) is None


def test_what_another_gateway_has_set_up_is_not_ours_to_remove() -> None:
    others = DONE._replace(filters=filters(instance="other"))
    assert not is_set_up(others, "default")
    assert is_set_up(others, "other")
    assert is_set_up(DONE._replace(filters=NOTHING.filters), "default")  # half removed already
    assert not is_set_up(NOTHING, "default")


def test_what_is_left_on_the_link_of_an_earlier_route_is_seen() -> None:
    assert not is_elsewhere(DONE, SETUP, "default")
    assert is_elsewhere(DONE._replace(strays=strays("default")), SETUP, "default")
    assert not is_elsewhere(DONE._replace(strays=strays("other")), SETUP, "default")
    both = DONE._replace(addresses=DONE.addresses | {(4, ADDRESS)})
    assert is_elsewhere(both, SETUP, "default")
