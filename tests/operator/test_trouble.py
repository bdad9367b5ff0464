"""What someone else does wrong, or the cluster does not give, is said, and stops nothing else."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.run import ClusterError
from tests.operator.conftest import (
    NAMESPACE,
    PREFIX,
    REPO,
    Api,
    ClusterDns,
    Operator,
    condition,
    eventually,
    gateway,
    node,
    policy,
)
from tests.operator.faults import FaultProxy
from tests.operator.test_flow import (
    agent_pod,
    bring_up,
    events_of,
    is_ready,
    is_removing,
    lose_the_sidecars_twice,
    roll_out,
    without_pods,
)

pytestmark = pytest.mark.apiserver

CRDS = ("nat64gateways.nat64-operator.io", "dns64policies.nat64-operator.io")


def second() -> dict[str, Any]:
    """A gateway that stands beside the default one."""
    return gateway(
        "second", prefix="64:ff9b:1:1::/96", pools=[{"ports": {"from": 50000, "to": 50999}}]
    )


@pytest.fixture
def denied(api: Api) -> Iterator[None]:
    """An admission policy refuses one DaemonSet."""
    rule = {"expression": "object.metadata.name != 'nat64-second'", "message": "not on my cluster"}
    group = "admissionregistration.k8s.io/v1"
    api.apply(
        {
            "apiVersion": group,
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": "deny"},
            "spec": {
                "matchConstraints": {
                    "resourceRules": [
                        {
                            "apiGroups": ["apps"],
                            "apiVersions": ["v1"],
                            "operations": ["CREATE"],
                            "resources": ["daemonsets"],
                        }
                    ]
                },
                "validations": [rule],
            },
        },
        {
            "apiVersion": group,
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": "deny"},
            "spec": {"policyName": "deny", "validationActions": ["Deny"]},
        },
    )
    probe = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "nat64-second", "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"a": "b"}},
            "template": {
                "metadata": {"labels": {"a": "b"}},
                "spec": {"containers": [{"name": "a", "image": "a"}]},
            },
        },
    }

    def works() -> bool:
        try:
            api.control_plane.kubectl(
                "create", "--dry-run=server", "-f", "-", input=json.dumps(probe)
            )
        except ClusterError:
            return True
        return False

    eventually(works, about="the policy is in force")
    yield
    _allow(api)


def _allow(api: Api) -> None:
    for kind in ("validatingadmissionpolicybinding", "validatingadmissionpolicy"):
        api.delete(kind, "deny")


def test_what_the_api_server_refuses_is_a_condition_with_its_words(
    cluster: Api, operator: Operator, denied: None
) -> None:
    cluster.apply(gateway(prefix=PREFIX), second())
    operator.start()

    def said() -> bool:
        found = condition(cluster.get("nat64gateway", "second"), "Programmed")
        return found[:2] == ("False", "ApplyFailed") and "not on my cluster" in found[2]

    eventually(said, about="the condition")
    obj = cluster.get("nat64gateway", "second")
    assert condition(obj, "Accepted")[0] == "True"
    assert condition(obj, "Ready")[1] == "ApplyFailed"
    uid = obj["metadata"]["uid"]
    [event] = eventually(lambda: events_of(cluster, uid, "ApplyFailed"), about="the Event")
    assert "not on my cluster" in event["message"]
    eventually(lambda: cluster.get("daemonset", "nat64-default"), about="the other is made")
    _allow(cluster)
    eventually(lambda: cluster.get("daemonset", "nat64-second"), about="made once it may be")
    roll_out(cluster, "second")
    eventually(lambda: is_ready(cluster, "nat64gateway", "second"), about="and all is well")


def test_a_daemonset_with_anything_in_its_affinity_stops_nobody(
    cluster: Api, operator: Operator
) -> None:
    cluster.apply(gateway(prefix=PREFIX))
    operator.start()
    eventually(lambda: cluster.get("daemonset", "nat64-default"), about="the DaemonSet")
    operator.stop()
    terms = [{"matchExpressions": [{"key": "x", "operator": "Exists"}]}]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    body = {"spec": {"template": {"spec": {"affinity": {"nodeAffinity": required}}}}}
    cluster.patch("daemonset/nat64-default", body=body)
    cluster.delete("nat64gateway", "default")
    cluster.apply(second())
    operator.start()
    eventually(lambda: cluster.get("daemonset", "nat64-second"), about="the second is made")

    def rolled() -> bool:
        spec = cluster.get("daemonset", "nat64-default")["spec"]["template"]["spec"]
        return "remove" in spec["containers"][0]["command"] and "matchExp" not in str(spec)

    eventually(rolled, about="the first cleans its nodes")


def test_a_node_opens_the_sidecars_to_nobody_else(cluster: Api, operator: Operator) -> None:
    cluster.apply(gateway(prefix=PREFIX), node("evil", "fd00:10:245::/64", ""))
    addresses = ["::/0", "0.0.0.0/0", "nonsense", "fe80::1%eth0", "2001:db8:1::66"]
    cluster.patch(
        "node/evil",
        body={
            "status": {"addresses": [{"type": "InternalIP", "address": a} for a in addresses]},
        },
        subresource="status",
    )
    operator.start()

    def clients() -> str:
        found = cluster.get("configmap", "nat64-clients") or {"data": {}}
        text: str = found["data"].get("clients", "")
        return text

    eventually(lambda: "2001:db8:1::66/128" in clients(), about="what is true is believed")
    lines = clients().splitlines()
    assert not [line for line in lines if "/0" in line or "%" in line or "nonsense" in line]
    assert "allow net fd00:10:245::/64" in clients()
    assert operator.log().count("'::/0' is not an IP address") == 1


def test_conditions_of_others_are_theirs(cluster: Api, operator: Operator) -> None:
    cluster.apply(gateway(prefix=PREFIX))
    operator.start()
    eventually(lambda: cluster.get("daemonset", "nat64-default"), about="the DaemonSet")
    theirs = {
        "type": "Theirs",
        "status": "True",
        "reason": "Because",
        "message": "",
        "lastTransitionTime": "2026-11-24T07:00:00Z",
    }
    obj = gateway()
    del obj["spec"]
    cluster.control_plane.kubectl(
        *("apply", "--server-side", "--subresource=status", "--field-manager=other", "-f", "-"),
        input=json.dumps({**obj, "status": {"conditions": [theirs]}}),
    )
    roll_out(cluster)
    eventually(lambda: is_ready(cluster, "nat64gateway"), about="Ready")
    version = cluster.get("nat64gateway", "default")["metadata"]["resourceVersion"]
    # A change that is seen later: until then nothing was written.
    cluster.delete("service", "nat64-default-dns")
    eventually(lambda: cluster.get("service", "nat64-default-dns"), about="a pass went by")
    found = cluster.get("nat64gateway", "default")
    assert condition(found, "Theirs")[0] == "True"
    assert operator.log().count("SetStatus NAT64Gateway default") < 8
    assert int(found["metadata"]["resourceVersion"]) >= int(version)


def test_an_event_that_happens_again_is_counted(
    cluster: Api, operator: Operator, cluster_dns: ClusterDns
) -> None:
    bring_up(cluster, operator, cluster_dns)
    uid = cluster.get("dns64policy", "default")["metadata"]["uid"]
    lose_the_sidecars_twice(cluster)

    def counted() -> bool:
        events = events_of(cluster, uid, "SidecarsNotReady")
        messages = [event["message"] for event in events]
        return len(messages) == len(set(messages)) and max(e["count"] for e in events) >= 2

    eventually(counted, about="one Event, seen twice")


def test_health_is_served_before_the_api_server_is_there(
    cluster: Api, operator: Operator, proxy: FaultProxy
) -> None:
    proxy.missing = {"dns64policies"}
    operator.start()
    eventually(lambda: operator.ask("/healthz")[0] == 200, about="alive")
    assert operator.ask("/readyz")[0] == 503
    eventually(lambda: "does not know DNS64Policy" in operator.log(), about="says what it lacks")
    proxy.missing = set()
    eventually(lambda: operator.ask("/readyz")[0] == 200, about="ready")
    cluster.apply(gateway(prefix=PREFIX))
    eventually(lambda: cluster.get("daemonset", "nat64-default"), about="at work")
    code, text = operator.ask("/metrics")
    assert code == 200
    assert 'nat64_operator_managed_objects{kind="DaemonSet"} 1.0' in text
    assert 'nat64_operator_api_requests_total{code="201",method="PATCH"}' in text
    assert "nat64_operator_reconcile_seconds_count" in text
    assert 'nat64_operator_conditions{condition="Accepted",kind="NAT64Gateway"' in text


def test_a_kind_that_is_not_known_for_a_while_takes_nothing_away(
    cluster: Api, operator: Operator, proxy: FaultProxy
) -> None:
    cluster.apply(gateway(prefix=PREFIX), policy())
    operator.start()
    eventually(lambda: cluster.get("daemonset", "nat64-default"), about="the DaemonSet")
    roll_out(cluster)
    eventually(lambda: is_ready(cluster, "nat64gateway"), about="Ready")
    proxy.missing = {"nat64gateways"}
    proxy.cut_watches()
    # Each time the watches start again, everything is listed.
    eventually(lambda: operator.log().count("the watches start again") >= 2, 120, about="it lists")
    eventually(lambda: operator.log().count("the watches ended") >= 3, 120, about="in vain")
    assert operator.running
    assert "remove" not in str(cluster.get("daemonset", "nat64-default")["spec"])
    operator.stop()
    operator.start()  # one that has never known the kind
    eventually(lambda: operator.ask("/healthz")[0] == 200, about="alive, and waits")
    assert operator.ask("/readyz")[0] == 503
    eventually(lambda: "does not know NAT64Gateway" in operator.log(), about="says why")
    spec = cluster.get("daemonset", "nat64-default")["spec"]
    assert "remove" not in str(spec)
    proxy.missing = set()
    cluster.patch("nat64gateway/default", body={"spec": {"timeouts": {"udpSeconds": 404}}})
    eventually(lambda: operator.ask("/readyz")[0] == 200, about="ready")
    eventually(
        lambda: cluster.get("daemonset", "nat64-default")["spec"] != spec, about="it goes on"
    )
    assert "remove" not in str(cluster.get("daemonset", "nat64-default")["spec"])


@pytest.fixture
def crds(api: Api) -> Iterator[None]:
    """The CRDs may be deleted; they are there again afterwards."""
    yield
    api.control_plane.kubectl("apply", "--server-side", "-f", str(REPO / "crds"))
    for name in CRDS:
        api.control_plane.kubectl("wait", f"crd/{name}", "--for=condition=Established")


def test_a_crd_that_is_deleted_cleans_up_and_comes_back(
    cluster: Api, operator: Operator, crds: None
) -> None:
    cluster.apply(gateway(prefix=PREFIX))
    operator.start()
    eventually(lambda: cluster.get("daemonset", "nat64-default"), about="the DaemonSet")
    cluster.control_plane.kubectl("delete", "crd", CRDS[0], "--wait=false")
    eventually(lambda: is_removing(cluster), about="the nodes are cleaned first")
    roll_out(cluster)
    agent_pod(cluster, "node1", removing=True)
    cluster.control_plane.kubectl("wait", f"crd/{CRDS[0]}", "--for=delete", "--timeout=60s")
    eventually(lambda: cluster.get("daemonset", "nat64-default") is None, about="all is gone")
    cluster.control_plane.kubectl("apply", "--server-side", "-f", str(REPO / "crds"))
    cluster.control_plane.kubectl("wait", f"crd/{CRDS[0]}", "--for=condition=Established")
    cluster.apply(gateway("after", prefix=PREFIX))

    eventually(lambda: cluster.get("daemonset", "nat64-after"), 120, about="at work again")
    assert operator.running


def test_why_pods_are_not_created_is_a_condition(cluster: Api, operator: Operator) -> None:
    cluster.apply(gateway(prefix=PREFIX))
    operator.start()
    eventually(lambda: cluster.get("daemonset", "nat64-default"), about="the DaemonSet")
    said = 'pods "nat64-default-x" is forbidden: violates PodSecurity "baseline:latest"'
    without_pods(cluster, said)

    def named() -> bool:
        found = cluster.get("nat64gateway", "default")
        return all(
            condition(found, type_)[1] == "PodsNotCreated" and said in condition(found, type_)[2]
            for type_ in ("Programmed", "Ready")
        )

    eventually(named, about="the API server's words")
    roll_out(cluster)
    eventually(lambda: is_ready(cluster, "nat64gateway"), about="it goes by itself")


def test_without_an_operator_the_finalizer_is_the_way_out(
    cluster: Api, operator: Operator, crds: None
) -> None:
    cluster.apply(gateway(prefix=PREFIX))
    operator.start()
    eventually(lambda: cluster.get("daemonset", "nat64-default"), about="the DaemonSet")
    operator.stop()
    done = uninstall(operator, 3)
    assert done.returncode == 1
    assert "Is the operator running?" in done.stderr
    cluster.control_plane.kubectl("delete", "crd", CRDS[0], "--wait=false")
    assert cluster.get("nat64gateway", "default") is not None
    cluster.patch("nat64gateway/default", body={"metadata": {"finalizers": None}})
    cluster.control_plane.kubectl("wait", f"crd/{CRDS[0]}", "--for=delete", "--timeout=60s")
    assert cluster.get("daemonset", "nat64-default") is not None, "is the operator's to clean"


def uninstall(operator: Operator, seconds: int) -> subprocess.CompletedProcess[str]:
    argv = [str(Path(sys.executable).with_name("nat64-operator")), "uninstall"]
    env = {**os.environ, "KUBECONFIG": str(operator.kubeconfig)}
    return subprocess.run(
        [*argv, f"--timeout={seconds}"], env=env, capture_output=True, text=True, timeout=120
    )


def test_uninstalling_waits_for_an_api_server_in_trouble(
    cluster: Api, operator: Operator, proxy: FaultProxy
) -> None:
    proxy.rates = {429: 0.5, 500: 0.2}
    cluster.apply(gateway(prefix=PREFIX))
    done = uninstall(operator, 60)
    assert done.returncode == 0, done.stderr
    assert cluster.get("nat64gateway", "default") is None
    proxy.rates = {}
    proxy.down = True
    done = uninstall(operator, 2)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "waiting for the API server" in done.stdout


def test_a_label_of_the_namespace_that_someone_set_is_left(
    cluster: Api, operator: Operator
) -> None:
    key = "pod-security.kubernetes.io"
    cluster.control_plane.kubectl("label", "--overwrite", "ns", NAMESPACE, f"{key}/warn=baseline")
    try:
        operator.start("--label-namespace=true")
        cluster.apply(gateway(prefix=PREFIX))
        eventually(lambda: cluster.get("daemonset", "nat64-default"), about="at work")
        labels = cluster.get("namespace", NAMESPACE)["metadata"]["labels"]
        assert labels[f"{key}/enforce"] == "privileged"
        assert labels[f"{key}/warn"] == "baseline"
        assert "is left" in operator.log()
    finally:
        cluster.control_plane.kubectl("label", "ns", NAMESPACE, f"{key}/warn-", f"{key}/enforce-")
