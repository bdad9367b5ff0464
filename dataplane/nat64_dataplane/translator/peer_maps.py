"""What the programs are told about topology Gateway: from the config and the membership to maps."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv6Address

from nat64_dataplane.config import Config, Role, Transport
from nat64_dataplane.topology import tunnel_vni
from nat64_dataplane.translator.datapath.abi_topology import (
    NO_GATEWAY,
    STEERING_PLACES,
    GatewayState,
    NodeRole,
    ProbeState,
)
from nat64_dataplane.translator.datapath.topology_maps import (
    NO_NODE,
    Gateway,
    Standing,
    TopologyMaps,
)
from nat64_dataplane.translator.membership import Membership
from nat64_dataplane.translator.steering.decision import Decision
from nat64_dataplane.translator.steering.health import State

_ROLES = {None: NodeRole.NODE, Role.GATEWAY: NodeRole.GATEWAY, Role.ROUTER: NodeRole.ROUTER}
_STATES = {GatewayState.HEALTHY: State.HEALTHY, GatewayState.DRAINING: State.DRAINING}


class PeerMaps:
    """The maps of one translator, as its node needs them."""

    def __init__(self, maps: TopologyMaps) -> None:
        self._maps = maps

    def follow_membership(
        self,
        config: Config,
        membership: Membership,
        address: IPv6Address | None,
        tunnel: int,
        *,
        offload: bool = False,
        ready: bool = True,
    ) -> None:
        """Say what this node is, at which address and tunnel's link, who the others are, and
        whether known flows go on where they leave the tunnel.

        Until it is `ready` for the tunnel, which carries less, it goes on without. Raises BpfError.
        """
        role = _ROLES[config.topology.role if config.topology else None]
        vni = tunnel_vni(config.name) if tunnel else 0
        if role is not NodeRole.ROUTER and self._maps.steering().gateways:
            self.steer(Decision({}, (NO_GATEWAY,) * STEERING_PLACES))
        if role is NodeRole.NODE:
            if self._maps.standing() != Standing():
                self._maps.place_node(Standing())
                self._maps.follow_peers({})
            return
        self._maps.follow_peers(membership.peers(config))
        before = self._maps.standing()
        direct = config.topology is not None and config.topology.transport is Transport.DIRECT
        if not ready and before.direct and before.role is role:
            direct = True
        self._maps.place_node(Standing(role, address or NO_NODE, tunnel, vni, direct, offload))

    def serve(self, config: Config, *, way_out: bool, draining: bool) -> None:
        """Have probes answered accordingly, where this is a gateway node. Raises BpfError."""
        if config.topology is None or config.is_router:
            return
        serving = ProbeState.DRAINING if draining else ProbeState.SERVING
        self._maps.say(serving if way_out else ProbeState.NOT_SERVING)

    def steer(self, decision: Decision) -> None:
        """Have clients go where it says, from one instant on. Raises BpfError."""
        gateways = {
            index: Gateway(address, GatewayState(use))
            for index, (address, use) in decision.gateways.items()
        }
        self._maps.steer(gateways, decision.table)

    def known_gateways(self) -> Mapping[int, tuple[IPv6Address, State]]:
        """The gateways that clients may be steered to now, whoever has said so: by index."""
        return {
            index: (gateway.address, _STATES.get(gateway.state, State.DEAD))
            for index, gateway in self._maps.steering().gateways.items()
        }
