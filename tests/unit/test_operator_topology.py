"""The topology Gateway, as the operator carries it out: two roles, membership, drain, removal."""

from __future__ import annotations

from ipaddress import IPv6Network
from typing import Any

import msgspec
import pytest

from nat64_dataplane import config, members
from nat64_operator.api.gateway import Gateway
from nat64_operator.api.gateway_checks import check
from nat64_operator.edge import cni_ranges
from nat64_operator.errors import InvalidObjectError
from nat64_operator.reconcile import Node, membership, reconcile
from nat64_operator.reconcile.actions import Apply
from nat64_operator.reconcile.nodes import Taint
from nat64_operator.reconcile.ownership import Effective
from nat64_operator.render import names
from nat64_operator.render.manifest import Ref
from tests.unit.node_simulation import removes
from tests.unit.operator_simulation import NAMESPACE, Simulation

EGRESS = {"nodeSelector": {"egress": "yes"}}
MADE, STEERING = names.daemon_set("default"), names.routers("default")


def node(number: int, *, egress: bool = False, **more: Any) -> Node:
    labels = {"kubernetes.io/os": "linux", **({"egress": "yes"} if egress else {})}
    address = f"fd00:1::{number:x}"
    fields = {
        "ranges": (f"fd00:10:{number:x}::/64", f"{address}/128"),
        "addresses": (address,),
        "created": 1_000_000.0 + number,
        "internal": address,
        **more,
    }
    return Node(f"n{number}", labels, True, **fields)


def of_two(**spec: Any) -> Simulation:
    """A cluster with a gateway node and two others."""
    made = Simulation()
    made.nodes = {each.name: each for each in (node(1, egress=True), node(2), node(3))}
    made.create("NAT64Gateway", "default", topology="Gateway", **EGRESS, **spec)
    made.settle()
    return made


def daemon_set(made: Simulation, name: str) -> Any:
    return made.owned[Ref("DaemonSet", name, NAMESPACE)]


def file_of(made: Simulation, name: str, key: str) -> bytes:
    text: str = made.owned[Ref("ConfigMap", name, NAMESPACE)]["data"][key]
    return text.encode()


def gateways(made: Simulation) -> dict[str, members.GatewayEntry]:
    read = members.parse_gateways(file_of(made, names.gateways("default"), names.GATEWAYS_FILE))
    return {entry.node: entry for entry in read.gateways}


def routers(made: Simulation) -> dict[str, members.RouterEntry]:
    read = members.parse_routers(file_of(made, names.routers("default"), names.ROUTERS_FILE))
    return {entry.node: entry for entry in read.routers}


def warning(made: Simulation) -> str:
    return made.condition("NAT64Gateway", "default", "Degraded")[2]


def test_each_role_has_a_daemon_set_with_what_it_needs() -> None:
    made = of_two()
    translating, steering = daemon_set(made, MADE), daemon_set(made, STEERING)
    assert made.scheduled(translating) == ["n1"]
    assert made.scheduled(steering) == ["n2", "n3"]
    pod = steering["spec"]["template"]["spec"]
    assert [each["name"] for each in pod["containers"]] == ["translator"], "no sidecar"
    env = {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}
    assert env["NAT64_GATEWAYS"] == "/etc/nat64-members/gateways.json"
    assert "NAT64_ROUTERS" not in env
    of_gateway = translating["spec"]["template"]["spec"]["containers"][0]["env"]
    assert "NAT64_ROUTERS" in {each["name"] for each in of_gateway}
    service = made.owned[Ref("Service", names.dns_service("default"), NAMESPACE)]
    labels = steering["spec"]["template"]["metadata"]["labels"]
    assert not service["spec"]["selector"].items() <= labels.items(), "it has no sidecar"
    match = translating["spec"]["selector"]["matchLabels"]
    assert not match.items() <= labels.items(), "the other DaemonSet would adopt its pods"


