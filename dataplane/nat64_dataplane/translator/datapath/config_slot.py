"""One config slot: the map entries that follow from a Config and the node's state. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from typing import NamedTuple

import msgspec

from nat64_dataplane.config import Config, Filtering
from nat64_dataplane.errors import DataplaneError
from nat64_dataplane.translator.datapath import (
    abi,
    pinned_maps,
    port_bitmap,
    reachability,
    zone_table,
)
from nat64_dataplane.translator.datapath.abi import ConfigFlag, SourceFlag, UplinkFlag, Verdict
from nat64_dataplane.translator.datapath.zone_table import Zones
from nat64_dataplane.translator.host_view import DUMMY_ADDRESS, HostView, PoolRange

_PROBED = IPv4Network(DUMMY_ADDRESS)
LOOPBACK = 1
"""The ifindex of lo, in every network namespace."""


class DatapathError(DataplaneError):
    """A config that the maps can't hold, or a kernel that won't take it. Nothing was changed."""


class Slot(NamedTuple):
    """All that one config slot holds, ready to be written."""

    config: bytes
    pool: list[bytes]
    usable: port_bitmap.Blocks
    sources: list[tuple[bytes, bytes]]
    destinations: list[tuple[bytes, bytes]]
    uplinks: dict[bytes, bytes]
    zones: Zones
    zone_keys: Zones


def build(config: Config, host: HostView, slot: int, epoch: int, known: Zones) -> Slot:
    """Work out what slot `slot` must hold; `known` are the zones that there have been.

    Raises DatapathError where the maps can't hold it.
    """
    if not host.interface_index or len(host.interface_mac) != 6:
        raise DatapathError(f"{config.interface} isn't there yet: it has no index or address")
    if len(host.pool) > abi.MAX_POOL_RANGES:
        raise DatapathError(f"pools hold {len(host.pool)} addresses: at most {abi.MAX_POOL_RANGES}")
    if not host.pool and not config.static_mappings and not config.is_router:
        raise DatapathError("no pool has an address on this node")
    zones = zone_table.number(host.pool, known)
    usable = port_bitmap.usable(
        host.pool, ((static.address, static.port) for static in config.static_mappings)
    )
    blocks = len(usable) * (len(abi.PROTOCOLS) + abi.CONFIG_SLOTS)
    if blocks > abi.MAX_PORT_BLOCKS:
        raise DatapathError(
            f"pools are too large: their ports take {blocks} entries of {abi.MAX_PORT_BLOCKS}; "
            "use fewer addresses or fewer ports on each"
        )
    return Slot(
        config=_config(config, host, usable, epoch, zones),
        pool=list(_pool(config, host.pool)),
        usable=usable,
        sources=list(_sources(config, slot)),
        destinations=list(_destinations(config, host, slot)),
        uplinks=dict(_uplinks(host, zones)),
        zones=zones,
        zone_keys=zone_table.keys(host.pool, zones),
    )


_FILTERS = {
    Filtering.ADDRESS_AND_PORT_DEPENDENT: ConfigFlag.PORT_DEPENDENT,
    Filtering.ADDRESS_DEPENDENT: ConfigFlag.ADDRESS_DEPENDENT,
    Filtering.ENDPOINT_INDEPENDENT: ConfigFlag(0),
}


def _config(
    config: Config, host: HostView, usable: port_bitmap.Blocks, epoch: int, zones: Zones
) -> bytes:
    flags = ConfigFlag(0)
    flags |= _FILTERS[config.filtering]
    if config.overload_tcp_ports:
        flags |= ConfigFlag.OVERLOAD_TCP
    if config.copy_traffic_class:
        flags |= ConfigFlag.COPY_TRAFFIC_CLASS
    if config.clamp_tcp_mss:
        flags |= ConfigFlag.CLAMP_MSS
    if config.policy.allowed_sources:
        flags |= ConfigFlag.SOURCES_LISTED
    elif config.policy.pod_ranges:
        flags |= ConfigFlag.PODS_KNOWN
    if len(zones) > 1:
        flags |= ConfigFlag.ZONES
    outside = [uplink.ifindex for uplink in host.uplinks if uplink.external] + list(host.outside)
    if len(outside) > abi.OUTSIDE_LINKS:
        flags |= ConfigFlag.MANY_OUTSIDE
    if not all(uplink.ethernet for uplink in host.uplinks):
        flags |= ConfigFlag.RAW_UPLINKS
    clat = 0
    if config.clat:
        flags |= ConfigFlag.CLAT
        clat = int(config.clat.prefix.network_address)
    prefix, mask = int(config.prefix.network_address), int(config.prefix.netmask)
    low_bits = (1 << 64) - 1
    times, limits = config.timeouts, config.limits
    timers = (
        times.udp,
        times.icmp,
        times.tcp_established,
        times.tcp_transitory,
        times.tcp_incoming_syn,
        times.fragment,
        0,
        0,
    )
    lowest, highest = _port_bounds(config, host.pool)
    return abi.CONFIG.pack(
        prefix >> 64,
        prefix & low_bits,
        mask >> 64,
        mask & low_bits,
        clat >> 64,
        clat & low_bits,
        96 - config.prefix.prefixlen,
        flags,
        zone_table.default(host.pool, zones),
        host.interface_index,
        limits.sessions * 3 // 4,  # opened from IPv4: the rest is for those whom the node serves
        *timers,
        config.lowest_ipv6_mtu,
        limits.ports_per_client,
        limits.new_sessions_per_second_per_client,
        limits.of_one_client,
        len(host.marks[: abi.MAX_MARKS]),
        epoch,
        lowest,
        highest,
        host.interface_mac,
        *(outside + [0] * abi.OUTSIDE_LINKS)[: abi.OUTSIDE_LINKS],
        pinned_maps.sizes(limits)["closed"],
        host.route_mtu,
        zone_table.ranges(host.pool, zones, usable, dict(host.links_of_zones)),
        b"".join(abi.MARK.pack(*mark) for mark in host.marks[: abi.MAX_MARKS]),
        config.content_hash.encode(),
    )


def _pool(config: Config, pool: tuple[PoolRange, ...]) -> Iterator[bytes]:
    static: dict[IPv4Address, list[int]] = {}
    for mapping in config.static_mappings:
        static.setdefault(mapping.address, []).append(mapping.port)
    for address, first, last, _ in pool:
        whole = not any(first <= port <= last for port in static.get(address, ()))
        yield abi.POOL_RANGE.pack(address.packed, first, last, whole)


def _port_bounds(config: Config, pool: tuple[PoolRange, ...]) -> tuple[int, int]:
    """The lowest and highest port that any mapping can have; a router node has none."""
    static = [mapping.port for mapping in config.static_mappings]
    return (
        min([r.first for r in pool] + static, default=65535),
        max([r.last for r in pool] + static, default=0),
    )


def _sources(config: Config, slot: int) -> Iterator[tuple[bytes, bytes]]:
    """Every listed range with what it and those around it say: a trie tells the longest only."""
    rules = [(net, SourceFlag.ALLOWED) for net in config.policy.allowed_sources]
    rules += [(net, SourceFlag.POD) for net in config.policy.pod_ranges]
    for net in {net for net, _ in rules}:
        flags = SourceFlag(0)
        for other, flag in rules:
            if net.subnet_of(other):
                flags |= flag
        yield (
            abi.SOURCE_KEY.pack(32 + net.prefixlen, slot, net.network_address.packed),
            abi.U32.pack(flags),
        )


def _pool_addresses(config: Config, host: HostView) -> set[IPv4Address]:
    return {r.address for r in host.pool} | {m.address for m in config.static_mappings}


def _destinations(config: Config, host: HostView, slot: int) -> Iterator[tuple[bytes, bytes]]:
    pool = _pool_addresses(config, host)
    if config.topology:  # where probes go: no config may have them translated
        policy = msgspec.structs.replace(
            config.policy,
            denied_destinations=(*config.policy.denied_destinations, _PROBED),
        )
        config = msgspec.structs.replace(config, policy=policy)
    local = host.local_ranges | {IPv4Network(address) for address in pool}
    allowed = config.policy.allowed_destinations
    for net, verdict in reachability.destinations(config.policy, config.prefix, local).items():
        named = verdict is Verdict.ALLOWED and any(net.subnet_of(other) for other in allowed)
        is_pool = net.prefixlen == 32 and net.network_address in pool
        yield (
            abi.DESTINATION_KEY.pack(32 + net.prefixlen, slot, net.network_address.packed),
            abi.DESTINATION.pack(verdict, is_pool, named),
        )


def _uplinks(host: HostView, zones: Zones) -> Iterator[tuple[bytes, bytes]]:
    rest = zone_table.default(host.pool, zones)
    yield abi.U32.pack(LOOPBACK), abi.UPLINK.pack(UplinkFlag.ETHERNET, 65535, rest)
    for ifindex in host.outside:
        flags = UplinkFlag.ETHERNET | UplinkFlag.EXTERNAL
        yield abi.U32.pack(ifindex), abi.UPLINK.pack(flags, 65535, rest)
    for uplink in host.uplinks:  # some are among the outside links, too: these entries win
        flags = UplinkFlag(0)
        if uplink.external or uplink.ifindex in host.outside:
            flags |= UplinkFlag.EXTERNAL
        if uplink.ethernet:
            flags |= UplinkFlag.ETHERNET
        if uplink.lan:
            flags |= UplinkFlag.LAN
        yield (
            abi.U32.pack(uplink.ifindex),
            abi.UPLINK.pack(flags, uplink.mtu, zones.get(uplink.zone, rest)),
        )
