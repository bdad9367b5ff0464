"""Who the nodes of a gateway in topology Gateway are, as one of them knows it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network

from nat64_dataplane.config import Config, Role
from nat64_dataplane.members import GatewayEntry, Gateways, Routers

_NO_GATEWAYS, _NO_ROUTERS = Gateways(), Routers()


@dataclass(frozen=True, slots=True)
class Membership:
    """The last good content of both membership files, and which of the nodes this is."""

    gateways: Gateways = _NO_GATEWAYS
    routers: Routers = _NO_ROUTERS
    node: str = ""
    """The name of this node."""
    address: IPv6Address | None = None
    """The address of this node; None where only the kernel can say."""

    @property
    def own_gateway(self) -> GatewayEntry | None:
        """This node's own entry among the gateways."""
        return next((each for each in self.gateways.gateways if each.node == self.node), None)

    @property
    def own_address(self) -> IPv6Address | None:
        """This node's address, as the other nodes have been told."""
        own = self.own_gateway
        return own.address if own else self.address

    @property
    def draining(self) -> bool:
        """Whether this node is to get no new clients."""
        own = self.own_gateway
        return own is not None and own.draining

    @property
    def by_address(self) -> Mapping[IPv6Address, GatewayEntry]:
        """The gateways by their addresses."""
        return {each.address: each for each in self.gateways.gateways}

    def peers(self, config: Config) -> dict[IPv6Network, IPv6Address]:
        """What is behind which node of the other role; a node's own address is behind itself.

        Nothing for topology Node. Ranges within the prefixes are left out: what is there is no pod.
        """
        if config.topology is None:
            return {}
        if config.topology.role is Role.ROUTER:
            return {IPv6Network(each): each for each in self.by_address}
        found = {
            network: router.address
            for router in self.routers.routers
            for network in router.pod_ranges
            if not any(network.overlaps(prefix) for prefix in config.prefixes)
        }
        # An address that a range of another node has is that of the node all the same.
        return found | {IPv6Network(each.address): each.address for each in self.routers.routers}
