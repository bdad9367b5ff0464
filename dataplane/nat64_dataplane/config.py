"""The translator's config file: the one schema that the operator renders and the agent reads.

The file is YAML (so JSON too) with camelCase keys. Every field has a default but `name`, so the
smallest file that translates is `name: default`. Unknown keys are refused: a misspelt limit must
not silently mean "no limit".

`parse` is pure. It raises `ConfigError`, whose text names the field, the value and the rule.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Annotated, Any

import msgspec
import yaml

from nat64_dataplane import pref64
from nat64_dataplane.config_sections import (
    Advertise,
    Clat,
    Filtering,
    Limits,
    Section,
    StaticMapping,
    Timeouts,
)
from nat64_dataplane.errors import ConfigError
from nat64_dataplane.port_range import PortRange
from nat64_dataplane.special_purpose import NEVER_FORWARDED
from nat64_dataplane.topology import Role, Topology, Transport, tunnel_interface

__all__ = [
    "Advertise",
    "Clat",
    "Config",
    "Filtering",
    "Limits",
    "Policy",
    "Pool",
    "Role",
    "StaticMapping",
    "Timeouts",
    "Topology",
    "Transport",
    "parse",
    "render",
]

SCHEMA_VERSION = 1
NODE_ADDRESS = "node"
"""The pool address that stands for the node's own IPv4 address, as its default route uses it."""
MAX_POOLS = 64
MAX_POLICY_RANGES = 256
MAX_PER_NODE = 64
MAX_SHARED = 1 << 16
"""Addresses in a range that nodes share."""


class Pool(Section, frozen=True, kw_only=True):
    """IPv4 addresses and the ports on each that mappings may take.

    `addresses` is `node`, or an address or range as in `192.0.2.8/29`. The default ports stay
    clear of what Linux hands out to the node's own sockets (32768-60999). Where the range is
    shared between nodes, `addresses_per_node` says how many each has; which ones, the node file
    says.
    """

    addresses: str = NODE_ADDRESS
    ports: str = "61001-65535"
    addresses_per_node: Annotated[int, msgspec.Meta(ge=0, le=MAX_PER_NODE)] = 0
    """0: this node has all of the addresses."""

    def __post_init__(self) -> None:
        PortRange.from_text(self.ports)
        network = self.network
        shared = self.addresses_per_node > 0
        if shared and network is None:
            raise ValueError(
                f"addressesPerNode {self.addresses_per_node} needs a range in addresses: a node "
                "has one address of its own"
            )
        if shared and network and self.addresses_per_node > network.num_addresses:
            raise ValueError(
                f"addressesPerNode {self.addresses_per_node} is more than {self.addresses} has"
            )
        if network and network.num_addresses > (MAX_SHARED if shared else 256):
            raise ValueError(
                f"addresses {self.addresses!r} is too large: at most a "
                f"{'/16 shared between nodes' if shared else '/24 in one pool'}"
            )
        if network and not _translatable(network):
            raise ValueError(
                f"addresses {self.addresses!r} can't be a pool: loopback, multicast, link-local "
                "and reserved addresses never leave a node"
            )

    @property
    def port_range(self) -> PortRange:
        """`ports`, read."""
        return PortRange.from_text(self.ports)

    @property
    def network(self) -> IPv4Network | None:
        """The addresses as a network, or None where they are the node's own."""
        if self.addresses == NODE_ADDRESS:
            return None
        try:
            return IPv4Network(self.addresses)
        except ValueError as error:
            raise ValueError(
                f"addresses {self.addresses!r} is neither {NODE_ADDRESS!r} nor an IPv4 range "
                f"({error})"
            ) from None


class Policy(Section, frozen=True, kw_only=True):
    """What may be translated.

    With no `allowed_sources`, any IPv6 source may open sessions, save packets that came in
    through an uplink: a node is never an open translator. `pod_ranges`, for whoever knows
    them all, narrow that to the cluster's pods. In any case the node must have a
    route back to the source, by the link that the packet came from where that is a pod's own.
    `allowed_destinations` lifts, range by range, what is denied by default;
    `denied_destinations` wins over it.
    """

    allowed_sources: Annotated[tuple[IPv6Network, ...], msgspec.Meta(max_length=256)] = ()
    pod_ranges: Annotated[tuple[IPv6Network, ...], msgspec.Meta(max_length=256)] = ()
    """The cluster's pods. Empty: not known, and not asked for."""
    allow_non_global: bool = False
    """Lets the well-known prefix stand for non-global IPv4, against RFC 6052 section 3.1."""
    allowed_destinations: Annotated[tuple[IPv4Network, ...], msgspec.Meta(max_length=256)] = ()
    denied_destinations: Annotated[tuple[IPv4Network, ...], msgspec.Meta(max_length=256)] = ()