def test_each_role_has_its_config() -> None:
    made = of_two(
        clat={"mode": "Pods"},
        gateways={"transport": "Direct", "health": {"intervalMilliseconds": 500}},
        limits={"sessions": 2048},
    )
    found = {}
    for ref, obj in made.owned.items():
        if ref.kind == "ConfigMap" and (text := obj["data"].get(names.TRANSLATOR_FILE)):
            read = config.parse(text)
            assert read.topology is not None
            found[read.topology.role] = read
    translating, steering = found[config.Role.GATEWAY], found[config.Role.ROUTER]
    assert translating.limits.sessions == 2048
    assert steering.limits == config.Limits(), "a change of it is no rollout there"
    assert steering.prefixes == translating.prefixes
    assert translating.topology
    assert steering.topology
    assert steering.topology == msgspec.structs.replace(
        translating.topology, role=config.Role.ROUTER
    )
    assert steering.topology.probe_milliseconds == 500
    assert steering.topology.transport is config.Transport.DIRECT


def test_without_it_nothing_of_it_is_there() -> None:
    made = Simulation()
    made.create("NAT64Gateway", "default")
    made.settle()
    named = {ref.name for ref in made.owned}
    assert not {names.routers("default"), names.gateways("default")} & named
    pod = daemon_set(made, MADE)["spec"]["template"]["spec"]
    assert "members" not in {volume["name"] for volume in pod["volumes"]}
    assert "NODE_ADDRESS" not in {each["name"] for each in pod["containers"][0]["env"]}
    status = made.custom["NAT64Gateway"]["default"]["status"]
    assert not {"routers", "gateways"} & status.keys()


def test_the_nodes_are_told_of_each_other() -> None:
    made = of_two()
    assert {name: str(entry.address) for name, entry in gateways(made).items()} == {
        "n1": "fd00:1::1"
    }
    assert {name: list(map(str, e.pod_ranges)) for name, e in routers(made).items()} == {
        "n2": ["fd00:10:2::/64"],
        "n3": ["fd00:10:3::/64"],
    }
    status = made.custom["NAT64Gateway"]["default"]["status"]
    assert status["nodes"]["summary"] == "1/1"
    assert status["routers"]["summary"] == "2/2"
    assert status["routers"]["members"] == 2
    assert status["gateways"] == {"serving": 1}
    assert made.condition("NAT64Gateway", "default", "RoutersProgrammed")[:2] == (
        "True",
        "Programmed",
    )
    assert made.condition("NAT64Gateway", "default", "Ready")[0] == "True"


def test_a_node_that_joins_is_no_rollout_and_is_told_to_gateway_nodes_only() -> None:
    made = of_two()
    generations = {n: daemon_set(made, n)["metadata"]["generation"] for n in (MADE, STEERING)}
    made.nodes["n4"] = node(4)
    plan = reconcile(made.world())
    actions = [action for group in plan.groups for action in group.actions]
    applied = {a.manifest["metadata"]["name"] for a in actions if isinstance(a, Apply)}
    assert applied == {names.routers("default"), names.nodes_record("default"), names.CLIENTS}
    before = dict(made.world().announced)
    made.settle()
    after = made.world().announced
    assert after["default"] != before["default"]
    assert after["default.routers"] == before["default.routers"], "their pods are not touched"
    assert routers(made).keys() == {"n2", "n3", "n4"}
    after = {n: daemon_set(made, n)["metadata"]["generation"] for n in (MADE, STEERING)}
    assert after == generations


