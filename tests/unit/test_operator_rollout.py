"""A canary's nodes get a changed template first, so many at a time, and no other node does."""

from typing import Any

import msgspec
import pytest

from nat64_operator.api.gateway import Gateway
from nat64_operator.reconcile import rollout
from nat64_operator.reconcile.nodes import Node
from nat64_operator.reconcile.world import Pod, World
from nat64_operator.render import gateway as render
from nat64_operator.render import names
from nat64_operator.render.manifest import Ref
from tests.unit.operator_simulation import NAMESPACE, SETTINGS, Simulation

CANARY = {"canary": "yes"}


def a_gateway(**strategy: Any) -> Gateway:
    metadata = {"name": "a", "uid": "1", "resourceVersion": "1", "generation": 1}
    spec = {"updateStrategy": strategy}
    return Gateway.parse({"kind": "NAT64Gateway", "metadata": metadata, "spec": spec})


def a_world(gateway: Gateway, *pods: Pod, seen: bool = True, updated: int = 0) -> World:
    made = render.daemon_set(gateway, gateway.config(), SETTINGS)
    made["metadata"] |= {"generation": 2, "uid": "2"}
    counted = {"desiredNumberScheduled": len(pods), "updatedNumberScheduled": updated}
    made["status"] = {"observedGeneration": 2 if seen else 1, **counted}
    labels = {pod.node: CANARY if pod.node.startswith("c") else {} for pod in pods}
    return World(
        now=1.0,
        settings=SETTINGS,
        owned={Ref("DaemonSet", "nat64-a", NAMESPACE): made},
        nodes={name: Node(name, labels[name], True, ()) for name in labels},
        pods={"a": pods},
    )


def pod(node: str, *, ready: bool = True, template: str = "old", deleting: bool = False) -> Pod:
    return Pod(node, False, ready, "", (), f"pod-{node}", f"uid-{node}", template, deleting)


def deleted(gateway: Gateway, world: World) -> list[str]:
    return [action.ref.name.removeprefix("pod-") for action in rollout.step(gateway, world)]


def test_only_the_canarys_pods_are_replaced_and_only_so_many_at_a_time() -> None:
    gateway = a_gateway(maxUnavailable=2, canary={"nodeSelector": CANARY})
    pods = [pod(name) for name in ("c1", "c2", "c3", "n1", "n2")]
    assert deleted(gateway, a_world(gateway, *pods)) == ["c1", "c2"]
    pods[0] = pod("c1", deleting=True)
    assert deleted(gateway, a_world(gateway, *pods)) == ["c2"]
    pods[1] = pod("c2", ready=False)
    assert deleted(gateway, a_world(gateway, *pods)) == ["c2"], "what isn't ready loses nothing"


def test_what_has_the_template_stays() -> None:
    gateway = a_gateway(canary={"nodeSelector": CANARY})
    made = render.daemon_set(gateway, gateway.config(), SETTINGS)
    template = made["spec"]["template"]["metadata"]["annotations"][names.TEMPLATE]
    assert deleted(gateway, a_world(gateway, pod("c1", template=template), pod("n1"))) == []


def test_nothing_is_deleted_that_would_come_back_as_it_was() -> None:
    gateway = a_gateway(canary={"nodeSelector": CANARY})
    assert deleted(gateway, a_world(gateway, pod("c1"), seen=False)) == []


def test_a_new_pod_whose_annotations_something_took_off_is_not_deleted_again_and_again() -> None:
    gateway = a_gateway(canary={"nodeSelector": CANARY})
    bare = pod("c1", template="")
    for generation, expected in (("7", []), ("8", ["c1"])):
        world = a_world(gateway, bare._replace(generation="7"))
        for obj in world.owned.values():
            obj["metadata"]["annotations"][rollout.GENERATION] = generation
        assert deleted(gateway, world) == expected


@pytest.mark.parametrize("strategy", [{}, {"type": "OnDelete"}])
def test_without_a_canary_no_pod_is_deleted(strategy: dict[str, Any]) -> None:
    gateway = a_gateway(**strategy)
    assert deleted(gateway, a_world(gateway, pod("c1"), pod("n1"))) == []


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ({}, {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%", "maxSurge": 0}}),
        ({"type": "OnDelete"}, {"type": "OnDelete"}),
        ({"canary": {"nodeSelector": CANARY}}, {"type": "OnDelete"}),
    ],
)
def test_the_daemon_sets_own_strategy(strategy: Any, expected: Any) -> None:
    gateway = a_gateway(**strategy)
    made = render.daemon_set(gateway, gateway.config(), SETTINGS)
    assert made["spec"]["updateStrategy"] == expected


def test_the_strategy_is_no_part_of_the_template() -> None:
    """To set a canary, and to take it away, replaces no pod by itself."""
    plain, held = a_gateway(), a_gateway(canary={"nodeSelector": CANARY})
    templates = [
        render.daemon_set(g, g.config(), SETTINGS)["spec"]["template"] for g in (plain, held)
    ]
    assert templates[0] == templates[1]


def test_pods_are_read_while_a_canary_rolls_and_no_longer() -> None:
    strategy = {"canary": {"nodeSelector": CANARY}}
    gateway = a_gateway(**strategy)
    known = {"a": {"metadata": {"name": "a"}, "spec": {"updateStrategy": strategy}}}
    for updated, rolling in ((0, {"a"}), (2, set())):
        world = a_world(gateway, pod("c1"), pod("n1"), updated=updated)
        assert rollout.under_way(msgspec.structs.replace(world, gateways=known)) == rolling


def test_status_says_who_holds_a_change_back() -> None:
    simulation = Simulation()
    simulation.create("NAT64Gateway", "default", updateStrategy={"type": "OnDelete"})
    simulation.settle()
    simulation.rolls_out = False
    for obj in simulation.owned.values():
        if obj["kind"] == "DaemonSet":
            obj["status"]["updatedNumberScheduled"] = 0
    simulation.step()
    message = simulation.condition("NAT64Gateway", "default", "Programmed")[2]
    assert "spec.updateStrategy.type is OnDelete" in message
