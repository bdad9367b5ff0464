"""What runs on a gateway's nodes now, as far as its DaemonSet says."""

from __future__ import annotations

from typing import Any

from nat64_dataplane import config
from nat64_operator.reconcile.holders import config_in
from nat64_operator.reconcile.readiness import Counts
from nat64_operator.reconcile.world import World, get


def rolled_out(daemon_set: Any) -> bool:
    """Whether no pod of an earlier revision can be left that mounts an earlier ConfigMap."""
    counts = Counts.of(daemon_set)
    seen = get(daemon_set, "status", "observedGeneration")
    return (
        seen is not None
        and seen == get(daemon_set, "metadata", "generation")
        and counts.updated == counts.desired
    )


def lacks_pods(daemon_set: Any) -> bool:
    """Whether there are nodes where it has no pod at all."""
    status = get(daemon_set, "status") or {}
    seen = status.get("observedGeneration")
    wanted, there = status.get("desiredNumberScheduled", 0), status.get("currentNumberScheduled")
    current = seen is not None and seen == get(daemon_set, "metadata", "generation")
    return current and there is not None and bool(there < wanted)


def running_config(daemon_set: Any, world: World) -> config.Config | None:
    """The config that the nodes were last told to run."""
    mounted = mounted_config(daemon_set)
    return config_in(world.find("ConfigMap", mounted)) if mounted else None


def mounted_config(daemon_set: Any) -> str | None:
    """The name of the ConfigMap with the config that its pods mount."""
    for volume in get(daemon_set, "spec", "template", "spec", "volumes") or ():
        if volume["name"] == "config":
            name: str | None = get(volume, "configMap", "name")
            return name
    return None