@pytest.mark.parametrize("how", ["cordoned", "autoscaler"])
def test_a_gateway_node_that_is_about_to_go_gets_no_new_clients(how: str) -> None:
    made = of_two()
    taints = (Taint("ToBeDeletedByClusterAutoscaler", "", "NoSchedule"),)
    obj: dict[str, Any] = {
        "metadata": {"name": "n1", "labels": dict(made.nodes["n1"].labels)},
        "spec": {"unschedulable": True}
        if how == "cordoned"
        else {"taints": [{"key": t.key, "effect": t.effect} for t in taints]},
        "status": {"addresses": [{"type": "InternalIP", "address": "fd00:1::1"}]},
    }
    assert Node.of(obj).draining
    made.nodes["n1"] = made.nodes["n1"]._replace(draining=True)
    generation = daemon_set(made, MADE)["metadata"]["generation"]
    made.settle()
    assert gateways(made)["n1"].draining
    assert daemon_set(made, MADE)["metadata"]["generation"] == generation
    assert made.custom["NAT64Gateway"]["default"]["status"]["gateways"] == {
        "serving": 0,
        "draining": ["n1"],
    }
    assert [e.reason for e in made.events if e.reason.startswith("Gateway")] == ["GatewayDraining"]
    assert "NoGatewayServes" in warning(made)
    made.nodes["n1"] = made.nodes["n1"]._replace(draining=False)
    made.settle()
    assert not gateways(made)["n1"].draining
    assert [e.reason for e in made.events if e.reason.startswith("Gateway")][1:] == [
        "GatewayServing"
    ]


def test_a_node_that_is_deleted_while_it_ends_drains() -> None:
    obj = {"metadata": {"name": "a", "deletionTimestamp": "2026-11-24T07:00:00Z"}}
    assert Node.of(obj).draining


def test_a_node_changes_its_role_with_its_labels_and_nothing_else_cleans_it() -> None:
    made = of_two()
    made.nodes["n2"] = node(2, egress=True)
    made.settle()
    assert made.scheduled(daemon_set(made, MADE)) == ["n1", "n2"]
    assert made.scheduled(daemon_set(made, STEERING)) == ["n3"]
    assert gateways(made).keys() == {"n1", "n2"}
    assert routers(made).keys() == {"n3"}
    assert Ref("DaemonSet", names.leaving("default"), NAMESPACE) not in made.owned


def test_a_node_that_is_of_no_role_any_more_is_cleaned() -> None:
    made = of_two(clients={"nodeSelector": {"kubernetes.io/os": "linux", "pool": "a"}})
    assert Ref("DaemonSet", STEERING, NAMESPACE) in made.owned
    assert routers(made) == {}
    labelled = dict(made.nodes["n2"].labels) | {"pool": "a"}
    made.nodes["n2"] = made.nodes["n2"]._replace(labels=labelled)
    made.settle()
    assert routers(made).keys() == {"n2"}
    made.nodes["n2"] = node(2)
    seen = set()
    for _ in range(20):
        made.step()
        leaving = made.owned.get(Ref("DaemonSet", names.leaving("default"), NAMESPACE))
        seen |= set(made.scheduled(leaving) if leaving else ())
    assert seen == {"n2"}


def test_routers_give_up_their_ports_to_gateway_pods_that_wait_for_them() -> None:
    made = of_two()
    made.edit("NAT64Gateway", "default", topology="Node")
    for _ in range(5):
        made.step()
        daemon_set(made, MADE)["status"]["updatedNumberScheduled"] = 0
    assert Ref("DaemonSet", STEERING, NAMESPACE) not in made.owned


def test_back_to_the_topology_node_the_routers_are_cleaned_and_their_objects_go() -> None:
    made = of_two()
    made.edit("NAT64Gateway", "default", **EGRESS)
    seen = set()
    for _ in range(20):
        made.step()
        leaving = made.owned.get(Ref("DaemonSet", names.leaving("default"), NAMESPACE))
        seen |= set(made.scheduled(leaving) if leaving else ())
    made.settle()
    assert seen == {"n2", "n3"}
    left = {ref.name for ref in made.owned}
    assert not {STEERING, names.gateways("default"), names.leaving("default")} & left
    assert "routers" not in made.custom["NAT64Gateway"]["default"]["status"]
    types = {c["type"] for c in made.custom["NAT64Gateway"]["default"]["status"]["conditions"]}
    assert "RoutersProgrammed" not in types


