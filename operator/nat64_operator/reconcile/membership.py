"""Who the gateway nodes and the router nodes of a gateway are, as both are told.

A node's own word counts for little: whoever has a node may write its annotations. So a range that
belongs to another node is not taken from it, and neither is one that holds another node's address.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property, lru_cache
from ipaddress import IPv6Address, IPv6Network
from typing import Any

import msgspec

from nat64_dataplane import members
from nat64_dataplane.members import GatewayEntry, RouterEntry
from nat64_operator.api.gateway import Gateway
from nat64_operator.reconcile import pod_ranges, roles
from nat64_operator.reconcile.actions import Emit
from nat64_operator.reconcile.node_warnings import NodeWarning
from nat64_operator.reconcile.nodes import Node
from nat64_operator.reconcile.ownership import Effective
from nat64_operator.reconcile.readiness import some
from nat64_operator.reconcile.world import World, get
from nat64_operator.render import names
from nat64_operator.render.manifest import Ref, config_map

JOINING_SECONDS = 60
"""How long a node that has just joined may have no ranges before somebody hears of it."""


class Membership(msgspec.Struct, frozen=True, dict=True):
    """What the nodes are told."""

    gateway: str
    gateways: members.Gateways
    routers: members.Routers
    warnings: tuple[NodeWarning, ...] = ()

    @cached_property
    def files(self) -> tuple[str, str]:
        """`gateways.json` and `routers.json`."""
        return members.render(self.gateways).decode(), members.render(self.routers).decode()

    def manifests(self, world: World) -> list[dict[str, Any]]:
        """Their ConfigMaps, which change in place: a node that joins or leaves is no rollout."""
        whose = world.settings.namespace, names.labels(self.gateway)
        gateways, routers = self.files
        return [
            config_map(names.gateways(self.gateway), *whose, {names.GATEWAYS_FILE: gateways}),
            config_map(names.routers(self.gateway), *whose, {names.ROUTERS_FILE: routers}),
        ]

    @property
    def draining(self) -> list[str]:
        """The gateway nodes that take no new clients."""
        return [entry.node for entry in self.gateways.gateways if entry.draining]

    def fields(self) -> dict[str, Any]:
        """`status.gateways`."""
        draining = self.draining
        serving = len(self.gateways.gateways) - len(draining)
        return {"serving": serving, **({"draining": draining} if draining else {})}


def of(effective: Effective, world: World) -> Membership | None:
    """Decide about a gateway; None where its nodes translate for themselves only."""
    gateway, translator, kept_off = effective
    if not gateway.has_routers:
        return None
    made = _Making(world)
    translating = _oldest(roles.gateway_nodes(gateway, world) - kept_off.keys(), world)
    steering = _oldest(roles.router_nodes(gateway, world) - kept_off.keys(), world)
    for prefix in translator.prefixes:
        made.claim("the gateway's prefix", prefix)
    for node in translating:
        for network in made.ranges_of(node):
            made.claim(node.name, network)
    gateways = [made.gateway(node) for node in translating]
    routers = [made.router(node) for node in steering]
    kept_gateways = _few([entry for entry in gateways if entry], members.MAX_GATEWAYS)
    kept_routers = _few([entry for entry in routers if entry], members.MAX_ROUTERS)
    left_out = [e.node for e in (*gateways, *routers) if e]
    known = {entry.node for entry in (*kept_gateways, *kept_routers)}
    left_out = [node for node in left_out if node not in known]
    return Membership(
        gateway.name,
        members.Gateways(gateways=tuple(sorted(kept_gateways, key=lambda e: e.node))),
        members.Routers(routers=tuple(sorted(kept_routers, key=lambda e: e.node))),
        tuple(_warnings(made, kept_gateways, left_out)),
    )


def events(gateway: Gateway, told: Membership | None) -> list[Emit]:
    """What to tell of gateway nodes that begin or end to drain."""
    if told is None:
        return []
    before = set(get(gateway.status, "gateways", "draining") or ())
    now = set(told.draining)
    back = (before - now) & {entry.node for entry in told.gateways.gateways}
    news = (
        ("GatewayDraining", now - before, "no new clients: cordoned, or about to be deleted"),
        ("GatewayServing", back, "new clients again"),
    )
    subject = Ref(gateway.kind, gateway.name)
    return [
        Emit(subject, gateway.meta.uid, False, reason, f"{some(sorted(nodes))}: {what}")
        for reason, nodes, what in news
        if nodes
    ]


class _Making:
    """The entries while they are made: no address and no range is in two of them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._own = sorted(
            (int(IPv6Address(node.internal)), node.name)
            for node in world.nodes.values()
            if node.internal
        )
        self._spans: list[tuple[int, int, str]] = []
        self._addresses: dict[str, str] = {}
        self.without_address: list[str] = []
        self.without_ranges: list[str] = []
        self.refused: list[str] = []

    def gateway(self, node: Node) -> GatewayEntry | None:
        """The entry of a gateway node."""
        if not self._has_address(node):
            return None
        return GatewayEntry(
            node=node.name,
            address=IPv6Address(node.internal),
            weight=node.weight,
            draining=node.draining,
        )

    def router(self, node: Node) -> RouterEntry | None:
        """The entry of a router node, with those of its ranges that are nobody else's."""
        if not self._has_address(node):
            return None
        known = self.ranges_of(node)
        ours = [network for network in known if self.claim(node.name, network)]
        if len(ours) > members.MAX_RANGES_OF_A_ROUTER:
            most = members.MAX_RANGES_OF_A_ROUTER
            self.refused.append(f"{node.name} has {len(ours)} ranges, {most} at most count")
            ours = ours[:most]
        if not ours and self._world.now - node.created >= JOINING_SECONDS:
            self.without_ranges.append(node.name)
        address = IPv6Address(node.internal)
        return RouterEntry(node=node.name, address=address, pod_ranges=tuple(ours))

    def ranges_of(self, node: Node) -> tuple[IPv6Network, ...]:
        """Its pods' ranges: as its annotation says, else its CNI's, else those of the Node."""
        if node.declared is not None:
            return _networks(node.declared)
        if of_cni := self._world.cni_ranges.get(node.name):
            return _networks(of_cni)
        return tuple(sorted(set(pod_ranges.of_node(node))))

    def claim(self, owner: str, network: IPv6Network) -> bool:
        """Give a range to a node, if nobody has any part of it."""
        first, last = int(network.network_address), int(network.broadcast_address)
        at = bisect_left(self._own, (first, ""))
        inside = [name for value, name in self._own[at : at + 2] if value <= last and name != owner]
        if inside:
            self.refused.append(f"{network} of {owner} has the address of node {inside[0]}")
            return False
        at = bisect_left(self._spans, (first, 0, ""))
        for start, end, other in self._spans[max(at - 1, 0) : at + 1]:
            if start <= last and first <= end:
                self.refused.append(f"{network} of {owner} overlaps what {other} has")
                return False
        insort(self._spans, (first, last, owner))
        return True

    def _has_address(self, node: Node) -> bool:
        if not node.internal:
            self.without_address.append(node.name)
            return False
        other = self._addresses.setdefault(node.internal, node.name)
        if other != node.name:
            self.refused.append(f"{node.internal} of {node.name} is the address of {other}")
        return other == node.name


