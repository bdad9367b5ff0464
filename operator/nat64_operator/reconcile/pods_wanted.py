"""Whose pods must be read: nobody watches thousands of them for nothing."""

from __future__ import annotations

from nat64_operator.api.conditions import PROGRAMMED, ROUTERS_PROGRAMMED
from nat64_operator.reconcile import deployed, roles
from nat64_operator.reconcile.world import World


def removing(world: World) -> set[str]:
    """Gateways that are being removed: their pods say which nodes are clean."""
    deleting = {
        name for name, obj in world.gateways.items() if obj["metadata"].get("deletionTimestamp")
    }
    return deleting | world.gateways_left_behind()


def with_failing_nodes(world: World) -> set[str]:
    """Gateways with a node that should translate and does not: their pods may say why."""
    return {
        name
        for name, obj in world.gateways.items()
        for condition in (obj.get("status") or {}).get("conditions") or ()
        if condition["type"] in (PROGRAMMED, ROUTERS_PROGRAMMED)
        and condition["reason"] == "NodesNotReady"
    }


def without_pods(world: World) -> set[str]:
    """The DaemonSets, by `Role.events`, with fewer pods than nodes although their controller is
    done.
    """
    found = {
        role.events(name): world.find("DaemonSet", role.daemon_set(name))
        for name, obj in world.gateways.items()
        for role in roles.BOTH
        if not obj["metadata"].get("deletionTimestamp")
    }
    return {name for name, daemon_set in found.items() if deployed.lacks_pods(daemon_set)}