def test_a_removed_gateway_cleans_the_nodes_of_both_roles() -> None:
    made = of_two()
    made.delete("NAT64Gateway", "default")
    cleaned: set[str] = set()
    for _ in range(30):
        made.step()
        for obj in made.owned.values():
            if obj["kind"] == "DaemonSet" and removes(obj):
                cleaned |= set(made.scheduled(obj))
    assert cleaned == {"n1", "n2", "n3"}
    assert "default" not in made.custom["NAT64Gateway"]
    assert not [ref for ref in made.owned if "default" in ref.name]


def test_a_removal_names_no_node_of_thousands() -> None:
    made = of_two()
    made.delete("NAT64Gateway", "default")
    made.step()
    made.step()
    affinity = daemon_set(made, STEERING)["spec"]["template"]["spec"]["affinity"]
    assert removes(daemon_set(made, STEERING))
    assert "metadata.name" not in str(affinity)


def test_five_thousand_routers_fit_and_what_does_not_fit_is_said() -> None:
    made = Simulation()
    nodes = [node(number) for number in range(2, 5002)]
    # Names as long as a cloud gives them, and addresses without zeros.
    named = [
        each._replace(
            name=f"ip-10-{number:05}.region-1.compute.internal.example",
            internal=f"2001:db8:1234:5678:9abc:def0:1234:{number:x}",
            ranges=(f"2001:db8:ffff:{number:x}:1234::/80",),
            addresses=(),
        )
        for number, each in enumerate(nodes, 2)
    ]
    made.nodes = {each.name: each for each in (node(1, egress=True), *named)}
    made.create("NAT64Gateway", "default", topology="Gateway", **EGRESS)
    made.settle()
    content = file_of(made, names.routers("default"), names.ROUTERS_FILE)
    assert len(members.parse_routers(content).routers) == 5000
    assert len(content) <= members.MAX_BYTES
    assert made.custom["NAT64Gateway"]["default"]["status"]["routers"]["members"] == 5000


def test_more_routers_than_fit_are_left_out_by_age_and_named() -> None:
    made = Simulation()
    long = [node(number)._replace(name=f"{'x' * 200}-{number:04}") for number in range(2, 4002)]
    made.nodes = {each.name: each for each in (node(1, egress=True), *long)}
    made.create("NAT64Gateway", "default", topology="Gateway", **EGRESS)
    made.settle()
    content = file_of(made, names.routers("default"), names.ROUTERS_FILE)
    kept = members.parse_routers(content).routers
    assert len(content) <= members.MAX_BYTES
    assert 3000 < len(kept) < 4000
    oldest = sorted(long, key=lambda each: each.created)[: len(kept)]
    assert {entry.node for entry in kept} == {each.name for each in oldest}
    said = made.condition("NAT64Gateway", "default", "Degraded")
    assert said[0] == "True"
    assert "TooManyMembers" in said[2]


def told(made: Simulation) -> membership.Membership:
    world = made.world()
    gateway = Gateway.parse(world.gateways["default"])
    found = membership.of(Effective(gateway, gateway.config(), {}), world)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("declared", "why"),
    [
        (("fd00:10:1::/64",), "overlaps what n1 has"),
        (("fd00:10:1::/48",), "overlaps what n1 has"),
        (("fd00:10:2:0:8000::/65",), "overlaps what n2 has"),
        (("fd00:1::/64",), "has the address of node"),
        (("64:ff9b::/96",), "overlaps what the gateway's prefix has"),
    ],
)
def test_a_node_can_t_take_what_is_another_s(declared: tuple[str, ...], why: str) -> None:
    made = of_two()
    made.nodes["n3"] = made.nodes["n3"]._replace(declared=declared)
    found = told(made)
    entry = next(e for e in found.routers.routers if e.node == "n3")
    assert entry.pod_ranges == ()
    said = [w for w in found.warnings if w.reason == "MembersOverlap"]
    assert len(said) == 1
    assert why in said[0].message


