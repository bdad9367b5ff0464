"""The operator against a real API server: what it makes, repairs, wires, and takes away again."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml

from nat64_dataplane import config, corefile
from nat64_operator.render import names
from tests.operator.conftest import (
    NAMESPACE,
    PREFIX,
    SAMPLE,
    Api,
    ClusterDns,
    Operator,
    condition,
    coredns,
    eventually,
    gateway,
    policy,
)

SIDECAR = names.sidecar_config("default", "dataplane:test")
pytestmark = pytest.mark.apiserver


def roll_out(api: Api, name: str = "default", nodes: int = 1) -> None:
    """Be the DaemonSet controller, and kubelets where all went well."""
    found = api.get("daemonset", f"nat64-{name}")
    api.patch(
        f"daemonset/nat64-{name}",
        body={
            "status": {
                "observedGeneration": found["metadata"]["generation"],
                "desiredNumberScheduled": nodes,
                "currentNumberScheduled": nodes,
                "updatedNumberScheduled": nodes,
                "numberReady": nodes,
                "numberAvailable": nodes,
                "numberMisscheduled": 0,
            }
        },
        subresource="status",
    )


def without_pods(api: Api, message: str, name: str = "default") -> None:
    """Be the DaemonSet controller whose pods the API server refuses."""
    found = api.get("daemonset", f"nat64-{name}")
    api.patch(
        f"daemonset/nat64-{name}",
        body={
            "status": {
                "observedGeneration": found["metadata"]["generation"],
                "desiredNumberScheduled": 1,
                "currentNumberScheduled": 0,
                "updatedNumberScheduled": 0,
                "numberReady": 0,
                "numberMisscheduled": 0,
            }
        },
        subresource="status",
    )
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    api.apply(
        {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"nat64-{name}.refused", "namespace": NAMESPACE},
            "involvedObject": {
                "apiVersion": "apps/v1",
                "kind": "DaemonSet",
                "name": f"nat64-{name}",
                "namespace": NAMESPACE,
            },
            "type": "Warning",
            "reason": "FailedCreate",
            "message": message,
            "firstTimestamp": now,
            "lastTimestamp": now,
        }
    )


def sidecars_ready(api: Api, name: str = "default", ready: bool = True) -> None:
    """Be the EndpointSlice controller."""
    api.apply(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"nat64-{name}-dns-x",
                "namespace": NAMESPACE,
                "labels": {
                    "kubernetes.io/service-name": f"nat64-{name}-dns",
                    "nat64-operator.io/gateway": name,
                },
            },
            "addressType": "IPv6",
            "endpoints": [{"addresses": ["2001:db8:1::11"], "conditions": {"ready": ready}}],
            "ports": [{"name": "dns", "port": 6464, "protocol": "UDP"}],
        }
    )


def agent_pod(api: Api, node: str, removing: bool, name: str = "default") -> None:
    """Be a kubelet: one pod of the DaemonSet, ready."""
    template = api.get("daemonset", f"nat64-{name}")["spec"]["template"]
    pod_name = f"agent-{node}"
    api.control_plane.kubectl(
        "-n", NAMESPACE, "delete", "pod", pod_name, "--force", "--ignore-not-found"
    )
    pod: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod_name,
            "namespace": NAMESPACE,
            "labels": template["metadata"]["labels"],
        },
        "spec": {"nodeName": node, **template["spec"]},
    }
    assert removing == ("remove" in template["spec"]["containers"][0]["command"])
    # The API server looks the priority up, and no controller has made the classes.
    pod["spec"].pop("priorityClassName", None)
    api.apply(pod)
    api.patch(
        f"pod/{pod_name}",
        body={"status": {"conditions": [{"type": "Ready", "status": "True"}]}},
        subresource="status",
    )


def the_corefile(api: Api) -> str:
    text: str = api.get("configmap", "coredns", namespace="kube-system")["data"]["Corefile"]
    return text


def events_of(api: Api, uid: str, reason: str) -> list[Any]:
    """The Events with a reason about one object, and not about another of its name."""
    return [
        event
        for event in api.items("events", namespace="default")
        if event["involvedObject"].get("uid") == uid and event["reason"] == reason
    ]


def is_ready(api: Api, kind: str, name: str = "default") -> bool:
    return condition(api.get(kind, name), "Ready")[0] == "True"


def is_removing(api: Api) -> bool:
    """Whether the DaemonSet has its last form."""
    spec = api.get("daemonset", "nat64-default")["spec"]["template"]["spec"]
    return "remove" in spec["containers"][0]["command"]


def service_address(api: Api) -> str:
    found: str = api.get("service", "nat64-default-dns")["spec"]["clusterIP"]
    return found


def bring_up(api: Api, operator: Operator, dns: ClusterDns, *flags: str) -> None:
    """Both resources applied and Ready, CoreDNS wired."""
    api.apply(gateway(prefix=PREFIX), policy())
    operator.start(*flags)
    eventually(lambda: api.get("daemonset", "nat64-default"), about="the DaemonSet")
    roll_out(api)
    sidecars_ready(api)
    dns.synthesizes = True
    eventually(lambda: is_ready(api, "nat64gateway"), about="gateway Ready")
    eventually(lambda: is_ready(api, "dns64policy"), about="policy Ready")


def lose_the_sidecars_twice(api: Api) -> None:
    """So that the operator has the same to tell twice."""
    for _ in range(2):
        sidecars_ready(api, ready=False)
        eventually(lambda: not is_ready(api, "dns64policy"), about="not Ready")
        sidecars_ready(api)
        eventually(lambda: is_ready(api, "dns64policy"), about="Ready again")


@pytest.fixture
def running(
    cluster: Api, operator: Operator, cluster_dns: ClusterDns
) -> tuple[Api, Operator, ClusterDns]:
    """All is well."""
    bring_up(cluster, operator, cluster_dns)
    return cluster, operator, cluster_dns


def test_two_resources_become_a_daemonset_a_service_and_a_forward_line(
    running: tuple[Api, Operator, ClusterDns],
) -> None:
    api, _, _ = running
    daemon_set = api.get("daemonset", "nat64-default")
    volumes = {v["name"]: v for v in daemon_set["spec"]["template"]["spec"]["volumes"]}
    name = volumes["config"]["configMap"]["name"]
    found = api.get("configmap", name)
    assert found["immutable"] is True
    parsed = config.parse(found["data"]["translator.yaml"])
    assert name == f"nat64-default-{parsed.content_hash}"
    assert str(parsed.prefix) == PREFIX
    clients = api.get("configmap", "nat64-clients")["data"]["clients"]
    assert "allow net fd00:10:244::/64" in clients
    assert "allow net 2001:db8:1::11/128" in clients
    sidecar = api.get("configmap", SIDECAR)["data"]["Corefile"]
    assert "import clients" in sidecar
    assert "forward . /etc/resolv.conf" in sidecar
    assert f"forward . [{service_address(api)}]:53 /etc/resolv.conf" in the_corefile(api)
    assert api.get("nat64gateway", "default")["status"]["nodes"]["summary"] == "1/1"


def test_only_the_init_container_is_privileged(running: tuple[Api, Operator, ClusterDns]) -> None:
    api, _, _ = running
    pod = api.get("daemonset", "nat64-default")["spec"]["template"]["spec"]
    assert [c["name"] for c in pod["initContainers"]] == ["prepare"]
    assert pod["automountServiceAccountToken"] is False
    for container in pod["containers"]:
        security = container["securityContext"]
        assert security["privileged"] is False
        assert security["readOnlyRootFilesystem"] is True
        assert security["capabilities"]["drop"] == ["ALL"]


def test_nothing_is_written_once_all_is_well(running: tuple[Api, Operator, ClusterDns]) -> None:
    api, _, _ = running
    audit = api.control_plane.audit_log
    assert audit is not None

    def writes() -> int:
        rows = [json.loads(row) for row in audit.read_text().splitlines() if row]
        return sum(
            row["verb"] in ("create", "update", "patch", "delete")
            and row["user"]["username"].endswith(":nat64-operator")
            and row["objectRef"]["resource"] != "leases"  # which is renewed for ever
            for row in rows
        )

    quiet = Quiet()
    eventually(lambda: quiet.settled(writes()), timeout=60, about="writes go on")


class Quiet:
    """True once a count has stood still for a while."""

    def __init__(self) -> None:
        self.last, self.times = -1, 0

    def settled(self, count: int) -> bool:
        self.times = self.times + 1 if count == self.last else 0
        self.last = count
        return self.times >= 15


def test_deleting_both_restores_the_corefile_exactly_and_leaves_nothing(
    running: tuple[Api, Operator, ClusterDns],
) -> None:
    api, _, dns = running
    agent_pod(api, "node1", removing=False)
    api.delete("dns64policy", "default")
    api.delete("nat64gateway", "default")
    eventually(lambda: api.get("dns64policy", "default") is None, about="policy gone")
    assert the_corefile(api) == SAMPLE.read_text()

    def waits() -> bool:
        return (
            "until CoreDNS no longer asks"
            in condition(api.get("nat64gateway", "default"), "Ready")[2]
        )

    eventually(waits, about="the sidecars stay until CoreDNS has read its Corefile")
    dns.synthesizes = False
    eventually(lambda: is_removing(api), about="the DaemonSet's last form")
    spec = api.get("daemonset", "nat64-default")["spec"]
    assert spec["updateStrategy"]["rollingUpdate"]["maxUnavailable"] == "100%"
    assert [c["name"] for c in spec["template"]["spec"]["containers"]] == ["translator"]
    [once] = spec["template"]["spec"]["initContainers"]
    assert once["command"][:2] == ["nat64-translator", "remove"]
    assert api.get("nat64gateway", "default") is not None

    roll_out(api)
    agent_pod(api, "node1", removing=True)
    eventually(lambda: api.get("nat64gateway", "default") is None, about="gateway gone")
    ours = "-lapp.kubernetes.io/managed-by=nat64-operator"

    def nothing() -> bool:  # the file that all gateways share goes once the last of them is gone
        return not any(api.items(kind, ours) for kind in ("daemonset", "service", "configmap"))

    eventually(nothing, about="nothing of ours is left")


def test_a_gateway_waits_for_coredns_to_be_unwired(
    running: tuple[Api, Operator, ClusterDns],
) -> None:
    api, _, _ = running
    agent_pod(api, "node1", removing=False)
    api.delete("nat64gateway", "default")

    def unwired() -> bool:
        return condition(api.get("dns64policy", "default"), "Programmed")[1] == "GatewayDeleting"

    eventually(unwired, about="policy says why")
    eventually(lambda: the_corefile(api) == SAMPLE.read_text(), about="Corefile restored")
    eventually(lambda: not is_ready(api, "dns64policy"), about="policy is not Ready")


def test_a_node_that_is_not_ready_is_not_waited_for(
    running: tuple[Api, Operator, ClusterDns],
) -> None:
    api, _, dns = running
    dns.synthesizes = False
    agent_pod(api, "node1", removing=False)
    api.patch(
        "node/node1",
        body={"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}},
        subresource="status",
    )
    api.delete("nat64gateway,dns64policy", "default")
    eventually(lambda: is_removing(api), about="the DaemonSet's last form")
    uid = api.get("nat64gateway", "default")["metadata"]["uid"]
    roll_out(api)
    eventually(lambda: api.get("nat64gateway", "default") is None, about="gateway gone")
    events = eventually(lambda: events_of(api, uid, "NodesNotCleaned"), about="the Event")
    assert "node1" in events[0]["message"]


def contents(api: Api, what: str) -> Any:
    """What of an object is ours."""
    found = api.get(*what.split("/"))
    if found is None:
        return None
    spec = found.get("spec")
    return spec, found.get("data"), found.get("binaryData"), found["metadata"]["labels"]


def pod_edit(**fields: Any) -> dict[str, Any]:
    return {"spec": {"template": {"spec": fields}}}


TO_TRANSLATOR: list[dict[str, Any]] = [
    {"args": ["--other"]},
    {"env": [{"name": "LD_PRELOAD", "value": "/tmp/x"}]},
    {"lifecycle": {"preStop": {"exec": {"command": ["true"]}}}},
    {"securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}},
    {"securityContext": {"privileged": True, "allowPrivilegeEscalation": None}},
    {"resources": {"limits": {"cpu": "1m"}}},
    {"image": "other"},
]
SERVICE = "service/nat64-default-dns"
DAEMON_SET = "daemonset/nat64-default"
AFFINITY = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "x", "operator": "Exists"}]}]
        }
    }
}
EDITS: list[tuple[str, dict[str, Any]]] = [
    (SERVICE, {"spec": {"selector": {"app.kubernetes.io/name": "x"}}}),
    (SERVICE, {"spec": {"selector": {"nobody": "here"}}}),
    (SERVICE, {"spec": {"sessionAffinity": "ClientIP"}}),
    (SERVICE, {"spec": {"externalIPs": ["2001:db8::9"]}}),
    (f"configmap/{SIDECAR}", {"data": {"Corefile": ".:53 {\n}\n"}}),
    (f"configmap/{SIDECAR}", {"data": {"clients": "acl {\n}\n"}}),
    (f"configmap/{SIDECAR}", {"binaryData": {"x": "AAAA"}}),
    (f"configmap/{SIDECAR}", {"data": {"Corefile": ".:53 {\n}\n"}, "immutable": True}),
    ("configmap/nat64-clients", {"data": {"clients": "acl {\n}\n"}}),
    ("configmap/nat64-default-nodes", {"data": {"nodes": "other"}}),
    ("configmap/nat64.wiring.default", {"data": {"foreign": "x"}}),
    (DAEMON_SET, pod_edit(hostNetwork=False, dnsPolicy="ClusterFirst")),
    (DAEMON_SET, {"metadata": {"labels": {"app.kubernetes.io/part-of": "x"}}}),
    (DAEMON_SET, pod_edit(nodeSelector={"nobody": "here"})),
    (DAEMON_SET, pod_edit(hostPID=True)),
    (DAEMON_SET, pod_edit(affinity=AFFINITY)),
    (DAEMON_SET, {"spec": {"template": {"metadata": {"labels": {"sidecar-injection": "on"}}}}}),
]


@pytest.mark.parametrize(("what", "change"), EDITS, ids=str)
def test_drift_is_repaired(
    running: tuple[Api, Operator, ClusterDns], what: str, change: dict[str, Any]
) -> None:
    api, _, _ = running
    before = contents(api, what)
    api.patch(what, body=change)
    eventually(lambda: contents(api, what) == before, about=f"{what} repaired")


def test_what_is_done_to_a_container_is_undone(running: tuple[Api, Operator, ClusterDns]) -> None:
    api, _, _ = running
    before = contents(api, DAEMON_SET)
    for change in TO_TRANSLATOR:
        containers = [{"name": "translator", **change}]
        body = {"spec": {"template": {"spec": {"containers": containers}}}}
        patch = ("patch", DAEMON_SET, "--type=strategic", "-p", json.dumps(body))
        api.control_plane.kubectl("-n", NAMESPACE, *patch)
        eventually(lambda: contents(api, DAEMON_SET) == before, about=f"{change} undone")


def test_a_restart_that_someone_asks_for_is_left(
    running: tuple[Api, Operator, ClusterDns],
) -> None:
    api, _, _ = running
    api.control_plane.kubectl("-n", NAMESPACE, "rollout", "restart", DAEMON_SET)
    api.patch(SERVICE, body={"spec": {"sessionAffinity": "ClientIP"}})
    eventually(
        lambda: api.get("service", "nat64-default-dns")["spec"]["sessionAffinity"] == "None",
        about="what is drift is repaired meanwhile",
    )
    annotations = api.get("daemonset", "nat64-default")["spec"]["template"]["metadata"]
    assert "kubectl.kubernetes.io/restartedAt" in annotations["annotations"]


@pytest.mark.parametrize(
    "what",
    [
        *("daemonset/nat64-default", "service/nat64-default-dns", f"configmap/{SIDECAR}"),
        *("configmap/nat64-clients", "configmap/nat64-default-nodes"),
        "configmap/nat64.wiring.default",
    ],
)
def test_what_is_deleted_comes_back(running: tuple[Api, Operator, ClusterDns], what: str) -> None:
    api, _, _ = running
    kind, name = what.split("/")
    uid = api.get(kind, name)["metadata"]["uid"]
    api.control_plane.kubectl("-n", NAMESPACE, "delete", what)
    eventually(
        lambda: (api.get(kind, name) or {"metadata": {"uid": uid}})["metadata"]["uid"] != uid,
        about=f"{what} is back",
    )


def test_what_cleans_the_nodes_that_a_gateway_left_is_repaired(
    running: tuple[Api, Operator, ClusterDns],
) -> None:
    api, _, _ = running
    api.patch("nat64gateway/default", body={"spec": {"nodeSelector": {"nowhere": "yes"}}})
    leaving = "daemonset/nat64-default.leaving"
    before = eventually(lambda: contents(api, leaving), about=leaving)
    for change in (pod_edit(hostPID=True), pod_edit(affinity=AFFINITY), pod_edit(affinity=None)):
        api.patch(leaving, body=change)
        eventually(lambda: contents(api, leaving) == before, about=f"{change} undone")
    uid = api.get(*leaving.split("/"))["metadata"]["uid"]
    api.control_plane.kubectl("-n", NAMESPACE, "delete", leaving)

    def is_back() -> bool:
        found = api.get(*leaving.split("/"))
        return found is not None and found["metadata"]["uid"] != uid

    eventually(is_back, about="it is back")


def test_a_deleted_config_comes_back(running: tuple[Api, Operator, ClusterDns]) -> None:
    api, _, _ = running
    digest = api.get("nat64gateway", "default")["status"]["configHash"]
    api.control_plane.kubectl("-n", NAMESPACE, "delete", f"configmap/nat64-default-{digest}")
    eventually(lambda: api.get("configmap", f"nat64-default-{digest}"), about="config is back")


def test_a_changed_spec_is_a_new_config_and_the_old_one_goes_after_the_rollout(
    running: tuple[Api, Operator, ClusterDns],
) -> None:
    api, _, _ = running
    old = api.get("nat64gateway", "default")["status"]["configHash"]
    api.patch("nat64gateway/default", body={"spec": {"timeouts": {"udpSeconds": 400}}})

    def changed() -> Any:
        digest = api.get("nat64gateway", "default")["status"]["configHash"]
        return digest != old and digest

    new = eventually(changed, about="a new hash")

    def rolling() -> bool:
        return condition(api.get("nat64gateway", "default"), "Programmed")[1] == "RollingOut"

    eventually(rolling, about="says that it rolls out")
    assert api.get("configmap", f"nat64-default-{old}") is not None
    roll_out(api)
    eventually(lambda: api.get("configmap", f"nat64-default-{old}") is None, about="old one gone")
    assert api.get("configmap", f"nat64-default-{new}") is not None


def test_what_others_edit_around_the_line_stays(
    running: tuple[Api, Operator, ClusterDns],
) -> None:
    api, _, _ = running
    edited = the_corefile(api).replace("cache 30 {", "# ours\n    cache 60 {")
    api.patch("configmap/coredns", body={"data": {"Corefile": edited}}, namespace="kube-system")
    api.delete("dns64policy", "default")
    eventually(lambda: api.get("dns64policy", "default") is None, about="policy gone")
    assert the_corefile(api) == SAMPLE.read_text().replace("cache 30 {", "# ours\n    cache 60 {")


def test_a_migration_that_rewrites_the_corefile_keeps_us_in_it_and_is_what_is_restored(
    running: tuple[Api, Operator, ClusterDns],
) -> None:
    api, _, dns = running
    migrated = SAMPLE.read_text().replace("cache 30 {", "cache 45 {").replace("    loop\n", "")
    assert migrated != SAMPLE.read_text()
    # kubeadm writes the whole object from what it knows, annotations and all.
    api.control_plane.kubectl("replace", "-f", "-", input=yaml.safe_dump(coredns(migrated)))
    line = f"forward . [{service_address(api)}]:53 /etc/resolv.conf"
    eventually(lambda: line in the_corefile(api), about="we are in it again")
    assert "cache 45 {" in the_corefile(api)
    eventually(lambda: is_ready(api, "dns64policy"), about="confirmed")
    api.delete("dns64policy", "default")
    dns.synthesizes = False
    eventually(lambda: api.get("dns64policy", "default") is None, about="policy gone")
    assert the_corefile(api) == migrated


def test_a_line_that_others_changed_is_left_and_said(
    running: tuple[Api, Operator, ClusterDns],
) -> None:
    api, _, _ = running
    address = service_address(api)
    foreign = the_corefile(api).replace(f"forward . [{address}]:53", "forward . 192.0.2.53 ")
    foreign = foreign.replace("192.0.2.53 ", f"192.0.2.53 [{address}]:53")
    api.patch("configmap/coredns", body={"data": {"Corefile": foreign}}, namespace="kube-system")
    eventually(
        lambda: condition(api.get("dns64policy", "default"), "Programmed")[1] == "EditedByOthers",
        about="the condition",
    )
    uid = api.get("dns64policy", "default")["metadata"]["uid"]
    api.delete("dns64policy", "default")
    eventually(lambda: api.get("dns64policy", "default") is None, about="policy gone")
    assert the_corefile(api) == foreign

    def said() -> bool:
        return any("left as it is" in e["message"] for e in events_of(api, uid, "CorefileRestored"))

    eventually(said, about="the Event")


def test_a_reverted_line_is_written_again_and_a_fight_is_left(
    running: tuple[Api, Operator, ClusterDns],
) -> None:
    api, _, _ = running
    wired = the_corefile(api)
    for _ in range(3):
        api.patch(
            "configmap/coredns",
            body={"data": {"Corefile": SAMPLE.read_text()}},
            namespace="kube-system",
        )
        eventually(lambda: the_corefile(api) == wired, about="written again")
        eventually(lambda: is_ready(api, "dns64policy"), about="confirmed again")
    api.patch(
        "configmap/coredns",
        body={"data": {"Corefile": SAMPLE.read_text()}},
        namespace="kube-system",
    )

    def stepped_back() -> bool:
        status, reason, message = condition(api.get("dns64policy", "default"), "Programmed")
        return status == "False" and reason == "SteppedBack" and "keeps undoing" in message

    eventually(stepped_back, about="steps back")
    assert the_corefile(api) == SAMPLE.read_text()


def test_a_corefile_that_a_gitops_tool_declares_is_not_touched(
    cluster: Api, operator: Operator
) -> None:
    cluster.control_plane.kubectl(
        *("apply", "--server-side", "--force-conflicts", "--field-manager=argocd", "-f", "-"),
        input=yaml.safe_dump(coredns(SAMPLE.read_text())),
    )
    cluster.apply(gateway(prefix=PREFIX), policy())
    operator.start()
    eventually(lambda: cluster.get("service", "nat64-default-dns"), about="service")
    sidecars_ready(cluster)

    def said() -> bool:
        _, reason, message = condition(cluster.get("dns64policy", "default"), "Programmed")
        return reason == "CorefileManagedElsewhere" and "'argocd'" in message

    eventually(said, about="the condition names the manager")
    assert the_corefile(cluster) == SAMPLE.read_text()

    def shown() -> str:  # once the sidecars' Service has an address
        text: str = cluster.get("dns64policy", "default")["status"].get("stanza", "")
        return text

    stanza = eventually(shown, about="the stanza to put in by hand")
    assert corefile.parse(f".:53 {{\n{stanza}\n}}\n").blocks


def test_an_unconfirmed_edit_is_put_back(
    cluster: Api, operator: Operator, cluster_dns: ClusterDns
) -> None:
    cluster.apply(gateway(prefix=PREFIX), policy())
    operator.start("--confirm-seconds=4")
    eventually(lambda: cluster.get("service", "nat64-default-dns"), about="service")
    sidecars_ready(cluster)
    eventually(lambda: the_corefile(cluster) != SAMPLE.read_text(), about="written")

    def back() -> bool:
        _, reason, message = condition(cluster.get("dns64policy", "default"), "Programmed")
        return reason == "RolledBack" and "did not synthesize within 4 seconds" in message

    eventually(back, about="rolled back")
    assert the_corefile(cluster) == SAMPLE.read_text()


def test_coredns_is_not_wired_before_a_sidecar_is_ready(cluster: Api, operator: Operator) -> None:
    cluster.apply(gateway(prefix=PREFIX), policy())
    operator.start()

    def waits() -> bool:
        found = condition(cluster.get("dns64policy", "default"), "Programmed")
        return found[:2] == ("False", "SidecarsNotReady")

    eventually(waits, about="waits")
    eventually(lambda: cluster.get("daemonset", "nat64-default"), about="the DaemonSet")
    sidecars_ready(cluster, ready=False)
    # What was told after it shows in the status: so it was seen, and was no reason to write.
    roll_out(cluster)
    eventually(lambda: is_ready(cluster, "nat64gateway"), about="the rollout is seen")
    assert waits()
    assert the_corefile(cluster) == SAMPLE.read_text()
    sidecars_ready(cluster)
    eventually(lambda: the_corefile(cluster) != SAMPLE.read_text(), about="wired with the first")


def test_manual_mode_changes_nothing_and_shows_the_stanza(cluster: Api, operator: Operator) -> None:
    cluster.apply(gateway(prefix=PREFIX), policy(coreDNS={"mode": "Manual", "failMode": "Fail"}))
    operator.start()
    eventually(lambda: cluster.get("daemonset", "nat64-default"), about="the DaemonSet")
    roll_out(cluster)
    sidecars_ready(cluster)
    eventually(lambda: is_ready(cluster, "dns64policy"), about="Ready")
    stanza = eventually(
        lambda: cluster.get("dns64policy", "default")["status"].get("stanza"), about="stanza"
    )
    assert stanza.startswith(f"forward . [{service_address(cluster)}]:53 {{")
    assert the_corefile(cluster) == SAMPLE.read_text()


def test_conflicts_name_the_older_object_which_keeps_working(
    cluster: Api, operator: Operator
) -> None:
    cluster.apply(gateway(prefix=PREFIX))
    operator.start()
    eventually(lambda: cluster.get("daemonset", "nat64-default"), about="the first")
    eventually(lambda: _later(cluster, "default"), about="a second has passed")
    cluster.apply(gateway("second", prefix=PREFIX), policy("a"), policy("b"), policy("lost"))
    cluster.patch("dns64policy/lost", body={"spec": {"gatewayRef": {"name": "nobody"}}})

    def accepted(kind: str, name: str) -> tuple[str, str, str]:
        return condition(cluster.get(kind, name), "Accepted")

    eventually(lambda: accepted("nat64gateway", "second")[1] == "PrefixConflict")
    assert "NAT64Gateway 'default'" in accepted("nat64gateway", "second")[2]
    eventually(lambda: accepted("nat64gateway", "default")[0] == "True")
    assert cluster.get("daemonset", "nat64-second") is None
    eventually(lambda: accepted("dns64policy", "b")[1] == "GatewayConflict")
    assert "DNS64Policy 'a'" in accepted("dns64policy", "b")[2]
    eventually(lambda: accepted("dns64policy", "lost")[1] == "GatewayNotFound")
    assert "'nobody'" in accepted("dns64policy", "lost")[2]
    cluster.patch("nat64gateway/second", body={"spec": {"prefix": "64:ff9b:1:1::/96"}})
    cluster.patch(
        "nat64gateway/second", body={"spec": {"pools": [{"ports": {"from": 50000, "to": 50999}}]}}
    )
    eventually(lambda: cluster.get("daemonset", "nat64-second"), about="the second runs")


def _later(api: Api, name: str) -> bool:
    """Creation times have no fractions: the younger one must be of another second."""
    created = api.get("nat64gateway", name)["metadata"]["creationTimestamp"]
    return (datetime.now(UTC) - datetime.fromisoformat(created)).total_seconds() > 1.1


def test_an_operator_that_was_down_catches_up(running: tuple[Api, Operator, ClusterDns]) -> None:
    api, operator, _ = running
    operator.stop()
    api.control_plane.kubectl("-n", NAMESPACE, "delete", "service/nat64-default-dns")
    api.patch("nat64gateway/default", body={"spec": {"timeouts": {"udpSeconds": 500}}})
    operator.start()
    eventually(lambda: api.get("service", "nat64-default-dns"), about="service is back")

    def rendered() -> bool:
        digest = api.get("nat64gateway", "default")["status"]["configHash"]
        found = api.get("configmap", f"nat64-default-{digest}")
        return found and config.parse(found["data"]["translator.yaml"]).timeouts.udp == 500

    eventually(rendered, about="the change is rendered")


def test_a_gateway_whose_finalizer_was_taken_off_is_cleaned_all_the_same(
    running: tuple[Api, Operator, ClusterDns],
) -> None:
    api, _, dns = running
    dns.synthesizes = False
    api.delete("nat64gateway", "default")
    api.patch("nat64gateway/default", body={"metadata": {"finalizers": []}})
    eventually(lambda: api.get("nat64gateway", "default") is None, about="gone at once")
    eventually(lambda: is_removing(api), about="the DaemonSet's last form")
    eventually(lambda: the_corefile(api) == SAMPLE.read_text(), about="Corefile restored")
    roll_out(api)
    agent_pod(api, "node1", removing=True)
    eventually(lambda: api.get("daemonset", "nat64-default") is None, about="all gone")
