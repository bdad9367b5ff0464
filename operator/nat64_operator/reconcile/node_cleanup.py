"""Nodes that a gateway is no longer on, because its selector or their labels changed, or because
another gateway has what it wants there.

When the DaemonSet's pod disappears, it leaves everything in the kernel, by design. So the record
says on which nodes a gateway was, and a second DaemonSet cleans those that it has left.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from nat64_operator.reconcile import node_record, roles
from nat64_operator.reconcile.holders import on_nodes
from nat64_operator.reconcile.ownership import Effective
from nat64_operator.reconcile.world import World, get
from nat64_operator.render import names, removal


class Leaving(NamedTuple):
    """The objects for a gateway's nodes."""

    manifests: list[dict[str, Any]]
    nodes: tuple[str, ...]
    """The nodes that are not clean yet."""


def of(effective: Effective, world: World) -> Leaving:
    """The record of nodes, and where some are to be cleaned, the DaemonSet that cleans them."""
    gateway, translator, kept_off = effective
    # A node that changes its role is not left: the agent there takes out what the old one had.
    selected = roles.nodes(gateway, world) - kept_off.keys()
    daemon_set = world.find("DaemonSet", names.daemon_set(gateway.name))
    scheduled = frozenset.union(*on_nodes(gateway.name, world))
    # A pod may have run on a node before this gateway was kept off it.
    been = node_record.read(gateway.name, world).all | scheduled
    left = sorted((been & world.nodes.keys()) - selected)
    cleaning = world.find("DaemonSet", names.leaving(gateway.name))
    wanted = None
    if left:
        wanted = removal.leaving(
            gateway.name,
            left,
            names.translator_config(gateway.name, translator.content_hash),
            gateway.ports.translator,
            world.settings,
            clat=translator.clat is not None or removal.has_clat(daemon_set),
        )
        if is_clean(cleaning, left) and not scheduled & set(left):
            left, wanted = [], None
    record = node_record.manifest(gateway, selected, left, world.settings)
    return Leaving([record, *([wanted] if wanted else [])], tuple(left))


def is_clean(daemon_set: Any, nodes: list[str]) -> bool:
    """Whether a DaemonSet that cleans is for just these nodes, and has cleaned each."""
    status = get(daemon_set, "status") or {}
    return (
        list(removal.nodes_by_name(daemon_set)) == nodes
        and status.get("observedGeneration") == get(daemon_set, "metadata", "generation")
        and status.get("updatedNumberScheduled", 0) >= len(nodes)
        and status.get("numberReady", 0) >= len(nodes)
    )