def ranges_of(found: membership.Membership) -> dict[str, list[str]]:
    return {entry.node: list(map(str, entry.pod_ranges)) for entry in found.routers.routers}


@pytest.mark.parametrize("is_told", [True, False])
@pytest.mark.parametrize("declared", ["fd00:10:3::/64", "fd00:10:3::/48", "fd00:10:3::8000/113"])
def test_an_older_node_can_t_take_a_younger_one_s_range(declared: str, is_told: bool) -> None:
    """Whoever has a node may annotate it; the other's range is from Kubernetes itself."""
    made = of_two()
    if not is_told:
        del made.owned[Ref("ConfigMap", names.routers("default"), NAMESPACE)]
    made.nodes["n2"] = made.nodes["n2"]._replace(declared=(declared,))
    found = told(made)
    assert ranges_of(found) == {"n2": [], "n3": ["fd00:10:3::/64"]}
    assert "MembersOverlap" in [w.reason for w in found.warnings]


@pytest.mark.parametrize("is_told", [True, False])
def test_a_node_whose_address_is_in_another_s_range_takes_no_range_away(is_told: bool) -> None:
    """Whoever has a node may write its addresses. The range's owner keeps it, for good."""
    made = of_two()
    if not is_told:
        del made.owned[Ref("ConfigMap", names.routers("default"), NAMESPACE)]
    for inside in ("fd00:10:3::9", "fd00:10:1::9"):
        made.nodes["n2"] = made.nodes["n2"]._replace(internal=inside)
        made.settle()
        found = told(made)
        assert ranges_of(found) == {"n3": ["fd00:10:3::/64"]}
        assert f"{inside} of n2 is within what" in warning(made)
    assert {entry.node for entry in found.gateways.gateways} == {"n1"}


@pytest.mark.parametrize("victim", ["n1", "n3"])
def test_an_address_stays_with_the_node_that_the_others_are_told_has_it(victim: str) -> None:
    made = of_two()
    made.nodes["n2"] = made.nodes["n2"]._replace(internal=made.nodes[victim].internal, created=1.0)
    made.settle()
    found = told(made)
    assert [entry.node for entry in found.routers.routers] == ["n3"]
    assert [entry.node for entry in found.gateways.gateways] == ["n1"]


def test_what_two_annotations_claim_stays_with_the_first() -> None:
    made = of_two()
    made.nodes["n3"] = made.nodes["n3"]._replace(declared=("fd00:99::/64",))
    made.settle()
    made.nodes["n2"] = made.nodes["n2"]._replace(declared=("fd00:99::/64",))
    made.settle()
    assert ranges_of(told(made)) == {"n2": [], "n3": ["fd00:99::/64"]}


def test_a_node_with_too_many_ranges_keeps_none_from_others() -> None:
    made = of_two()
    many = tuple(f"fd00:99:0:{number:x}::/64" for number in range(1000))
    made.nodes["n2"] = made.nodes["n2"]._replace(declared=many)
    made.settle()
    made.nodes["n3"] = made.nodes["n3"]._replace(declared=("fd00:99:0:3e7::/64",))
    found = told(made)
    assert len(ranges_of(found)["n2"]) == members.MAX_RANGES_OF_A_ROUTER
    assert ranges_of(found)["n3"] == ["fd00:99:0:3e7::/64"]


def test_two_nodes_with_one_address_are_not_both_members() -> None:
    made = of_two()
    made.nodes["n3"] = made.nodes["n3"]._replace(internal=made.nodes["n2"].internal)
    found = told(made)
    assert [entry.node for entry in found.routers.routers] == ["n2"]
    assert "MembersOverlap" in [w.reason for w in found.warnings]


