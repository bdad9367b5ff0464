"""How many of a gateway's nodes translate, and what that means for `Programmed` and `Ready`.

`Programmed` says that every node runs this config. `Ready` is the gateway's promise: most nodes
translate, and none that did has stopped. So a joining node, or a rollout within `maxUnavailable`,
does not make a gateway unready; a node that worked and fails does.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from nat64_operator.api.conditions import READY, Condition
from nat64_operator.api.gateway import Gateway
from nat64_operator.reconcile import roles
from nat64_operator.reconcile.nodes import Node, Taint
from nat64_operator.reconcile.roles import Role
from nat64_operator.reconcile.world import Pod, World, get

JOINING_SECONDS = 180
"""How long a new node has to translate before it counts."""
NAMED_NODES = 16
"""How many failing nodes a status names."""

# The DaemonSet controller adds these to its pods (Kubernetes, "Taints and tolerations").
_ADDED = tuple(
    {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": effect}
    for key, effect in (
        ("not-ready", "NoExecute"),
        ("unreachable", "NoExecute"),
        ("disk-pressure", "NoSchedule"),
        ("memory-pressure", "NoSchedule"),
        ("pid-pressure", "NoSchedule"),
        ("unschedulable", "NoSchedule"),
        ("network-unavailable", "NoSchedule"),
    )
)


class Counts(NamedTuple):
    """What the DaemonSet controller counts, and what else is known."""

    desired: int
    ready: int
    updated: int
    dead: tuple[str, ...] = ()
    """Nodes among the desired ones that are not ready themselves."""
    joining: tuple[str, ...] = ()
    """Nodes among the desired ones that have just joined the cluster."""
    established: int = 0
    """How many nodes have translated at one time, of those that still are desired."""

    @classmethod
    def of(cls, daemon_set: Any) -> Counts:
        """What the DaemonSet's status says."""
        seen = get(daemon_set, "status") or {}
        return cls(
            seen.get("desiredNumberScheduled", 0),
            seen.get("numberReady", 0),
            seen.get("updatedNumberScheduled", 0),
        )

    @property
    def living(self) -> int:
        """Nodes that should translate, without dead ones."""
        return self.desired - min(len(self.dead), self.desired)

    @property
    def expected(self) -> int:
        """Nodes that should translate by now."""
        return max(self.living - len(self.joining), 0)

    def fields(self) -> dict[str, Any]:
        """`status.nodes`."""
        return {
            "desired": self.desired,
            "ready": self.ready,
            "updated": self.updated,
            "established": self.established,
            "summary": f"{self.ready}/{self.desired}",
        }


def count(gateway: Gateway, role: Role, kept_off: Collection[str], world: World) -> Counts:
    """Count those of a gateway's nodes that have one role."""
    nodes = roles.of(gateway, role, world) - set(kept_off)
    counts = Counts.of(world.find("DaemonSet", role.daemon_set(gateway.name)))
    tolerations = gateway.spec.tolerations

    def is_desired(node: Node) -> bool:
        return node.name in nodes and _tolerates(tolerations, node.taints)

    dead = tuple(node.name for node in world.unready_nodes if is_desired(node))
    joining = tuple(n.name for n in world.new_nodes(JOINING_SECONDS) if n.ready and is_desired(n))
    counts = counts._replace(dead=dead, joining=joining)
    before = get(gateway.status, role.where, "established") or 0
    return counts._replace(established=min(counts.living, max(before, counts.ready)))


def ready_condition(gateway: Gateway, counts: Counts, programmed: Condition) -> Condition:
    """Whether the gateway keeps its promise."""
    if programmed.status:
        return Condition(READY, True, "Ready", programmed.message)
    rolling = counts.updated < counts.living
    allowed = most_unavailable(gateway, counts.desired) if rolling else 0
    most = counts.ready * 2 > counts.expected and counts.ready > 0
    if most and counts.ready >= counts.established - allowed and programmed.reason in _UNDER_WAY:
        return Condition(READY, True, "Ready", programmed.message)
    return programmed._replace(type=READY)


_UNDER_WAY = ("RollingOut", "NodesNotReady", "PodsNotCreated", "RangeTooSmall")


def of_role(pods: Iterable[Pod], role: Role) -> list[Pod]:
    """Those pods that are on nodes of one role."""
    return [pod for pod in pods if pod.router == role.router]


def without_dead(counts: Counts) -> str:
    """What a message adds about nodes that are not counted."""
    parts = []
    if counts.dead:
        parts.append(f"not counting nodes that are not ready: {some(counts.dead)}")
    if counts.joining and counts.ready < counts.living:
        parts.append(f"joining: {some(counts.joining)}")
    return "".join(f"; {part}" for part in parts)


def failing(
    counts: Counts, kept_off: Mapping[str, str], pods: Iterable[Any]
) -> list[dict[str, str]]:
    """`status.nodes.failing`: nodes that should translate and don't, with the reason."""
    found = dict.fromkeys(counts.dead, "the node is not ready")
    for pod in pods:
        if pod.trouble and not pod.ready:
            found.setdefault(pod.node, pod.trouble)
    for node, other in kept_off.items():
        found[node] = f"NAT64Gateway {other!r} has the node"
    named = sorted(found.items())[:NAMED_NODES]
    return [{"name": node, "message": message[:256]} for node, message in named if node]


def some(items: Sequence[str], limit: int = 5) -> str:
    """The first of some names, and how many more there are."""
    shown = ", ".join(sorted(items)[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"


def most_unavailable(gateway: Gateway, desired: int) -> int:
    """How many nodes may be without a ready pod because of a change."""
    given = gateway.spec.update_strategy.max_unavailable
    if isinstance(given, int):
        return given
    return math.ceil(desired * int(given.rstrip("%")) / 100)


def _tolerates(tolerations: Iterable[Mapping[str, Any]], taints: Iterable[Taint]) -> bool:
    """Whether a DaemonSet's pods are meant for a node with these taints."""
    every = (*tolerations, *_ADDED)
    return all(any(_matches(t, taint) for t in every) for taint in taints)


def _matches(toleration: Mapping[str, Any], taint: Taint) -> bool:
    if toleration.get("effect") not in (None, "", taint.effect):
        return False
    if not toleration.get("key"):
        return toleration.get("operator") == "Exists"
    if toleration["key"] != taint.key:
        return False
    return toleration.get("operator") == "Exists" or toleration.get("value", "") == taint.value
