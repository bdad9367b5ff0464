"""Sidecars that answer although no pod is ready: the Service lists them, and only them."""

import pytest

from nat64_operator.edge.store import read
from nat64_operator.reconcile import Node, Pod
from nat64_operator.reconcile.sidecars_alone import unserved
from nat64_operator.render import names
from nat64_operator.render.manifest import Ref
from tests.unit.operator_simulation import NAMESPACE, Simulation

SERVICE = Ref("Service", names.dns_service("default"), NAMESPACE)


def pod(node: str, *ready: str, deleting: bool = False) -> Pod:
    """A pod that is not ready, of whose containers these are."""
    containers = [{"name": name, "ready": name in ready} for name in ("translator", "dns64")]
    metadata = {"name": f"on-{node}", **({"deletionTimestamp": "2026"} if deleting else {})}
    return Pod.of(
        {
            "metadata": metadata,
            "spec": {"nodeName": node, "containers": [{}]},
            "status": {"containerStatuses": containers},
        }
    )


def settled(*nodes: str, dead: str = "") -> Simulation:
    made = Simulation()
    linux = {"kubernetes.io/os": "linux"}
    made.nodes = {name: Node(name, linux, name != dead, ("fd00::/64",)) for name in nodes}
    made.create("NAT64Gateway", "default")
    made.settle()
    assert not publishes(made)
    return made


def publishes(made: Simulation) -> bool:
    return bool(made.owned[SERVICE]["spec"].get("publishNotReadyAddresses"))


def without_ready_pods(made: Simulation, *pods: Pod) -> bool:
    """Whether the Service lists them."""
    made.sidecars = 0
    assert unserved(made.world()) == {"default"}
    made.unserved = {"default": pods}
    made.settle()
    return publishes(made)


def test_sidecars_whose_agents_have_ended_stay_in_the_service() -> None:
    made = settled("a", "b")
    assert without_ready_pods(made, pod("a", "dns64"), pod("b", "dns64"))
    made.sidecars = 1
    assert unserved(made.world()) == set()
    made.settle()
    assert not publishes(made), "as soon as one pod is ready"


def test_a_sidecar_that_is_down_is_not_listed() -> None:
    made = settled("a", "b")
    assert not without_ready_pods(made, pod("a", "translator"), pod("b"))


def test_a_sidecar_that_ends_takes_the_others_out_if_they_are_the_fewer() -> None:
    made = settled("a", "b", "c")
    answering = pod("a", "dns64")
    assert without_ready_pods(made, answering, pod("b", "dns64"), pod("c"))
    assert not without_ready_pods(made, answering, pod("b"), pod("c"))


def test_what_a_dead_nodes_kubelet_said_counts_for_nothing() -> None:
    made = settled("a", "b", dead="a")
    assert not without_ready_pods(made, pod("a", "dns64"))
    assert without_ready_pods(made, pod("a", "dns64"), pod("b", "dns64"))


def test_a_pod_that_has_not_begun_does_not_answer() -> None:
    made = settled("a")
    assert not without_ready_pods(made, Pod("a", removing=False, ready=False))


def test_a_withdrawn_service_stays_without_endpoints() -> None:
    made = settled("a")
    made.sidecars = 0
    made.owned[SERVICE]["spec"]["selector"][names.WITHDRAWN_LABEL] = "true"
    assert unserved(made.world()) == set()


@pytest.mark.parametrize(
    ("conditions", "counts"),
    [
        ({}, 1),
        ({"ready": True}, 1),
        ({"ready": False}, 0),
        ({"ready": True, "serving": True, "terminating": False}, 1),
        ({"ready": True, "serving": False, "terminating": False}, 0),  # published, not ready
        ({"ready": True, "serving": True, "terminating": True}, 0),  # published, and going
    ],
)
def test_an_endpoint_counts_if_its_pod_is_ready_whatever_is_published(
    conditions: dict[str, bool], counts: int
) -> None:
    made = read(
        {
            "kind": "EndpointSlice",
            "metadata": {"name": "x", "labels": {"kubernetes.io/service-name": "s"}},
            "endpoints": [{"addresses": ["2001:db8::1"], "conditions": conditions}],
            "ports": [{"name": "dns", "port": 6464}],
        }
    )
    assert made.value.ready == counts
    assert len(made.value.addresses) == counts
