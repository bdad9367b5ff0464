"""One bad object stops no other; data that others may have written is checked."""

from collections.abc import Callable
from ipaddress import IPv6Network as Pref
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from nat64_operator.api.policy import Mode
from nat64_operator.coredns import corefile_edits, wiring
from nat64_operator.coredns.corefile_edits import Site
from nat64_operator.coredns.observed_corefile import File
from nat64_operator.coredns.wiring_record import Record
from nat64_operator.edge.backoff import SECONDS, Backoffs
from nat64_operator.edge.store import Store, read
from nat64_operator.reconcile import Node, gateways, policies, reconcile
from nat64_operator.reconcile.actions import Apply, Delete, Replace, SetStatus
from nat64_operator.reconcile.drift import repair, strip
from nat64_operator.render.manifest import Ref
from nat64_operator.settings import Settings
from tests.unit.operator_simulation import COREFILE, NAMESPACE, Simulation

SAMPLES = Path(__file__).parent / "corefiles"


def node(*addresses: str, pods: tuple[str, ...] = ()) -> Node:
    return Node.of(
        {
            "metadata": {"name": "n"},
            "spec": {"podCIDRs": list(pods)},
            "status": {"addresses": [{"type": "InternalIP", "address": a} for a in addresses]},
        }
    )


def test_a_nodes_addresses_are_single_ones() -> None:
    found = node("2001:db8::1", "192.0.2.1", pods=("fd00:10:244::/64", "10.244.0.0/24"))
    assert found.ranges == ("fd00:10:244::/64", "10.244.0.0/24", "2001:db8::1/128", "192.0.2.1/32")
    assert [str(a) for a in found.ipv4] == ["192.0.2.1"]
    assert found.problems == ()


@pytest.mark.parametrize("address", ["::/0", "0.0.0.0/0", "2001:db8::/32", "x", "", "fe80::1%eth0"])
def test_what_is_no_address_is_not_one(address: str) -> None:
    found = node(address)
    assert found.ranges == ()
    assert repr(address) in found.problems[0]


@pytest.mark.parametrize(
    "pods", ["::/0", "fd00::/8", "2001:db8::/47", "0.0.0.0/0", "10.0.0.0/8", "x"]
)
def test_a_range_too_large_for_a_node_is_not_its_pods(pods: str) -> None:
    found = node("2001:db8::1", pods=(pods,))
    assert found.ranges == ("2001:db8::1/128",)
    assert repr(pods) in found.problems[0]


PREFIXES = [
    ("2001:db8::/64", "pods of node 'node1'", "fd00::/64", "fd00:0:0:0::/96"),
    ("2001:db8:2::/64", "an address of node 'node1'", "2001:db8:1::5/128", "2001:db8:1::/96"),
    ("fd00:10:96::/112", "Services", "fd00:10:96::/112", "fd00:10:96::/96"),
    ("fd00:10:96::a", "Services", "fd00:10:96::a/128", "fd00:10:96::/96"),
    ("::/0", "Services", "::/0", "64:ff9b::/96"),
]


@pytest.mark.parametrize(("services", "what", "inside", "prefix"), PREFIXES)
def test_a_prefix_that_overlaps_the_cluster_is_refused_with_the_range(
    services: str, what: str, inside: str, prefix: str
) -> None:
    simulation = Simulation()
    ranges = ("fd00::/64", "2001:db8:1::5/128", "192.0.2.1/32")
    simulation.nodes["node1"] = Node("node1", {"kubernetes.io/os": "linux"}, True, ranges)
    simulation.service_ranges = (services,)
    simulation.create("NAT64Gateway", "default", prefix=prefix)
    simulation.settle()
    status, reason, message = simulation.condition("NAT64Gateway", "default", "Accepted")
    assert (status, reason) == ("False", "Invalid")
    assert f"spec.prefix: {Pref(prefix)} overlaps {inside} ({what})" in message
    assert not any(ref.kind == "DaemonSet" for ref in simulation.owned)


def test_a_prefix_beside_the_clusters_ranges_is_none_of_them() -> None:
    simulation = Simulation()
    simulation.service_ranges = ("64:ff9b:1::/112", "192.0.2.0/24", "nonsense")
    simulation.create("NAT64Gateway", "default")
    simulation.settle()
    assert simulation.condition("NAT64Gateway", "default", "Ready")[0] == "True"


