"""Who the gateway nodes and the router nodes of a gateway are, as both are told."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, lru_cache
from ipaddress import IPv6Address
from typing import Any

import msgspec

from nat64_dataplane import members
from nat64_dataplane.errors import ConfigError
from nat64_dataplane.members import GatewayEntry, RouterEntry
from nat64_operator.api.gateway import Gateway
from nat64_operator.reconcile import roles
from nat64_operator.reconcile.actions import Emit
from nat64_operator.reconcile.claims import Claims
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

    def gateway_file(self, world: World) -> dict[str, Any]:
        """The ConfigMap with the gateway nodes, which changes in place: a node that joins or leaves
        is no rollout.
        """
        whose = world.settings.namespace, names.labels(self.gateway)
        return config_map(
            names.gateways(self.gateway), *whose, {names.GATEWAYS_FILE: self.files[0]}
        )

    def router_file(self, world: World) -> dict[str, Any]:
        """The same with the router nodes."""
        whose = world.settings.namespace, names.labels(self.gateway)
        return config_map(names.routers(self.gateway), *whose, {names.ROUTERS_FILE: self.files[1]})

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
    translating = _oldest(roles.gateway_nodes(gateway, world) - kept_off.keys(), world)
    steering = _oldest(roles.router_nodes(gateway, world) - kept_off.keys(), world)
    claims = Claims(world, _told(gateway.name, world))
    claims.reserve("the gateway's prefix", translator.prefixes)
    claims.take(translating, steering)
    gateways = [_gateway(node) for node in translating if claims.has_address(node)]
    routers = [_router(node, claims) for node in steering if claims.has_address(node)]
    kept_gateways = _few(gateways, members.MAX_GATEWAYS)
    kept_routers = _few(routers, members.MAX_ROUTERS)
    entries: list[GatewayEntry | RouterEntry] = [*gateways, *routers]
    known = {entry.node for entry in (*kept_gateways, *kept_routers)}
    return Membership(
        gateway.name,
        members.Gateways(gateways=tuple(sorted(kept_gateways, key=lambda e: e.node))),
        members.Routers(routers=tuple(sorted(kept_routers, key=lambda e: e.node))),
        tuple(
            _warnings(
                gateways=kept_gateways,
                left_out=[e.node for e in entries if e.node not in known],
                without_address=[n.name for n in (*translating, *steering) if not n.internal],
                without_ranges=_without_ranges(steering, claims, world),
                refused=claims.refused,
            )
        ),
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


def _gateway(node: Node) -> GatewayEntry:
    return GatewayEntry(
        node=node.name,
        address=IPv6Address(node.internal),
        weight=node.weight,
        draining=node.draining,
    )


def _router(node: Node, claims: Claims) -> RouterEntry:
    ours = tuple(claims.ranges(node))
    return RouterEntry(node=node.name, address=IPv6Address(node.internal), pod_ranges=ours)


def _without_ranges(steering: Iterable[Node], claims: Claims, world: World) -> list[str]:
    return [
        node.name
        for node in steering
        if claims.has_address(node)
        and not claims.ranges(node)
        and world.now - node.created >= JOINING_SECONDS
    ]


def _told(gateway: str, world: World) -> Mapping[str, GatewayEntry | RouterEntry]:
    """What the nodes are told now."""
    live = world.find("ConfigMap", names.gateways(gateway))
    text: str = get(live, "data", names.GATEWAYS_FILE) or ""
    return _entries(text, routers_told(gateway, world))


def routers_told(gateway: str, world: World) -> str:
    """The list of router nodes as it was written last; empty where there is none."""
    live = world.find("ConfigMap", names.routers(gateway))
    return get(live, "data", names.ROUTERS_FILE) or ""


@lru_cache(maxsize=4)
def _entries(gateways: str, routers: str) -> Mapping[str, GatewayEntry | RouterEntry]:
    found: dict[str, GatewayEntry | RouterEntry] = {}
    with suppress(ConfigError):  # somebody else's edit, which is undone
        found |= {e.node: e for e in members.parse_routers(routers.encode()).routers}
    with suppress(ConfigError):
        found |= {e.node: e for e in members.parse_gateways(gateways.encode()).gateways}
    return found


def _warnings(
    *,
    gateways: Sequence[GatewayEntry],
    left_out: Sequence[str],
    without_address: Sequence[str],
    without_ranges: Sequence[str],
    refused: Sequence[str],
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
    if without_address:
        yield NodeWarning(
            "NodesWithoutIPv6",
            f"{some(without_address)} can't be reached by other nodes, because its Node has "
            "no InternalIP of IPv6",
            "give the kubelet one by --node-ip, or keep the node out by a nodeSelector",
        )
    if without_ranges:
        yield NodeWarning(
            "PodRangesUnknown",
            f"the gateway nodes drop what pods of {some(without_ranges)} send, because their "
            "ranges are not known",
            "name them in the Node's annotation nat64-operator.io/pod-ranges",
        )
    if refused:
        yield NodeWarning(
            "MembersOverlap",
            f"not believed: {some(refused, 3)}",
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
