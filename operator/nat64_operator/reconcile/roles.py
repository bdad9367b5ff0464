"""Which nodes have which role for a gateway: *gateway nodes* translate, *router nodes* steer to
them. Without the topology Gateway there are no router nodes.
"""

from __future__ import annotations

from typing import NamedTuple

from nat64_operator.api.conditions import PROGRAMMED, ROUTERS_PROGRAMMED
from nat64_operator.api.gateway import Gateway
from nat64_operator.api.topology import Clients
from nat64_operator.reconcile.world import World
from nat64_operator.render import names
from nat64_operator.render.gateway import node_selector


class Role(NamedTuple):
    """The nodes of one role, as a status speaks of them."""

    router: bool
    condition: str
    """The type of their condition."""
    does: str
    """What they do: `translate` or `steer`."""
    where: str
    """The field of the status that counts them."""

    def daemon_set(self, gateway: str) -> str:
        """The name of their DaemonSet."""
        return names.routers(gateway) if self.router else names.daemon_set(gateway)

    def events(self, gateway: str) -> str:
        """The key of `World.not_created`."""
        return self.daemon_set(gateway).removeprefix(names.daemon_set(""))


TRANSLATING = Role(False, PROGRAMMED, "translate", "nodes")
STEERING = Role(True, ROUTERS_PROGRAMMED, "steer", "routers")
BOTH = (TRANSLATING, STEERING)


def gateway_nodes(gateway: Gateway, world: World) -> frozenset[str]:
    """The nodes that translate."""
    return world.select(node_selector(gateway.spec.node_selector))


def router_nodes(gateway: Gateway, world: World) -> frozenset[str]:
    """The nodes that steer."""
    if not gateway.has_routers:
        return frozenset()
    clients = gateway.spec.clients or Clients()
    return world.select(node_selector(clients.node_selector)) - gateway_nodes(gateway, world)


def of(gateway: Gateway, role: Role, world: World) -> frozenset[str]:
    """The nodes of a role."""
    return router_nodes(gateway, world) if role.router else gateway_nodes(gateway, world)


def nodes(gateway: Gateway, world: World) -> frozenset[str]:
    """The nodes of either role."""
    return gateway_nodes(gateway, world) | router_nodes(gateway, world)