def test_a_prefix_that_runs_is_not_taken_back_when_a_node_takes_an_address_of_it() -> None:
    simulation = Simulation()
    simulation.create("NAT64Gateway", "default")
    simulation.settle()
    simulation.nodes["bad"] = Node("bad", {}, True, ("64:ff9b::1/128",))
    simulation.settle()
    assert simulation.condition("NAT64Gateway", "default", "Accepted")[0] == "True"


BREAKS: list[tuple[Any, str, str]] = [
    (gateways, "observe", "NAT64Gateway"),
    (gateways, "reconcile", "NAT64Gateway"),
    (policies, "reconcile", "DNS64Policy"),
]


@pytest.mark.parametrize(("module", "function", "kind"), BREAKS)
def test_a_defect_with_one_object_is_its_condition_and_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch, module: Any, function: str, kind: str
) -> None:
    simulation = Simulation()
    for n, name in enumerate(("bad", "good")):
        pools = [{"ports": {"from": 50000 + n * 100, "to": 50099 + n * 100}}]
        simulation.create("NAT64Gateway", name, prefix=f"64:ff9b:1:{n}::/96", pools=pools)
        spec = {"gatewayRef": {"name": name}, "coreDNS": {"configMapName": f"coredns-{name}"}}
        simulation.create("DNS64Policy", name, **spec)
    sound: Callable[..., Any] = getattr(module, function)

    def broken(subject: Any, *rest: Any) -> Any:
        name = getattr(subject, "gateway", subject).name
        if name == "bad":
            raise KeyError("matchFields")
        return sound(subject, *rest)

    monkeypatch.setattr(module, function, broken)
    plan = reconcile(simulation.world())
    assert [(d.subject, repr(d.error)) for d in plan.defects] == [
        (Ref(kind, "bad"), "KeyError('matchFields')")
    ]
    groups = {group.subject: group.actions for group in plan.groups}
    assert len(groups[Ref("NAT64Gateway", "good")]) > 5
    said = [a.status for a in groups[Ref(kind, "bad")] if isinstance(a, SetStatus)]
    assert {c["reason"] for c in said[-1]["conditions"]} == {"InternalError"}
    assert "KeyError: 'matchFields'" in str(said)


def test_a_record_that_someone_made_unreadable_is_none() -> None:
    for state in ("[1]", "1", "null", "{", '{"state": "Odd"}'):
        data = {"original": "a", "applied": "b", "state": state}
        assert Record.read({"metadata": {}, "data": data}) is None


WANTED: dict[str, Any] = {
    "kind": "DaemonSet",
    "metadata": {"name": "a", "namespace": "b"},
    "spec": {
        "template": {
            "metadata": {"labels": {"a": "b"}},
            "spec": {
                "hostNetwork": True,
                "containers": [
                    {
                        "name": "translator",
                        "image": "x",
                        "ports": [{"containerPort": 1, "protocol": "TCP"}],
                        "securityContext": {"capabilities": {"drop": ["ALL"]}},
                    }
                ],
            },
        }
    },
}
CONTAINER = 'k:{"name":"translator"}'


def live(fields: dict[str, Any], manager: str = "kubectl", **entry: Any) -> dict[str, Any]:
    metadata = {
        **WANTED["metadata"],
        "uid": "u",
        "resourceVersion": "7",
        "managedFields": [{"manager": manager, "fieldsV1": fields, **entry}],
    }
    found = {**WANTED, "metadata": metadata}
    strip(found)
    return found


def of_pod(fields: dict[str, Any]) -> dict[str, Any]:
    return {"f:spec": {"f:template": {"f:spec": fields}}}


@pytest.mark.parametrize(
    "fields",
    [
        of_pod({"f:hostPID": {}}),
        of_pod({"f:affinity": {"f:nodeAffinity": {}}}),
        of_pod({"f:containers": {CONTAINER: {".": {}, "f:env": {".": {}, 'k:{"name":"A"}': {}}}}}),
        of_pod({"f:containers": {CONTAINER: {"f:args": {}}}}),
        of_pod(
            {"f:containers": {CONTAINER: {"f:securityContext": {"f:capabilities": {"f:add": {}}}}}}
        ),
        of_pod({"f:containers": {CONTAINER: {"f:lifecycle": {}}}}),
        of_pod({"f:containers": {'k:{"name":"guest"}': {".": {}, "f:image": {}}}}),
        {"f:data": {"f:x": {}}},
    ],
)
def test_what_others_declare_beside_ours_is_taken_away(fields: dict[str, Any]) -> None:
    assert repair(WANTED, live(fields))[:1] == [Replace(WANTED, "7")]


