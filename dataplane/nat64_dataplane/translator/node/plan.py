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
    PrefixRoute,
    RangeRoute,
)
from nat64_dataplane.translator.node.nftables_notrack import Rule
from nat64_dataplane.translator.node.tc_hooks import Direction, Hook

LOOPBACK = 1


class HookName(NamedTuple):
    """A hook and, for people, the name of its link."""

    hook: Hook
    name: str


@dataclass(frozen=True, slots=True)
class Desired:
    """The desired state of the node for one translator instance."""

    instance: str
    interface: str
    peer: str
    prefixes: tuple[IPv6Network, ...]
    mtu: int
    fragment_mtu: int
    programs: Mapping[Direction, int]
    """The ids of the loaded programs."""
    rules: frozenset[Rule] | None
    """None where the kernel has no nf_tables: then nothing is written."""
    ranges: frozenset[IPv4Network] = frozenset()
    offload: tuple[Link, ...] = ()
    """The links where packets of known flows are translated as they come in."""

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
    if (link.index, DUMMY_ADDRESS) not in ((a.ifindex, a.address) for a in facts.addresses):
        yield AddAddress(link.index)
    if observed.neighbour != link.mac:
        yield SetNeighbour(link.index, link.mac)
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
    # What is too long for IPv6 is sent to this address, for the kernel to fragment it.
    fragmenter = IPv4Network(fragmentation_address(link.index))
    routes = (
        PrefixRoute(fragmenter, link.index, None, desired.fragment_mtu, True),
        *(PrefixRoute(each, link.index, NEXT_HOP, desired.mtu, True) for each in desired.prefixes),
    )
    for route in routes:
        if route not in facts.prefix_routes:
            yield ReplaceRoute(route)
    for stale in facts.prefix_routes:
        if stale.ifindex == link.index and stale.prefix not in {each.prefix for each in routes}:
            yield DeleteRoute(stale)


def _hook_actions(desired: Desired, observed: Observed, view: HostView) -> Iterator[Action]:
    wanted = [
        HookName(Hook(view.interface_index, "egress"), desired.interface),
        HookName(Hook(LOOPBACK, "ingress"), "lo"),
        *(HookName(Hook(uplink.ifindex, "ingress"), uplink.name) for uplink in view.uplinks),
        *(HookName(Hook(link.index, "offload"), link.name) for link in desired.offload),
    ]
    for hook, name in wanted:
        if observed.hooks.get(hook) != desired.programs[hook.direction]:
            yield Attach(hook, name)
        elif hook in observed.ahead:
            yield MoveFirst(hook, name, observed.ahead[hook])
    for hook in sorted(observed.hooks.keys() - {hook for hook, _ in wanted}):
        yield Detach(hook)


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
