"""A node that joined with the startup taint loses it once it translates for all its gateways."""

from typing import Any

import msgspec
import pytest

from nat64_operator.reconcile import reconcile, startup_taint
from nat64_operator.reconcile.actions import Untaint
from nat64_operator.reconcile.nodes import Node, Taint
from nat64_operator.reconcile.world import Pod, World
from tests.unit.operator_simulation import SETTINGS, Simulation

KEY = "nat64-operator.io/starting"
LABELS = {"kubernetes.io/os": "linux"}


def settled(**gateways: dict[str, Any]) -> Simulation:
    simulation = Simulation()
    taints = (Taint(KEY, "", "NoSchedule"), Taint("other", "", "NoSchedule"))
    simulation.nodes["new"] = Node("new", LABELS, True, ("fd00:1::/64",), taints=taints)
    for name, spec in gateways.items():
        simulation.create("NAT64Gateway", name, **spec)
    simulation.settle()
    return simulation


def world_of(simulation: Simulation, *, key: str = KEY, **translates: bool) -> World:
    pods = {
        name: (Pod("new", False, ready, translates=ready), Pod("node1", False, True))
        for name, ready in translates.items()
    }
    settings = msgspec.structs.replace(SETTINGS, startup_taint=key)
    return msgspec.structs.replace(simulation.world(), pods=pods, settings=settings)


def untainted(world: World) -> list[str]:
    actions = [action for group in reconcile(world).groups for action in group.actions]
    found = [action for action in actions if isinstance(action, Untaint)]
    assert all(action.key == KEY for action in found)
    return [action.node for action in found]


def test_it_goes_once_the_node_translates() -> None:
    simulation = settled(a={})
    assert startup_taint.waiting(world_of(simulation)) == {"a"}, "its pods are read meanwhile"
    assert untainted(world_of(simulation)) == [], "there is no pod yet"
    assert untainted(world_of(simulation, a=False)) == []
    assert untainted(world_of(simulation, a=True)) == ["new"]


def test_every_gateway_of_the_node_must_translate() -> None:
    other = {"prefix": "64:ff9b:1::/96", "pools": [{"ports": {"from": 40000, "to": 41000}}]}
    simulation = settled(a={}, b=other)
    assert untainted(world_of(simulation, a=True, b=False)) == []
    assert untainted(world_of(simulation, a=True, b=True)) == ["new"]


@pytest.mark.parametrize("gateways", [{}, {"a": {"nodeSelector": {"egress": "yes"}}}])
def test_a_node_that_no_gateway_selects_keeps_it(gateways: dict[str, Any]) -> None:
    simulation = settled(**gateways)
    assert startup_taint.waiting(world_of(simulation)) == set()
    assert untainted(world_of(simulation, a=True)) == []


def test_without_the_setting_no_node_is_touched() -> None:
    simulation = settled(a={})
    world = world_of(simulation, key="", a=True)
    assert startup_taint.waiting(world) == set()
    assert untainted(world) == []
