"""The membership files: what they may hold, and how many nodes fit."""

from ipaddress import IPv6Address, IPv6Network

import pytest

from nat64_dataplane import members
from nat64_dataplane.errors import ConfigError
from nat64_dataplane.members import GatewayEntry, Gateways, RouterEntry, Routers

GATEWAYS = Gateways(
    gateways=(
        GatewayEntry(node="a", address=IPv6Address("fd00::a"), weight=3),
        GatewayEntry(node="b", address=IPv6Address("fd00::b"), draining=True),
    )
)
ROUTERS = Routers(
    routers=(
        RouterEntry(
            node="c", address=IPv6Address("fd00::c"), pod_ranges=(IPv6Network("fd00:10:2::/64"),)
        ),
        RouterEntry(node="d", address=IPv6Address("fd00::d")),
    )
)


def test_what_is_rendered_is_read_back() -> None:
    assert members.parse_gateways(members.render(GATEWAYS)) == GATEWAYS
    assert members.parse_routers(members.render(ROUTERS)) == ROUTERS


def test_defaults_are_not_written() -> None:
    one = members.render(Gateways(gateways=GATEWAYS.gateways[:1]))
    assert one == b'{"version":1,"gateways":[{"node":"a","address":"fd00::a","weight":3}]}'


def test_5000_routers_with_two_ranges_each_fit() -> None:
    # Names as clouds give them, addresses and ranges as long as they get.
    routers = Routers(
        routers=tuple(
            RouterEntry(
                node=f"ip-{index:05}.eu-central-1.compute.internal",
                address=IPv6Address(f"2001:db8:1234:5678:9abc:def0:1234:{0x1000 + index:x}"),
                pod_ranges=(
                    IPv6Network(f"2001:db8:1234:{0x1000 + index:x}:1::/80"),
                    IPv6Network(f"2001:db8:1235:{0x1000 + index:x}:1::/80"),
                ),
            )
            for index in range(5000)
        )
    )
    content = members.render(routers)
    assert len(content) <= members.MAX_BYTES
    assert members.parse_routers(content) == routers


def gateway(text: str) -> bytes:
    return ('{"gateways": [' + text + "]}").encode()


def router(text: str) -> bytes:
    return ('{"routers": [' + text + "]}").encode()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[]", "array"),
        (b'{"version": 2}', "version 2 is not known"),
        (b'{"routers": []}', "unknown field `routers`"),
        (gateway('{"node": "a"}'), r"gateways\[0\] \(node a\): .*address"),
        (gateway('{"address": "fd00::a"}'), r"gateways\[0\]: .*node"),
        (gateway('{"node": "a", "address": "10.0.0.1"}'), r"\(node a\): address.*10.0.0.1"),
        (gateway('{"node": "a", "address": 7}'), r"\(node a\): address: 7"),
        (gateway('{"node": "a", "address": "fe80::1"}'), r"\(node a\): address fe80::1"),
        (gateway('{"node": "a", "address": "fd00::1%eth0"}'), r"\(node a\): address fd00::1%eth0"),
        (gateway('{"node": "a", "address": "::ffff:192.0.2.1"}'), "not an IPv6 address of a node"),
        (gateway('{"node": "a", "address": "fd00::a", "weight": 0}'), r"\(node a\): weight: 0"),
        (gateway('{"node": "a", "address": "fd00::a", "weight": 101}'), "weight: 101"),
        (gateway('{"node": "a", "address": "fd00::a", "draining": 1}'), "draining: 1"),
        (
            gateway('{"node": "a", "address": "fd00::a"}, {"node": "a", "address": "fd00::b"}'),
            r"gateways\[1\].node: 'a' is there twice",
        ),
        (
            gateway('{"node": "a", "address": "fd00::a"}, {"node": "b", "address": "fd00::a"}'),
            r"gateways\[1\].address: fd00::a of node b is the address of node a already",
        ),
        (
            gateway(",".join(f'{{"node": "{i}", "address": "fd00::{i}"}}' for i in range(1, 66))),
            "64",
        ),
        (b" " * (members.MAX_BYTES + 1), "at most 900000"),
    ],
)
def test_a_bad_list_of_gateways_is_refused_with_field_value_and_rule(
    content: bytes, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        members.parse_gateways(content)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            router('{"node": "a", "address": "fd00::a", "podRanges": ["fd00::1/64"]}'),
            r"routers\[0\] \(node a\): podRanges\[0\]: .*fd00::1/64",
        ),
        (
            router('{"node": "a", "address": "fd00::a", "podRanges": ["::/0"]}'),
            r"\(node a\): podRanges\[0\]: ::/0 is too large",
        ),
        (
            router('{"node": "a", "address": "fd00::a", "podRanges": ["fe80::/64"]}'),
            r"\(node a\): podRanges\[0\]: fe80::/64 is not unicast",
        ),
        (
            router(
                '{"node": "a", "address": "fd00::a", "podRanges": ["fd01::/64"]},'
                '{"node": "b", "address": "fd00::b", "podRanges": ["fd01::/64"]}'
            ),
            r"routers\[1\].podRanges: fd01::/64 is of node a already",
        ),
        (router('{"node": "a", "address": "fd00::a", "weight": 1}'), "unknown field `weight`"),
    ],
)
def test_a_bad_list_of_routers_is_refused_with_field_value_and_rule(
    content: bytes, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        members.parse_routers(content)


def test_a_range_inside_another_nodes_belongs_to_the_one_that_has_the_longer() -> None:
    # Calico lends single addresses of a node's block to other nodes.
    content = router(
        '{"node": "a", "address": "fd00::a", "podRanges": ["fd01::/64", "fd01::/64"]},'
        '{"node": "b", "address": "fd00::b", "podRanges": ["fd01::7/128"]}'
    )
    assert len(members.parse_routers(content).routers) == 2
