import re
from ipaddress import IPv6Address, IPv6Network

import msgspec
import pytest

from nat64_dataplane import config, topology
from nat64_dataplane.errors import ConfigError


def test_a_name_is_all_that_a_config_needs() -> None:
    parsed = config.parse("name: default")
    assert parsed.prefix == IPv6Network("64:ff9b::/96")
    assert parsed.interface == "nat64-default"
    assert parsed.pools[0].ports == "61001-65535"
    assert parsed.timeouts.udp == 300


def test_what_is_rendered_reads_back_equal() -> None:
    parsed = config.parse(
        """
        name: edge
        prefix: 64:ff9b:1::/96
        clat: {prefix: "64:ff9b:1:c1a7::/96"}
        pools: [{addresses: 192.0.2.8/29, ports: 1024-65535}, {}]
        uplinks: [eth0]
        staticMappings:
          - {protocol: tcp, client: "fd00::1", clientPort: 80, address: 192.0.2.8, port: 8080}
        policy: {allowedSources: ["fd00::/8"], deniedDestinations: [198.51.100.0/24]}
        filtering: AddressDependent
        advertise: {interfaces: [lan0], interval: 200, routeLifetime: 600}
        limits: {sessions: 4096}
        topology: {role: Gateway, transport: Direct, tunnelPort: 4789, failureThreshold: 2}
        """
    )
    again = config.parse(config.render(parsed))
    assert again == parsed
    assert again.content_hash == parsed.content_hash
    assert again.content_hash != config.parse("name: edge").content_hash


def test_a_long_name_still_gives_a_link_name_of_15_bytes() -> None:
    assert len(config.default_interface("a-gateway-with-a-long-name")) <= 15


def test_a_config_without_a_topology_is_what_it_was_before_there_were_any() -> None:
    assert b"topology" not in config.render(config.parse("name: a"))
    assert not config.parse("name: a").is_router
    assert config.parse("name: a\ntopology: {role: Router}").is_router


@pytest.mark.parametrize("name", ["a", "default", "a-gateway-with-a-long-name"])
def test_a_tunnel_has_a_link_name_and_an_identifier_that_the_kernel_takes(name: str) -> None:
    assert len(topology.tunnel_interface(name).encode()) <= 15
    assert topology.tunnel_interface(name) != config.default_interface(name)
    assert 0 < topology.tunnel_vni(name) < 1 << 24


