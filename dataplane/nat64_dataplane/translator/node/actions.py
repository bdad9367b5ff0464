"""The steps that a plan is made of: each says what it does, and `host` knows how."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from nat64_dataplane.translator.host_view import DUMMY_ADDRESS, HostView
from nat64_dataplane.translator.node.facts import Devconf, PrefixRoute, RangeRoute
from nat64_dataplane.translator.node.nftables_notrack import Rule
from nat64_dataplane.translator.node.tc_hooks import Hook

NEXT_HOP = IPv6Address("fe80::64")
"""The one neighbour on the translator's link: without it, the kernel would keep an entry for
every IPv4 destination and overflow its table at a thousand (gc_thresh3)."""

LINK_MTU = 65535
"""Out of the way: the route's MTU is the one that counts."""

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
class MoveFirst:
    """Have our program at a hook run before those of others, which may end the chain."""

    hook: Hook
    name: str
    programs: tuple[int, ...]
    """The ids of those that run before it."""

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
    | MoveFirst
    | WriteRules
    | ClaimRange
    | ReleaseRange
    | ReplaceRoute
    | DeleteRoute
)
