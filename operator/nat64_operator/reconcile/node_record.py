"""The record of a gateway: the nodes that it is on, those to be cleaned, and its accepted spec.

It is a ConfigMap, so it outlives the operator. A pod that is gone can't say where it was, and the
accepted spec must be known while the object has one that isn't accepted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from nat64_operator.api.gateway import Gateway, GatewaySpec
from nat64_operator.api.host_ports import DERIVED_SLOTS
from nat64_operator.reconcile.world import World, get
from nat64_operator.render import names
from nat64_operator.render.manifest import config_map
from nat64_operator.settings import Settings

NODES_KEY, LEAVING_KEY, SPEC_KEY, SLOT_KEY = "nodes", "leaving", "spec", "hostPortSlot"


class NodeRecord(NamedTuple):
    """The record as it is stored."""

    on: frozenset[str] = frozenset()
    """The nodes that the gateway is on."""
    leaving: frozenset[str] = frozenset()
    """Nodes that it has left, or was kept off, and that are not clean yet."""
    spec: GatewaySpec | None = None
    """The spec that was last accepted."""
    slot: int | None = None
    """The host ports that it was given."""

    @property
    def all(self) -> frozenset[str]:
        """All nodes where something of the gateway may be."""
        return self.on | self.leaving


def read(gateway: str, world: World) -> NodeRecord:
    """Read it; missing or unreadable parts count as empty."""
    data = get(world.find("ConfigMap", names.nodes_record(gateway)), "data") or {}
    return NodeRecord(
        frozenset(str(data.get(NODES_KEY) or "").split()),
        frozenset(str(data.get(LEAVING_KEY) or "").split()),
        _spec(data.get(SPEC_KEY)),
        _slot(data.get(SLOT_KEY)),
    )


def manifest(
    gateway: Gateway,
    on: Iterable[str],
    leaving: Iterable[str],
    settings: Settings,
) -> dict[str, Any]:
    """The ConfigMap."""
    return config_map(
        names.nodes_record(gateway.name),
        settings.namespace,
        names.labels(gateway.name),
        {
            NODES_KEY: "\n".join(sorted(on)),
            LEAVING_KEY: "\n".join(sorted(leaving)),
            SPEC_KEY: msgspec.json.encode(gateway.spec, order="deterministic").decode(),
            **({} if gateway.slot is None else {SLOT_KEY: str(gateway.slot)}),
        },
    )


def _slot(text: Any) -> int | None:
    known = isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= 4
    return int(text) if known and int(text) < DERIVED_SLOTS else None


def _spec(text: Any) -> GatewaySpec | None:
    try:
        return msgspec.json.decode(text, type=GatewaySpec) if text else None
    except (TypeError, msgspec.MsgspecError):
        return None
