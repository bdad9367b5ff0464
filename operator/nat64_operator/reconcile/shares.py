"""What a gateway's nodes read beside their config: who has which addresses, and the pods' ranges.

The ConfigMap that they read is also the record, so it can't say something else than the nodes hear.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property, lru_cache
from ipaddress import IPv4Address, IPv6Network
from typing import Any

import msgspec

from nat64_dataplane import node_file
from nat64_dataplane.errors import ConfigError
from nat64_dataplane.node_file import NodeEntry, NodeFile
from nat64_operator.reconcile import allocation, roles
from nat64_operator.reconcile.allocation import Allocation, Demand, Held, Share
from nat64_operator.reconcile.node_warnings import NodeWarning
from nat64_operator.reconcile.ownership import Effective
from nat64_operator.reconcile.readiness import some
from nat64_operator.reconcile.world import World, get
from nat64_operator.render import names
from nat64_operator.render.manifest import config_map

RELEASED_KEY = "released.json"
SHOWN = 64
"""How many nodes' addresses a status shows."""


class Shares(msgspec.Struct, frozen=True, dict=True):
    """What is decided for one gateway."""

    gateway: str
    demands: tuple[Demand, ...]
    allocation: Allocation
    pods: tuple[IPv6Network, ...]
    nodes: frozenset[str]
    """Those that translate."""
    routers: frozenset[str] = frozenset()

    @cached_property
    def file(self) -> NodeFile:
        """The file. A node has an entry once its own addresses, or its pods, are in it."""
        found = self.allocation.of_nodes()
        listed = set(found)
        listed |= self.nodes if self.demands or self.pods else set()
        listed |= self.routers if self.pods else set()
        whole = NodeFile(
            pod_ranges=self.pods,
            nodes={name: NodeEntry(allocated=found.get(name, ())) for name in sorted(listed)},
        )
        if len(node_file.render(whole)) <= node_file.MAX_BYTES:
            return whole
        # Nodes without addresses go on without the pods' ranges.
        return NodeFile(nodes={name: NodeEntry(allocated=nets) for name, nets in found.items()})

    def manifest(self, world: World) -> dict[str, Any]:
        """The ConfigMap."""
        released = {
            str(address): [share.node, share.released]
            for address, share in sorted(self.allocation.held.items())
            if share.released is not None
        }
        data = {names.NODE_FILE: node_file.render(self.file).decode()}
        if released:
            data[RELEASED_KEY] = json.dumps(released)
        return config_map(
            names.node_file(self.gateway),
            world.settings.namespace,
            names.labels(self.gateway),
            data,
        )

    @property
    def by_node(self) -> dict[str, str]:
        """A text for each node that changes with its addresses."""
        return {
            name: " ".join(map(str, entry.allocated))
            for name, entry in self.file.nodes.items()
            if entry.allocated
        }

    def fields(self) -> list[dict[str, Any]]:
        """`status.pools`."""
        of_nodes = self.allocation.of_nodes()
        found = []
        for network, _ in self.demands:
            mine = [share for a, share in self.allocation.held.items() if a in network]
            inside = {
                node: [str(net) for net in nets if net.subnet_of(network)]
                for node, nets in sorted(of_nodes.items())
            }
            short = self.allocation.short.get(network)
            shares = [{"node": node, "addresses": nets} for node, nets in inside.items() if nets]
            found.append(
                {
                    "range": str(network),
                    "addresses": network.num_addresses,
                    "allocated": sum(share.released is None for share in mine),
                    "released": sum(share.released is not None for share in mine),
                    "missing": short.missing if short else 0,
                    **({"shares": shares[:SHOWN]} if shares else {}),
                }
            )
        return found

    def shortages(self) -> list[NodeWarning]:
        """What to say of ranges that are too small."""
        return [
            NodeWarning(
                "RangeTooSmall",
                f"{network} is too small: the nodes need {short.needed} addresses, and "
                f"{short.missing} are missing on {some(short.nodes)}",
                "add a range to spec.pools, or lower addressesPerNode",
            )
            for network, short in self.allocation.short.items()
        ]


def of(effective: Effective, may_hold: frozenset[str], settled: bool, world: World) -> Shares:
    """Decide about a gateway's nodes. `may_hold`: nodes that it has left and that are not clean.
    `settled`: all its pods run this very config.
    """
    gateway, translator, kept_off = effective
    demands = tuple(
        Demand(pool.network, pool.addresses_per_node)
        for pool in translator.pools
        if pool.addresses_per_node and pool.network
    )
    nodes = roles.gateway_nodes(gateway, world) - kept_off.keys()
    held = read(gateway.name, world)
    owned = {address for node in world.nodes.values() for address in node.ipv4}
    decided = allocation.allocate(
        held,
        demands,
        nodes,
        may_hold=may_hold,
        settled=settled,
        taken=owned if demands else (),
        now=world.now,
    )
    pods = () if translator.policy.allowed_sources else world.pod_ranges
    routers = roles.router_nodes(gateway, world) - kept_off.keys()
    return Shares(gateway.name, demands, decided, pods, nodes, routers)


def read(gateway: str, world: World) -> Held:
    """Who has what, as it was recorded; what was made unreadable is as if it were empty."""
    data = get(world.find("ConfigMap", names.node_file(gateway)), "data") or {}
    return _read(str(data.get(names.NODE_FILE) or ""), str(data.get(RELEASED_KEY) or ""))


@lru_cache(maxsize=64)
def _read(file: str, released: str) -> Mapping[IPv4Address, Share]:
    found: dict[IPv4Address, Share] = {}
    try:
        for text, (node, since) in (json.loads(released) if released else {}).items():
            found[IPv4Address(text)] = Share(str(node), float(since))
    except (ValueError, TypeError, AttributeError):
        found = {}
    try:
        nodes = node_file.parse(file.encode()).nodes if file else {}
    except ConfigError:
        nodes = {}
    for name, entry in nodes.items():
        found |= {address: Share(name) for network in entry.allocated for address in network}
    return found
