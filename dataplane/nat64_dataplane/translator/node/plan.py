"""What must change on the node: one pure function of the desired and the observed state.

`plan` returns the actions that are possible now, in an order in which packets are never translated
wrongly: the maps are filled before a hook runs, and Pref64 is routed to the translator last. The
agent executes them, reads the node again, and asks again until the plan is empty. So the same few
lines set the node up and repair any drift.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

from nat64_dataplane.errors import HostError
from nat64_dataplane.translator.fragmentation import fragmentation_address
from nat64_dataplane.translator.host_view import DUMMY_ADDRESS, HostView
from nat64_dataplane.translator.node import peer_plan
from nat64_dataplane.translator.node.actions import (
    DEVCONF,
    LINK_MTU,
    NEXT_HOP,
    Action,
    AddAddress,
    Apply,
    Attach,
    ClaimRange,
    ConfigureLink,
    CreateLink,
    CreateTunnel,
    DelAddress,
    DeleteLink,
    DeleteRoute,
    Detach,
    MoveFirst,
    ReleaseRange,
    ReplaceRoute,
    SetNeighbour,
    WriteRules,
)
from nat64_dataplane.translator.node.facts import (
    IFF_NOARP,
    Facts,
    Link,
    PeerRoute,
    PrefixRoute,
    RangeRoute,
)
from nat64_dataplane.translator.node.nftables_notrack import Rule
from nat64_dataplane.translator.node.peer_plan import NO_PEERS, PeerWays
from nat64_dataplane.translator.node.tc_hooks import Hook, Program

LOOPBACK = 1


class HookName(NamedTuple):
    """A hook, for people the name of its link, and what runs there."""

    hook: Hook
    name: str
    program: Program


@dataclass(frozen=True, slots=True)
class Desired:
    """The desired state of the node for one translator instance."""

    instance: str
    interface: str
    peer: str
    prefixes: tuple[IPv6Network, ...]
    mtu: int
    fragment_mtu: int
    programs: Mapping[Program, int]
    """The ids of the loaded programs."""
    rules: frozenset[Rule] | None
    """None where the kernel has no nf_tables: then nothing is written."""
    ranges: frozenset[IPv4Network] = frozenset()
    offload: tuple[Link, ...] = ()
    """The links where packets of known flows are translated as they come in."""
    translates: bool = True
    """False on a router node."""
    peers: PeerWays = NO_PEERS

    @property
    def alias(self) -> str:
        """The mark of this instance's link."""
        return link_alias(self.instance)


@dataclass(frozen=True, slots=True)
class Observed:
    """The observed state of the node."""

    facts: Facts
    neighbour: bytes | None = None
    hooks: Mapping[Hook, int] = field(default_factory=dict)
    rules: frozenset[Rule] | None = None
    tracking: bool = False
    """Whether conntrack is at work."""
    applied: HostView | None = None
    """What the maps follow, or None where they don't follow this config yet."""
    ahead: Mapping[Hook, tuple[int, ...]] = field(default_factory=dict)
    """Programs of others that run before ours and that we may still move behind it."""
    tunnel_neighbour: bytes | None = None
    refused: frozenset[PeerRoute] = frozenset()
    """Routes to router nodes that the kernel wouldn't take from us."""


def link_alias(instance: str) -> str:
    """The alias by which a link is known to be ours after a restart or a rename."""
    return f"nat64-operator {instance}"


def own_link(facts: Facts, interface: str, peer: str, alias: str) -> Link | None:
    """The translator's link, None where it isn't there yet.

    Raises HostError where a link of that name belongs to someone else: it isn't touched.
    """
    link = facts.link(interface)
    if link is None:
        return None
    other = facts.link_at(link.peer)
    # The alias is set after creation, so a link from an interrupted start is known by its peer.
    if link.kind == "veth" and other and (link.alias == alias or other.name == peer):
        return link
    raise HostError(
        "InterfaceTaken",
        f"link {interface!r} exists and is not this translator's: rename it, or set `interface`",
    )


def plan(desired: Desired, observed: Observed, view: HostView | None) -> tuple[Action, ...]:
    """The next actions; empty when the node is as it should be.

    `view` is None until the link exists. Raises HostError.
    """
    return tuple(_actions(desired, observed, view))


