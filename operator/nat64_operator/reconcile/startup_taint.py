"""Nodes that join with a taint, so that no pod starts there before the node translates.

Whoever sets nodes up gives them the taint, as by `kubelet --register-with-taints`. The operator
only takes it off: once every gateway that selects the node has a ready translator there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import Any

from nat64_operator.api.gateway import Gateway
from nat64_operator.api.meta import Object
from nat64_operator.errors import InvalidObjectError
from nat64_operator.reconcile import roles
from nat64_operator.reconcile.actions import Group, Untaint
from nat64_operator.reconcile.gateways import Observed
from nat64_operator.reconcile.nodes import Node
from nat64_operator.reconcile.world import World
from nat64_operator.render.manifest import Ref


def waiting(world: World) -> set[str]:
    """Gateways with such nodes: their pods must be read."""
    tainted = {node.name for node in _tainted(world)}
    if not tainted:
        return set()
    found = set()
    for name, obj in world.gateways.items():
        with contextlib.suppress(InvalidObjectError):  # then it has no node
            if not tainted.isdisjoint(roles.nodes(Gateway.parse(obj), world)):
                found.add(name)
    return found


def step(observed: Collection[Observed], world: World) -> Iterator[Group]:
    """What takes the taint off nodes that translate."""
    for node in _tainted(world):
        here = [seen for seen in observed if _selects(seen, node, world)]
        if here and all(_translates(seen.gateway.name, node.name, world) for seen in here):
            action = Untaint(node.name, world.settings.startup_taint)
            yield Group(Ref("Node", node.name), (action,))


def without_taint(node: Object, key: str) -> dict[str, Any]:
    """The change of a Node that takes the taints with this key off, if nobody else changes it
    meanwhile: the list can only be written as a whole.
    """
    taints = [taint for taint in node["spec"].get("taints") or () if taint["key"] != key]
    version = {"resourceVersion": node["metadata"]["resourceVersion"]}
    return {"metadata": version, "spec": {"taints": taints}}


def _tainted(world: World) -> list[Node]:
    key = world.settings.startup_taint
    if not key:
        return []
    return [node for node in world.nodes.values() if any(t.key == key for t in node.taints)]


def _selects(seen: Observed, node: Node, world: World) -> bool:
    if seen.effective is None or seen.gateway.meta.deleting:
        return False
    gateway, _, kept_off = seen.effective
    return node.name in roles.nodes(gateway, world) and node.name not in kept_off


def _translates(gateway: str, node: str, world: World) -> bool:
    return any(
        pod.node == node and not pod.removing and not pod.deleting and pod.translates
        for pod in world.pods.get(gateway, ())
    )