@pytest.mark.parametrize(
    ("fields", "manager", "entry"),
    [
        (of_pod({"f:containers": {CONTAINER: {"f:image": {}}}}), "kubectl", {}),
        (
            of_pod(
                {
                    "f:containers": {
                        CONTAINER: {
                            "f:ports": {'k:{"containerPort":1,"protocol":"TCP"}': {".": {}}}
                        }
                    }
                }
            ),
            "kubectl",
            {},
        ),
        ({"f:metadata": {"f:annotations": {"f:theirs": {}}}}, "kubectl", {}),
        ({"f:status": {"f:numberReady": {}}}, "kcm", {"subresource": "status"}),
        (of_pod({"f:hostPID": {}}), "nat64-operator", {}),
        (
            {"f:spec": {"f:template": {"f:metadata": {"f:annotations": {"f:restartedAt": {}}}}}},
            "kubectl-rollout",
            {},
        ),
    ],
)
def test_what_is_ours_or_none_of_our_business_is_left(
    fields: dict[str, Any], manager: str, entry: dict[str, Any]
) -> None:
    assert repair(WANTED, live(fields, manager, **entry)) == []


def test_an_object_that_someone_made_immutable_is_made_anew() -> None:
    wanted = {"kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": "new"}}
    found = {
        **wanted,
        "metadata": {"name": "a", "uid": "u"},
        "data": {"x": "old"},
        "immutable": True,
    }
    assert repair(wanted, found) == [Delete(Ref("ConfigMap", "a"), "u"), Apply(wanted)]


class Greedy(NamedTuple):
    """An edit that changes more than its own part, as none of ours may."""

    adds: str
    what: str = "the line"

    def wired(self, original: Site) -> str:
        return original.text + self.adds

    def cautious(self) -> "Greedy":
        return self

    def without(self, current: Site) -> str | None:
        return current.whole

    def names_us(self, current: Site) -> bool:
        return current.text.endswith(self.adds)


@pytest.mark.parametrize(
    "adds",
    ["\n    cache 99", "\n}\n.:5353 {\n    log", "\n    forward . 192.0.2.1", "\n}", "\n  {"],
)
def test_a_result_that_is_not_what_it_should_be_is_never_written(adds: str) -> None:
    file = File("kube-system", "coredns", "Corefile", Mode.FORWARD, COREFILE, "1")
    case = wiring.Case(Greedy(adds), file, None, None, 0.0, Settings(dataplane_image="x"))
    step = wiring.wire(case)
    assert (step.status, step.reason) == (False, "CorefileUnsupported")
    assert (step.write, step.store) == (None, None)


def test_a_migration_that_rewrites_the_corefile_is_what_is_restored_later() -> None:
    simulation = Simulation()
    simulation.write_corefile((SAMPLES / "kubeadm-1.20").read_text())
    simulation.create("NAT64Gateway", "default")
    simulation.create("DNS64Policy", "default")
    simulation.settle()
    migrated = (SAMPLES / "kubeadm-1.33").read_text()
    simulation.write_corefile(migrated)
    simulation.settle()
    line = corefile_edits.find(Mode.FORWARD, simulation.text())
    assert line.text.startswith("forward . [fd00::")
    assert line.outside() == corefile_edits.find(Mode.FORWARD, migrated).outside()
    simulation.delete("DNS64Policy", "default")
    simulation.settle()
    assert simulation.text() == migrated


def test_import_leaves_no_configmap_that_it_made() -> None:
    simulation = Simulation()
    simulation.write_corefile((SAMPLES / "k3s").read_text())
    simulation.create("NAT64Gateway", "default")
    simulation.create("DNS64Policy", "default", coreDNS={"mode": "Import"})
    simulation.settle()
    assert list(simulation.custom_files["data"]) == ["nat64-default.override"]
    simulation.delete("DNS64Policy", "default")
    simulation.settle()
    assert simulation.custom_files is None


