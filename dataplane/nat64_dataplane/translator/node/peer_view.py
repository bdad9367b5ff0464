"""How a node stands to those of the other role: by which address and MTU, and what is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address

from nat64_dataplane.config import Config, Role, Transport
from nat64_dataplane.topology import TUNNEL_OVERHEAD
from nat64_dataplane.translator.membership import Membership
from nat64_dataplane.translator.node import nftables_reverse_path, peer_plan
from nat64_dataplane.translator.node.facts import PeerRoute
from nat64_dataplane.translator.node.netlink_host import Host
from nat64_dataplane.translator.node.peer_facts import Way
from nat64_dataplane.translator.node.peer_plan import PeerWays
from nat64_dataplane.translator.node_warning import NodeWarning, warn

_USUAL_MTU = 1500
"""Of a network of which nothing is known yet."""


@dataclass(frozen=True, slots=True)
class PeerView:
    """One reading."""

    ways: PeerWays
    address: IPv6Address | None
    """This node's own, as the others know it."""
    membership: Membership
    underlay_mtu: int
    """Of the narrowest way to a node of the other role."""
    distant: tuple[str, ...] = ()
    """Gateway nodes that aren't neighbours on a link of this node."""

    @classmethod
    def of(cls, config: Config, membership: Membership, host: Host) -> PeerView:
        """Ask the kernel for the ways. Raises HostError."""
        if config.topology is None:
            return cls(peer_plan.wanted(config, membership, 0), None, membership, 0)
        if config.topology.role is Role.GATEWAY:
            return cls._of_gateway(config, membership, host)
        others = {each.node: each.address for each in membership.gateways.gateways}
        ways = {node: way for node, to in others.items() if (way := host.way_to(to))}
        mtu = min((way.mtu for way in ways.values()), default=_USUAL_MTU)
        address = membership.own_address
        if address is None:
            address = next((way.source for way in ways.values() if way.source), None)
        distant = tuple(node for node in others if node not in ways or _is_distant(ways[node]))
        wanted = peer_plan.wanted(config, membership, mtu)
        return cls(wanted, address, membership, mtu, distant)

    @classmethod
    def _of_gateway(cls, config: Config, membership: Membership, host: Host) -> PeerView:
        routers = [each.address for each in membership.routers.routers]
        found = host.mtus_to(routers)
        mtu = min(found.values(), default=_USUAL_MTU)
        wanted = peer_plan.wanted(config, membership, mtu, found)
        return cls(wanted, membership.own_address or _source(host, routers), membership, mtu)

    def warnings(self, config: Config, refused: Iterable[PeerRoute]) -> Iterator[NodeWarning]:
        """What other nodes will not do for this one."""
        topology = config.topology
        if topology is None:
            return
        if topology.role is Role.GATEWAY and self.membership.own_gateway is None:
            yield warn("NotListed", f"node {self.membership.node or '(NODE_NAME is not set)'}")
        if filters := nftables_reverse_path.in_the_way(config):
            yield warn("ReversePathFilter", *filters)
        if topology.transport is Transport.TUNNEL:
            inside = self.underlay_mtu - TUNNEL_OVERHEAD
            if inside < peer_plan.SMALLEST_MTU:
                yield warn("TunnelTooNarrow", f"{inside} bytes fit")
            return
        routers = {each.address: each.node for each in self.membership.routers.routers}
        names = {
            routers.get(route.gateway, str(route.gateway)) for route in refused if route.gateway
        }
        if away := (*self.distant, *sorted(names)):
            yield warn("NotOnLink", *away)


def _source(host: Host, others: Iterable[IPv6Address]) -> IPv6Address | None:
    """By which address this node reaches the others, where nobody has told."""
    return next((way.source for to in others if (way := host.way_to(to)) and way.source), None)


def _is_distant(way: Way) -> bool:
    return way.gateway is not None