def test_ranges_come_from_the_annotation_else_the_cni_else_the_node() -> None:
    made = of_two()
    world = msgspec.structs.replace(
        made.world(), cni_ranges={"n2": ("fd00:cc::/64",), "n3": ("fd00:dd::/64",)}
    )
    world.nodes["n3"] = world.nodes["n3"]._replace(declared=("fd00:ee::/64",))  # type: ignore[index]
    gateway = Gateway.parse(world.gateways["default"])
    found = membership.of(Effective(gateway, gateway.config(), {}), world)
    assert found is not None
    assert {e.node: list(map(str, e.pod_ranges)) for e in found.routers.routers} == {
        "n2": ["fd00:cc::/64"],
        "n3": ["fd00:ee::/64"],
    }


def test_a_router_without_known_ranges_is_named_and_may_send_its_own_packets() -> None:
    made = of_two()
    made.nodes["n3"] = made.nodes["n3"]._replace(ranges=("fd00:1::3/128",))
    found = told(made)
    assert found.routers.routers[1].pod_ranges == ()
    said = next(w for w in found.warnings if w.reason == "PodRangesUnknown")
    assert "n3" in said.message
    assert "nat64-operator.io/pod-ranges" in said.remedy


def test_a_node_without_ipv6_of_its_own_is_no_member_and_named() -> None:
    made = of_two()
    made.nodes["n3"] = made.nodes["n3"]._replace(internal="")
    found = told(made)
    assert [entry.node for entry in found.routers.routers] == ["n2"]
    assert "n3" in next(w for w in found.warnings if w.reason == "NodesWithoutIPv6").message


def test_at_most_as_many_gateway_nodes_as_the_data_path_takes() -> None:
    made = of_two()
    for number in range(100, 200):
        made.nodes[f"n{number}"] = node(number, egress=True)
    found = told(made)
    assert len(found.gateways.gateways) == members.MAX_GATEWAYS
    assert "n1" in {entry.node for entry in found.gateways.gateways}, "the oldest stay"
    assert "TooManyMembers" in [w.reason for w in found.warnings]


@pytest.mark.parametrize(
    ("annotations", "weight", "declared", "problem"),
    [
        ({}, 1, None, ""),
        ({"weight": "7"}, 7, None, ""),
        ({"weight": "0"}, 1, None, "not a number 1-100"),
        ({"weight": "101"}, 1, None, "not a number 1-100"),
        ({"weight": "1e1"}, 1, None, "not a number 1-100"),
        ({"weight": "٣"}, 1, None, "not a number 1-100"),
        ({"pod-ranges": "fd00:1::/64, fd00:2::/64"}, 1, ("fd00:1::/64", "fd00:2::/64"), ""),
        ({"pod-ranges": "10.0.0.0/8"}, 1, (), "not an IPv6 range"),
        ({"pod-ranges": "::/0"}, 1, (), "too large"),
        ({"pod-ranges": "fd00::1/64"}, 1, (), "has host bits set"),
        ({"pod-ranges": ""}, 1, (), ""),
    ],
)
def test_the_annotations_of_a_node(
    annotations: dict[str, str], weight: int, declared: tuple[str, ...] | None, problem: str
) -> None:
    notes = {f"nat64-operator.io/{key}": value for key, value in annotations.items()}
    read = Node.of({"metadata": {"name": "a", "annotations": notes}})
    assert (read.weight, read.declared) == (weight, declared)
    assert problem in " ".join(read.problems)
    assert bool(problem) == bool(read.problems)


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        ([("InternalIP", "10.0.0.1"), ("InternalIP", "fd00::1")], "fd00::1"),
        ([("ExternalIP", "2001:db8::1"), ("InternalIP", "fd00::1")], "fd00::1"),
        ([("InternalIP", "fe80::1"), ("InternalIP", "fd00::2")], "fd00::2"),
        ([("InternalIP", "::ffff:10.0.0.1")], ""),
        ([("Hostname", "a")], ""),
        ([("InternalIP", "bad")], ""),
    ],
)
def test_where_other_nodes_reach_a_node(addresses: list[tuple[str, str]], expected: str) -> None:
    status = {"addresses": [{"type": kind, "address": text} for kind, text in addresses]}
    assert Node.of({"metadata": {"name": "a"}, "status": status}).internal == expected