@pytest.mark.parametrize(
    "theirs", [{"data": {"mine.override": "log\n"}}, {"binaryData": {"x": "AA"}}]
)
def test_import_leaves_a_configmap_that_holds_more(theirs: dict[str, Any]) -> None:
    simulation = Simulation()
    simulation.write_corefile((SAMPLES / "k3s").read_text())
    simulation.create("NAT64Gateway", "default")
    simulation.create("DNS64Policy", "default", coreDNS={"mode": "Import"})
    simulation.settle()
    for part, content in theirs.items():
        simulation.custom_files[part] = {**simulation.custom_files.get(part, {}), **content}
    simulation.delete("DNS64Policy", "default")
    simulation.settle()
    found = simulation.custom_files
    assert {k: found[k] for k in theirs} == theirs
    assert "nat64-default.override" not in found["data"]


@pytest.mark.parametrize("mode", ["Forward", "Import", "Plugin"])
@pytest.mark.parametrize("other", ["Forward", "Import", "Plugin"])
def test_two_policies_can_t_have_one_coredns(mode: str, other: str) -> None:
    simulation = Simulation()
    simulation.create("NAT64Gateway", "default")
    simulation.create(
        "NAT64Gateway", "second", prefix="64:ff9b:1::/96", pools=[{"ports": {"from": 9, "to": 10}}]
    )
    simulation.create("DNS64Policy", "a", coreDNS={"mode": mode})
    second = {"mode": other, "customConfigMapName": "another"}
    simulation.create("DNS64Policy", "b", gatewayRef={"name": "second"}, coreDNS=second)
    simulation.settle()
    status, reason, message = simulation.condition("DNS64Policy", "b", "Accepted")
    assert (status, reason) == ("False", "CoreDNSConflict")
    assert "DNS64Policy 'a'" in message
    assert "kube-system/coredns" in message


def test_a_gateway_left_behind_is_waited_for_in_bounds() -> None:
    simulation = Simulation()
    simulation.create("NAT64Gateway", "default")
    simulation.settle()
    del simulation.custom["NAT64Gateway"]["default"]
    simulation.rolls_out = False
    simulation.seen_pods = {"default": ()}
    for _ in range(5):
        simulation.step()
    assert simulation.owned
    simulation.now += 500
    simulation.settle()
    assert simulation.owned == {}
    assert "node1" in simulation.events[-1].message


STATIC = {
    "protocol": "TCP",
    "client": "2001:db8::10",
    "clientPort": 443,
    "address": "192.0.2.9",
    "port": 443,
}
POOL = [{"source": "Range", "range": "192.0.2.8/29", "ports": {"from": 1000, "to": 2000}}]
WORD = [{"ports": {"from": 400, "to": 500}}]


@pytest.mark.parametrize(
    ("older", "younger"),
    [
        ({"pools": POOL, "staticMappings": [STATIC]}, {"pools": WORD, "staticMappings": [STATIC]}),
        (
            {"pools": POOL, "staticMappings": [STATIC]},
            {
                "pools": [
                    {"source": "Range", "range": "192.0.2.9/32", "ports": {"from": 400, "to": 500}}
                ]
            },
        ),
        (
            {
                "pools": [
                    {"source": "Range", "range": "192.0.2.9/32", "ports": {"from": 400, "to": 500}}
                ]
            },
            {"pools": WORD, "staticMappings": [STATIC]},
        ),
        (
            {"pools": WORD},
            {
                "pools": [
                    {"source": "Range", "range": "192.0.2.11/32", "ports": {"from": 500, "to": 600}}
                ]
            },
        ),
        (
            {
                "pools": [
                    {"source": "Range", "range": "192.0.2.11/32", "ports": {"from": 500, "to": 600}}
                ]
            },
            {"pools": WORD},
        ),
        ({"pools": WORD}, {"pools": POOL, "staticMappings": [{**STATIC, "address": "192.0.2.11"}]}),
    ],
)
def test_a_port_of_an_address_is_one_gateways_however_it_is_written(
    older: dict[str, Any], younger: dict[str, Any]
) -> None:
    simulation = Simulation()
    simulation.nodes = {
        "n": node("2001:db8::1", "192.0.2.11")._replace(labels={"kubernetes.io/os": "linux"})
    }
    simulation.create("NAT64Gateway", "a", prefix="64:ff9b:1::/96", **older)
    simulation.create("NAT64Gateway", "b", prefix="64:ff9b:1:1::/96", **younger)
    simulation.settle()
    assert simulation.condition("NAT64Gateway", "a", "Accepted")[0] == "True"
    status, reason, message = simulation.condition("NAT64Gateway", "b", "Accepted")
    assert (status, reason) == ("False", "PoolConflict")
    assert "NAT64Gateway 'a'" in message


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"hostPorts": {"dns": 6465}}, "dns and dnsHealth are both 6465"),
        (
            {"pools": [{"ports": {"from": 6000, "to": 7000}}]},
            "hold 6464, which is spec.hostPorts.dns",
        ),
        ({"staticMappings": [STATIC, STATIC]}, "TCP 192.0.2.9 port 443 is there twice"),
    ],
)
def test_ports_that_were_not_given_are_compared_too(spec: dict[str, Any], says: str) -> None:
    simulation = Simulation()
    simulation.create("NAT64Gateway", "default", **spec)
    simulation.settle()
    status, reason, message = simulation.condition("NAT64Gateway", "default", "Accepted")
    assert (status, reason) == ("False", "Invalid")
    assert says in message
    assert simulation.owned.keys() == {Ref("ConfigMap", "nat64-clients", NAMESPACE)}


