"""The node file: what differs by node, or changes too often to be a rollout.

It lies beside the translator's config file, is JSON with camelCase keys, and has all nodes of a
gateway: which addresses of shared ranges each has, and the cluster's pod ranges. The operator
renders it, agents read it in place.

`parse` is pure. It raises `ConfigError`, whose text names the field, the value and the rule.
"""

from __future__ import annotations

import json
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Any

import msgspec
from msgspec.structs import replace

from nat64_dataplane.config import MAX_POLICY_RANGES, Config, Pool
from nat64_dataplane.errors import ConfigError

SCHEMA_VERSION = 1
MAX_BYTES = 900_000
"""A ConfigMap has one MiB at most, with its metadata."""
MAX_RANGES_OF_A_NODE = 1024


class _Section(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"
):
    """One section of the file."""


class NodeEntry(_Section, frozen=True, kw_only=True, omit_defaults=True):
    """What one node has."""

    allocated: Annotated[
        tuple[IPv4Network, ...], msgspec.Meta(max_length=MAX_RANGES_OF_A_NODE)
    ] = ()
    """Its addresses of ranges that nodes share. No two nodes have the same."""


class NodeFile(_Section, frozen=True, kw_only=True):
    """The file."""

    version: int = SCHEMA_VERSION
    pod_ranges: Annotated[tuple[IPv6Network, ...], msgspec.Meta(max_length=MAX_POLICY_RANGES)] = ()
    """The cluster's pods. Empty: not known, and not asked for."""
    nodes: dict[str, NodeEntry] = {}
    """By the name of the node."""

    def __post_init__(self) -> None:
        if self.version != SCHEMA_VERSION:
            raise ValueError(f"version {self.version} is not known: this agent reads version 1")


def parse(content: bytes) -> NodeFile:
    """Read a node file's content. Raises ConfigError; nothing is changed by a bad file."""
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{len(content)} bytes: a node file has at most {MAX_BYTES}")
    try:
        return msgspec.json.decode(content, type=NodeFile, dec_hook=_decode)
    except msgspec.ValidationError as error:
        data = json.loads(content)
        _name_the_node(data)
        raise ConfigError.from_validation(error, data) from error
    except msgspec.DecodeError as error:
        raise ConfigError(f"not JSON: {error}") from error


def render(file: NodeFile) -> bytes:
    """Write a node file as the JSON that `parse` reads back to an equal one."""
    return msgspec.json.encode(file, enc_hook=str, order="deterministic")


def resolve(config: Config, file: NodeFile, node: str) -> Config:
    """The config as it is on one node: of each shared range only what is the node's, which may be
    nothing, and the static mappings of those addresses. A node of which the file does not know has
    joined since it was written: the pod ranges then may lack its pods, and are left out.
    """
    entry = file.nodes.get(node)
    shared = [pool.network for pool in config.pools if pool.addresses_per_node and pool.network]
    if entry is None and not shared:
        return config
    ours = entry.allocated if entry else ()
    statics = tuple(
        mapping
        for mapping in config.static_mappings
        if not any(mapping.address in network for network in shared)
        or any(mapping.address in network for network in ours)
    )
    policy = config.policy
    if entry is not None and not policy.allowed_sources and not policy.pod_ranges:
        policy = replace(policy, pod_ranges=file.pod_ranges)
    pools = tuple(one for pool in config.pools for one in _on_node(pool, ours))
    return replace(config, pools=pools, static_mappings=statics, policy=policy)


def _name_the_node(data: Any) -> None:
    """Raise ConfigError where an entry is bad. The library's own message lacks the node's name."""
    nodes = data.get("nodes") if isinstance(data, dict) else None
    for name, entry in (nodes if isinstance(nodes, dict) else {}).items():
        try:
            msgspec.convert(entry, NodeEntry, dec_hook=_decode)
        except msgspec.ValidationError as error:
            raise ConfigError(
                f"nodes.{name}: {ConfigError.from_validation(error, entry)}"
            ) from error


def _on_node(pool: Pool, ours: tuple[IPv4Network, ...]) -> tuple[Pool, ...]:
    if not pool.addresses_per_node or pool.network is None:
        return (pool,)
    return tuple(
        Pool(addresses=str(network), ports=pool.ports)
        for network in ours
        if network.subnet_of(pool.network)
    )


def _decode(kind: type, value: Any) -> Any:
    if kind in (IPv4Network, IPv6Network) and isinstance(value, str):
        return kind(value)
    raise ValueError(f"{value!r} is a {type(value).__name__}: write it as text")
