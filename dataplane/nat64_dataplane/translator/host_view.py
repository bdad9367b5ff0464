"""The translator's view of one node: the values that the agent finds and the maps hold."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import NamedTuple

ANY_SOURCE = IPv4Address("0.0.0.0")
"""Names the zone of pools that have nothing to do with the node's own addresses."""

DUMMY_ADDRESS = IPv4Address("192.0.0.8")
"""The translator link's own address (RFC 7600). Without an IPv4 address on it, packets that come
out of it would fail loose reverse-path filtering."""


class Uplink(NamedTuple):
    """A link over which IPv4 leaves the node. `mtu` in bytes, as the link has it."""

    ifindex: int
    mtu: int
    name: str
    ethernet: bool = True
    """Whether its packets have Ethernet headers; those of a tunnel of IP packets don't."""
    external: bool = True
    """Whether strangers are behind it, as behind a default route."""
    zone: IPv4Address = ANY_SOURCE
    """The zone of what leaves by it, where the kernel doesn't say from which address."""
    lan: bool = False
    """Whether all its routes are to its own subnets: what comes in there is of its own zones."""


class PoolRange(NamedTuple):
    """Ports `first` to `last`, inclusive, of one pool address."""

    address: IPv4Address
    first: int
    last: int
    zone: IPv4Address = ANY_SOURCE
    """Named by the source address of the way out that it is for."""


class ArpAnswer(NamedTuple):
    """Who asks for the address on this link is told this link's address."""

    ifindex: int
    address: IPv4Address
    mac: bytes


@dataclass(frozen=True, slots=True)
class HostView:
    """A Config's names, resolved on this node.

    Two equal views need no new `apply`; any difference does.
    """

    interface_index: int
    interface_mac: bytes
    uplinks: tuple[Uplink, ...]
    pool: tuple[PoolRange, ...]
    """Those of one zone stand together, first those of the way to the rest of the world."""
    local_ranges: frozenset[IPv4Network]
    """The node's own, as in its local table: never reachable through the prefix unless the config
    allows it."""
    outside: tuple[int, ...] = ()
    """Links behind which strangers are although no IPv4 leaves by them: their interface indexes."""
    arp_answers: frozenset[ArpAnswer] = frozenset()
    """For pool addresses that no link holds."""
    links_of_zones: tuple[tuple[IPv4Address, tuple[int, ...]], ...] = ()
    """By which links a zone leaves, where that is known: by interface index."""
    route_mtu: int = 65535
    """Of the route to Pref64, in bytes."""
    marks: tuple[tuple[int, int], ...] = ()
    """Value and mask of the packets' marks that policy rules ask for."""

    tunnel_index: int = 0
    """The link of the tunnel between router nodes and gateway nodes; 0 for none."""

    @property
    def strangers(self) -> frozenset[int]:
        """Interface indexes of the links from which only listed sources are translated."""
        external = {uplink.ifindex for uplink in self.uplinks if uplink.external}
        return frozenset(external.union(self.outside))