def test_what_the_api_server_refuses_is_said_until_it_takes_it() -> None:
    simulation = Simulation()
    simulation.create("NAT64Gateway", "default")
    simulation.create("DNS64Policy", "default")
    simulation.settle()
    for kind in ("NAT64Gateway", "DNS64Policy"):
        simulation.refused = {Ref(kind, "default"): "no, says the policy"}
        simulation.settle()
        status, reason, message = simulation.condition(kind, "default", "Programmed")
        assert (status, reason) == ("False", "ApplyFailed")
        assert "no, says the policy" in message
        assert simulation.condition(kind, "default", "Accepted")[0] == "True"
        simulation.refused = {}
        simulation.settle()
        assert simulation.condition(kind, "default", "Ready")[0] == "True"


def config_map(name: str, version: int) -> dict[str, Any]:
    metadata = {"name": name, "namespace": NAMESPACE, "uid": "u", "resourceVersion": str(version)}
    return {"kind": "ConfigMap", "metadata": metadata}


def test_a_list_that_took_long_undoes_nothing_that_was_told_meanwhile() -> None:
    store = Store(Settings(dataplane_image="x"))
    for name in ("old", "gone", "changed"):
        store.put(config_map(name, 1))
    store.begin("ConfigMap")
    listed = [read(config_map(name, 1)) for name in ("gone", "changed")]
    store.put(config_map("new", 2))
    store.put(config_map("changed", 3))
    store.drop("ConfigMap", Ref("ConfigMap", "gone", NAMESPACE))
    store.replace("ConfigMap", listed)
    found = {obj["metadata"]["name"]: obj for obj in store.objects("ConfigMap")}
    assert found.keys() == {"new", "changed"}
    assert found["changed"]["metadata"]["resourceVersion"] == "3"


def test_what_fails_waits_longer_each_time_and_no_less_than_asked() -> None:
    backoffs, subject = Backoffs(), Ref("NAT64Gateway", "a")
    waits = [backoffs.failed(subject, 0.0) for _ in range(8)]
    assert waits == [*SECONDS, SECONDS[-1], SECONDS[-1]]
    assert backoffs.holds(subject)
    assert not backoffs.holds(Ref("NAT64Gateway", "b"))
    backoffs.succeeded(subject)
    assert not backoffs.holds(subject)
    assert backoffs.failed(subject, 17.0) == 17.0
    backoffs.keep(set())
    assert not backoffs.holds(subject)


def test_who_is_fought_with_is_left_alone_for_a_while() -> None:
    backoffs, subject = Backoffs(), Ref("NAT64Gateway", "a")
    held = [backoffs.holds(subject, [("Apply x", "1")]) for _ in range(22)]
    assert held == [False] * 20 + [True, True]


def test_a_rollout_over_many_nodes_is_no_fight() -> None:
    """Every node that gets ready is a new status, and one that joins is new content."""
    backoffs, subject = Backoffs(), Ref("NAT64Gateway", "a")
    for number in range(100):
        backoffs.keep({subject})
        assert not backoffs.holds(subject)
        assert not backoffs.holds(subject, [("Apply nodes", str(number))])
        backoffs.succeeded(subject)
