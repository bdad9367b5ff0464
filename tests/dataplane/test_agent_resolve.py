"""What `node` and empty `uplinks` stand for on a given node. Pure."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from nat64_dataplane.config import parse
from nat64_dataplane.errors import HostError
from nat64_dataplane.translator.host_view import PoolRange, Uplink
from nat64_dataplane.translator.node import pools, uplinks_and_pools
from nat64_dataplane.translator.node.address_dump import Address
from nat64_dataplane.translator.node.facts import DefaultRoute, Facts, Link

A, B, C = map(IPv4Address, ("198.51.100.1", "198.51.100.2", "203.0.113.1"))
FACTS = Facts(
    links=(
        Link(1, "lo", 65536, 0x9, bytes(6)),
        Link(2, "eth0", 1500, 1, bytes(6)),
        Link(3, "eth1", 9000, 1, bytes(6)),
    ),
    addresses=(Address(2, B, secondary=True), Address(2, A), Address(3, C)),
    defaults=(DefaultRoute(3, metric=200), DefaultRoute(2, metric=100)),
)
CONFIG = parse("name: default")


def test_the_node_address_is_that_of_the_best_default_route() -> None:
    assert pools.node_address(FACTS) == A


def test_a_preferred_source_wins() -> None:
    facts = replace(FACTS, defaults=(DefaultRoute(2, source=B),))
    assert pools.node_address(facts) == B


def test_an_unnumbered_uplink_uses_another_links_address() -> None:
    facts = replace(FACTS, addresses=(Address(3, C),), defaults=(DefaultRoute(2),))
    assert pools.node_address(facts) == C


def test_without_an_ipv4_default_route_the_error_says_what_to_do() -> None:
    with pytest.raises(HostError, match="name pool addresses") as caught:
        pools.node_address(replace(FACTS, defaults=()))
    assert caught.value.reason == "NoIPv4DefaultRoute"


def test_every_link_with_a_default_route_or_a_pool_address_is_an_uplink() -> None:
    both = (Uplink(2, 1500, "eth0"), Uplink(3, 9000, "eth1"))
    assert uplinks_and_pools.uplinks(CONFIG, FACTS) == both
    one = replace(FACTS, defaults=(DefaultRoute(2),))
    assert uplinks_and_pools.uplinks(CONFIG, one) == both[:1]
    pooled = parse("{name: default, pools: [{addresses: 203.0.113.0/28}]}")
    assert uplinks_and_pools.uplinks(pooled, one) == both


def test_named_uplinks_are_taken_as_they_are() -> None:
    assert uplinks_and_pools.uplinks(parse("{name: x, uplinks: [eth1]}"), FACTS) == (
        Uplink(3, 9000, "eth1"),
    )
    with pytest.raises(HostError, match="'eth7' is not a link"):
        uplinks_and_pools.uplinks(parse("{name: x, uplinks: [eth7]}"), FACTS)


def test_the_route_fits_the_widest_uplink_after_translation() -> None:
    assert uplinks_and_pools.route_mtu(uplinks_and_pools.uplinks(CONFIG, FACTS)) == 9020


def test_the_route_takes_what_every_ipv6_link_takes() -> None:
    assert uplinks_and_pools.route_mtu((Uplink(2, 576, "eth0"),)) == 1280
    assert uplinks_and_pools.route_mtu((Uplink(2, 1261, "eth0"),)) == 1281


def test_pools_become_one_range_an_address() -> None:
    config = parse("{name: x, pools: [{}, {addresses: 192.0.2.8/31, ports: 2000-2999}]}")
    assert pools.pool_ranges(config, FACTS) == (
        PoolRange(A, 61001, 65535),
        PoolRange(IPv4Address("192.0.2.8"), 2000, 2999),
        PoolRange(IPv4Address("192.0.2.9"), 2000, 2999),
    )


def test_only_pool_addresses_that_no_link_holds_are_owned_by_route() -> None:
    config = parse("{name: x, pools: [{addresses: 203.0.113.0/31}, {addresses: 192.0.2.8/29}]}")
    assert pools.owned_ranges(config, FACTS) == {
        IPv4Network("203.0.113.0/32"),
        IPv4Network("192.0.2.8/29"),
    }
