"""What is kept of a Corefile outlives our namespace, whoever owned the file goes on to own it, and
changed data reaches the sidecars at once.
"""

from typing import Any

from nat64_operator.api.policy import Mode
from nat64_operator.coredns.observed_corefile import File
from nat64_operator.reconcile.actions import Announce, Disown
from nat64_operator.render import names
from nat64_operator.render.gateway import SAME_NODE_SINCE
from nat64_operator.render.manifest import Ref
from tests.unit.operator_simulation import COREFILE, NAMESPACE, Simulation

RECORD = Ref("ConfigMap", "nat64.wiring.default", NAMESPACE)


def settled() -> Simulation:
    simulation = Simulation()
    simulation.create("NAT64Gateway", "default")
    simulation.create("DNS64Policy", "default")
    simulation.settle()
    return simulation


def test_the_original_is_kept_beside_coredns_before_anything_is_written() -> None:
    simulation = Simulation()
    simulation.create("NAT64Gateway", "default")
    simulation.create("DNS64Policy", "default")
    while simulation.text() == COREFILE:
        simulation.step()
    assert simulation.backup["data"]["default.original"] == COREFILE
    assert simulation.backup["data"]["default.applied"] == simulation.text()
    simulation.settle()
    simulation.delete("DNS64Policy", "default")
    simulation.settle()
    simulation.now += 1000
    simulation.settle()
    assert simulation.text() == COREFILE
    assert simulation.backup is None, "nothing is left behind"


def test_a_namespace_that_was_deleted_takes_no_way_back_with_it() -> None:
    simulation = settled()
    applied = simulation.text()
    simulation.owned.clear()
    simulation.announced.clear()
    simulation.delete("DNS64Policy", "default")
    assert simulation.text() == applied
    simulation.settle()
    assert simulation.text() == COREFILE


def test_an_operator_that_comes_back_goes_on_from_the_backup() -> None:
    simulation = settled()
    applied = simulation.text()
    simulation.owned.clear()
    simulation.settle()
    assert simulation.text() == applied
    assert simulation.owned[RECORD]["data"]["original"] == COREFILE


def test_a_backup_without_policy_is_restored_and_goes() -> None:
    simulation = settled()
    simulation.owned.clear()
    del simulation.custom["DNS64Policy"]["default"]
    simulation.settle()
    simulation.now += 1000
    simulation.settle()
    assert simulation.text() == COREFILE
    assert simulation.backup is None


def test_other_keys_of_the_backup_are_anothers() -> None:
    simulation = Simulation()
    simulation.backup = {
        "metadata": {"uid": "u", "resourceVersion": "1"},
        "data": {"other": "x", "default2.original": "y", "b.state": "not JSON"},
    }
    simulation.create("NAT64Gateway", "default")
    simulation.create("DNS64Policy", "default")
    simulation.settle()
    simulation.delete("DNS64Policy", "default")
    simulation.settle()
    simulation.now += 1000
    simulation.settle()
    assert set(simulation.backup["data"]) == {"other", "default2.original", "b.state"}


def entry(manager: str, operation: str = "Update") -> dict[str, Any]:
    fields: dict[str, Any] = {"f:data": {"f:Corefile": {}}}
    return {"manager": manager, "operation": operation, "fieldsV1": fields}


def test_what_a_write_made_ours_is_given_up_again() -> None:
    simulation = settled()
    kubeadm = entry("kubeadm")
    simulation.corefile["metadata"]["managedFields"] = [kubeadm, entry("nat64-operator")]
    plan = simulation.step()
    [disown] = [a for group in plan.groups for a in group.actions if isinstance(a, Disown)]
    assert disown.managed_fields == (kubeadm,)
    assert simulation.step().groups == ()


def test_only_our_own_entry_for_the_key_is_given_up() -> None:
    place = ("kube-system", "coredns", "Corefile")
    metadata: dict[str, Any] = {"resourceVersion": "1", "managedFields": [entry("kubeadm")]}
    obj = {"metadata": metadata, "data": {"Corefile": "x"}}
    assert File.of(obj, place, Mode.FORWARD).left is None
    metadata["managedFields"] = [entry("nat64-operator")]
    assert File.of(obj, place, Mode.FORWARD).left == ()
    metadata["managedFields"] = [entry("helm", "Apply"), entry("nat64-operator")]
    found = File.of(obj, place, Mode.FORWARD)
    assert (found.left, found.declared_by) == ((entry("helm", "Apply"),), "helm")


def announced(simulation: Simulation) -> list[str]:
    plan = simulation.step()
    return [a.content for group in plan.groups for a in group.actions if isinstance(a, Announce)]


def test_pods_are_told_of_what_changes_by_itself_and_of_no_node_that_joins() -> None:
    simulation = settled()
    assert announced(simulation) == []
    simulation.edit("DNS64Policy", "default", translateAll=True)
    [first] = announced(simulation)
    simulation.settle()
    simulation.dns_clients = frozenset({"fd00:1::53"})
    [second] = announced(simulation)
    assert first != second
    simulation.settle()
    node = simulation.nodes["node1"]
    simulation.nodes["node2"] = node._replace(name="node2", ranges=("fd00:2::/64",))
    assert announced(simulation) == []


def test_the_sidecar_of_the_same_node_is_preferred_where_kubernetes_knows_it() -> None:
    simulation = settled()
    service = Ref("Service", "nat64-default-dns", NAMESPACE)
    assert "trafficDistribution" not in simulation.owned[service]["spec"]
    simulation.api_version = SAME_NODE_SINCE
    simulation.settle()
    assert simulation.owned[service]["spec"]["trafficDistribution"] == "PreferSameNode"


def test_a_dead_sidecar_is_out_of_the_service_within_two_seconds() -> None:
    simulation = settled()
    pod = simulation.owned[Ref("DaemonSet", "nat64-default", NAMESPACE)]["spec"]["template"]["spec"]
    [sidecar] = [c for c in pod["containers"] if c["name"] == names.DNS64]
    probe = sidecar["readinessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] <= 2


def test_a_backup_that_outlived_its_edit_is_no_history() -> None:
    simulation = settled()
    simulation.owned.clear()
    simulation.write_corefile(COREFILE)
    for _ in range(5):
        simulation.owned.clear()
        simulation.write_corefile(COREFILE)
        simulation.settle()
        assert simulation.condition("DNS64Policy", "default", "Programmed")[1] == "Wired"
    simulation.owned.clear()
    simulation.write_corefile(COREFILE)
    del simulation.custom["DNS64Policy"]["default"]
    simulation.settle()
    assert simulation.backup is None
    assert simulation.text() == COREFILE
