"""The nodes that steer to those that translate: what is made for them, and how they are."""

from __future__ import annotations

from typing import Any, NamedTuple

from nat64_operator.api.conditions import READY, Condition
from nat64_operator.api.gateway import Gateway
from nat64_operator.reconcile import readiness, roles
from nat64_operator.reconcile.membership import Membership
from nat64_operator.reconcile.ownership import Effective
from nat64_operator.reconcile.programmed import programmed_condition
from nat64_operator.reconcile.roles import STEERING
from nat64_operator.reconcile.world import World
from nat64_operator.render import gateway as render
from nat64_operator.render.removal import has_clat


def manifests(effective: Effective, told: Membership | None, world: World) -> list[dict[str, Any]]:
    """The objects for these nodes; none if there are no such nodes."""
    gateway, _, kept_off = effective
    steering = gateway.router_config()
    if steering is None or told is None:
        return []
    return [
        told.gateway_file(world),
        render.translator_config(gateway.name, steering, world.settings),
        render.routers_daemon_set(
            gateway,
            steering,
            world.settings,
            kept_off.keys() & roles.router_nodes(gateway, world),
            had_clat=had_clat(gateway.name, world),
        ),
    ]


def had_clat(gateway: str, world: World) -> bool:
    """Whether pods on a gateway's nodes may have a CLAT. A node may have had the other role."""
    return any(has_clat(world.find("DaemonSet", role.daemon_set(gateway))) for role in roles.BOTH)


class RouterStatus(NamedTuple):
    """Their part of the status."""

    fields: dict[str, Any]
    """`status.routers`."""
    programmed: Condition
    ready: Condition

    def ready_with(self, gateways: Condition) -> Condition:
        """Whether the gateway keeps its promise, on nodes of both roles."""
        if not gateways.status:
            return gateways
        if not self.ready.status:
            return self.ready._replace(type=READY, message=f"routers: {self.ready.message}")
        return gateways._replace(message=f"{gateways.message}; {self.programmed.message}")


def observe(
    gateway: Gateway, effective: Effective, told: Membership | None, world: World
) -> RouterStatus | None:
    """Look at them; None where there are none."""
    carried_out, _, kept_off = effective
    steering = carried_out.router_config()
    if steering is None or told is None:
        return None
    here = roles.router_nodes(carried_out, world)
    mine = {node: other for node, other in kept_off.items() if node in here}
    counts = readiness.count(carried_out, STEERING, mine.keys(), world)
    fields = {**counts.fields(), "members": len(told.routers.routers)}
    pods = readiness.of_role(world.pods.get(gateway.name, ()), STEERING)
    if found := readiness.failing(counts, mine, pods):
        fields["failing"] = found
    daemon_set = world.find("DaemonSet", STEERING.daemon_set(gateway.name))
    programmed = programmed_condition(carried_out, daemon_set, steering, counts, world, STEERING)
    ready = readiness.ready_condition(carried_out, counts, programmed)
    return RouterStatus(fields, programmed, ready)
