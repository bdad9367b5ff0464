"""From any state, the same end; at the end, nothing to do."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nat64_dataplane import config
from nat64_operator.reconcile import Node, Pod, reconcile
from nat64_operator.reconcile.actions import Apply, SetFinalizers, WriteCorefile
from nat64_operator.render import names
from nat64_operator.render.manifest import Ref
from tests.unit.operator_simulation import COREDNS, COREFILE, NAMESPACE, SETTINGS, Simulation

DAEMON_SET = Ref("DaemonSet", "nat64-default", NAMESPACE)
SERVICE = Ref("Service", "nat64-default-dns", NAMESPACE)
SIDECAR = Ref("ConfigMap", names.sidecar_config("default", SETTINGS.dataplane_image), NAMESPACE)


def settled(*, wired: bool = True) -> Simulation:
    simulation = Simulation()
    simulation.create("NAT64Gateway", "default")
    if wired:
        simulation.create("DNS64Policy", "default")
    simulation.settle()
    return simulation


def test_two_empty_specs_are_enough() -> None:
    simulation = settled()
    for kind in ("NAT64Gateway", "DNS64Policy"):
        for type_ in ("Accepted", "Programmed", "Ready"):
            assert simulation.condition(kind, "default", type_)[0] == "True"
    assert {DAEMON_SET, SERVICE, SIDECAR} < set(simulation.owned)
    assert simulation.text() != COREFILE


def test_nothing_is_made_before_the_finalizer_is_there() -> None:
    simulation = Simulation()
    simulation.create("NAT64Gateway", "default")
    _, group = reconcile(simulation.world()).groups
    assert isinstance(group.actions[0], SetFinalizers)


def test_configs_come_before_the_daemonset_that_mounts_them() -> None:
    simulation = Simulation()
    simulation.create("NAT64Gateway", "default")
    clients, group = reconcile(simulation.world()).groups
    assert clients.subject.name == "nat64-clients"
    applied = [Ref.of(a.manifest).kind for a in group.actions if isinstance(a, Apply)]
    assert applied == [*["ConfigMap"] * 3, "Service", "ConfigMap", "DaemonSet"]


def test_the_corefile_is_written_only_after_its_record() -> None:
    simulation = Simulation()
    simulation.create("NAT64Gateway", "default")
    simulation.create("DNS64Policy", "default")
    while True:
        before = dict(simulation.owned)
        plan = simulation.step()
        actions = [action for group in plan.groups for action in group.actions]
        writes = [a for a in actions if isinstance(a, WriteCorefile)]
        if writes:
            stored = [a for a in actions if isinstance(a, Apply) and "original" in str(a.manifest)]
            recorded = any("wiring" in ref.name for ref in before)
            assert recorded or actions.index(stored[0]) < actions.index(writes[0])
            return


def vandalise(spec: dict[str, Any], rng: random.Random) -> None:
    """A change that an API server would take."""
    if "template" not in spec:
        spec["ports"] = spec["ports"][:1]
        return
    pod = spec["template"]["spec"]
    match rng.randrange(6):
        case 0:
            pod["hostNetwork"] = False
        case 1:
            pod["volumes"].append({"name": "extra", "emptyDir": {}})
        case 2:
            pod["containers"][0]["image"] = "other"
        case 3:
            pod["containers"][0].pop("command", None)
        case 4:
            pod["nodeSelector"]["nobody"] = "here"
        case 5:
            pod["containers"].append({"name": "guest", "image": "guest"})


def damage(simulation: Simulation, rng: random.Random) -> None:
    """What others, and bad luck, do to a cluster."""
    for ref in list(simulation.owned):
        match rng.randrange(6):
            case 0:
                del simulation.owned[ref]
            case 1 if "spec" in simulation.owned[ref]:
                vandalise(simulation.owned[ref]["spec"], rng)
            case 2 if not simulation.owned[ref].get("immutable"):
                simulation.owned[ref]["metadata"]["labels"]["app.kubernetes.io/part-of"] = "x"
            case 3:
                simulation.owned[ref]["metadata"].pop("annotations", None)
    if rng.random() < 0.3:
        simulation.write_corefile(COREFILE)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_from_any_damage_it_converges_to_the_same_end(seed: int) -> None:
    expected = settled().everything()
    simulation = settled()
    rng = random.Random(seed)
    for _ in range(rng.randrange(1, 4)):
        damage(simulation, rng)
        for _ in range(rng.randrange(3)):
            simulation.step()
    simulation.now += 3600
    simulation.settle()
    assert simulation.everything() == expected
    assert simulation.step().groups == ()


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_the_order_of_events_does_not_matter(seed: int) -> None:
    rng = random.Random(seed)
    events: list[Callable[[Simulation], Any]] = [
        lambda s: s.create("NAT64Gateway", "default"),
        lambda s: s.create("DNS64Policy", "default"),
        lambda s: s.nodes.update(n2=Node("n2", {}, True, ("fd00:1::/64", "2001:db8::2"))),
        lambda s: s.write_corefile("# edited\n" + s.text()),
    ]
    rng.shuffle(events)
    simulation = Simulation()
    for event in events:
        event(simulation)
        for _ in range(rng.randrange(4)):
            simulation.step()
    simulation.settle()
    owned, text = simulation.everything()
    assert text.startswith("# edited\n")
    clients = owned[Ref("ConfigMap", "nat64-clients", NAMESPACE)]["data"]["clients"]
    assert "allow net 2001:db8::2/128" in clients
    assert text.count("policy sequential") == 1


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_with_writes_that_fail_at_random_it_ends_the_same(seed: int) -> None:
    expected = settled().everything()
    rng = random.Random(seed)
    simulation = Simulation()
    simulation.create("NAT64Gateway", "default")
    simulation.create("DNS64Policy", "default")
    simulation.refuse = lambda _: rng.random() < 0.3
    for _ in range(20):
        simulation.step()
    simulation.refuse = lambda _: False
    simulation.now += 3600
    simulation.settle()
    assert simulation.everything() == expected


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), first=st.sampled_from(["NAT64Gateway", "DNS64Policy"]))
def test_deleting_leaves_nothing_in_whatever_order_and_state(seed: int, first: str) -> None:
    rng = random.Random(seed)
    simulation = Simulation()
    simulation.create("NAT64Gateway", "default")
    simulation.create("DNS64Policy", "default")
    for _ in range(rng.randrange(12)):
        simulation.step()
    if rng.random() < 0.5:
        damage(simulation, rng)
    simulation.now = 1_800_000_000.0
    second = "DNS64Policy" if first == "NAT64Gateway" else "NAT64Gateway"
    simulation.delete(first, "default")
    for _ in range(rng.randrange(6)):
        simulation.step()
    simulation.delete(second, "default")
    simulation.settle(limit=400)
    for _ in range(400):  # waiting is no action
        if not simulation.custom["NAT64Gateway"]:
            break
        simulation.step()
    simulation.settle()
    assert simulation.custom == {"NAT64Gateway": {}, "DNS64Policy": {}}
    assert simulation.owned == {}
    assert simulation.text() == COREFILE


def test_nodes_are_cleaned_although_the_daemonset_was_edited_or_deleted() -> None:
    for damage_done in ("edited", "deleted"):
        simulation = settled(wired=False)
        if damage_done == "edited":
            pod = simulation.owned[DAEMON_SET]["spec"]["template"]["spec"]
            pod["nodeSelector"] = {"nobody": "here"}
        else:
            del simulation.owned[DAEMON_SET]
        simulation.now = 1_800_000_000.0
        simulation.delete("NAT64Gateway", "default")
        simulation.rolls_out = False
        for _ in range(5):
            simulation.step()
        found = simulation.owned[DAEMON_SET]["spec"]["template"]["spec"]
        assert "remove" in found["containers"][0]["command"]
        assert "'values': ['node1']" in str(found["affinity"])
        simulation.rolls_out = True
        for _ in range(10):
            simulation.step()
        assert simulation.owned == {}


def test_the_sidecars_stay_until_coredns_has_read_its_corefile() -> None:
    simulation = settled()
    simulation.now = 1_800_000_000.0
    simulation.lags = True
    simulation.delete("DNS64Policy", "default")
    simulation.delete("NAT64Gateway", "default")
    for _ in range(30):
        simulation.step()
    assert simulation.text() == COREFILE
    assert simulation.custom["DNS64Policy"] == {}
    message = simulation.condition("NAT64Gateway", "default", "Ready")[2]
    assert message == "waiting until CoreDNS no longer asks the sidecars"
    assert "remove" not in str(simulation.owned[DAEMON_SET])
    simulation.lags = False
    for _ in range(10):
        simulation.step()
    assert simulation.owned == {}


def test_a_coredns_that_never_reloads_is_waited_for_in_bounds() -> None:
    simulation = settled()
    simulation.now = 1_800_000_000.0
    simulation.lags = True
    simulation.delete("DNS64Policy", "default")
    simulation.delete("NAT64Gateway", "default")
    for _ in range(150):
        simulation.step()
    assert simulation.owned == {}


def test_a_gateway_without_a_daemonset_controller_is_let_go_in_time() -> None:
    simulation = settled(wired=False)
    simulation.rolls_out = False
    simulation.owned[DAEMON_SET]["status"] = {}
    simulation.now = 1_800_000_000.0
    simulation.delete("NAT64Gateway", "default")
    for _ in range(20):
        simulation.step()
    assert "default" in simulation.custom["NAT64Gateway"]
    simulation.now += 500
    simulation.settle()
    assert simulation.custom["NAT64Gateway"] == {}
    assert simulation.owned == {}


def test_a_policy_whose_corefile_is_gone_is_let_go() -> None:
    simulation = settled()
    simulation.corefile = None
    simulation.now = 1_800_000_000.0
    simulation.delete("DNS64Policy", "default")
    simulation.settle()
    assert simulation.custom["DNS64Policy"] == {}


def test_a_refused_change_keeps_the_last_good_config() -> None:
    simulation = settled()
    before = simulation.everything()
    pools = [{"ports": {"from": 100, "to": 200}}, {"ports": {"from": 150, "to": 160}}]
    simulation.edit("NAT64Gateway", "default", pools=pools)
    simulation.settle()
    status, reason, message = simulation.condition("NAT64Gateway", "default", "Accepted")
    assert (status, reason) == ("False", "Invalid")
    assert "pools" in message
    assert "a port may be in one pool only" in message
    assert simulation.everything() == before


def test_an_object_of_another_version_is_left_alone_and_said() -> None:
    simulation = settled()
    before = simulation.everything()
    simulation.edit("NAT64Gateway", "default", prefix=["64:ff9b::/96"])
    simulation.settle()
    assert simulation.condition("NAT64Gateway", "default", "Accepted")[1] == "Invalid"
    assert simulation.everything() == before


def test_a_policy_of_another_version_leaves_the_sidecars_as_they_are() -> None:
    simulation = settled(wired=False)
    spec = {"exemptZones": ["corp.example"], "coreDNS": {"mode": "Manual"}}
    simulation.create("DNS64Policy", "default", **spec)
    simulation.settle()
    before = simulation.everything()
    assert "exempt corp.example" in simulation.owned[SIDECAR]["data"]["Corefile"]
    simulation.edit("DNS64Policy", "default", **spec, ptr="Mirror")
    simulation.settle()
    assert simulation.condition("DNS64Policy", "default", "Accepted")[1] == "Invalid"
    assert simulation.everything() == before


CONFLICTS: list[tuple[str, dict[str, Any]]] = [
    ("PrefixConflict", {"pools": [{"ports": {"from": 100, "to": 200}}]}),
    ("PrefixConflict", {"prefix": "64:ff9b::/96", "nodeSelector": {"a": "b"}}),
    ("PoolConflict", {"prefix": "2001:db8::/96"}),
    (
        "PoolConflict",
        {"prefix": "2001:db8::/96", "pools": [{"ports": {"from": 65000, "to": 65100}}]},
    ),
    (
        "InterfaceConflict",
        {
            "prefix": "2001:db8::/96",
            "pools": [{"ports": {"from": 100, "to": 200}}],
            "interfaceName": "nat64-default",
        },
    ),
    (
        "HostPortConflict",
        {
            "prefix": "2001:db8::/96",
            "pools": [{"ports": {"from": 100, "to": 200}}],
            "hostPorts": {"dnsMetrics": 6464},
        },
    ),
]


@pytest.mark.parametrize(("reason", "spec"), CONFLICTS)
def test_the_younger_of_two_gateways_in_conflict_says_so(reason: str, spec: dict[str, Any]) -> None:
    simulation = settled()
    before = simulation.everything()
    simulation.create("NAT64Gateway", "second", **spec)
    simulation.settle()
    status, found, message = simulation.condition("NAT64Gateway", "second", "Accepted")
    assert (status, found) == ("False", reason)
    assert "NAT64Gateway 'default'" in message
    assert "spec." in message
    assert simulation.everything() == before
    assert simulation.condition("NAT64Gateway", "default", "Ready")[0] == "True"


def test_an_edit_never_takes_a_corefile_away_from_a_policy_that_runs() -> None:
    simulation = Simulation()
    simulation.create("NAT64Gateway", "default")
    simulation.create(
        "NAT64Gateway", "b", prefix="2001:db8::/96", pools=[{"ports": {"from": 100, "to": 200}}]
    )
    simulation.create("DNS64Policy", "older", gatewayRef={"name": "nobody"})
    simulation.create("DNS64Policy", "running", coreDNS={"mode": "Plugin"})
    simulation.settle()
    before = simulation.everything()
    spec = {"gatewayRef": {"name": "b"}, "coreDNS": {"mode": "Plugin"}}
    simulation.edit("DNS64Policy", "older", **spec)
    simulation.settle()
    assert simulation.everything() == before
    status, reason, message = simulation.condition("DNS64Policy", "older", "Accepted")
    assert (status, reason) == ("False", "CoreDNSConflict")
    assert "DNS64Policy 'running' already has ConfigMap kube-system/coredns" in message
    simulation.edit("DNS64Policy", "older", gatewayRef={"name": "default"}, coreDNS=MANUAL)
    simulation.settle()
    assert simulation.everything() == before
    assert simulation.condition("DNS64Policy", "older", "Accepted")[1] == "GatewayConflict"
    simulation.delete("DNS64Policy", "running")
    simulation.settle()
    assert simulation.condition("DNS64Policy", "older", "Accepted")[0] == "True"
    assert simulation.text() == COREFILE


def test_sidecars_of_the_last_image_keep_their_corefile_while_images_roll_out() -> None:
    simulation = settled()
    old = simulation.owned[SIDECAR]["data"]
    simulation.settings = msgspec.structs.replace(SETTINGS, dataplane_image="dataplane:next")
    simulation.edit("DNS64Policy", "default", translateAll=True)
    simulation.rolls_out = False
    for _ in range(5):
        simulation.step()
        status = simulation.owned[DAEMON_SET].setdefault("status", {})
        generation = simulation.owned[DAEMON_SET]["metadata"]["generation"]
        half = {"desiredNumberScheduled": 2, "updatedNumberScheduled": 1, "numberReady": 2}
        status |= {"observedGeneration": generation, **half}
    assert simulation.owned[SIDECAR]["data"] == old, "a sidecar that restarts now reads this"
    new = names.sidecar_config("default", "dataplane:next")
    assert "translate_all" in str(simulation.owned[Ref("ConfigMap", new, NAMESPACE)]["data"])
    volumes = simulation.owned[DAEMON_SET]["spec"]["template"]["spec"]["volumes"]
    assert new in str(volumes)
    simulation.rolls_out = True
    simulation.step()  # the last pod is replaced
    simulation.settle()
    assert SIDECAR not in simulation.owned, "it goes with the last pod of its version"


MANUAL = {"mode": "Manual"}


def test_gateways_on_different_nodes_are_no_conflict() -> None:
    simulation = Simulation()
    simulation.nodes = {
        "a": Node("a", {"zone": "a", "kubernetes.io/os": "linux"}, True, ()),
        "b": Node("b", {"zone": "b", "kubernetes.io/os": "linux"}, True, ()),
    }
    simulation.create("NAT64Gateway", "a", nodeSelector={"zone": "a"})
    simulation.create("NAT64Gateway", "b", nodeSelector={"zone": "b"})
    simulation.settle()
    for name in ("a", "b"):
        assert simulation.condition("NAT64Gateway", name, "Accepted")[0] == "True"


def test_a_node_in_trouble_is_told_with_the_kubelets_words() -> None:
    simulation = settled(wired=False)
    simulation.rolls_out = False
    simulation.owned[DAEMON_SET]["status"]["numberReady"] = 0
    simulation.step()
    waiting = {"reason": "CrashLoopBackOff", "message": "back-off 10s"}
    status = {
        "containerStatuses": [
            {"name": "translator", "ready": False, "state": {"waiting": waiting}},
        ]
    }
    pod = {"metadata": {}, "spec": {"containers": [{}], "nodeName": "node1"}, "status": status}
    simulation.seen_pods = {"default": (Pod.of(pod),)}
    simulation.settle()
    message = simulation.condition("NAT64Gateway", "default", "Ready")[2]
    assert message.endswith("; node1: translator: CrashLoopBackOff: back-off 10s")


def test_a_refused_prefix_never_reaches_coredns() -> None:
    simulation = settled(wired=False)
    simulation.create("DNS64Policy", "default", coreDNS={"mode": "Plugin"})
    simulation.settle()
    simulation.create(
        "NAT64Gateway", "older", prefix="2001:db8::/96", pools=[{"ports": {"from": 100, "to": 200}}]
    )
    older = simulation.custom["NAT64Gateway"]["older"]["metadata"]
    older["creationTimestamp"] = "2020-01-01T00:00:00Z"
    simulation.settle()
    before = simulation.text()
    assert "prefix 64:ff9b::/96" in before
    simulation.edit("NAT64Gateway", "default", prefix="2001:db8::/96")
    simulation.settle()
    assert simulation.text() == before
    for kind in ("NAT64Gateway", "DNS64Policy"):
        assert simulation.custom[kind]["default"]["status"]["prefix"] == "64:ff9b::/96"
    status, reason, message = simulation.condition("DNS64Policy", "default", "Ready")
    assert (status, reason) == ("False", "GatewayNotAccepted")
    assert "NAT64Gateway 'default' is not accepted (PrefixConflict)" in message
    assert message.endswith("goes on for the last accepted prefix, 64:ff9b::/96")


def test_a_prefix_that_was_never_accepted_is_not_wired() -> None:
    simulation = settled(wired=False)
    simulation.create("NAT64Gateway", "second", pools=[{"ports": {"from": 100, "to": 200}}])
    spec = {"gatewayRef": {"name": "second"}, "coreDNS": {"mode": "Plugin"}}
    simulation.create("DNS64Policy", "default", **spec)
    simulation.settle()
    assert simulation.text() == COREFILE
    _, reason, message = simulation.condition("DNS64Policy", "default", "Programmed")
    assert reason == "GatewayNotAccepted"
    assert "NAT64Gateway 'second' is not accepted (PrefixConflict): spec.prefix" in message
    assert "prefix" not in simulation.custom["DNS64Policy"]["default"]["status"]


def unready_pod(*containers: str) -> Pod:
    names = ("translator", "dns64")
    status = {
        "containerStatuses": [
            {"name": name, "ready": name not in containers, "state": {"running": {}}}
            for name in names
        ]
    }
    return Pod.of({"metadata": {}, "spec": {"containers": [{}], "nodeName": "b"}, "status": status})


@pytest.mark.parametrize(
    ("containers", "reason"),
    [
        (("translator", "dns64"), "TranslatorNotProgrammed"),
        (("dns64",), "SidecarsNotReady"),
    ],
)
@pytest.mark.parametrize("ready", [0, 1])
def test_a_policy_says_which_nodes_translator_is_not_programmed(
    containers: tuple[str, ...], reason: str, ready: int
) -> None:
    simulation = settled()
    simulation.rolls_out = False
    counts = {"desiredNumberScheduled": 2, "updatedNumberScheduled": 2, "numberReady": ready}
    simulation.owned[DAEMON_SET]["status"] |= counts
    simulation.sidecars = ready
    simulation.step()
    simulation.seen_pods = {"default": (unready_pod(*containers),)}
    simulation.settle()
    status, found, message = simulation.condition("DNS64Policy", "default", "Ready")
    assert (status, found) == ("False", reason)
    assert "NAT64Gateway 'default' is not programmed (NodesNotReady)" in message
    assert message.endswith(f"b: {containers[0]}: running, not ready")
    assert message.startswith("1 DNS64 sidecar ready" if ready else "no DNS64 sidecar ready")


LEAVING = Ref("DaemonSet", "nat64-default.leaving", NAMESPACE)


def test_a_node_that_a_gateway_leaves_is_cleaned() -> None:
    simulation = Simulation()
    linux = {"kubernetes.io/os": "linux"}
    simulation.nodes = {
        name: Node(name, {**linux, "zone": name}, True, ()) for name in ("a", "b", "c")
    }
    simulation.create("NAT64Gateway", "default")
    simulation.settle()
    assert LEAVING not in simulation.owned
    simulation.edit("NAT64Gateway", "default", nodeSelector={"zone": "a"})
    simulation.rolls_out = False
    simulation.step()
    pod = simulation.owned[LEAVING]["spec"]["template"]["spec"]
    assert "remove" in pod["containers"][0]["command"]
    chosen = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    values = [term["matchFields"][0]["values"] for term in chosen["nodeSelectorTerms"]]
    assert values == [["b"], ["c"]]
    for _ in range(5):
        simulation.step()
    assert LEAVING in simulation.owned, "kept until both are clean"
    simulation.rolls_out = True
    simulation.step()  # the pods turn ready
    simulation.settle()
    assert LEAVING not in simulation.owned
    record = simulation.owned[Ref("ConfigMap", "nat64-default-nodes", NAMESPACE)]
    assert record["data"]["nodes"] == "a"


def test_a_node_that_is_gone_is_not_waited_for() -> None:
    simulation = Simulation()
    linux = {"kubernetes.io/os": "linux"}
    simulation.nodes = {name: Node(name, linux, True, ()) for name in ("a", "b")}
    simulation.create("NAT64Gateway", "default")
    simulation.settle()
    del simulation.nodes["b"]
    simulation.settle()
    assert LEAVING not in simulation.owned


def test_the_sidecars_ask_what_coredns_asked_before_it_was_wired() -> None:
    simulation = Simulation()
    upstreams = "192.0.2.53 [2001:db8::53]:5353"
    simulation.write_corefile(COREFILE.replace("/etc/resolv.conf", upstreams))
    simulation.create("NAT64Gateway", "default")
    simulation.create("DNS64Policy", "default")
    simulation.settle()
    text = simulation.owned[SIDECAR]["data"]["Corefile"]
    assert f"forward . {upstreams} {{" in text
    assert upstreams in simulation.text()


def test_a_changed_fail_mode_changes_the_line() -> None:
    simulation = settled()
    simulation.edit("DNS64Policy", "default", coreDNS={"failMode": "Fail"})
    simulation.settle()
    assert "/etc/resolv.conf" not in simulation.text()
    simulation.edit("DNS64Policy", "default", coreDNS={"mode": "Manual"})
    simulation.settle()
    assert simulation.text() == COREFILE


def test_another_configmap_is_wired_after_the_first_is_put_back() -> None:
    simulation = settled()
    simulation.edit("DNS64Policy", "default", coreDNS={"configMapName": "other"})
    simulation.settle()
    assert simulation.text() == COREFILE
    reason = simulation.condition("DNS64Policy", "default", "Programmed")[1]
    assert reason == "CorefileNotFound"
    assert COREDNS in simulation.world().corefiles


SAMPLES = Path(__file__).parent / "corefiles"


def test_import_owns_one_key_and_leaves_the_corefile_alone() -> None:
    simulation = Simulation()
    k3s = (SAMPLES / "k3s").read_text()
    simulation.write_corefile(k3s)
    simulation.custom_files = {
        "metadata": {
            "namespace": "kube-system",
            "name": "coredns-custom",
            "resourceVersion": "1",
        },
        "data": {"mine.server": "corp.example:53 {\n}\n"},
    }
    simulation.create("NAT64Gateway", "default")
    simulation.create("DNS64Policy", "default", coreDNS={"mode": "Import"})
    simulation.settle()
    assert simulation.text() == k3s
    data = simulation.custom_files["data"]
    assert data["nat64-default.override"].startswith("forward . [fd00::")
    assert simulation.condition("DNS64Policy", "default", "Ready")[0] == "True"
    del data["nat64-default.override"]
    simulation.custom_files["metadata"]["resourceVersion"] = "2"
    simulation.settle()
    assert "nat64-default.override" in simulation.custom_files["data"]
    simulation.delete("DNS64Policy", "default")
    simulation.settle()
    assert list(simulation.custom_files["data"]) == ["mine.server"]


def test_import_makes_the_configmap_where_there_is_none() -> None:
    simulation = Simulation()
    simulation.write_corefile((SAMPLES / "aks").read_text())
    simulation.create("NAT64Gateway", "default")
    simulation.create("DNS64Policy", "default", coreDNS={"mode": "Import"})
    simulation.settle()
    [content] = simulation.custom_files["data"].values()
    assert content == "dns64 {\n    prefix 64:ff9b::/96\n}\n"


def test_import_needs_a_corefile_that_imports() -> None:
    simulation = settled(wired=False)
    simulation.create("DNS64Policy", "default", coreDNS={"mode": "Import"})
    simulation.settle()
    _, reason, message = simulation.condition("DNS64Policy", "default", "Programmed")
    assert reason == "CorefileUnsupported"
    assert "imports no `*.override` files" in message


def test_plugin_adds_one_stanza_and_takes_it_away() -> None:
    simulation = settled(wired=False)
    simulation.create("DNS64Policy", "default", coreDNS={"mode": "Plugin"}, translateAll=True)
    simulation.settle()
    added = "    dns64 {\n        prefix 64:ff9b::/96\n        translate_all\n    }\n"
    assert simulation.text().replace(added, "") == COREFILE
    simulation.edit("DNS64Policy", "default", coreDNS={"mode": "Plugin"})
    simulation.settle()
    assert "translate_all" not in simulation.text()
    simulation.edit("DNS64Policy", "default")
    simulation.settle()
    assert "dns64 {" not in simulation.text()
    assert "policy sequential" in simulation.text()
    simulation.delete("DNS64Policy", "default")
    simulation.settle()
    assert simulation.text() == COREFILE


def test_a_dns64_that_was_there_comes_back() -> None:
    simulation = settled(wired=False)
    before = COREFILE.replace("    cache 30", "    dns64 2001:db8::/96\n    cache 30")
    simulation.write_corefile(before)
    simulation.create("DNS64Policy", "default", coreDNS={"mode": "Plugin"})
    simulation.settle()
    assert "2001:db8::/96" not in simulation.text()
    simulation.delete("DNS64Policy", "default")
    simulation.settle()
    assert simulation.text() == before


def test_an_event_is_emitted_once_for_each_change() -> None:
    simulation = settled()
    count = len(simulation.events)
    for _ in range(5):
        simulation.step()
    assert len(simulation.events) == count
    reasons = [event.reason for event in simulation.events if event.ref.kind == "NAT64Gateway"]
    assert len(reasons) == len(set(reasons))


def test_the_config_of_the_removal_is_the_one_that_ran() -> None:
    simulation = settled(wired=False)
    simulation.edit("NAT64Gateway", "default", interfaceName="other")
    digest = config.Config(name="default").content_hash
    simulation.now = 1_800_000_000.0
    simulation.delete("NAT64Gateway", "default")
    simulation.step()
    volumes = simulation.owned[DAEMON_SET]["spec"]["template"]["spec"]["volumes"]
    assert f"nat64-default-{digest}" in str(volumes)
