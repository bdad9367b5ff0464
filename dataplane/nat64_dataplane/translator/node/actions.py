"""The steps of a plan: each describes itself, and `netlink_host` carries it out.

Each step is a class of its own, even where two have the same fields, because the plan and its tests
compare steps by type.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from nat64_dataplane.translator.host_view import DUMMY_ADDRESS, HostView
from nat64_dataplane.translator.node.facts import (
    Devconf,
    PeerRoute,
    PeerRule,
    PrefixRoute,
    RangeRoute,
)
from nat64_dataplane.translator.node.nftables_notrack import Rule
from nat64_dataplane.translator.node.tc_hooks import Hook, Program

NEXT_HOP = IPv6Address("fe80::64")
"""The only neighbour on the translator's link. Without it, the kernel would keep an entry for every
IPv4 destination and overflow its table at a thousand (gc_thresh3)."""

LINK_MTU = 65535
"""Large enough never to matter: the route's MTU is the one that counts."""

DEVCONF = Devconf(forwarding=1, accept_local=1, rp_filter=2)


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
    devconf: Devconf = DEVCONF

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

    It is the link's own address so that the peer drops a frame that no program has consumed, as
    addressed to another host.
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
    """Run a program at a hook, instead of the one that may run there."""

    hook: Hook
    name: str
    program: Program

    def __str__(self) -> str:
        return f"attach {self.hook.direction} of {self.name}"


@dataclass(frozen=True, slots=True)
class MoveFirst:
    """Run our program at a hook before those of others, which may end the chain."""

    hook: Hook
    name: str
    programs: tuple[int, ...]
    """The ids of those that run before it."""
    program: Program

    def __str__(self) -> str:
        ids = ", ".join(map(str, self.programs))
        return f"move {self.hook.direction} of {self.name} before program {ids}"


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
    """Make the node own pool addresses that no link has."""

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


@dataclass(frozen=True, slots=True)
class DelAddress:
    """Take the link's IPv4 address away: a router node needs none."""

    index: int
    address: IPv4Address = DUMMY_ADDRESS

    def __str__(self) -> str:
        return f"delete address {self.address}"


@dataclass(frozen=True, slots=True)
class CreateTunnel:
    """Make the VXLAN device between router nodes and gateway nodes, in external mode."""

    name: str
    port: int

    def __str__(self) -> str:
        return f"create tunnel {self.name}, UDP port {self.port}"


@dataclass(frozen=True, slots=True)
class ConfigureTunnel:
    """Set flags, MTU and alias of the tunnel's link, and bring it up, which opens its port."""

    index: int
    name: str
    alias: str
    port: int
    mtu: int = LINK_MTU

    def __str__(self) -> str:
        return f"configure tunnel {self.name}"


@dataclass(frozen=True, slots=True)
class WritePeerRoutes:
    """Route what is behind router nodes to them."""

    table: int
    new: frozenset[PeerRoute]
    old: frozenset[PeerRoute]

    def __str__(self) -> str:
        return f"routes to router nodes: {len(self.new)} written, {len(self.old)} deleted"


@dataclass(frozen=True, slots=True)
class AddRule:
    """Have what comes out of the translator look there first."""

    rule: PeerRule

    def __str__(self) -> str:
        return f"rule {self.rule.priority}: iif {self.rule.iif} lookup {self.rule.table}"


@dataclass(frozen=True, slots=True)
class DeleteRule:
    """Remove a rule to our table that isn't wanted."""

    rule: PeerRule

    def __str__(self) -> str:
        return f"delete rule {self.rule.priority}: iif {self.rule.iif} lookup {self.rule.table}"


Action = (
    CreateLink
    | DeleteLink
    | ConfigureLink
    | AddAddress
    | SetNeighbour
    | Apply
    | Attach
    | Detach
    | MoveFirst
    | WriteRules
    | ClaimRange
    | ReleaseRange
    | ReplaceRoute
    | DeleteRoute
    | DelAddress
    | CreateTunnel
    | ConfigureTunnel
    | WritePeerRoutes
    | AddRule
    | DeleteRule
)