@pytest.mark.parametrize(
    ("prefix", "address"),
    [("64:ff9b::/96", "64:ff9b::c000:8"), ("2001:db8::/64", "2001:db8::c0:0:800:0")],
)
def test_probes_go_to_the_dummy_address_under_the_prefix(prefix: str, address: str) -> None:
    assert topology.probe_address(IPv6Network(prefix)) == IPv6Address(address)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- a", "not fields"),
        ("name: [", "not YAML"),
        ("prefix: 64:ff9b::/96", "name"),
        ("name: Bad_Name", "DNS label"),
        ("name: a\nversion: 2", "version 2"),
        ("name: a\nprefix: 2001:db8::/90", "/90: allowed are /32"),
        ("name: a\nprefix: 10", "prefix: 10"),
        ("name: a\npools: [{ports: 70000-1}]", r"pools\[0\]: ports '70000-1'"),
        ("name: a\npools: [{addresses: 300.1.1.1}]", "300.1.1.1"),
        ("name: a\npools: [{addresses: 127.0.0.1}]", "loopback"),
        ("name: a\npools: []", "pools"),
        ("name: a\npools: [{}, {ports: '65535'}]", "overlap"),
        ("name: a\ntimeouts: {udpp: 500}", "udpp"),
        ("name: a\nfiltering: Open", "filtering: .*'Open'"),
        ("name: a\ninterface: a-name-beyond-15-bytes", "at most 15"),
        ("name: a\ntopology: {}", "topology: .*role"),
        ("name: a\ntopology: {role: Boss}", "topology.role: .*Boss"),
        ("name: a\ntopology: {role: Router, transport: 1}", "topology.transport: 1"),
        ("name: a\ntopology: {role: Router, tunnelPort: 0}", "topology.tunnelPort: 0"),
        ("name: a\ntopology: {role: Router, probeMilliseconds: 99}", "probeMilliseconds: 99"),
        ("name: a\ntopology: {role: Router, failureThreshold: 21}", "failureThreshold: 21"),
        ("name: a\ninterface: n64v-a\ntopology: {role: Router}", "interface 'n64v-a'.*tunnel"),
        ("name: a\nclat: {}", "prefix"),
        ("name: a\nclat: {prefix: 64:ff9b:1::/64}", "clat: prefix 64:ff9b:1::/64.*/64.*/96 only"),
        ("name: a\nclat: {prefix: 64:ff9b::/96}", "clat: prefix.*well-known.*section 3.1"),
        ("name: a\nclat: {prefix: 'fe80::/96'}", "clat: prefix fe80::/96 is not unicast"),
        (
            "name: a\nprefix: 2001:db8::/64\nclat: {prefix: 2001:db8::/96}",
            "clat.prefix 2001:db8::/96 overlaps prefix 2001:db8::/64",
        ),
    ],
)
def test_bad_input_names_field_value_and_rule(text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        config.parse(text)


MINIMA = {
    "udp": 120,
    "icmp": 1,
    "tcpEstablished": 7200,
    "tcpTransitory": 240,
    "tcpIncomingSyn": 6,
    "fragment": 2,
}


@pytest.mark.parametrize("timer", MINIMA)
def test_no_timer_is_shorter_than_rfc_6146_allows(timer: str) -> None:
    """Section 4; ICMP has a default there, and no minimum but to exist."""
    least = MINIMA[timer]
    field = re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", timer)
    for seconds in (least, least + 1):
        parsed = config.parse(f"name: a\ntimeouts: {{{timer}: {seconds}}}")
        assert getattr(parsed.timeouts, field) == seconds
    with pytest.raises(ConfigError, match=rf"timeouts\.{timer}: {least - 1}: .*>= {least}"):
        config.parse(f"name: a\ntimeouts: {{{timer}: {least - 1}}}")


def test_every_timer_has_its_minimum_tested() -> None:
    assert len(MINIMA) == len(msgspec.structs.fields(config.Timeouts))


@pytest.mark.parametrize(
    ("text", "of_route", "of_prefix"),
    [
        ("interfaces: [lan0]", 1800, 1800),
        ("interfaces: [lan0], interval: 4", 12, 12),
        ("interfaces: [lan0], interval: 1800", 5400, 5400),
        ("interfaces: [lan0], interval: 300, routeLifetime: 300", 300, 300),
        ("interfaces: [lan0], routeLifetime: 65528", 65528, 65528),
        ("interfaces: [lan0], interval: 200, routeLifetime: 0", 0, 600),
    ],
)
def test_what_is_advertised_lasts_three_intervals_unless_told_otherwise(
    text: str, of_route: int, of_prefix: int
) -> None:
    advertise = config.parse(f"name: a\nadvertise: {{{text}}}").advertise
    assert (advertise.seconds_of_route, advertise.seconds_of_prefix) == (of_route, of_prefix)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("interval: 3", "advertise.interval: 3"),
        ("interval: 1801", "advertise.interval: 1801"),
        ("interval: 600, routeLifetime: 599", "routeLifetime 599 is less than the interval, 600"),
        ("routeLifetime: 65529", "advertise.routeLifetime: 65529"),
        ("interfaces: ['a b']", "'a b' is not a link name"),
        ("interfaces: [a, a]", r"interfaces \['a', 'a'\] has one twice"),
        ("interfaces: [nat64-a]", "the translator's own link"),
        ("interfaces: lan0", "advertise.interfaces: 'lan0'"),
    ],
)
def test_bad_advertisement_is_refused_with_field_value_and_rule(text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        config.parse(f"name: a\nadvertise: {{{text}}}")
