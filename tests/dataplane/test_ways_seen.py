"""Nodes on which a pod once failed to reach what its node reaches: each was seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.lab.ways.compare import Probe, differences
from tests.lab.ways.node import WaysNode, ways_node
from tests.lab.ways.setup import MARK, Address, Hop, Route, Rule, Setup

pytestmark = pytest.mark.root

FAR, FAR2, ON_LAN = Probe("203.0.113.10"), Probe("203.0.113.140"), Probe("192.0.2.9")
FAR3 = Probe("192.0.2.250")
MARKED = Probe("203.0.113.10", marked=True)
ETH0 = Address("eth0", "198.51.100.1")
ETH1 = Address("eth1", "198.51.100.65")
DEFAULT = Route("default", (Hop("eth0", "198.51.100.30"),))
OTHER_DEFAULT = Route("default", (Hop("eth1", "198.51.100.94"),), table=100)
LAN = Address("eth2", "192.0.2.1")


@pytest.fixture(scope="module")
def node() -> Iterator[WaysNode]:
    with ways_node() as built:
        yield built


SEEN = {
    "two subnets on the uplink, the gateway's added last": Setup(
        (Address("eth0", "192.0.2.34"), ETH0), (DEFAULT,)
    ),
    "a /32 VIP added first": Setup((Address("eth0", "192.0.2.201", 32), ETH0), (DEFAULT,)),
    "a /32 VIP on lo": Setup((Address("lo", "192.0.2.201", 32), ETH0), (DEFAULT,)),
    "a secondary address of the same subnet": Setup(
        (Address("eth0", "198.51.100.2"), ETH0), (DEFAULT,)
    ),
    "an address of scope link added first": Setup(
        (Address("eth0", "192.0.2.34", scope="link"), ETH0), (DEFAULT,)
    ),
    "a preferred source": Setup(
        (ETH0, Address("eth0", "198.51.100.2")),
        (Route("default", (Hop("eth0", "198.51.100.30"),), source="198.51.100.2"),),
    ),
    "a VPN as wg-quick sets it up": Setup(
        (ETH0, Address("tun0", "192.0.2.129", 32)),
        (DEFAULT, Route("default", (Hop("tun0"),), table=100)),
        (
            Rule(100, table=254, suppress_prefix_length=0),
            Rule(101, table=100, mark=MARK, invert=True),
        ),
    ),
    "a VPN by two halves": Setup(
        (ETH0, Address("tun0", "192.0.2.129", 32)),
        (DEFAULT, Route("0.0.0.0/1", (Hop("tun0"),)), Route("128.0.0.0/1", (Hop("tun0"),))),
    ),
    "a nexthop object, nexthop_compat_mode 0": Setup(
        (ETH0,),
        (Route("default", (Hop("eth0", "198.51.100.30"),), nexthop_object=True),),
        nexthop_compat_mode=0,
    ),
    "a default only in a table of its own": Setup(
        (ETH0,),
        (Route("default", (Hop("eth0", "198.51.100.30"),), table=100),),
        (Rule(100, table=100),),
    ),
    "a gateway that is onlink": Setup(
        (Address("eth0", "198.51.100.1", 32),),
        (Route("default", (Hop("eth0", "192.0.2.249", onlink=True),)),),
    ),
    "a gateway with an IPv6 address": Setup(
        (Address("eth0", "198.51.100.1", 32),), (Route("default", (Hop("eth0", "fe80::1e"),)),)
    ),
    "an unnumbered uplink": Setup(
        (Address("lo", "192.0.2.201", 32),), (Route("default", (Hop("eth0", "fe80::1e"),)),)
    ),
    "a LAN beside the default route": Setup((ETH0, LAN), (DEFAULT,)),
    "a LAN beside it, added first": Setup((LAN, ETH0), (DEFAULT,)),
    "a LAN and no default": Setup((LAN,)),
    "two LANs and no default": Setup((LAN, ETH1, Address("eth0", "203.0.113.1"))),
    "ECMP with an address for each way": Setup(
        (ETH0, ETH1),
        (Route("default", (Hop("eth0", "198.51.100.30"), Hop("eth1", "198.51.100.94"))),),
    ),
    "ECMP by ports": Setup(
        (ETH0, ETH1),
        (Route("default", (Hop("eth0", "198.51.100.30"), Hop("eth1", "198.51.100.94"))),),
        hash_policy=1,
    ),
    "ECMP by ports, one way seldom taken": Setup(
        (ETH0, ETH1),
        (Route("default", (Hop("eth0", "198.51.100.30", weight=9), Hop("eth1", "198.51.100.94"))),),
        hash_policy=1,
    ),
    "ECMP by a nexthop group": Setup(
        (ETH0, ETH1),
        (
            Route(
                "default",
                (Hop("eth0", "198.51.100.30"), Hop("eth1", "198.51.100.94")),
                nexthop_object=True,
            ),
        ),
        nexthop_compat_mode=0,
    ),
    "two defaults by metric": Setup(
        (ETH1, ETH0),
        (
            Route("default", (Hop("eth1", "198.51.100.94"),), metric=20),
            Route("default", (Hop("eth0", "198.51.100.30"),), metric=10),
        ),
    ),
    "a route by another link": Setup(
        (ETH0, ETH1), (DEFAULT, Route("203.0.113.0/25", (Hop("eth1", "198.51.100.94"),)))
    ),
    "a route by another link from a preferred source": Setup(
        (ETH0, ETH1, Address("lo", "192.0.2.201", 32)),
        (
            DEFAULT,
            Route("203.0.113.0/25", (Hop("eth1", "198.51.100.94"),), source="192.0.2.201"),
        ),
    ),
    "a rule by destination": Setup(
        (ETH0, ETH1),
        (DEFAULT, OTHER_DEFAULT),
        (Rule(100, table=100, destination="203.0.113.0/25"),),
    ),
    "a rule by source, for the address of another link": Setup(
        (ETH0, ETH1), (DEFAULT, OTHER_DEFAULT), (Rule(100, table=100, source="198.51.100.65"),)
    ),
    "a rule by source, for the node's own address": Setup(
        (ETH0, ETH1), (DEFAULT, OTHER_DEFAULT), (Rule(100, table=100, source="198.51.100.1"),)
    ),
    "a rule by mark": Setup(
        (ETH0, ETH1), (DEFAULT, OTHER_DEFAULT), (Rule(100, table=100, mark=MARK),)
    ),
    "a rule for all that isn't marked": Setup(
        (ETH0, ETH1), (DEFAULT, OTHER_DEFAULT), (Rule(100, table=100, mark=MARK, invert=True),)
    ),
    "a rule for what comes in on a link": Setup(
        (ETH0, ETH1), (DEFAULT, OTHER_DEFAULT), (Rule(100, table=100, iif="eth0"),)
    ),
    "parts of the world that are refused": Setup(
        (ETH0,),
        (
            DEFAULT,
            Route("203.0.113.0/25", kind="unreachable"),
            Route("203.0.113.128/25", kind="prohibit"),
            Route("192.0.2.0/27", kind="blackhole"),
        ),
    ),
}


def compare(node: WaysNode, setup: Setup) -> None:
    """AssertionError where a pod's connection isn't as its node's own, or none says anything."""
    probes = [FAR, FAR2, FAR3, ON_LAN, MARKED]
    report = node.try_out(setup, *probes)
    found = differences(report)
    assert not found, "\n".join(found)
    assert any(outcome.way for each in report.compared for outcome in each.node)


@pytest.mark.parametrize("name", SEEN)
def test_a_pod_goes_as_its_node_goes(node: WaysNode, name: str) -> None:
    compare(node, SEEN[name])


@pytest.mark.parametrize("name", SEEN)
def test_likewise_where_no_neighbour_is_known_and_forwarding_is_dropped(
    node: WaysNode, name: str
) -> None:
    """Neither ARP nor a way out depends on the IPv4 FORWARD chain.

    What a route refuses is answered by the kernel itself, which a filter may well silence.
    """
    setup = replace(SEEN[name], cold=True, forward_drop=True)
    compare(node, setup)