def test_gateways_that_share_nodes_need_a_tunnel_port_each() -> None:
    made = of_two()
    other = {"prefix": "2001:db8:64::/96", "topology": "Gateway", "nodeSelector": {"egress": "b"}}
    made.nodes["n3"] = made.nodes["n3"]._replace(
        labels={"kubernetes.io/os": "linux", "egress": "b"}
    )
    made.create("NAT64Gateway", "other", **other)
    made.settle()
    status, reason, message = made.condition("NAT64Gateway", "other", "Accepted")
    assert (status, reason) == ("False", "HostPortConflict")
    assert message.startswith("spec.gateways.tunnelPort: NAT64Gateway 'default' has port 8464")
    made.edit("NAT64Gateway", "other", **other, gateways={"tunnelPort": 18464})
    made.settle()
    assert made.condition("NAT64Gateway", "other", "Accepted")[0] == "True"


def test_where_one_steers_a_pool_of_another_is_no_conflict() -> None:
    made = of_two(clients={"nodeSelector": {}})
    # Both have the default pool. `other` translates on a node where `default` steers.
    labels = {"kubernetes.io/os": "linux", "egress": "b"}
    made.nodes["n3"] = made.nodes["n3"]._replace(labels=labels)
    other = {"prefix": "2001:db8:64::/96", "nodeSelector": {"egress": "b"}}
    made.create("NAT64Gateway", "other", **other)
    made.settle()
    assert made.condition("NAT64Gateway", "other", "Accepted")[0] == "True"
    assert made.condition("NAT64Gateway", "default", "Accepted")[0] == "True"


def test_where_one_steers_the_same_prefix_of_another_is_a_conflict() -> None:
    made = of_two()
    made.create("NAT64Gateway", "other", nodeSelector={"kubernetes.io/os": "linux"})
    made.settle()
    assert made.condition("NAT64Gateway", "other", "Accepted")[1] == "PrefixConflict"


def test_a_gateway_for_each_zone_with_the_same_prefix_and_port() -> None:
    made = Simulation()
    made.nodes = {}
    for zone, numbers in (("a", (1, 2)), ("b", (3, 4))):
        for number in numbers:
            each = node(number, egress=number % 2 == 1)
            made.nodes[each.name] = each._replace(labels={**each.labels, "zone": zone})
    for zone in ("a", "b"):
        made.create(
            "NAT64Gateway",
            zone,
            topology="Gateway",
            nodeSelector={"egress": "yes", "zone": zone},
            clients={"nodeSelector": {"zone": zone}},
        )
    made.settle()
    for zone, names_ in (("a", ("n1", "n2")), ("b", ("n3", "n4"))):
        assert made.condition("NAT64Gateway", zone, "Ready")[0] == "True"
        roles = [names.daemon_set(zone), names.routers(zone)]
        assert [made.scheduled(daemon_set(made, one)) for one in roles] == [[n] for n in names_]