class Config(Section, frozen=True, kw_only=True):
    """Everything one translator instance does. Immutable: a change is a new Config."""

    version: int = SCHEMA_VERSION
    name: str
    """The instance: names its pins, and the gateway in metrics. A DNS label."""
    interface: str = ""
    """Where Pref64 is routed; `nat64-NAME` by default. At most 15 bytes, as the kernel asks."""
    prefix: IPv6Network = pref64.WELL_KNOWN
    clat: Clat | None = None
    """None: pods have no CLAT."""
    topology: Topology | None = None
    """None: this node translates for its own pods (topology Node). On a router node what concerns
    translation (pools, filtering, limits, ...) and `advertise` are not used."""
    pools: Annotated[tuple[Pool, ...], msgspec.Meta(min_length=1, max_length=MAX_POOLS)] = (Pool(),)
    uplinks: Annotated[tuple[str, ...], msgspec.Meta(max_length=16)] = ()
    """Interfaces with IPv4; empty means all that IPv4 routes lead to, save those of pods."""
    static_mappings: Annotated[tuple[StaticMapping, ...], msgspec.Meta(max_length=4096)] = ()
    policy: Policy = Policy()
    filtering: Filtering = Filtering.ADDRESS_AND_PORT_DEPENDENT
    overload_tcp_ports: bool = True
    """Share a TCP port between clients whose destinations differ, once the pool is full."""
    copy_traffic_class: bool = True
    """Carry TOS and traffic class over; else both become 0 (RFC 7915 sections 4.1 and 5.1)."""
    clamp_tcp_mss: bool = True
    """Lower the MSS of SYNs to what the routes on both sides carry. No RFC of NAT64 asks for it."""
    offload_flows: bool = True
    """Translate packets of known flows where they come in, past the node's IPv6 forwarding."""
    lowest_ipv6_mtu: Annotated[int, msgspec.Meta(ge=1280, le=9000)] = 1280
    """IPv4 packets with DF=0 above this size are fragmented (RFC 7915 section 4)."""
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()
    advertise: Advertise = Advertise()
    listen: str = "[::]:9464"
    """Address of /metrics, /livez and /readyz; empty for none."""

    def __post_init__(self) -> None:
        if self.version != SCHEMA_VERSION:
            raise ValueError(f"version {self.version} is not known: this agent reads version 1")
        if not _is_label(self.name):
            raise ValueError(f"name {self.name!r} is not a DNS label: a-z, 0-9 and '-', at most 63")
        if not self.interface:
            msgspec.structs.force_setattr(self, "interface", default_interface(self.name))
        if len(self.interface.encode()) > 15 or set(self.interface) & set("/ \t\n%"):
            raise ValueError(f"interface {self.interface!r} is not a link name: at most 15 bytes")
        if self.topology and self.interface == tunnel_interface(self.name):
            raise ValueError(f"interface {self.interface!r} is the name of the tunnel's link")
        pref64.check(self.prefix)
        if self.interface in self.advertise.interfaces:
            raise ValueError(
                f"advertise.interfaces has {self.interface!r}, the translator's own link: it has "
                "no hosts"
            )
        if self.clat and self.clat.prefix.overlaps(self.prefix):
            raise ValueError(
                f"clat.prefix {self.clat.prefix} overlaps prefix {self.prefix}: a pod could not "
                "tell the replies apart"
            )
        for a, b in _pairs(self.pools):
            if a.port_range.overlaps(b.port_range) and _same_address(a, b):
                raise ValueError(
                    f"pools {a.addresses} {a.ports} and {b.addresses} {b.ports} overlap: "
                    "a port may be in one pool only"
                )

    @property
    def prefixes(self) -> tuple[IPv6Network, ...]:
        """All that this instance translates: `prefix`, and the CLAT prefix if there is one."""
        return (self.prefix, self.clat.prefix) if self.clat else (self.prefix,)

    @property
    def is_router(self) -> bool:
        """Whether this node steers to gateway nodes and translates nothing itself."""
        return self.topology is not None and self.topology.role is Role.ROUTER

    @property
    def content_hash(self) -> str:
        """Twelve hex digits that change whenever any field does."""
        return hashlib.sha256(render(self)).hexdigest()[:12]


def default_interface(name: str) -> str:
    """`nat64-NAME` where the kernel's 15 bytes allow it, else a hash of the name in its place."""
    plain = f"nat64-{name}"
    if len(plain) <= 15:
        return plain
    return f"nat64-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def parse(text: str | bytes) -> Config:
    """Read a config file's content. Raises ConfigError; nothing is changed by a bad file."""
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"the file holds {type(data).__name__}, not fields: start with `name:`")
    try:
        return msgspec.convert(data, Config, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise ConfigError.from_validation(error, data) from error


def render(config: Config) -> bytes:
    """Write a config as the JSON that `parse` reads back to an equal Config.

    Without what is new it is what it was before: an upgrade must not look like a change.
    """
    fields = msgspec.to_builtins(config, enc_hook=_encode)
    if config.clat is None:
        del fields["clat"]
    if config.topology is None:
        del fields["topology"]
    if config.advertise == Advertise():
        del fields["advertise"]
    if config.offload_flows:
        del fields["offloadFlows"]
    return msgspec.json.encode(fields)


_TEXT_TYPES = (IPv4Address, IPv6Address, IPv4Network, IPv6Network)


def _decode(kind: type, value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is a {type(value).__name__}: write it as text")
    if kind in _TEXT_TYPES:
        return kind(value)
    raise NotImplementedError(kind)


def _encode(value: Any) -> Any:
    if isinstance(value, _TEXT_TYPES):
        return str(value)
    raise NotImplementedError(type(value))


def _is_label(text: str) -> bool:
    plain = text.replace("-", "a")
    return (
        0 < len(text) <= 63
        and plain.isascii()
        and plain.isalnum()
        and text == text.lower()
        and not (text.startswith("-") or text.endswith("-"))
    )


def _translatable(network: IPv4Network) -> bool:
    return not any(network.overlaps(other) for other in NEVER_FORWARDED)


def _pairs(pools: tuple[Pool, ...]) -> Iterator[tuple[Pool, Pool]]:
    for index, first in enumerate(pools):
        for second in pools[index + 1 :]:
            yield first, second


def _same_address(a: Pool, b: Pool) -> bool:
    if a.network is None or b.network is None:
        return a.network is b.network
    return a.network.overlaps(b.network)
