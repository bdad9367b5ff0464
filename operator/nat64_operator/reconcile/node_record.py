"""The record of a gateway: the nodes that it is on, those to be cleaned, and its accepted spec.

It is a ConfigMap, so it outlives the operator. A pod that is gone can't say where it was, and a
spec that is not accepted must not be the only one that is known.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from nat64_operator.api.gateway import GatewaySpec
from nat64_operator.reconcile.world import World, get
from nat64_operator.render import names
from nat64_operator.render.manifest import config_map
from nat64_operator.settings import Settings

NODES_KEY, LEAVING_KEY, SPEC_KEY = "nodes", "leaving", "spec"


class NodeRecord(NamedTuple):
    """The record as it is stored."""

    on: frozenset[str] = frozenset()
    """The nodes that the gateway is on."""
    leaving: frozenset[str] = frozenset()
    """Nodes that it has left, or was kept off, and that are not clean yet."""
    spec: GatewaySpec | None = None
    """The spec that was last accepted."""

    @property
    def all(self) -> frozenset[str]:
        """All nodes where something of the gateway may be."""
        return self.on | self.leaving


def read(gateway: str, world: World) -> NodeRecord:
    """Read it; what is missing or was made unreadable is as if it were empty."""
    data = get(world.find("ConfigMap", names.nodes_record(gateway)), "data") or {}
    return NodeRecord(
        frozenset(str(data.get(NODES_KEY) or "").split()),
        frozenset(str(data.get(LEAVING_KEY) or "").split()),
        _spec(data.get(SPEC_KEY)),
    )


def manifest(
    gateway: str,
    on: Iterable[str],
    leaving: Iterable[str],
    spec: GatewaySpec,
    settings: Settings,
) -> dict[str, Any]:
    """The ConfigMap."""
    return config_map(
        names.nodes_record(gateway),
        settings.namespace,
        names.labels(gateway),
        {
            NODES_KEY: "\n".join(sorted(on)),
            LEAVING_KEY: "\n".join(sorted(leaving)),
            SPEC_KEY: msgspec.json.encode(spec, order="deterministic").decode(),
        },
    )


def _spec(text: Any) -> GatewaySpec | None:
    try:
        return msgspec.json.decode(text, type=GatewaySpec) if text else None
    except (TypeError, msgspec.MsgspecError):
        return None
