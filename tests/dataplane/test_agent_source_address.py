"""The pool `node` is the address that the kernel itself would take, whatever the node is like."""

from __future__ import annotations

import sys
from ipaddress import IPv4Network

import pytest

from tests.lab.node import Lab

pytestmark = pytest.mark.root

_READ = """
from pyroute2 import IPRoute
from nat64_dataplane.config import parse
from nat64_dataplane.translator.node import fact_parts, pools, uplinks_and_pools
with IPRoute(strict_check=True) as ipr:
    found = fact_parts.read(ipr)
names = [uplink.name for uplink in uplinks_and_pools.uplinks(parse("name: t"), found)]
print(pools.node_address(found), *names)
print(*sorted(map(str, found.local_ranges)))
"""


@pytest.mark.parametrize(
    ("setup", "address", "link"),
    [
        pytest.param(
            [
                "addr add 192.0.2.2/24 dev eth0",
                "addr add 198.51.100.1/24 dev eth0",
                "route add default via 198.51.100.254 dev eth0",
            ],
            "198.51.100.1",
            "eth0",
            id="the gateway is in the second subnet",
        ),
        pytest.param(
            [
                "addr add 203.0.113.7/32 dev eth0",
                "addr add 198.51.100.1/24 dev eth0",
                "route add default via 198.51.100.254 dev eth0",
            ],
            "198.51.100.1",
            "eth0",
            id="a /32 was added first",
        ),
        pytest.param(
            [
                "addr add 198.51.100.1/24 dev eth0",
                "nexthop add id 7 via 198.51.100.254 dev eth0",
                "route add default nhid 7",
            ],
            "198.51.100.1",
            "eth0",
            id="nexthop object",
        ),
        pytest.param(
            [
                "addr add 198.51.100.1/24 dev eth0",
                "addr add 192.0.2.9/32 dev eth1",
                "route add default via 198.51.100.254 dev eth0",
                "route add default dev eth1 table 51820",
                "rule add not fwmark 0xca6c table 51820 pref 100",
                "rule add table main suppress_prefixlength 0 pref 99",
            ],
            "192.0.2.9",
            "eth1",
            id="vpn by policy rule",
        ),
    ],
)
def test_pool_node_is_the_address_that_the_kernel_takes(
    setup: list[str], address: str, link: str
) -> None:
    with Lab() as lab:
        node, world = lab.node("node"), lab.node("world")
        node.join(world, "eth0", "node0")
        node.join(world, "eth1", "node1")
        # Without this the kernel doesn't name the hop of a nexthop object in a dump.
        node.sysctl(net__ipv4__nexthop_compat_mode=0)
        node.ip(*setup)
        found, *links = node.run(sys.executable, "-c", _READ).splitlines()[0].split()
        assert found == address
        assert link in links
        assert f"src {address}" in node.run("ip", "route", "get", "192.0.0.9")


def test_all_of_the_local_table_is_the_nodes() -> None:
    with Lab() as lab:
        node, world = lab.node("node"), lab.node("world")
        node.join(world, "eth0", "node0")
        node.ip(
            "addr add 198.51.100.1/24 dev eth0",
            "route add default via 198.51.100.254 dev eth0",
            "route add local 192.0.2.20 dev eth0",
            "route add local 192.0.2.64/28 dev lo",
        )
        ranges = set(node.run(sys.executable, "-c", _READ).splitlines()[1].split())
        for own in ("198.51.100.1/32", "198.51.100.255/32", "192.0.2.20/32", "192.0.2.64/28"):
            assert str(IPv4Network(own)) in ranges
