"""NAT64Gateway: the model of its spec, and the translator's config that follows from it.

Defaults are written twice, here and in the CRD, because an object that was stored before a field
existed has no default for it. A test keeps the two equal.
"""

from __future__ import annotations

import enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, Self

import msgspec

from nat64_dataplane import config
from nat64_dataplane.errors import ConfigError
from nat64_operator.api.gateway_sections import Advertise, Clat, ClatMode
from nat64_operator.api.host_ports import Ports, derived_ports, slot_ports
from nat64_operator.api.meta import Meta, Object, Resource, Spec, read_spec
from nat64_operator.api.topology import Clients, Gateways, TopologyKind
from nat64_operator.errors import InvalidObjectError

KIND = "NAT64Gateway"
PLURAL = "nat64gateways"
TUNNEL_PORT = "gateways.tunnelPort"


def full_name(field: str) -> str:
    """Where in the spec a port of `Gateway.host_ports` is."""
    return field if "." in field else f"hostPorts.{field}"


class PortSpan(Spec, frozen=True, kw_only=True):
    """Ports from one to another, both included."""

    first: int = msgspec.field(name="from")
    last: int = msgspec.field(name="to")

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


class Source(enum.Enum):
    """Whose addresses a pool has."""

    NODE = "Node"
    RANGE = "Range"


class PortSharing(enum.Enum):
    """Whether TCP connections to different destinations share a port."""

    WHEN_FULL = "WhenFull"
    NEVER = "Never"


class SegmentSize(enum.Enum):
    """What becomes of the MSS of TCP connections."""

    CLAMP = "Clamp"
    KEEP = "Keep"


class FlowOffload(enum.Enum):
    """Whether packets of known flows skip the node's IPv6 forwarding."""

    AUTO = "Auto"
    DISABLED = "Disabled"


class Pool(Spec, frozen=True, kw_only=True):
    """IPv4 addresses and the ports on each."""

    source: Source = Source.NODE
    range: str | None = None
    addresses_per_node: int | None = None
    ports: PortSpan = PortSpan(first=61001, last=65535)

    def config(self) -> config.Pool:
        """The pool as the translator's config has it. Raises ValueError."""
        if self.source is Source.NODE:
            return config.Pool(ports=str(self.ports))
        if self.range is None:
            raise ValueError("pools: the source Range needs a range, as in 203.0.113.0/24")
        per_node = 1 if self.addresses_per_node is None else self.addresses_per_node
        return config.Pool(addresses=self.range, ports=str(self.ports), addresses_per_node=per_node)


class StaticMapping(Spec, frozen=True, kw_only=True):
    """A mapping from IPv4 to IPv6 that never expires."""

    protocol: str
    client: str
    client_port: int
    address: str
    port: int


class Policy(Spec, frozen=True, kw_only=True):
    """Who may use the translator, and what they may reach."""

    allowed_sources: tuple[str, ...] = ()
    allow_non_global: bool = False
    allowed_destinations: tuple[str, ...] = ()
    denied_destinations: tuple[str, ...] = ()


class Timeouts(Spec, frozen=True, kw_only=True):
    """Idle times in seconds."""

    udp_seconds: int = 300
    icmp_seconds: int = 60
    tcp_established_seconds: int = 7440
    tcp_transitory_seconds: int = 240
    tcp_incoming_syn_seconds: int = 6
    fragment_seconds: int = 2


class Limits(Spec, frozen=True, kw_only=True):
    """Bounds on state."""

    sessions: int = 262_144
    sessions_per_client: int | None = None
    ports_per_client: int = 0
    new_sessions_per_second_per_client: int = 0


class HostPorts(Spec, frozen=True, kw_only=True):
    """Ports on the node; those not set are derived from the gateway's name."""

    translator: int | None = None
    dns: int | None = None
    dns_health: int | None = None
    dns_ready: int | None = None
    dns_metrics: int | None = None
    clat: int | None = None


class UpdateType(enum.Enum):
    """Who replaces pods when something changes."""

    ROLLING_UPDATE = "RollingUpdate"
    ON_DELETE = "OnDelete"


class Canary(Spec, frozen=True, kw_only=True):
    """The nodes that get a change, while the others wait."""

    node_selector: dict[str, str]


class UpdateStrategy(Spec, frozen=True, kw_only=True):
    """How a change reaches the nodes."""

    type: UpdateType = UpdateType.ROLLING_UPDATE
    max_unavailable: int | str = "10%"
    canary: Canary | None = None


class GatewaySpec(Spec, frozen=True, kw_only=True):
    """The spec, defaults filled in."""

    prefix: str = "64:ff9b::/96"
    clat: Clat = Clat()
    topology: TopologyKind = TopologyKind.NODE
    clients: Clients | None = None
    gateways: Gateways | None = None
    node_selector: dict[str, str] = msgspec.field(default_factory=dict)
    tolerations: tuple[dict[str, Any], ...] = ({"operator": "Exists"},)
    pools: tuple[Pool, ...] = (Pool(),)
    uplinks: tuple[str, ...] = ()
    advertise: Advertise | None = None
    interface_name: str | None = None
    static_mappings: tuple[StaticMapping, ...] = ()
    policy: Policy = Policy()
    filtering: str = "AddressAndPortDependent"
    tcp_port_sharing: PortSharing = PortSharing.WHEN_FULL
    copy_traffic_class: bool = True
    tcp_mss: SegmentSize = msgspec.field(default=SegmentSize.CLAMP, name="tcpMSS")
    flow_offload: FlowOffload = FlowOffload.AUTO
    lowest_ipv6_mtu: int = msgspec.field(default=1280, name="lowestIPv6MTU")
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()
    host_ports: HostPorts = HostPorts()
    update_strategy: UpdateStrategy = UpdateStrategy()


