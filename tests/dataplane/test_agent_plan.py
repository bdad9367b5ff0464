"""The plan: from how a node should be and how it is to what must change. Pure."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest

from nat64_dataplane.config import Config, parse
from nat64_dataplane.errors import HostError
from nat64_dataplane.topology import tunnel_interface
from nat64_dataplane.translator.fragmentation import (
    fragmentation_address,
    fragmentation_mtu,
)
from nat64_dataplane.translator.host_view import DUMMY_ADDRESS
from nat64_dataplane.translator.node import actions, nftables_notrack, pools, uplinks_and_pools
from nat64_dataplane.translator.node import plan as planning
from nat64_dataplane.translator.node.actions import Action
from nat64_dataplane.translator.node.address_dump import Address
from nat64_dataplane.translator.node.facts import (
    IFF_NOARP,
    IFF_UP,
    DefaultRoute,
    Devconf,
    Facts,
    Link,
    PeerRoute,
    PrefixRoute,
    RangeRoute,
)
from nat64_dataplane.translator.node.plan import Desired, Observed
from nat64_dataplane.translator.node.tc_hooks import Hook

CONFIG = parse("{name: default, prefix: 64:ff9b:1::/96}")
NODE = IPv4Address("198.51.100.1")
MAC = bytes.fromhex("020000000005")
LO = Link(1, "lo", 65536, IFF_UP | 0x8, bytes(6))
ETH0 = Link(3, "eth0", 1500, IFF_UP, bytes.fromhex("020000000003"))
PEER = Link(4, "n64p-0", 65535, IFF_UP, bytes(6), "veth", peer=5, no_link_local=True)
NAT64 = Link(
    5,
    "nat64-default",
    65535,
    IFF_UP | IFF_NOARP,
    MAC,
    "veth",
    "nat64-operator default",
    peer=4,
    no_link_local=True,
    devconf=Devconf(1, 1, 2),
)
BARE = Facts(
    links=(LO, ETH0),
    addresses=(Address(1, IPv4Address("127.0.0.1"), is_global=False), Address(3, NODE)),
    defaults=(DefaultRoute(3),),
)
FRAGMENTER = PrefixRoute(
    IPv4Network(fragmentation_address(5)), 5, None, fragmentation_mtu(CONFIG), True
)
ROUTE = PrefixRoute(CONFIG.prefix, 5, actions.NEXT_HOP, 1520, True)
DONE = replace(
    BARE,
    links=(LO, ETH0, PEER, NAT64),
    addresses=(*BARE.addresses, Address(5, DUMMY_ADDRESS, is_global=False)),
    prefix_routes=frozenset({FRAGMENTER, ROUTE}),
)
HOOKS = {Hook(5, "egress"): 11, Hook(1, "ingress"): 10, Hook(3, "ingress"): 10}
RULES = nftables_notrack.rules(CONFIG.prefixes, CONFIG.interface, tracking=True)


def desired(config: Config = CONFIG, facts: Facts = BARE, **changes: object) -> Desired:
    wanted = Desired(
        instance=config.name,
        interface=config.interface,
        peer="n64p-0",
        prefixes=config.prefixes,
        mtu=uplinks_and_pools.route_mtu(uplinks_and_pools.uplinks(config, facts)),
        fragment_mtu=fragmentation_mtu(config),
        programs={"nat64_ingress": 10, "nat64_egress": 11},
        rules=nftables_notrack.rules(config.prefixes, config.interface, tracking=True),
        ranges=pools.owned_ranges(config, facts),
    )
    return replace(wanted, **changes)  # type: ignore[arg-type]


def observed(facts: Facts = DONE, **changes: object) -> Observed:
    seen = Observed(
        facts, MAC, HOOKS, RULES, True, uplinks_and_pools.host_view(CONFIG, facts, NAT64)
    )
    return replace(seen, **changes)  # type: ignore[arg-type]


def routed(*routes: PrefixRoute) -> Observed:
    return observed(replace(DONE, prefix_routes=frozenset(routes)))


def planned(want: Desired, seen: Observed, config: Config = CONFIG) -> list[Action]:
    view = uplinks_and_pools.host_view(config, seen.facts, seen.facts.link(want.interface))
    return list(planning.plan(want, seen, view))


def test_a_node_that_is_as_it_should_be_is_left_alone() -> None:
    assert planned(desired(), observed()) == []


def test_a_bare_node_gets_the_link_first_and_nothing_else_yet() -> None:
    seen = Observed(BARE)
    assert planning.plan(desired(), seen, None) == (actions.CreateLink("nat64-default", "n64p-0"),)


def test_packets_are_routed_to_the_translator_last() -> None:
    seen = Observed(replace(DONE, prefix_routes=frozenset()))
    order = [type(action) for action in planned(desired(), seen)]
    assert order.index(actions.Apply) < order.index(actions.Attach)
    assert order[-1] is actions.ReplaceRoute


@pytest.mark.parametrize(
    ("seen", "repair"),
    [
        (observed(neighbour=None), actions.SetNeighbour(5, MAC)),
        (observed(neighbour=b"\2\0\0\0\0\1"), actions.SetNeighbour(5, MAC)),
        (observed(rules=None), actions.WriteRules(RULES)),
        (observed(rules=frozenset(list(RULES)[:1])), actions.WriteRules(RULES)),
        (observed(hooks={}), actions.Attach(Hook(5, "egress"), "nat64-default", "nat64_egress")),
        (
            observed(hooks={**HOOKS, Hook(3, "ingress"): 9}),
            actions.Attach(Hook(3, "ingress"), "eth0", "nat64_ingress"),
        ),
        (observed(hooks={**HOOKS, Hook(9, "ingress"): 10}), actions.Detach(Hook(9, "ingress"))),
        (
            observed(replace(DONE, prefix_routes=frozenset({FRAGMENTER}))),
            actions.ReplaceRoute(ROUTE),
        ),
        (
            observed(replace(DONE, prefix_routes=frozenset({ROUTE}))),
            actions.ReplaceRoute(FRAGMENTER),
        ),
        (observed(replace(DONE, addresses=BARE.addresses)), actions.AddAddress(5)),
        (
            observed(replace(DONE, links=(LO, ETH0, PEER, replace(NAT64, flags=IFF_NOARP)))),
            actions.ConfigureLink(5, 4, "nat64-default", "nat64-operator default"),
        ),
        (
            observed(
                replace(DONE, links=(LO, ETH0, PEER, replace(NAT64, devconf=Devconf(1, 1, 1))))
            ),
            actions.ConfigureLink(5, 4, "nat64-default", "nat64-operator default"),
        ),
    ],
)
def test_each_kind_of_drift_is_repaired(seen: Observed, repair: Action) -> None:
    assert planned(desired(), seen)[0] == repair


def test_a_new_prefix_is_routed_before_the_old_route_goes() -> None:
    config = parse("{name: default, prefix: 2001:db8:64::/96}")
    order = [str(action) for action in planned(desired(config), observed(), config)]
    assert order[-2:] == ["route 2001:db8:64::/96 mtu 1520", "delete route 64:ff9b:1::/96"]


def test_a_link_of_a_former_config_goes_and_strangers_stay() -> None:
    stranger = replace(NAT64, index=9, name="nat64-other", alias="nat64-operator other")
    config = parse("{name: default, prefix: 64:ff9b:1::/96, interface: xlat}")
    seen = Observed(replace(DONE, links=(*DONE.links, stranger)))
    assert list(planning.plan(desired(config), seen, None)) == [
        actions.DeleteLink(5, "nat64-default"),
        actions.CreateLink("xlat", "n64p-0"),
    ]


def test_a_link_of_someone_else_is_not_taken() -> None:
    theirs = Link(5, "nat64-default", 1500, IFF_UP, MAC, "bridge")
    with pytest.raises(HostError, match="not this translator's"):
        planning.plan(desired(), Observed(replace(BARE, links=(LO, ETH0, theirs))), None)


def test_a_link_whose_creator_was_killed_at_once_is_known_by_its_peer() -> None:
    unmarked = replace(NAT64, alias="")
    seen = observed(replace(DONE, links=(LO, ETH0, PEER, unmarked)))
    assert [type(action) for action in planned(desired(), seen)] == [actions.ConfigureLink]


def test_pool_addresses_that_no_link_holds_are_claimed_and_released() -> None:
    config = parse("{name: default, prefix: 64:ff9b:1::/96, pools: [{addresses: 192.0.2.8/29}]}")
    claim = RangeRoute(IPv4Network("192.0.2.8/29"), 5)
    assert actions.ClaimRange(claim) in planned(desired(config), observed(), config)
    old = observed(replace(DONE, range_routes=frozenset({claim})))
    assert actions.ReleaseRange(claim) in planned(desired(), old)
    of_another = observed(replace(DONE, range_routes=frozenset({claim._replace(ifindex=9)})))
    assert planned(desired(), of_another) == []


def test_without_nf_tables_no_rules_are_asked_for() -> None:
    assert planned(desired(rules=None), observed(rules=None)) == []


def test_a_program_of_someone_else_before_ours_is_moved_behind_it() -> None:
    hook = Hook(3, "ingress")
    [action] = planned(desired(), observed(ahead={hook: (7, 8)}))
    assert action == actions.MoveFirst(hook, "eth0", (7, 8), "nat64_ingress")
    assert str(action) == "move ingress of eth0 before program 7, 8"


def test_both_prefixes_are_routed_and_untracked_and_one_that_is_gone_is_not() -> None:
    both = parse("{name: default, prefix: 64:ff9b:1::/96, clat: {prefix: '64:ff9b:1:c1a7::/96'}}")
    other = PrefixRoute(both.prefixes[1], 5, actions.NEXT_HOP, 1520, True)
    rules = nftables_notrack.rules(both.prefixes, both.interface, tracking=True)
    assert {(rule.chain, rule.text) for rule in rules - RULES} == {
        (chain, "ip6 daddr 64:ff9b:1:c1a7::/96 notrack accept")
        for chain in ("prerouting", "output")
    }
    assert planned(desired(both), observed(), both) == [
        actions.WriteRules(rules),
        actions.ReplaceRoute(other),
    ]
    there = routed(FRAGMENTER, ROUTE, other)
    assert planned(desired(both), replace(there, rules=rules), both) == []
    assert planned(desired(), there) == [actions.DeleteRoute(other)]


def test_flow_offload_is_where_pods_packets_come_in() -> None:
    """On their own links and on bridges that have such ports, and never where strangers are."""

    def to_pod(index: int, master: int = 0) -> Link:
        return Link(index, f"veth{index}", 1500, IFF_UP, MAC, "veth", elsewhere=True, master=master)

    bridge = Link(20, "cni0", 1500, IFF_UP, MAC, "bridge")
    without_pods = Link(21, "br0", 1500, IFF_UP, MAC, "bridge")
    vrf = Link(22, "vrf0", 1500, IFF_UP, MAC, "vrf")
    down = replace(to_pod(14), flags=0)
    uplink = to_pod(15)
    links = (to_pod(10), to_pod(11, master=20), to_pod(12, master=20), to_pod(13, master=22))
    facts = replace(
        BARE,
        links=(*BARE.links, *links, down, uplink, bridge, without_pods, vrf),
        ipv6_default_links=frozenset({15}),
    )
    assert [link.index for link in uplinks_and_pools.ways_in(CONFIG, facts)] == [10, 20]


def test_flow_offload_has_a_hook_of_its_own_and_loses_it_with_its_link() -> None:
    pod = Link(10, "veth10", 1500, IFF_UP, MAC, "veth", elsewhere=True)
    hook = Hook(10, "offload")
    ids = {**desired().programs, "nat64_offload": 12}
    wanted = desired(programs=ids, offload=(pod,))
    assert planned(wanted, observed()) == [actions.Attach(hook, "veth10", "nat64_offload")]
    there = observed(hooks={**HOOKS, hook: 12})
    assert planned(wanted, there) == []
    assert planned(desired(), there) == [actions.Detach(hook)]


def test_a_router_node_has_its_own_flow_offload() -> None:
    pod = Link(10, "veth10", 1500, IFF_UP, MAC, "veth", elsewhere=True)
    hook = Hook(10, "offload")
    ids = {**desired().programs, "nat64_steer": 12, "nat64_steer_offload": 13}
    wanted = desired(programs=ids, offload=(pod,), translates=False)
    done = planned(wanted, observed(hooks={**HOOKS, hook: 11}))
    assert actions.Attach(hook, "veth10", "nat64_steer_offload") in done


def test_flow_offload_is_where_router_nodes_are_neighbours() -> None:
    """By the link of the node's own IPv6 default route, too, but only with Direct."""
    node_link = Link(15, "eth9", 1500, IFF_UP, MAC, "veth", elsewhere=True)
    other = Link(16, "eth10", 1500, IFF_UP, MAC, "veth", elsewhere=True)
    tunnel = Link(17, tunnel_interface(CONFIG.name), 1430, IFF_UP, MAC, "vxlan")
    facts = replace(
        BARE,
        links=(*BARE.links, node_link, other, tunnel),
        ipv6_default_links=frozenset({15, 16}),
        peer_routes=frozenset(
            PeerRoute(IPv6Network(f"fd64:{link.index}::/64"), IPv6Address("fd64:9::1"), link.index)
            for link in (node_link, tunnel)
        ),
    )
    for topology, found in (
        ("topology: {role: Gateway, transport: Direct}", [15]),
        ("topology: {role: Gateway, transport: Direct}, offloadFlows: false", []),
        ("topology: {role: Gateway, transport: Tunnel}", []),
    ):
        config = parse(f"{{name: default, prefix: 64:ff9b:1::/96, {topology}}}")
        links = uplinks_and_pools.ways_from_routers(config, facts)
        assert [link.index for link in links] == found
