"""The membership files of topology Gateway: who the gateway nodes and the router nodes are.

Both lie in a mutable ConfigMap, are JSON with camelCase keys, and are read in place: a node that
joins or leaves is never a rollout. The operator renders them. Every node of the gateway reads
`gateways.json`, gateway nodes read `routers.json` too.

The parsers are pure. They raise `ConfigError`, whose text names the field, the value and the rule.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from ipaddress import IPv6Address, IPv6Network
from typing import Annotated, Any, TypeVar

import msgspec

from nat64_dataplane.errors import ConfigError

SCHEMA_VERSION = 1
MAX_BYTES = 900_000
"""A ConfigMap has one MiB at most, with its metadata."""
MAX_GATEWAYS = 64
MAX_ROUTERS = 16_384
MAX_RANGES_OF_A_ROUTER = 256
SHORTEST_POD_RANGE = 32
"""Bits. A range shorter than this would take replies that belong to others."""

F = TypeVar("F")
_NodeName = Annotated[str, msgspec.Meta(min_length=1, max_length=253)]


class _Section(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"
):
    """One section of a file."""


class GatewayEntry(_Section, frozen=True, kw_only=True, omit_defaults=True):
    """A node that translates."""

    node: _NodeName
    address: IPv6Address
    """The node's own address, to which router nodes send."""
    weight: Annotated[int, msgspec.Meta(ge=1, le=100)] = 1
    """How many of the clients it gets, in proportion."""
    draining: bool = False
    """It gets no new clients, and keeps those it has."""

    def __post_init__(self) -> None:
        _check_address(self.address)


class RouterEntry(_Section, frozen=True, kw_only=True, omit_defaults=True):
    """A node that steers."""

    node: _NodeName
    address: IPv6Address
    """The node's own address."""
    pod_ranges: Annotated[
        tuple[IPv6Network, ...], msgspec.Meta(max_length=MAX_RANGES_OF_A_ROUTER)
    ] = ()
    """The only sources, beside `address`, that gateway nodes take from this node."""

    def __post_init__(self) -> None:
        _check_address(self.address)
        for index, network in enumerate(self.pod_ranges):
            _check_range(index, network)


class Gateways(_Section, frozen=True, kw_only=True):
    """`gateways.json`."""

    version: int = SCHEMA_VERSION
    gateways: Annotated[tuple[GatewayEntry, ...], msgspec.Meta(max_length=MAX_GATEWAYS)] = ()

    def __post_init__(self) -> None:
        _check_version(self.version)
        _check_distinct("gateways", self.gateways)


class Routers(_Section, frozen=True, kw_only=True):
    """`routers.json`."""

    version: int = SCHEMA_VERSION
    routers: Annotated[tuple[RouterEntry, ...], msgspec.Meta(max_length=MAX_ROUTERS)] = ()

    def __post_init__(self) -> None:
        _check_version(self.version)
        _check_distinct("routers", self.routers)
        owners: dict[IPv6Network, str] = {}
        for index, router in enumerate(self.routers):
            for network in router.pod_ranges:
                if (owner := owners.setdefault(network, router.node)) != router.node:
                    raise ValueError(
                        f"routers[{index}].podRanges: {network} is of node {owner} already: a "
                        "range belongs to one node"
                    )


def parse_gateways(content: bytes) -> Gateways:
    """Read `gateways.json`. Raises ConfigError; nothing is changed by a bad file."""
    return _parse(content, Gateways, "gateways", GatewayEntry)


def parse_routers(content: bytes) -> Routers:
    """Read `routers.json`. Raises ConfigError; nothing is changed by a bad file."""
    return _parse(content, Routers, "routers", RouterEntry)


def render(file: Gateways | Routers) -> bytes:
    """Write a file as the JSON that its parser reads back to an equal one."""
    return msgspec.json.encode(file, enc_hook=str, order="deterministic")


def _parse(content: bytes, kind: type[F], field: str, entry: type) -> F:
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{len(content)} bytes: a membership file has at most {MAX_BYTES}")
    try:
        return msgspec.json.decode(content, type=kind, dec_hook=_decode)
    except msgspec.ValidationError as error:
        data = json.loads(content)
        _name_the_entry(data, field, entry)
        raise ConfigError.from_validation(error, data) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"not JSON: {error}") from error


def _name_the_entry(data: Any, field: str, kind: type) -> None:
    """Raise ConfigError where an entry is bad: with its place, and the node's name."""
    entries = data.get(field) if isinstance(data, dict) else None
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        try:
            msgspec.convert(entry, kind, dec_hook=_decode)
        except msgspec.ValidationError as error:
            node = entry.get("node") if isinstance(entry, dict) else None
            place = f"{field}[{index}]" + (f" (node {node})" if node else "")
            raise ConfigError(f"{place}: {ConfigError.from_validation(error, entry)}") from error


def _check_version(version: int) -> None:
    if version != SCHEMA_VERSION:
        raise ValueError(f"version {version} is not known: this agent reads version 1")


def _check_distinct(field: str, entries: Iterable[GatewayEntry | RouterEntry]) -> None:
    nodes: set[str] = set()
    addresses: dict[IPv6Address, str] = {}
    for index, entry in enumerate(entries):
        if entry.node in nodes:
            raise ValueError(f"{field}[{index}].node: {entry.node!r} is there twice")
        nodes.add(entry.node)
        if (owner := addresses.setdefault(entry.address, entry.node)) != entry.node:
            raise ValueError(
                f"{field}[{index}].address: {entry.address} of node {entry.node} is the address "
                f"of node {owner} already"
            )


def _check_address(address: IPv6Address) -> None:
    if (
        address.is_multicast
        or address.is_link_local
        or address.is_loopback
        or address.is_unspecified
        or address.ipv4_mapped
        or address.scope_id
    ):
        raise ValueError(f"address {address} is not an IPv6 address of a node: unicast, no scope")


def _check_range(index: int, network: IPv6Network) -> None:
    if network.prefixlen < SHORTEST_POD_RANGE:
        raise ValueError(
            f"podRanges[{index}]: {network} is too large for the pods of one node: at least "
            f"/{SHORTEST_POD_RANGE}"
        )
    if network.is_multicast or network.is_link_local or network.is_loopback:
        raise ValueError(f"podRanges[{index}]: {network} is not unicast that is routed")


def _decode(kind: type, value: Any) -> Any:
    if kind in (IPv6Address, IPv6Network) and isinstance(value, str):
        return kind(value)
    raise ValueError(f"{value!r} is a {type(value).__name__}: write it as text")