class Gateway(Resource, frozen=True):
    """A NAT64Gateway."""

    spec: GatewaySpec
    slot: int | None = None
    """The ports that it was given; None for those that its name stands for."""

    @classmethod
    def parse(cls, obj: Object) -> Self:
        """Read an object. Raises InvalidObjectError where its spec has another shape."""
        return cls(Meta.of(obj), obj.get("status") or {}, KIND, read_spec(obj, GatewaySpec))

    @property
    def ports(self) -> Ports:
        """The ports of its agents: the given ones, else those of its slot."""
        given = msgspec.structs.astuple(self.spec.host_ports)
        others = derived_ports(self.name) if self.slot is None else slot_ports(self.slot)
        ports = Ports(*(g or d for g, d in zip(given, others, strict=True)))
        if self.spec.clat.mode is ClatMode.DISABLED:
            ports = msgspec.structs.replace(ports, clat=0)
        return ports

    @property
    def has_routers(self) -> bool:
        """Whether its nodes translate for other nodes, too."""
        return self.spec.topology is TopologyKind.GATEWAY

    @property
    def tunnel(self) -> Gateways:
        """How packets get to its nodes from others, if they do."""
        return self.spec.gateways or Gateways()

    @property
    def host_ports(self) -> dict[int, str]:
        """All ports that it takes on a node, each with its field: one of `spec.hostPorts`, or
        another one of `spec`, which has a dot.
        """
        found = {port: field for field, port in self.ports.all().items()}
        if self.has_routers and self.tunnel.port:
            found[self.tunnel.port] = TUNNEL_PORT
        return found

    def router_config(self) -> config.Config | None:
        """The config of nodes that steer to those that translate; None where there are none. Raises
        InvalidObjectError as `config` does.
        """
        if not self.has_routers:
            return None
        bare, made = config.Config(name=self.name), self.config()
        # What only a translator uses is left at its defaults, so that a change of it is no rollout
        # on these nodes.
        unused = ("pools", "static_mappings", "advertise", "filtering", "timeouts", "limits")
        return msgspec.structs.replace(
            made,
            topology=self.tunnel.config(config.Role.ROUTER),
            offload_flows=False,  # nothing is translated there
            overload_tcp_ports=bare.overload_tcp_ports,
            uplinks=bare.uplinks,
            **{field: getattr(bare, field) for field in unused},
        )

    def config(self) -> config.Config:
        """The translator's config. Raises InvalidObjectError with field, value and rule."""
        spec = self.spec
        try:
            return config.Config(
                name=self.name,
                interface=spec.interface_name or "",
                prefix=IPv6Network(spec.prefix),
                clat=spec.clat.config(),
                topology=self.tunnel.config(config.Role.GATEWAY) if self.has_routers else None,
                pools=tuple(pool.config() for pool in spec.pools),
                uplinks=spec.uplinks,
                static_mappings=tuple(_static_mapping(m) for m in spec.static_mappings),
                policy=config.Policy(
                    allowed_sources=tuple(map(IPv6Network, spec.policy.allowed_sources)),
                    allow_non_global=spec.policy.allow_non_global,
                    allowed_destinations=tuple(map(IPv4Network, spec.policy.allowed_destinations)),
                    denied_destinations=tuple(map(IPv4Network, spec.policy.denied_destinations)),
                ),
                filtering=config.Filtering(spec.filtering),
                overload_tcp_ports=spec.tcp_port_sharing is PortSharing.WHEN_FULL,
                copy_traffic_class=spec.copy_traffic_class,
                clamp_tcp_mss=spec.tcp_mss is SegmentSize.CLAMP,
                offload_flows=spec.flow_offload is FlowOffload.AUTO,
                lowest_ipv6_mtu=spec.lowest_ipv6_mtu,
                timeouts=config.Timeouts(
                    **{
                        field.removesuffix("_seconds"): seconds
                        for field, seconds in msgspec.structs.asdict(spec.timeouts).items()
                    }
                ),
                limits=config.Limits(**msgspec.structs.asdict(spec.limits)),
                advertise=spec.advertise.config() if spec.advertise else config.Advertise(),
                listen=f"[::]:{self.ports.translator}",
            )
        except (ValueError, ConfigError) as error:
            raise InvalidObjectError(f"spec: {error}") from error


def _static_mapping(mapping: StaticMapping) -> config.StaticMapping:
    return config.StaticMapping(
        protocol=mapping.protocol.lower(),
        client=IPv6Address(mapping.client),
        client_port=mapping.client_port,
        address=IPv4Address(mapping.address),
        port=mapping.port,
    )
