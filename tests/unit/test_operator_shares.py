"""What nodes read beside their config: addresses of shared ranges, and the pods'."""

import json
from ipaddress import IPv4Address, IPv6Network
from typing import Any

import pytest

from nat64_dataplane import node_file
from nat64_operator.reconcile import Node, pod_ranges, reconcile
from nat64_operator.reconcile.actions import Announce, Apply
from nat64_operator.render.manifest import Ref
from tests.unit.operator_simulation import NAMESPACE, Simulation

RECORD = Ref("ConfigMap", "nat64-g.nodes", NAMESPACE)
LINUX = {"kubernetes.io/os": "linux"}


def node(name: str, pods: str | None, own: str = "", created: float = 0) -> Node:
    ranges = ((pods,) if pods else ()) + ((f"{own}/128",) if own else ())
    return Node(name, LINUX, True, ranges, addresses=(own,) if own else (), created=created)


def shared(network: str, per_node: int = 1) -> list[dict[str, Any]]:
    return [{"source": "Range", "range": network, "addressesPerNode": per_node}]


def with_nodes(count: int, network: str) -> Simulation:
    made = Simulation()
    made.nodes = {f"n{n}": node(f"n{n}", f"fd00:{n}::/64") for n in range(count)}
    made.create("NAT64Gateway", "g", pools=shared(network))
    made.settle()
    return made


def file_of(made: Simulation) -> node_file.NodeFile:
    return node_file.parse(made.owned[RECORD]["data"]["nodes.json"].encode())


def test_a_node_that_joins_is_no_rollout() -> None:
    made = with_nodes(2, "192.0.2.0/29")
    before = {ref: obj for ref, obj in made.owned.items() if ref.kind == "DaemonSet"}
    shares = file_of(made).nodes
    made.nodes["n2"] = node("n2", "fd00:2::/64")
    made.settle()
    assert {ref: obj for ref, obj in made.owned.items() if ref.kind == "DaemonSet"} == before
    after = file_of(made).nodes
    assert {name: after[name] for name in shares} == shares
    assert [str(net) for net in after["n2"].allocated] == ["192.0.2.2/32"]


def test_only_the_pods_of_nodes_whose_addresses_change_are_told() -> None:
    made = with_nodes(2, "192.0.2.0/29")
    told: list[Announce] = []

    def watch(action: Any) -> bool:
        told.extend([action] if isinstance(action, Announce) else [])
        return False

    made.create("NAT64Gateway", "other", prefix="2001:db8::/96", pools=[{"ports": span(100, 200)}])
    made.settle()
    made.refuse = watch
    made.nodes["n2"] = node("n2", "fd00:2::/64")
    made.settle()
    [news] = [action for action in told if action.gateway == "g"]
    assert news.by_node.keys() == {"n0", "n1", "n2"}
    assert len({news.of_node(name) for name in (*news.by_node, "none")}) == 4


def span(first: int, last: int) -> dict[str, int]:
    return {"from": first, "to": last}


def test_the_record_is_written_first_and_only_where_nobody_else_wrote_it() -> None:
    made = with_nodes(1, "192.0.2.0/30")
    made.nodes["n1"] = node("n1", "fd00:1::/64")
    world = made.world()
    [group] = [group for group in reconcile(world).groups if group.subject.name == "g"]
    first = group.actions[0]
    assert isinstance(first, Apply)
    assert Ref.of(first.manifest) == RECORD
    assert first.resource_version == world.owned[RECORD]["metadata"]["resourceVersion"]


def test_a_range_that_is_too_small_is_a_condition_with_the_numbers() -> None:
    made = with_nodes(5, "192.0.2.0/30")
    status = made.custom["NAT64Gateway"]["g"]["status"]
    [pool] = status["pools"]
    assert {key: pool[key] for key in ("addresses", "allocated", "released", "missing")} == {
        "addresses": 4,
        "allocated": 4,
        "released": 0,
        "missing": 1,
    }
    assert [share["node"] for share in pool["shares"]] == ["n0", "n1", "n2", "n3"]
    found = made.condition("NAT64Gateway", "g", "Degraded")
    assert found[:2] == ("True", "RangeTooSmall")
    assert (
        "192.0.2.0/30 is too small: the nodes need 5 addresses, and 1 are missing on n4"
        in (found[2])
    )


