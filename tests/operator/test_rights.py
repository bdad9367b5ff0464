"""The chart grants what the operator uses, and nothing else.

Everything that the operator does is done once under the shipped rights; the API server's audit log
says what was asked for.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.operator.conftest import (
    NAMESPACE,
    PREFIX,
    SAMPLE,
    Api,
    ClusterDns,
    Operator,
    eventually,
    gateway,
    policy,
)
from tests.operator.test_flow import agent_pod, is_ready, roll_out, sidecars_ready, the_corefile

pytestmark = pytest.mark.apiserver

ACCOUNT = f"system:serviceaccount:{NAMESPACE}:nat64-operator"
K3S = Path(__file__).parents[1] / "unit" / "corefiles" / "k3s"

Right = tuple[str, str, str, str]
"""Namespace (empty: all), API group, resource with subresource, verb."""


def granted(chart: list[dict[str, Any]]) -> set[Right]:
    rights = set()
    for obj in chart:
        if obj["kind"] not in ("Role", "ClusterRole"):
            continue
        where = obj["metadata"].get("namespace", "")
        for rule in obj["rules"]:
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    rights |= {(where, group, resource, verb) for verb in rule["verbs"]}
    return rights


def asked(lines: list[str]) -> Iterator[tuple[Right, int]]:
    for line in lines:
        entry = json.loads(line)
        about = entry.get("objectRef")
        if entry["user"]["username"] != ACCOUNT or not about:
            continue
        resource = "/".join(filter(None, (about["resource"], about.get("subresource"))))
        where = about.get("namespace", "")
        code = entry["responseStatus"]["code"]
        right = where, about.get("apiGroup", ""), resource, entry["verb"]
        yield right, code
        if entry["verb"] == "patch" and code == 201:  # applying what isn't there makes it
            yield (*right[:3], "create"), code


def test_no_rule_has_a_wildcard_or_secrets(chart: list[dict[str, Any]]) -> None:
    for _, group, resource, verb in granted(chart):
        assert "*" not in (group, resource, verb)
        assert resource != "secrets"


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


def test_what_is_granted_is_what_is_used(
    cluster: Api,
    operator: Operator,
    cluster_dns: ClusterDns,
    chart: list[dict[str, Any]],
) -> None:
    audit = cluster.control_plane.audit_log
    assert audit is not None
    before = len(audit.read_text().splitlines())
    cluster.apply(gateway(prefix=PREFIX), policy())
    operator.start("--label-namespace=true")
    eventually(lambda: cluster.get("daemonset", "nat64-default"))
    roll_out(cluster)
    sidecars_ready(cluster)
    cluster_dns.synthesizes = True
    eventually(lambda: is_ready(cluster, "dns64policy"), about="Forward")
    corefile = {"data": {"Corefile": K3S.read_text()}}
    cluster.patch("dns64policy/default", body={"spec": {"coreDNS": {"mode": "Import"}}})
    eventually(lambda: the_corefile(cluster) == SAMPLE.read_text(), about="the line is put back")
    cluster.patch("configmap/coredns", body=corefile, namespace="kube-system")
    eventually(
        lambda: cluster.get("configmap", "coredns-custom", namespace="kube-system"),
        about="Import makes the ConfigMap",
    )
    cluster_dns.synthesizes = False
    agent_pod(cluster, "node1", removing=False)

    uninstall = [str(Path(sys.executable).with_name("nat64-operator")), "uninstall"]
    env = {**os.environ, "KUBECONFIG": str(operator.kubeconfig)}
    with subprocess.Popen([*uninstall, "--timeout=120"], env=env) as process:

        def rolled() -> bool:
            spec = cluster.get("daemonset", "nat64-default")["spec"]["template"]["spec"]
            return "remove" in spec["containers"][0]["command"]

        eventually(rolled, 60, about="the DaemonSet's last form")
        roll_out(cluster)
        agent_pod(cluster, "node1", removing=True)
        assert process.wait(90) == 0
    cluster.delete("configmap", "coredns-custom", namespace="kube-system")

    seen = list(asked(audit.read_text().splitlines()[before:]))
    assert [right for right, code in seen if code == 403] == []
    used = {right for right, _ in seen}
    rights = granted(chart)
    everywhere = {right[1:] for right in rights if not right[0]}
    # Objects without a namespace are granted by a ClusterRole; the rest where they are.
    missing = {right for right in used if right not in rights and right[1:] not in everywhere}
    assert missing == set()
    unused = rights - used - {("", *right) for right in {u[1:] for u in used}}
    assert unused == set()