def _actions(desired: Desired, observed: Observed, view: HostView | None) -> Iterator[Action]:
    facts = observed.facts
    for link in facts.links:
        if link.alias == desired.alias and link.name != desired.interface:
            yield DeleteLink(link.index, link.name)
    link_or_none = own_link(facts, desired.interface, desired.peer, desired.alias)
    if link_or_none is None or view is None:
        yield CreateLink(desired.interface, desired.peer)
        return
    link = link_or_none
    if not _configured(link, facts, desired.alias):
        yield ConfigureLink(link.index, link.peer, link.name, desired.alias)
    numbered = (link.index, DUMMY_ADDRESS) in ((a.ifindex, a.address) for a in facts.addresses)
    if desired.translates and not numbered:
        yield AddAddress(link.index)
    elif numbered and not desired.translates:
        yield DelAddress(link.index)
    if observed.neighbour != link.mac:
        yield SetNeighbour(link.index, link.mac)
    tunnel = list(peer_plan.link_actions(facts, desired.peers, observed.tunnel_neighbour))
    yield from tunnel
    if any(isinstance(action, CreateTunnel) for action in tunnel):
        return  # the maps need its index
    if observed.applied != view:
        yield Apply(view)
    yield from _hook_actions(desired, observed, view)
    claims = {RangeRoute(network, link.index) for network in desired.ranges}
    for claim in sorted(claims - facts.range_routes):
        yield ClaimRange(claim)
    for claim in sorted(facts.range_routes - claims):
        if claim.ifindex == link.index:
            yield ReleaseRange(claim)
    if desired.rules is not None and observed.rules != desired.rules:
        yield WriteRules(desired.rules)
    yield from peer_plan.route_actions(facts, desired.peers, observed.refused)
    routes = [
        PrefixRoute(each, link.index, NEXT_HOP, desired.mtu, True) for each in desired.prefixes
    ]
    if desired.translates:
        # What is too long for IPv6 is sent to this address, for the kernel to fragment it.
        fragmenter = IPv4Network(fragmentation_address(link.index))
        routes.insert(0, PrefixRoute(fragmenter, link.index, None, desired.fragment_mtu, True))
    for route in routes:
        if route not in facts.prefix_routes:
            yield ReplaceRoute(route)
    for stale in facts.prefix_routes:
        if stale.ifindex == link.index and stale.prefix not in {each.prefix for each in routes}:
            yield DeleteRoute(stale)


def _hook_actions(desired: Desired, observed: Observed, view: HostView) -> Iterator[Action]:
    wanted = list(_hooks(desired, view))
    for hook, name, program in wanted:
        if observed.hooks.get(hook) != desired.programs[program]:
            yield Attach(hook, name, program)
        elif hook in observed.ahead:
            yield MoveFirst(hook, name, observed.ahead[hook], program)
    for hook in sorted(observed.hooks.keys() - {hook for hook, _, _ in wanted}):
        yield Detach(hook)


def _hooks(desired: Desired, view: HostView) -> Iterator[HookName]:
    own, tunnel = view.interface_index, desired.peers.tunnel
    if view.tunnel_index:
        yield HookName(Hook(view.tunnel_index, "ingress"), tunnel, "nat64_decap")
    if not desired.translates:
        yield HookName(Hook(own, "egress"), desired.interface, "nat64_steer")
        for link in desired.offload:
            yield HookName(Hook(link.index, "offload"), link.name, "nat64_steer_offload")
        return
    if view.tunnel_index:
        yield HookName(Hook(view.tunnel_index, "egress"), tunnel, "nat64_encap")
    yield HookName(Hook(own, "egress"), desired.interface, "nat64_egress")
    yield HookName(Hook(LOOPBACK, "ingress"), "lo", "nat64_ingress")
    for uplink in view.uplinks:
        yield HookName(Hook(uplink.ifindex, "ingress"), uplink.name, "nat64_ingress")
    for link in desired.offload:
        yield HookName(Hook(link.index, "offload"), link.name, "nat64_offload")


def _configured(link: Link, facts: Facts, alias: str) -> bool:
    peer = facts.link_at(link.peer)
    return (
        link.up
        and bool(link.flags & IFF_NOARP)
        and link.mtu == LINK_MTU
        and link.alias == alias
        and link.no_link_local
        and link.devconf == DEVCONF
        and peer is not None
        and peer.up
        and peer.no_link_local
    )
