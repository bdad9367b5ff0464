"""The condition `Programmed`: whether every node of a gateway runs its config, or why not."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from nat64_dataplane import config
from nat64_operator.api.conditions import Condition
from nat64_operator.api.gateway import Gateway, UpdateType
from nat64_operator.reconcile import readiness
from nat64_operator.reconcile.deployed import mounted_config
from nat64_operator.reconcile.readiness import Counts, some
from nat64_operator.reconcile.roles import TRANSLATING, Role
from nat64_operator.reconcile.world import World, get
from nat64_operator.render import names

STARTING_SECONDS = 180
"""How long a rollout may be without every node ready before the operator looks for the reason."""
FAILING = ("NodesNotReady", "PodsNotCreated")
"""Reasons that are nobody's plan."""


def programmed_condition(
    gateway: Gateway,
    daemon_set: Any,
    translator: config.Config,
    counts: Counts,
    world: World,
    role: Role = TRANSLATING,
) -> Condition:
    """The condition, from what the DaemonSet's controller counts and the kubelets say."""
    selector, type_ = gateway.spec.node_selector, role.condition
    current = daemon_set is not None and get(daemon_set, "status", "observedGeneration") == get(
        daemon_set, "metadata", "generation"
    )
    mounted = mounted_config(daemon_set)
    if not current or mounted != names.translator_config(translator.name, translator.content_hash):
        return Condition(type_, False, "RollingOut", "the config is on its way to the nodes")
    desired, ready, updated = counts.desired, counts.ready, counts.updated
    if desired == 0 and role.router:
        return Condition(type_, True, "NoNodes", "there is no node that has to steer")
    if desired == 0:
        where = f" with labels {selector}" if selector else ""
        return Condition(type_, False, "NoNodes", f"there is no node{where} to translate on")
    living, without = counts.living, readiness.without_dead(counts)
    if living and ready >= living and updated >= living:
        return Condition(
            type_, True, "Programmed", f"{ready} of {desired} nodes {role.does}{without}"
        )
    starting = updated < living or _is_starting(gateway, world.now, role)
    reason = "RollingOut" if starting else "NodesNotReady"
    if world.not_created.get(role.events(gateway.name)):
        reason = "PodsNotCreated"
    return Condition(
        type_,
        False,
        reason,
        f"{ready} of {desired} nodes {role.does}, {updated} run this config{without}"
        + _held_back(gateway, updated < living)
        + _troubles(gateway.name, world, role),
    )


def _held_back(gateway: Gateway, rolling: bool) -> str:
    """What to add to a message if pods don't follow a change by themselves."""
    strategy = gateway.spec.update_strategy
    if not rolling:
        return ""
    if strategy.canary is not None:
        return "; spec.updateStrategy.canary holds the other nodes back: remove it to go on"
    on_delete = strategy.type is UpdateType.ON_DELETE
    return "; spec.updateStrategy.type is OnDelete: delete the others' pods" if on_delete else ""


def _troubles(gateway: str, world: World, role: Role) -> str:
    """What is reported about pods that don't exist, or that aren't ready on at least one node."""
    refused = world.not_created.get(role.events(gateway))
    if refused:
        return f"; no pod can be created on the others: {refused}"
    pods = readiness.of_role(world.pods.get(gateway, ()), role)
    bad = [pod for pod in pods if pod.trouble and not pod.ready]
    return "; " + some([f"{pod.node}: {pod.trouble}" for pod in bad], 2) if bad else ""


def _is_starting(gateway: Gateway, now: float, role: Role) -> bool:
    """Whether nodes that aren't ready are so because they were told to change a short while ago."""
    for before in gateway.status.get("conditions") or ():
        if before["type"] == role.condition:
            since = now - datetime.fromisoformat(before["lastTransitionTime"]).timestamp()
            return before["reason"] == "RollingOut" and since < STARTING_SECONDS
    return True
