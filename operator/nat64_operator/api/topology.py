"""Sections of a NAT64Gateway's spec about nodes that translate for others: the Gateway topology."""

from __future__ import annotations

import enum

import msgspec

from nat64_dataplane.topology import DEFAULT_TUNNEL_PORT, Role, Topology, Transport
from nat64_operator.api.meta import Spec

WEIGHT = "nat64-operator.io/weight"
"""An annotation of gateway nodes: how many of the clients one gets, in proportion."""
POD_RANGES = "nat64-operator.io/pod-ranges"
"""An annotation of nodes: the IPv6 ranges of its pods, separated by commas."""


class TopologyKind(enum.Enum):
    """Which nodes translate."""

    NODE = "Node"
    GATEWAY = "Gateway"


class Clients(Spec, frozen=True, kw_only=True):
    """The nodes that reach IPv4 through gateway nodes."""

    node_selector: dict[str, str] = msgspec.field(default_factory=dict)


class Health(Spec, frozen=True, kw_only=True):
    """When a gateway node counts as dead, and as back."""

    interval_milliseconds: int = 300
    failure_threshold: int = 3
    recovery_threshold: int = 5


class Gateways(Spec, frozen=True, kw_only=True):
    """How packets get to gateway nodes, and when one is dead."""

    transport: Transport = Transport.TUNNEL
    tunnel_port: int = DEFAULT_TUNNEL_PORT
    health: Health = Health()

    @property
    def port(self) -> int | None:
        """The UDP port that the tunnel takes on each node; None where there is no tunnel."""
        return self.tunnel_port if self.transport is Transport.TUNNEL else None

    def config(self, role: Role) -> Topology:
        """The section of the config of nodes with this role. Raises ValueError, also for values
        that the API server would refuse.
        """
        values = {
            "role": role.value,
            "transport": self.transport.value,
            "tunnelPort": self.tunnel_port,
            "probeMilliseconds": self.health.interval_milliseconds,
            "failureThreshold": self.health.failure_threshold,
            "recoveryThreshold": self.health.recovery_threshold,
        }
        try:
            return msgspec.convert(values, Topology)
        except msgspec.ValidationError as error:
            raise ValueError(f"gateways: {error}") from error
