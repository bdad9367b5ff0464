"""Canaries: the pods that are replaced before the rest of a gateway's nodes get a changed template.

A DaemonSet has no canaries of its own. So its update strategy is `OnDelete`, and the operator
deletes the pods on the canary's nodes, a few at a time. When the canary is removed from the spec,
the DaemonSet controller replaces the others.
"""

from __future__ import annotations

from typing import Any

from nat64_operator.api.gateway import Gateway
from nat64_operator.reconcile import roles
from nat64_operator.reconcile.actions import Delete
from nat64_operator.reconcile.readiness import Counts, most_unavailable, of_role
from nat64_operator.reconcile.roles import Role
from nat64_operator.reconcile.world import World, get
from nat64_operator.render import names
from nat64_operator.render.manifest import Ref

GENERATION = "deprecated.daemonset.template.generation"
"""An annotation of DaemonSets; their pods have its value as a label."""


def under_way(world: World) -> set[str]:
    """Gateways with a canary whose nodes don't all have the DaemonSet's template: to choose the
    pods, these must be read.
    """
    return {
        name
        for name, obj in world.gateways.items()
        if get(obj, "spec", "updateStrategy", "canary")
        and any(_is_rolling(found) for found in _daemon_sets(name, world) if found)
    }


def step(gateway: Gateway, world: World) -> list[Delete]:
    """The pods to delete now: all that aren't ready, because nothing is lost with them, and of the
    others so many that no more than `maxUnavailable` of the canary's nodes are without one.
    """
    return [deletion for role in roles.BOTH for deletion in _step(gateway, role, world)]


def _step(gateway: Gateway, role: Role, world: World) -> list[Delete]:
    canary = gateway.spec.update_strategy.canary
    daemon_set = world.find("DaemonSet", role.daemon_set(gateway.name))
    template = get(daemon_set, "spec", "template", "metadata", "annotations", names.TEMPLATE)
    if canary is None or template is None or not _is_seen(daemon_set):
        return []
    nodes = world.select(canary.node_selector)
    every = of_role(world.pods.get(gateway.name, ()), role)
    pods = [pod for pod in every if pod.node in nodes]
    # By the controller's word, too: where something takes annotations off pods, ours would say that
    # each new pod is an old one, and none would live for long.
    generation = get(daemon_set, "metadata", "annotations", GENERATION)
    outdated = [
        pod
        for pod in pods
        if pod.template != template
        and not pod.deleting
        and (generation is None or pod.generation != generation)
    ]
    unavailable = sum(not pod.ready or pod.deleting for pod in pods)
    free = most_unavailable(gateway, Counts.of(daemon_set).desired) - unavailable
    ready = sorted(pod.name for pod in outdated if pod.ready)[: max(free, 0)]
    return [
        Delete(Ref("Pod", pod.name, world.settings.namespace), pod.uid)
        for pod in outdated
        if not pod.ready or pod.name in ready
    ]


def _daemon_sets(gateway: str, world: World) -> list[Any]:
    return [world.find("DaemonSet", role.daemon_set(gateway)) for role in roles.BOTH]


def _is_seen(daemon_set: Any) -> bool:
    """Whether a pod that is deleted now comes back by this template."""
    seen = get(daemon_set, "status", "observedGeneration")
    return seen is not None and seen == get(daemon_set, "metadata", "generation")


def _is_rolling(daemon_set: Any) -> bool:
    counts = Counts.of(daemon_set)
    return not _is_seen(daemon_set) or counts.updated < counts.desired
