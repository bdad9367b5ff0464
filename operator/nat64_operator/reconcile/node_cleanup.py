"""Nodes that a gateway is no longer on, because its selector or their labels changed.

The DaemonSet's pod goes there by itself, and by design leaves everything in the kernel. So it is
remembered on which nodes a gateway was; those that it is not on any more are cleaned.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from nat64_dataplane import config
from nat64_operator.api.gateway import Gateway
from nat64_operator.reconcile.world import World, get
from nat64_operator.render import gateway as render
from nat64_operator.render import names, removal


class Leaving(NamedTuple):
    """What there is to be for a gateway's nodes."""

    manifests: list[dict[str, Any]]
    nodes: tuple[str, ...]
    """Those that are not clean yet."""


def of(gateway: Gateway, translator: config.Config, world: World) -> Leaving:
    """The record of nodes, and where some are to be cleaned, what cleans them."""
    selected = world.select(render.node_selector(gateway.spec.node_selector))
    left = sorted((known(gateway.name, world) & world.nodes.keys()) - selected)
    cleaning = world.find("DaemonSet", names.leaving(gateway.name))
    wanted = None
    if left:
        wanted = removal.leaving(
            gateway.name,
            left,
            names.translator_config(gateway.name, translator.content_hash),
            gateway.ports.translator,
            world.settings,
        )
        if is_clean(cleaning, left):
            left, wanted = [], None
    record = render.nodes_record(gateway.name, {*selected, *left}, world.settings)
    return Leaving([record, *([wanted] if wanted else [])], tuple(left))


def known(gateway: str, world: World) -> set[str]:
    """Nodes that a gateway has been on and that were not cleaned since."""
    record = world.find("ConfigMap", names.nodes_record(gateway))
    return set((get(record, "data", names.NODES_KEY) or "").split())


def is_clean(daemon_set: Any, nodes: list[str]) -> bool:
    """Whether a DaemonSet that cleans is for just these nodes, and has cleaned each."""
    status = get(daemon_set, "status") or {}
    return (
        list(removal.nodes_by_name(daemon_set)) == nodes
        and status.get("observedGeneration") == get(daemon_set, "metadata", "generation")
        and status.get("updatedNumberScheduled", 0) >= len(nodes)
        and status.get("numberReady", 0) >= len(nodes)
    )
