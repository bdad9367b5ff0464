"""Which source addresses a node may use, and which links its replies come in on. Pure."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from nat64_dataplane.config import parse
from nat64_dataplane.errors import HostError
from nat64_dataplane.translator.node import policy_rules, pools, uplinks_and_pools, ways_out
from nat64_dataplane.translator.node.address_dump import Address
from nat64_dataplane.translator.node.facts import DefaultRoute, Facts, Hop, Link, WayOut
from nat64_dataplane.translator.node.policy_rules import Rule

NODE = parse("name: x")
A, LAN, VPN, VIP = map(IPv4Address, ("198.51.100.1", "10.50.0.1", "192.0.2.129", "192.0.2.201"))
NET, LAN_NET = IPv4Network("198.51.100.0/24"), IPv4Network("10.50.0.0/24")


def link(index: int, name: str, **fields: object) -> Link:
    return Link(index, name, 1500, 1, bytes(6), **fields)  # type: ignore[arg-type]


FACTS = Facts(
    links=(link(1, "lo"), link(2, "eth0"), link(3, "eth2")),
    addresses=(Address(2, A, length=24), Address(3, LAN, length=24)),
    defaults=(DefaultRoute(2),),
    hops=frozenset(
        {
            Hop(2, None, A, NET),
            Hop(3, None, LAN, LAN_NET),
            Hop(2, IPv4Address("198.51.100.254")),
        }
    ),
    way_out=WayOut(2, A),
)


def sources(facts: Facts, text: str = "name: x") -> list[IPv4Address]:
    return [way.source for way in ways_out.ways(parse(text), facts)]


def test_each_subnet_is_a_way_and_its_link_has_a_hook() -> None:
    assert sources(FACTS) == [LAN, A]
    found = {uplink.name: uplink for uplink in uplinks_and_pools.uplinks(NODE, FACTS)}
    assert (found["eth0"].external, found["eth0"].lan, found["eth0"].zone) == (True, False, A)
    assert (found["eth2"].external, found["eth2"].lan, found["eth2"].zone) == (False, True, LAN)
    assert [(r.address, r.zone) for r in pools.pool_ranges(NODE, FACTS)] == [(A, A), (LAN, LAN)]


def test_strangers_are_behind_uplinks_and_not_behind_a_lan() -> None:
    view = uplinks_and_pools.host_view(NODE, FACTS, None)
    assert view.outside == ()
    assert dict(view.links_of_zones) == {A: (2,), LAN: (3,)}


def test_an_address_that_no_route_uses_is_no_way_out() -> None:
    facts = replace(FACTS, addresses=(Address(2, VIP), *FACTS.addresses))
    assert sources(facts) == [LAN, A]


def test_a_lan_alone_will_do() -> None:
    facts = replace(FACTS, defaults=(), way_out=None, hops=frozenset({Hop(3, None, LAN, LAN_NET)}))
    assert [r.address for r in pools.pool_ranges(NODE, facts)] == [LAN]
    assert [uplink.name for uplink in uplinks_and_pools.uplinks(NODE, facts)] == ["eth2"]
    with pytest.raises(HostError, match="reach its own networks only"):
        pools.require_default(NODE, facts)
    pools.require_default(parse("{name: x, uplinks: [eth2]}"), facts)
    pools.require_default(NODE, FACTS)


def test_a_vpn_without_a_gateway_leaves_from_its_own_address() -> None:
    facts = replace(
        FACTS,
        links=(*FACTS.links, link(4, "wg0", kind="wireguard", ethernet=False)),
        addresses=(*FACTS.addresses, Address(4, VPN)),
        hops=FACTS.hops | {Hop(4)},
        way_out=WayOut(4, VPN),
    )
    assert sources(facts) == [LAN, VPN, A]
    assert pools.pool_ranges(NODE, facts)[0].zone == VPN, "the rest of the world goes there"
    assert 4 in uplinks_and_pools.outside_links(NODE, facts) or any(
        uplink.ifindex == 4 and uplink.external for uplink in uplinks_and_pools.uplinks(NODE, facts)
    )


def test_an_unnumbered_link_borrows_an_address() -> None:
    facts = replace(FACTS, addresses=(Address(1, VIP),), hops=frozenset({Hop(2)}), way_out=None)
    assert sources(facts) == [VIP]


def test_links_of_pods_and_of_translators_are_no_ways_out() -> None:
    own = replace(link(5, "nat64-b"), alias="nat64-operator b")
    pod = replace(link(6, "veth1"), kind="veth", elsewhere=True)
    facts = replace(
        FACTS,
        links=(*FACTS.links, own, pod),
        addresses=(*FACTS.addresses, Address(5, VIP), Address(6, VPN)),
        hops=FACTS.hops | {Hop(5), Hop(6)},
    )
    assert sources(facts) == [LAN, A]
    numbered = replace(facts, hops=facts.hops | {Hop(6, None, VPN, IPv4Network("192.0.2.128/27"))})
    assert sources(numbered) == [LAN, VPN, A], "as a node that is a container has its uplinks"


def test_named_uplinks_are_the_only_ways() -> None:
    assert sources(FACTS, "{name: x, uplinks: [eth0]}") == [A]


def test_pools_within_a_lan_are_for_it_and_others_for_the_rest_of_the_world() -> None:
    config = parse("{name: x, pools: [{addresses: 10.50.0.1/32}, {addresses: 203.0.113.0/31}]}")
    found = {str(r.address): str(r.zone) for r in pools.pool_ranges(config, FACTS)}
    rest = "0.0.0.0"
    assert found == {"203.0.113.0": rest, "203.0.113.1": rest, "10.50.0.1": "10.50.0.1"}
    assert pools.pool_ranges(config, FACTS)[0].zone == IPv4Address(rest)


def test_zones_are_bounded_and_what_is_left_out_is_named() -> None:
    many = [IPv4Address(f"10.{n}.0.1") for n in range(20)]
    facts = replace(
        FACTS,
        addresses=(*FACTS.addresses, *(Address(3, each, length=24) for each in many)),
        hops=FACTS.hops
        | {Hop(3, None, each, IPv4Network((each, 24), strict=False)) for each in many},
    )
    assert len({r.zone for r in pools.pool_ranges(NODE, facts)}) == ways_out.MOST
    assert len(pools.left_out(NODE, facts)) == 20 + 2 - ways_out.MOST


def test_rules_about_the_node_itself_are_not_followed() -> None:
    rules = (
        Rule(0, 255),
        Rule(100, 100, iif="lo"),
        Rule(101, 100, iif="lo", inverted=True),
        Rule(102, 100, uids=True),
        Rule(103, 100, iif="eth0"),
        Rule(104, 100, mark=(7, 0xFF)),
    )
    assert policy_rules.not_followed(rules) == [
        "rule 100: iif lo",
        "rule 101: not iif lo",
        "rule 102: uidrange",
    ]
    assert policy_rules.marks(rules) == ((7, 0xFF),)
    many = tuple(Rule(n, 100, mark=(n, 0xFF)) for n in range(1, 7))
    assert policy_rules.not_followed(many) == ["rule 5: fwmark 0x5/0xff", "rule 6: fwmark 0x6/0xff"]
