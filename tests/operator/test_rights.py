"""The chart grants what the operator uses, and nothing else.

Everything that the operator does is done once under the shipped rights; the API server's audit log
says what was asked for.
"""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.operator.conftest import (
    NAMESPACE,
    SAMPLE,
    Api,
    ClusterDns,
    Operator,
    apply_chart,
    condition,
    eventually,
)
from tests.operator.test_flow import (
    agent_pod,
    bring_up,
    events_of,
    is_ready,
    is_removing,
    lose_the_sidecars_twice,
    roll_out,
    the_corefile,
    without_pods,
)

pytestmark = pytest.mark.apiserver

ACCOUNT = f"system:serviceaccount:{NAMESPACE}:nat64-operator"
K3S = Path(__file__).parents[1] / "unit" / "corefiles" / "k3s"


class Right(NamedTuple):
    """What may be asked for, or was."""

    where: str
    """The namespace; empty for all, and for objects without one."""
    group: str
    resource: str
    """With its subresource."""
    verb: str
    name: str
    """The one object; empty for any."""


def granted(chart: list[dict[str, Any]]) -> set[Right]:
    rights = set()
    for obj in chart:
        if obj["kind"] not in ("Role", "ClusterRole"):
            continue
        where = obj["metadata"].get("namespace", "")
        for rule in obj["rules"]:
            parts = rule["apiGroups"], rule["resources"], rule["verbs"]
            for group, resource, verb in itertools.product(*parts):
                for name in rule.get("resourceNames", [""]):
                    rights.add(Right(where, group, resource, verb, name))
    return rights


def covers(right: Right, used: Right) -> bool:
    """Whether a right that is granted is one that was used."""
    same = right[1:4] == used[1:4]
    return same and right.where in ("", used.where) and right.name in ("", used.name)


def asked(lines: list[str]) -> Iterator[tuple[Right, int]]:
    for line in lines:
        entry = json.loads(line)
        about = entry.get("objectRef")
        if entry["user"]["username"] != ACCOUNT or not about:
            continue
        resource = "/".join(filter(None, (about["resource"], about.get("subresource"))))
        where = about.get("namespace", "") if resource != "namespaces" else NAMESPACE
        code = entry["responseStatus"]["code"]
        # What is made has its name in the body, where no right looks at it.
        name = "" if entry["verb"] == "create" else about.get("name", "")
        right = Right(where, about.get("apiGroup", ""), resource, entry["verb"], name)
        yield right, code
        if entry["verb"] == "patch" and code == 201:  # applying what isn't there makes it
            yield right._replace(verb="create", name=""), code


def test_no_rule_has_a_wildcard_or_secrets(chart: list[dict[str, Any]]) -> None:
    for right in granted(chart):
        assert "*" not in right
        assert right.resource != "secrets"


def test_the_agents_account_has_no_rights_and_no_token(chart: list[dict[str, Any]]) -> None:
    [account] = [
        obj
        for obj in chart
        if obj["kind"] == "ServiceAccount" and obj["metadata"]["name"] == "nat64-dataplane"
    ]
    assert account["automountServiceAccountToken"] is False
    bindings = [obj for obj in chart if obj["kind"].endswith("Binding")]
    subjects = {subject["name"] for obj in bindings for subject in obj["subjects"]}
    assert subjects == {"nat64-operator"}


@pytest.fixture
def whole_chart(cluster: Api, chart: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The chart with all that needs rights switched on."""
    yield apply_chart(cluster, "--set=operator.replicas=2")
    apply_chart(cluster)
    cluster.control_plane.kubectl("-n", NAMESPACE, "delete", "lease", "--all")


def left_by_a_failed_test(cluster: Api, chart: list[dict[str, Any]]) -> None:
    """The pod of `helm test`, which Helm keeps for its log."""
    [pod] = [obj for obj in chart if obj["kind"] == "Pod"]
    # Nobody has made the namespace's default account here.
    account = {"serviceAccountName": "nat64-dataplane"}
    cluster.apply({**pod, "spec": {**pod["spec"], **account}})


def test_what_is_granted_is_what_is_used(
    cluster: Api,
    operator: Operator,
    cluster_dns: ClusterDns,
    whole_chart: list[dict[str, Any]],
) -> None:
    audit = cluster.control_plane.audit_log
    assert audit is not None
    before = len(audit.read_text().splitlines())
    bring_up(cluster, operator, cluster_dns, "--label-namespace=true")
    without_pods(cluster, "exceeded quota")
    eventually(
        lambda: (
            condition(cluster.get("nat64gateway", "default"), "Programmed")[1] == "PodsNotCreated"
        ),
        about="the Events are read",
    )
    roll_out(cluster)
    eventually(lambda: is_ready(cluster, "dns64policy"), about="all is well again")
    uid = cluster.get("dns64policy", "default")["metadata"]["uid"]
    lose_the_sidecars_twice(cluster)

    def counted() -> bool:
        return any(event["count"] > 1 for event in events_of(cluster, uid, "SidecarsNotReady"))

    eventually(counted, about="an Event is counted")
    agent_pod(cluster, "node1", removing=False)
    cluster.patch("dns64policy/default", body={"spec": {"translateAll": True}})

    def announced() -> bool:
        annotations = cluster.get("pod", "agent-node1")["metadata"].get("annotations") or {}
        return "nat64-operator.io/mounted" in annotations

    eventually(announced, about="the kubelet is told of changed data")
    corefile = {"data": {"Corefile": K3S.read_text()}}
    cluster.patch("dns64policy/default", body={"spec": {"coreDNS": {"mode": "Import"}}})
    eventually(lambda: the_corefile(cluster) == SAMPLE.read_text(), about="the line is put back")
    cluster.patch("configmap/coredns", body=corefile, namespace="kube-system")
    eventually(
        lambda: cluster.get("configmap", "coredns-custom", namespace="kube-system"),
        about="Import makes the ConfigMap",
    )
    body = {"spec": {"coreDNS": {"failMode": "Fail"}}}
    cluster.patch("dns64policy/default", body=body)

    def rewritten() -> bool:
        found = cluster.get("configmap", "coredns-custom", namespace="kube-system")
        return "/etc/resolv.conf" not in str(found["data"])

    eventually(rewritten, about="Import changes the ConfigMap")
    cluster_dns.synthesizes = False
    agent_pod(cluster, "node1", removing=False)
    left_by_a_failed_test(cluster, whole_chart)

    uninstall = [str(Path(sys.executable).with_name("nat64-operator")), "uninstall"]
    env = {**os.environ, "KUBECONFIG": str(operator.kubeconfig)}
    with subprocess.Popen([*uninstall, "--timeout=120"], env=env) as process:
        eventually(lambda: is_removing(cluster), 60, about="the DaemonSet's last form")
        roll_out(cluster)
        agent_pod(cluster, "node1", removing=True)
        assert process.wait(90) == 0
    assert cluster.get("configmap", "coredns-custom", namespace="kube-system") is None
    assert cluster.get("pod", "nat64-operator-verify") is None
    assert cluster.get("configmap", "nat64-wiring", namespace="kube-system") is None

    seen = list(asked(audit.read_text().splitlines()[before:]))
    assert [right for right, code in seen if code == 403] == []
    used = {right for right, _ in seen}
    rights = granted(whole_chart)
    assert {right for right in used if not any(covers(r, right) for r in rights)} == set()
    assert {right for right in rights if not any(covers(right, u) for u in used)} == set()