def test_a_deleted_nodes_address_is_free_after_a_delay_without_any_event() -> None:
    made = with_nodes(4, "192.0.2.0/30")
    del made.nodes["n1"]
    made.nodes["n9"] = node("n9", "fd00:9::/64")
    made.settle()
    assert not file_of(made).nodes["n9"].allocated
    assert "192.0.2.1" in json.loads(made.owned[RECORD]["data"]["released.json"])
    wake = made.step().wake
    assert wake is not None
    assert wake <= 300
    made.now += wake
    made.settle()
    assert [str(net) for net in file_of(made).nodes["n9"].allocated] == ["192.0.2.1/32"]


def test_a_status_shows_64_nodes_at_most_and_a_file_stays_small() -> None:
    made = with_nodes(80, "10.1.0.0/16")
    [pool] = made.custom["NAT64Gateway"]["g"]["status"]["pools"]
    assert pool["allocated"] == 80
    assert len(pool["shares"]) == 64


A, B = node("a", "fd00:a::/64", "2001:db8::a"), node("b", "fd00:b::/64", "2001:db8::b")
IN_A = ("fd00:a::5", "a")
KNOWN = (IPv6Network("fd00:a::/64"), IPv6Network("fd00:b::/64"))


@pytest.mark.parametrize(
    ("nodes", "pods", "expected"),
    [
        ([A, B], [IN_A], KNOWN),
        ([A, B], [IN_A, ("2001:db8::b", "b")], KNOWN),  # one on its node's own network
        ([A, B], [], ()),  # nothing shows that the CNI uses them
        ([A, B], [("2001:db8::b", "b")], ()),
        ([A, B], [IN_A, ("fd99::1", "b")], ()),  # the CNI has ranges of its own
        ([A, B], [("fd00:a::5", "b")], ()),  # in a range, but in another node's
        ([A, B], [("fd00:a::5", "")], ()),
        ([A, node("c", None, "2001:db8::c")], [IN_A], ()),
        ([A, node("c", None, created=900)], [IN_A], KNOWN[:1]),  # it has just joined
        ([node(f"n{n}", f"fd00:{2 * n:x}::/64") for n in range(257)], [("fd00::1", "n0")], ()),
    ],
)
def test_pod_ranges_are_known_only_where_pods_are_seen_in_them(
    nodes: list[Node], pods: list[tuple[str, str]], expected: tuple[IPv6Network, ...]
) -> None:
    assert pod_ranges.known(nodes, pods, now=1000) == expected


def test_pod_ranges_reach_the_nodes_unless_sources_are_listed() -> None:
    made = Simulation()
    made.nodes = {"a": A, "b": B}
    made.create("NAT64Gateway", "g")
    made.settle()
    assert file_of(made).pod_ranges == ()
    assert file_of(made).nodes == {}
    made.dns_pods = frozenset({IN_A})
    made.settle()
    assert file_of(made).pod_ranges == KNOWN
    assert file_of(made).nodes.keys() == {"a", "b"}
    made.edit("NAT64Gateway", "g", policy={"allowedSources": ["fd00::/8"]})
    made.settle()
    assert file_of(made).pod_ranges == ()


@pytest.mark.parametrize(
    ("address", "spec", "warned"),
    [
        ("198.51.100.9", {}, True),
        ("198.51.100.1", {}, False),  # a node's own
        ("192.0.2.1", {"pools": shared("192.0.2.0/30")}, False),
        ("198.51.100.9", {"nodeSelector": {"name": "n0"}}, False),
    ],
)
def test_a_mapping_that_is_on_several_nodes_is_said(
    address: str, spec: dict[str, Any], warned: bool
) -> None:
    made = Simulation()
    made.nodes = {
        name: node(name, None)._replace(
            labels={**LINUX, "name": name}, ipv4=(IPv4Address("198.51.100.1"),)
        )
        for name in ("n0", "n1")
    }
    mapping = {"protocol": "TCP", "client": "fd00::5", "clientPort": 1, "port": 80}
    made.create("NAT64Gateway", "g", staticMappings=[{**mapping, "address": address}], **spec)
    made.settle()
    conditions = made.custom["NAT64Gateway"]["g"]["status"]["conditions"]
    said = [c["reason"] for c in conditions if c["type"] == "Degraded" and c["status"] == "True"]
    assert said == (["MappingOnSeveralNodes"] if warned else [])
