"""Rules of a NAT64Gateway's spec that concern several fields."""

from __future__ import annotations

import itertools

from nat64_dataplane import config
from nat64_operator.api.gateway import TUNNEL_PORT, Gateway, full_name
from nat64_operator.errors import InvalidObjectError


def check(gateway: Gateway, translator: config.Config) -> None:
    """Rules for a config that is to be carried out and that the API server can't check, because
    ports that were not given are derived. Raises InvalidObjectError.
    """
    _check_topology(gateway)
    _check_ports(gateway, translator)
    _check_ranges(translator)
    _check_static_mappings(translator)


def _check_topology(gateway: Gateway) -> None:
    spec = gateway.spec
    if gateway.has_routers and not spec.node_selector:
        raise InvalidObjectError(
            "spec.topology: Gateway needs a nodeSelector that names the gateway nodes by at least "
            "one label"
        )
    for field, given in (("clients", spec.clients), ("gateways", spec.gateways)):
        if given is not None and not gateway.has_routers:
            raise InvalidObjectError(f"spec.{field}: goes with the topology Gateway only")


def _check_ports(gateway: Gateway, translator: config.Config) -> None:
    taken: dict[int, str] = {}
    ports = gateway.ports.all()
    if gateway.has_routers and gateway.tunnel.port:
        ports[TUNNEL_PORT] = gateway.tunnel.port  # the last, as a host port is what to say first
    for field, port in ports.items():
        if port in taken:
            if field == TUNNEL_PORT:
                raise InvalidObjectError(
                    f"spec.{field}: spec.hostPorts.{taken[port]} is {port} too: each needs its own"
                )
            raise InvalidObjectError(
                f"spec.hostPorts: {taken[port]} and {field} are both {port}: each needs its own"
            )
        taken[port] = field
        for pool in translator.pools:
            if pool.network is None and pool.port_range.first <= port <= pool.port_range.last:
                raise InvalidObjectError(
                    f"spec.pools: ports {pool.ports} of the node's own address hold {port}, which "
                    f"is spec.{full_name(field)}: a port may be in one only"
                )


def _check_ranges(translator: config.Config) -> None:
    ranges = [pool.network for pool in translator.pools if pool.network]
    for one, other in itertools.combinations(ranges, 2):
        if one.overlaps(other):
            raise InvalidObjectError(
                f"spec.pools: {one} and {other} overlap: an address may be in one range only"
            )


def _check_static_mappings(translator: config.Config) -> None:
    seen = set()
    for mapping in translator.static_mappings:
        place = mapping.protocol, mapping.address, mapping.port
        if place in seen:
            raise InvalidObjectError(
                f"spec.staticMappings: {mapping.protocol.upper()} {mapping.address} port "
                f"{mapping.port} is there twice: it can lead to one client only"
            )
        seen.add(place)
