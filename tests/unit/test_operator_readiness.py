"""Ready is a gateway's promise: most nodes translate, and none that did has stopped."""

from typing import Any

import pytest

from nat64_operator.reconcile import Node, Pod
from nat64_operator.reconcile.nodes import Taint
from nat64_operator.render.manifest import Ref
from tests.unit.operator_simulation import NAMESPACE, Simulation

LINUX = {"kubernetes.io/os": "linux"}
DAEMON_SET = Ref("DaemonSet", "nat64-default", NAMESPACE)


def cluster(nodes: int, **spec: Any) -> Simulation:
    made = Simulation()
    made.nodes = {f"n{n}": Node(f"n{n}", LINUX, True, ()) for n in range(nodes)}
    made.create("NAT64Gateway", "default", **spec)
    made.create("DNS64Policy", "default")
    made.settle()
    assert ready(made) == ("True", "True")
    made.rolls_out = False
    return made


def count(made: Simulation, *, desired: int, ready: int, updated: int | None = None) -> None:
    """What the DaemonSet controller says."""
    made.owned[DAEMON_SET]["status"] |= {
        "desiredNumberScheduled": desired,
        "numberReady": ready,
        "updatedNumberScheduled": desired if updated is None else updated,
    }
    made.sidecars = 1
    made.settle()


def ready(made: Simulation) -> tuple[str, str]:
    return (
        made.condition("NAT64Gateway", "default", "Ready")[0],
        made.condition("DNS64Policy", "default", "Ready")[0],
    )


def test_a_node_that_joins_fifty_healthy_ones_changes_nothing() -> None:
    made = cluster(50)
    made.nodes["new"] = Node("new", LINUX, True, (), created=made.now)
    count(made, desired=51, ready=50)
    assert ready(made) == ("True", "True")
    message = made.condition("NAT64Gateway", "default", "Programmed")[2]
    assert "joining: new" in message
    made.now += 1000
    made.settle()
    assert ready(made) == ("True", "True"), "it has never translated, and is no loss"
    assert made.condition("NAT64Gateway", "default", "Programmed")[0] == "False"


def test_an_established_node_that_fails_is_said() -> None:
    made = cluster(50)
    count(made, desired=50, ready=49)
    assert ready(made)[0] == "False"
    pod = Pod("n7", False, False, "translator: CrashLoopBackOff")
    made.seen_pods = {"default": (pod,)}
    made.settle()
    failing = made.custom["NAT64Gateway"]["default"]["status"]["nodes"]["failing"]
    assert failing == [{"name": "n7", "message": "translator: CrashLoopBackOff"}]
    count(made, desired=50, ready=50)
    assert ready(made) == ("True", "True")


def test_a_rollout_within_max_unavailable_is_no_outage() -> None:
    made = cluster(50)
    count(made, desired=50, ready=45, updated=20)
    assert ready(made) == ("True", "True")
    count(made, desired=50, ready=44, updated=20)
    assert ready(made)[0] == "False", "10% of 50 are 5"


@pytest.mark.parametrize(
    ("tolerations", "hidden"),
    [([{"key": "gpu", "operator": "Exists"}], True), ([{"operator": "Exists"}], False)],
)
def test_a_dead_node_is_subtracted_only_where_it_is_counted(
    tolerations: list[Any], hidden: bool
) -> None:
    """The DaemonSet controller leaves out nodes whose taints are not tolerated."""
    made = cluster(3, tolerations=tolerations)
    taint = Taint("node.kubernetes.io/unreachable", "", "NoSchedule")
    made.nodes["n0"] = Node("n0", LINUX, False, (), taints=(taint,))
    count(made, desired=2 if hidden else 3, ready=2)
    assert ready(made) == ("True", "True")
    count(made, desired=2 if hidden else 3, ready=1)
    assert ready(made)[0] == "False", "a living node has stopped"


def test_most_nodes_must_translate() -> None:
    made = Simulation()
    made.nodes = {f"n{n}": Node(f"n{n}", LINUX, True, ()) for n in range(4)}
    made.create("NAT64Gateway", "default")
    made.rolls_out = False
    for _ in range(3):
        made.step()
    made.owned[DAEMON_SET]["status"] = {"observedGeneration": 1}
    made.create("DNS64Policy", "default")
    for number, expected in ((0, "False"), (2, "False"), (3, "True"), (2, "False"), (4, "True")):
        count(made, desired=4, ready=number)
        assert ready(made)[0] == expected, number