def test_a_gateway_that_another_keeps_off_a_router_node_steers_elsewhere() -> None:
    made = Simulation()
    labels = {"kubernetes.io/os": "linux"}
    made.nodes = {
        "n1": node(1, egress=True),
        "n2": node(2)._replace(labels={**labels, "pool": "a"}),
        "n3": node(3)._replace(labels={**labels, "own": "yes"}),
    }
    clients = {"nodeSelector": {"pool": "a"}}
    made.create("NAT64Gateway", "default", topology="Gateway", **EGRESS, clients=clients)
    made.create("NAT64Gateway", "own", nodeSelector={"own": "yes"})  # the same prefix elsewhere
    made.settle()
    assert made.condition("NAT64Gateway", "own", "Accepted")[0] == "True"
    made.nodes["n3"] = node(3)._replace(labels={**labels, "own": "yes", "pool": "a"})
    made.settle()
    assert made.scheduled(daemon_set(made, STEERING)) == ["n2"]
    assert made.scheduled(daemon_set(made, names.daemon_set("own"))) == ["n3"]
    assert routers(made).keys() == {"n2"}
    status = made.custom["NAT64Gateway"]["default"]["status"]
    assert status["routers"]["failing"] == [
        {"name": "n3", "message": "NAT64Gateway 'own' has the node"}
    ]
    assert "failing" not in status["nodes"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"topology": "Gateway"}, "spec.topology: Gateway needs a nodeSelector"),
        ({"clients": {}}, "spec.clients: goes with the topology Gateway only"),
        ({"gateways": {}}, "spec.gateways: goes with the topology Gateway only"),
        (
            {"topology": "Gateway", **EGRESS, "gateways": {"tunnelPort": 9464}},
            "spec.gateways.tunnelPort: spec.hostPorts.translator is 9464 too",
        ),
        (
            {"topology": "Gateway", **EGRESS, "gateways": {"tunnelPort": 62000}},
            "hold 62000, which is spec.gateways.tunnelPort",
        ),
        (
            {"topology": "Gateway", **EGRESS, "gateways": {"health": {"failureThreshold": 99}}},
            "spec: gateways: ",
        ),
    ],
)
def test_what_the_model_refuses(spec: dict[str, Any], message: str) -> None:
    gateway = Gateway.parse({"metadata": {"name": "default"}, "spec": spec})
    with pytest.raises(InvalidObjectError) as refused:
        check(gateway, gateway.config())
    assert message in str(refused.value)


def test_a_prefix_may_not_overlap_what_a_cni_gives_to_pods() -> None:
    made = of_two()
    world = msgspec.structs.replace(made.world(), cni_ranges={"n2": ("64:ff9b::/112",)})
    assert world.cluster_ranges.overlap(IPv6Network("64:ff9b::/96")) == (
        "64:ff9b::/112 (pods of node 'n2')"
    )


@pytest.mark.parametrize(
    ("ipam", "expected"),
    [
        ({}, set()),
        ({"podCIDRs": ["10.0.0.0/24", "fd00:c1::/64"]}, {"fd00:c1::/64"}),
        ({"pools": {"allocated": [{"pool": "a", "cidrs": ["fd00:c2::/80"]}]}}, {"fd00:c2::/80"}),
        ({"podCIDRs": ["::/0", "bad", None]}, set()),
    ],
)
def test_what_cilium_says_of_a_node(ipam: dict[str, Any], expected: set[str]) -> None:
    obj = {"metadata": {"name": "a"}, "spec": {"ipam": ipam}}
    assert cni_ranges.of_cilium(obj) == ("a", expected)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"affinity": "host:a", "cidr": "fd00:c1::/122"}, ("a", {"fd00:c1::/122"})),
        ({"affinity": "host:a", "cidr": "10.0.0.0/26"}, ("a", set())),
        ({"affinity": "virtual:lb", "cidr": "fd00:c1::/122"}, ("", set())),
        ({"affinity": "host:a", "cidr": "fd00:c1::/122", "deleted": True}, ("", set())),
        ({"affinity": None}, ("", set())),
        ({}, ("", set())),
    ],
)
def test_what_calico_says_of_a_block(spec: dict[str, Any], expected: tuple[str, set[str]]) -> None:
    assert cni_ranges.of_calico({"metadata": {"name": "b"}, "spec": spec}) == expected
