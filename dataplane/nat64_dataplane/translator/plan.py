"""What must change on the node: one pure function from what should be and what is.

`plan` returns the actions that are possible now, in the order in which packets stay right: the
maps are filled before a hook runs, and Pref64 is routed to the translator last. The agent
executes them, reads the node again, and asks again until the answer is empty. So drift of any
kind is repaired by the same few lines that set the node up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NamedTuple

from nat64_dataplane.errors import HostError
from nat64_dataplane.translator.attach import Direction, Hook
from nat64_dataplane.translator.facts import (
    IFF_NOARP,
    Devconf,
    Facts,
    Link,
    PrefixRoute,
    RangeRoute,
)
from nat64_dataplane.translator.notrack import Rule
from nat64_dataplane.translator.view import DUMMY_ADDRESS, HostView

NEXT_HOP = IPv6Address("fe80::64")
"""The one neighbour on the translator's link: without it, the kernel would keep an entry for
every IPv4 destination and overflow its table at a thousand (gc_thresh3)."""

LINK_MTU = 65535
"""Out of the way: the route's MTU is the one that counts."""

LOOPBACK = 1

_DEVCONF = Devconf(forwarding=1, accept_local=1, rp_filter=2)


@dataclass(frozen=True, slots=True)
class CreateLink:
    """Make the veth pair."""

    name: str
    peer: str

    def __str__(self) -> str:
        return f"create link {self.name}"


@dataclass(frozen=True, slots=True)
class DeleteLink:
    """Remove a link of ours that another config named."""

    index: int
    name: str

    def __str__(self) -> str:
        return f"delete link {self.name}"


@dataclass(frozen=True, slots=True)
class ConfigureLink:
    """Set flags, MTU, alias and devconf of the link, and its peer up."""

    index: int
    peer: int
    name: str
    alias: str
    mtu: int = LINK_MTU
    devconf: Devconf = _DEVCONF

    def __str__(self) -> str:
        return f"configure link {self.name}"


@dataclass(frozen=True, slots=True)
class AddAddress:
    """Give the link its IPv4 address."""

    index: int
    address: IPv4Address = DUMMY_ADDRESS

    def __str__(self) -> str:
        return f"add address {self.address}"


@dataclass(frozen=True, slots=True)
class SetNeighbour:
    """Make the next hop a permanent neighbour with the link's own MAC address.

    Its own, so that a frame which no program consumed is dropped by the peer as another host's.
    """

    index: int
    mac: bytes
    address: IPv6Address = NEXT_HOP

    def __str__(self) -> str:
        return f"set neighbour {self.address}"


@dataclass(frozen=True, slots=True)
class Apply:
    """Have the maps follow the config on this node."""

    view: HostView

    def __str__(self) -> str:
        return "apply config"


@dataclass(frozen=True, slots=True)
class Attach:
    """Run a program at a hook, in the place of the one that may run there."""

    hook: Hook
    name: str

    def __str__(self) -> str:
        return f"attach {self.hook.direction} of {self.name}"


@dataclass(frozen=True, slots=True)
class Detach:
    """Stop running our program at a hook."""

    hook: Hook

    def __str__(self) -> str:
        return f"detach {self.hook.direction} of link {self.hook.ifindex}"


@dataclass(frozen=True, slots=True)
class WriteRules:
    """Write the notrack table anew."""

    rules: frozenset[Rule]

    def __str__(self) -> str:
        return "write notrack rules"


@dataclass(frozen=True, slots=True)
class ClaimRange:
    """Make the node own pool addresses that no link holds."""

    route: RangeRoute

    def __str__(self) -> str:
        return f"claim pool range {self.route.network}"


@dataclass(frozen=True, slots=True)
class ReleaseRange:
    """Give up a range that the pools no longer have."""

    route: RangeRoute

    def __str__(self) -> str:
        return f"release pool range {self.route.network}"


@dataclass(frozen=True, slots=True)
class ReplaceRoute:
    """Route the prefix to the translator."""

    route: PrefixRoute

    def __str__(self) -> str:
        return f"route {self.route.prefix} mtu {self.route.mtu}"


@dataclass(frozen=True, slots=True)
class DeleteRoute:
    """Remove a route of ours that another config wanted."""

    route: PrefixRoute

    def __str__(self) -> str:
        return f"delete route {self.route.prefix}"


Action = (
    CreateLink
    | DeleteLink
    | ConfigureLink
    | AddAddress
    | SetNeighbour
    | Apply
    | Attach
    | Detach
    | WriteRules
    | ClaimRange
    | ReleaseRange
    | ReplaceRoute
    | DeleteRoute
)


class HookName(NamedTuple):
    """A hook and, for people, the name of its link."""

    hook: Hook
    name: str


@dataclass(frozen=True, slots=True)
class Desired:
    """How the node should be for one translator instance."""

    instance: str
    interface: str
    peer: str
    prefix: IPv6Network
    mtu: int
    programs: Mapping[Direction, int]
    """The ids of the loaded programs."""
    rules: frozenset[Rule] | None
    """None where the kernel has no nf_tables: then nothing is written."""
    ranges: frozenset[IPv4Network] = frozenset()

    @property
    def alias(self) -> str:
        """What marks a link as this instance's."""
        return link_alias(self.instance)


@dataclass(frozen=True, slots=True)
class Observed:
    """How the node is."""

    facts: Facts
    neighbour: bytes | None = None
    hooks: Mapping[Hook, int] = field(default_factory=dict)
    rules: frozenset[Rule] | None = None
    applied: HostView | None = None
    """What the maps follow, or None where they don't follow this config yet."""


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
    route = PrefixRoute(desired.prefix, link.index, NEXT_HOP, desired.mtu, True)
    if route not in facts.prefix_routes:
        yield ReplaceRoute(route)
    for stale in facts.prefix_routes:
        if stale.ifindex == link.index and stale.prefix != desired.prefix:
            yield DeleteRoute(stale)


def _hook_actions(desired: Desired, observed: Observed, view: HostView) -> Iterator[Action]:
    wanted = [
        HookName(Hook(view.interface_index, "egress"), desired.interface),
        HookName(Hook(LOOPBACK, "ingress"), "lo"),
        *(HookName(Hook(uplink.ifindex, "ingress"), uplink.name) for uplink in view.uplinks),
    ]
    for hook, name in wanted:
        if observed.hooks.get(hook) != desired.programs[hook.direction]:
            yield Attach(hook, name)
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
        and link.devconf == _DEVCONF
        and peer is not None
        and peer.up
        and peer.no_link_local
    )