def _warnings(
    made: _Making, gateways: Sequence[GatewayEntry], left_out: Sequence[str]
) -> Iterable[NodeWarning]:
    if gateways and all(entry.draining for entry in gateways):
        yield NodeWarning(
            "NoGatewayServes",
            "all gateway nodes are cordoned or about to be deleted, so none takes new clients",
            "uncordon one, or label another node",
        )
    if left_out:
        yield NodeWarning(
            "TooManyMembers",
            f"{some(left_out)} can't be members: {members.MAX_GATEWAYS} gateway nodes, "
            f"{members.MAX_ROUTERS} router nodes and {members.MAX_BYTES} bytes are the most",
            "split the cluster between several NAT64Gateways by clients.nodeSelector",
        )
    if made.without_address:
        yield NodeWarning(
            "NodesWithoutIPv6",
            f"{some(made.without_address)} can't be reached by other nodes, because its Node has "
            "no InternalIP of IPv6",
            "give the kubelet one by --node-ip, or keep the node out by a nodeSelector",
        )
    if made.without_ranges:
        yield NodeWarning(
            "PodRangesUnknown",
            f"the gateway nodes drop what pods of {some(made.without_ranges)} send, because their "
            "ranges are not known",
            "name them in the Node's annotation nat64-operator.io/pod-ranges",
        )
    if made.refused:
        yield NodeWarning(
            "MembersOverlap",
            f"not believed: {some(made.refused, 3)}",
            "no range or address may be of two nodes; correct the Nodes, or their annotations",
        )


def _oldest(chosen: Collection[str], world: World) -> list[Node]:
    """Nodes by age: what an older one has, a younger one can't take."""
    return sorted((world.nodes[name] for name in chosen), key=lambda n: (n.created, n.name))


def _few(entries: Sequence[Any], most: int) -> list[Any]:
    """The first entries that fit."""
    kept, size = [], 0
    for entry in entries[:most]:
        size += _size(entry)
        if size > members.MAX_BYTES:
            break
        kept.append(entry)
    return kept


@lru_cache(maxsize=1 << 15)
def _size(entry: GatewayEntry | RouterEntry) -> int:
    alone: members.Gateways | members.Routers
    if isinstance(entry, GatewayEntry):
        alone = members.Gateways(gateways=(entry,))
    else:
        alone = members.Routers(routers=(entry,))
    return len(members.render(alone))  # with its envelope, which more than pays for the comma


@lru_cache(maxsize=1 << 14)
def _networks(texts: tuple[str, ...]) -> tuple[IPv6Network, ...]:
    return tuple(sorted({IPv6Network(text) for text in texts}))
