"""The chart as Helm renders it, with values that people set, and the values that it refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster import binaries
from tests.operator.conftest import NAMESPACE, REPO, Api

pytestmark = pytest.mark.apiserver

CHART = REPO / "charts" / "nat64-operator"
DIGEST = "sha256:" + "0123456789abcdef" * 4


def helm(*flags: str, chart: Path = CHART) -> subprocess.CompletedProcess[str]:
    program = str(binaries.ensure("helm")["helm"])
    argv = [program, "template", "nat64-operator", str(chart), f"--namespace={NAMESPACE}", *flags]
    return subprocess.run(argv, capture_output=True, text=True)


def render(*flags: str, chart: Path = CHART) -> dict[tuple[str, str], Any]:
    done = helm(*flags, chart=chart)
    assert done.returncode == 0, done.stderr
    objects = [obj for obj in yaml.safe_load_all(done.stdout) if obj]
    found = {(obj["kind"], obj["metadata"]["name"]): obj for obj in objects}
    assert len(found) == len(objects), "two objects with one name"
    return found


def operator(chart: dict[tuple[str, str], Any]) -> Any:
    [container] = chart["Deployment", "nat64-operator"]["spec"]["template"]["spec"]["containers"]
    return container


def environment(container: Any) -> dict[str, str]:
    return {e["name"]: e["value"] for e in container["env"] if "value" in e}


def test_images_are_those_of_the_charts_version_by_default() -> None:
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    container = operator(render())
    assert container["image"] == f"nat64-operator/operator:{version}"
    image = environment(container)["NAT64_DATAPLANE_IMAGE"]
    assert image == f"nat64-operator/dataplane:{version}"


def test_a_digest_wins_over_a_tag() -> None:
    flags = [
        f"--set={part}.image.{key}={value}"
        for part in ("operator", "dataplane")
        for key, value in (("digest", DIGEST), ("tag", "9.9"))
    ]
    chart = render(*flags)
    container = operator(chart)
    assert container["image"] == f"nat64-operator/operator@{DIGEST}"
    image = environment(container)["NAT64_DATAPLANE_IMAGE"]
    assert image == f"nat64-operator/dataplane@{DIGEST}"
    job = chart["Job", "nat64-operator-uninstall"]["spec"]["template"]["spec"]["containers"][0]
    [test] = chart["Pod", "nat64-operator-verify"]["spec"]["containers"]
    assert job["image"] == test["image"] == container["image"]


def test_one_replica_has_a_lease_and_no_disruption_budget() -> None:
    chart = render()
    deployment = chart["Deployment", "nat64-operator"]["spec"]
    assert (deployment["replicas"], deployment["strategy"]["type"]) == (1, "Recreate")
    assert ("Lease", "nat64-operator") in chart
    assert "PodDisruptionBudget" not in {kind for kind, _ in chart}
    assert lease_rights(chart) == [(None, ["create"]), (["nat64-operator"], ["get", "patch"])]


def lease_rights(chart: dict[tuple[str, str], Any]) -> list[tuple[Any, Any]]:
    rules = chart["Role", "nat64-operator"]["rules"]
    return [(r.get("resourceNames"), r["verbs"]) for r in rules if "leases" in r["resources"]]


def test_two_replicas_share_a_lease_on_two_nodes() -> None:
    chart = render("--set=operator.replicas=2")
    deployment = chart["Deployment", "nat64-operator"]["spec"]
    assert (deployment["replicas"], deployment["strategy"]["type"]) == (2, "RollingUpdate")
    assert "podAntiAffinity" in deployment["template"]["spec"]["affinity"]
    # What goes with the release is what they use.
    assert ("Lease", "nat64-operator") in chart
    selector = chart["PodDisruptionBudget", "nat64-operator"]["spec"]["selector"]
    assert selector == deployment["selector"]
    assert lease_rights(chart) == [(None, ["create"]), (["nat64-operator"], ["get", "patch"])]


@pytest.mark.parametrize(
    ("value", "variable"),
    [
        ("confirmSeconds=77", "NAT64_CONFIRM_SECONDS=77"),
        ("removalSeconds=77", "NAT64_REMOVAL_SECONDS=77"),
        ("corefileSeconds=77", "NAT64_COREFILE_SECONDS=77"),
        ("drainSeconds=77", "NAT64_DRAIN_SECONDS=77"),
        ("retrySeconds=77", "NAT64_RETRY_SECONDS=77"),
        ("clusterDNS=[2001:db8::53]:5353", "NAT64_CLUSTER_DNS=[2001:db8::53]:5353"),
    ],
)
def test_a_time_reaches_the_operator(value: str, variable: str) -> None:
    name, _, expected = variable.partition("=")
    assert environment(operator(render(f"--set=operator.{value}")))[name] == expected


def test_the_custom_config_map_is_deleted_on_request_only() -> None:
    """To create is granted always: the backup of a Corefile lies beside it. That right can't be
    granted by name, so what may be deleted is by name, each of them.
    """

    def deletes(*flags: str) -> set[str]:
        role = render(*flags)["Role", "nat64-operator-coredns"]
        assert role["metadata"]["namespace"] == "kube-system"
        rules = [rule for rule in role["rules"] if "delete" in rule["verbs"]]
        assert all(rule["resources"] == ["configmaps"] for rule in rules)
        return {name for rule in rules for name in rule["resourceNames"]}

    assert deletes() == {"nat64-wiring"}
    assert deletes("--set=coreDNS.createCustomConfigMap=true") == {"nat64-wiring", "coredns-custom"}


@pytest.mark.parametrize("kind", ["PodMonitor", "ServiceMonitor"])
def test_a_monitor_selects_ports_that_the_pods_have(kind: str) -> None:
    value = kind[0].lower() + kind[1:]
    chart = render(
        f"--set=monitoring.{value}.enabled=true",
        f"--set=monitoring.{value}.labels.release=prometheus",
        f"--set=monitoring.{value}.interval=15s",
    )
    ports = {"operator": {"health"}, "dataplane": {"metrics", "dns-metrics", "clat-metrics"}}
    deployment = chart["Deployment", "nat64-operator"]["spec"]["template"]["metadata"]["labels"]
    # The labels of agents are the operator's business: render/names.py.
    pods = {"operator": deployment, "dataplane": {"app.kubernetes.io/name": "nat64-gateway"}}
    for what, names in ports.items():
        monitor = chart[kind, f"nat64-{what}"]
        assert monitor["metadata"]["labels"]["release"] == "prometheus"
        spec = monitor["spec"]
        endpoints = spec["podMetricsEndpoints" if kind == "PodMonitor" else "endpoints"]
        assert {e["port"] for e in endpoints} == names
        assert {e["interval"] for e in endpoints} == {"15s"}
        assert all(e["relabelings"][0]["targetLabel"] == "node" for e in endpoints)
        selected = spec["selector"].get("matchLabels", {})
        if kind == "ServiceMonitor":
            service = chart["Service", f"nat64-{what}-metrics"]
            assert selected.items() <= service["metadata"]["labels"].items()
            assert {p["name"] for p in service["spec"]["ports"]} == names
            selected = service["spec"]["selector"]
        if expressions := spec["selector"].get("matchExpressions"):
            assert expressions == [
                {
                    "key": "app.kubernetes.io/name",
                    "operator": "In",
                    "values": ["nat64-gateway", "nat64-router"],
                }
            ]
        assert selected.items() <= pods[what].items()
    if kind == "ServiceMonitor":
        routers = chart["Service", "nat64-router-metrics"]
        monitored = chart[kind, "nat64-dataplane"]["spec"]["selector"]["matchLabels"]
        assert monitored.items() <= routers["metadata"]["labels"].items()
        assert routers["spec"]["selector"] == {"app.kubernetes.io/name": "nat64-router"}
    other = ({"PodMonitor", "ServiceMonitor"} - {kind}).pop()
    assert not any(found == other for found, _ in chart)


def test_rules_link_to_their_runbooks() -> None:
    on = "--set=monitoring.prometheusRule.enabled=true"
    alerts = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())

    def rules(*flags: str) -> Any:
        [group] = render(on, *flags)["PrometheusRule", "nat64-operator"]["spec"]["groups"]
        return group["rules"]

    assert [rule["alert"] for rule in rules()] == [alert["alert"] for alert in alerts]
    for rule, alert in zip(rules(), alerts, strict=True):
        assert rule["expr"] == alert["expr"]
        assert rule["annotations"]["runbook"] == f"docs/alerts.md#{rule['alert'].lower()}"
        assert "runbook_url" not in rule["annotations"]
    for rule in rules("--set=monitoring.prometheusRule.runbookBase=https://docs.example/alerts"):
        url = f"https://docs.example/alerts#{rule['alert'].lower()}"
        assert rule["annotations"]["runbook_url"] == url


def test_the_dashboard_arrives_whole() -> None:
    config_map = render("--set=monitoring.dashboard.enabled=true")["ConfigMap", "nat64-dashboard"]
    source = json.loads((CHART / "files" / "dashboard.json").read_text())
    assert json.loads(config_map["data"]["nat64.json"]) == source
    assert config_map["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_nothing_for_monitoring_is_there_by_default() -> None:
    kinds = {kind for kind, _ in render()}
    assert not kinds & {"PodMonitor", "ServiceMonitor", "PrometheusRule", "Service", "ConfigMap"}


@pytest.mark.parametrize(
    ("flag", "named"),
    [
        ("replica=2", "replica"),
        ("operator.replica=2", "replica"),
        ("operator.image.tags=x", "tags"),
        ("dataplane.translator.cpu=1", "cpu"),
        ("monitoring.serviceMonitor.on=true", "on"),
        ("uninstall.timeout=1", "timeout"),
        ("operator.replicas=-1", "replicas"),
        ("operator.replicas=two", "replicas"),
        ("operator.image.digest=sha256:0123", "digest"),
        ("operator.image.pullPolicy=Sometimes", "pullPolicy"),
        ("operator.confirmSeconds=1", "confirmSeconds"),
        ("operator.corefileSeconds=0", "corefileSeconds"),
        ("operator.clusterDNS=dns.example", "clusterDNS"),
        ("helmTest.connect=host-without-port", "connect"),
        ("monitoring.podMonitor.interval=fast", "interval"),
        ("monitoring.prometheusRule.runbookBase=docs/alerts.md", "runbookBase"),
        ("coreDNS.createCustomConfigMap=maybe", "createCustomConfigMap"),
        ("uninstall.timeoutSeconds=5", "timeoutSeconds"),
    ],
)
def test_a_value_that_cannot_work_is_refused_by_name(flag: str, named: str) -> None:
    done = helm(f"--set={flag}")
    assert done.returncode != 0
    assert "values don't meet the specifications of the schema" in done.stderr
    assert named in done.stderr


EVERY_KNOB: dict[str, Any] = {
    "commonLabels": {"team": "network"},
    "imagePullSecrets": [{"name": "pull"}],
    "operator": {
        "replicas": 2,
        "podLabels": {"cost": "7"},
        "podAnnotations": {"a/b": "c"},
        "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://[fd00::1]:3128"}],
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "topology.kubernetes.io/zone",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {"app.kubernetes.io/name": "nat64-operator"}},
            }
        ],
        "dnsPolicy": "None",
        "dnsConfig": {"nameservers": ["fd00:10:96::a"]},
        "logLevel": "debug",
        "logFormat": "json",
        "networkPolicy": {"enabled": True},
    },
    "serviceAccounts": {"operator": {"annotations": {"iam/role": "r"}}},
    "priorityClassQuota": {"enabled": True, "pods": "500"},
    "dataplane": {
        "podLabels": {"cost": "8"},
        "podAnnotations": {"d/e": "f"},
        "serviceLabels": {"cost": "9"},
        "serviceAnnotations": {"g/h": "i"},
        "startupTaint": "nat64-operator.io/starting",
        "logFormat": "json",
        "seLinuxOptions": {"type": "spc_t"},
    },
    "monitoring": {"podMonitor": {"enabled": True, "scrapeTimeout": "5s"}},
}
NOT_HERE = {"PodMonitor"}
"""Kinds of other projects' CRDs."""


@pytest.fixture
def knobs(tmp_path: Path) -> dict[tuple[str, str], Any]:
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(EVERY_KNOB))
    return render(f"--values={file}")


def test_every_knob_is_where_it_belongs(knobs: dict[tuple[str, str], Any]) -> None:
    template = knobs["Deployment", "nat64-operator"]["spec"]["template"]
    given = EVERY_KNOB["operator"]
    given_taint = EVERY_KNOB["dataplane"]["startupTaint"]
    labels = template["metadata"]["labels"]
    assert (labels["cost"], labels["team"]) == ("7", "network")
    assert template["metadata"]["annotations"] == {"a/b": "c"}
    spec = template["spec"]
    assert spec["topologySpreadConstraints"] == given["topologySpreadConstraints"]
    assert (spec["dnsPolicy"], spec["dnsConfig"]) == ("None", given["dnsConfig"])
    env = environment(operator(knobs))
    assert env["HTTPS_PROXY"] == "http://[fd00::1]:3128"
    assert (env["NAT64_LOG_LEVEL"], env["NAT64_LOG_FORMAT"]) == ("debug", "json")
    assert json.loads(env["NAT64_POD_LABELS"]) == {"cost": "8"}
    assert json.loads(env["NAT64_POD_ANNOTATIONS"]) == {"d/e": "f"}
    assert env["NAT64_DATAPLANE_LOG_FORMAT"] == "json"
    assert json.loads(env["NAT64_SERVICE_LABELS"]) == {"cost": "9"}
    assert json.loads(env["NAT64_SERVICE_ANNOTATIONS"]) == {"g/h": "i"}
    assert env["NAT64_STARTUP_TAINT"] == given_taint
    for chart, verbs in ((knobs, ["list", "watch", "get", "patch"]), (render(), ["list", "watch"])):
        rules = chart["ClusterRole", "nat64-operator"]["rules"]
        assert [rule["verbs"] for rule in rules if rule["resources"] == ["nodes"]] == [verbs]
    assert json.loads(env["NAT64_SELINUX_OPTIONS"]) == {"type": "spc_t"}
    account = knobs["ServiceAccount", "nat64-operator"]["metadata"]
    assert account["annotations"] == {"iam/role": "r"}
    assert knobs["ResourceQuota", "nat64-critical-pods"]["spec"]["hard"] == {"pods": "500"}
    [rule] = knobs["NetworkPolicy", "nat64-operator"]["spec"]["ingress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": "health"}]
    monitors = [obj for (kind, _), obj in knobs.items() if kind == "PodMonitor"]
    ends = [end for obj in monitors for end in obj["spec"]["podMetricsEndpoints"]]
    assert {end["scrapeTimeout"] for end in ends} == {"5s"}
    for (kind, name), obj in knobs.items():
        if kind != "CustomResourceDefinition":
            assert obj["metadata"]["labels"]["team"] == "network", (kind, name)


def test_selectors_know_no_label_that_may_change(knobs: dict[tuple[str, str], Any]) -> None:
    selector = knobs["Deployment", "nat64-operator"]["spec"]["selector"]["matchLabels"]
    assert set(selector) == {
        f"app.kubernetes.io/{name}" for name in ("name", "instance", "component")
    }


def test_the_api_server_takes_every_object_with_every_knob(
    api: Api, knobs: dict[tuple[str, str], Any]
) -> None:
    """Strictly: no field that it would drop, as kubeconform checks by schema."""
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    api.apply(namespace)
    for (kind, _), obj in knobs.items():
        if kind not in NOT_HERE:
            apply = ("apply", "--server-side", "--force-conflicts", "--dry-run=server")
            api.control_plane.kubectl(
                *apply, "--validate=strict", "-f", "-", input=yaml.safe_dump(obj)
            )


@pytest.mark.parametrize("value", ["12345678", "007", "1e3", "pull"])
def test_a_pull_secret_may_be_named_by_a_number(value: str, tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(f"imagePullSecrets: [{{name: '{value}'}}]")
    ways = [f"--values={file}"]
    if value.isdigit() and value[0] != "0":
        ways.append(f"--set=imagePullSecrets[0].name={value}")
        unquoted = tmp_path / "unquoted.yaml"
        unquoted.write_text(f"imagePullSecrets: [{{name: {value}}}]")
        ways.append(f"--values={unquoted}")
    for way in ways:
        chart = render(way)
        for name, spec in pod_specs(chart):
            assert spec["imagePullSecrets"] == [{"name": value}], (name, way)
        assert environment(operator(chart))["NAT64_IMAGE_PULL_SECRETS"] == value


@pytest.mark.parametrize("enabled", [True, False])
def test_an_umbrella_chart_turns_it_on_and_off(enabled: bool, tmp_path: Path) -> None:
    (tmp_path / "Chart.yaml").write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v2",
                "name": "platform",
                "version": "1.0.0",
                "dependencies": [
                    {
                        "name": "nat64-operator",
                        "version": "*",
                        "repository": "",
                        "condition": "nat64-operator.enabled",
                    }
                ],
            }
        )
    )
    values = {
        "global": {"imageRegistry": "registry.example"},
        "nat64-operator": {"enabled": enabled, "operator": {"logLevel": "debug"}},
    }
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    shutil.copytree(CHART, tmp_path / "charts" / "nat64-operator")
    program = str(binaries.ensure("helm")["helm"])
    argv = [program, "template", "platform", str(tmp_path), f"--namespace={NAMESPACE}"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    objects = [obj for obj in yaml.safe_load_all(done.stdout) if obj]
    assert bool(objects) == enabled
    if enabled:
        found = {(obj["kind"], obj["metadata"]["name"]): obj for obj in objects}
        assert environment(operator(found))["NAT64_LOG_LEVEL"] == "debug"
        assert ("CustomResourceDefinition", "nat64gateways.nat64-operator.io") in found


def test_another_version_of_the_operator_gives_the_data_plane_the_same(tmp_path: Path) -> None:
    """Where its image is pinned: nothing of which its pods are made has the chart's version."""
    newer = tmp_path / "nat64-operator"
    shutil.copytree(CHART, newer)
    text = (newer / "Chart.yaml").read_text()
    (newer / "Chart.yaml").write_text(text.replace("0.1.0", "0.2.0"))
    pinned = f"--set=dataplane.image.digest={DIGEST}"
    given = [environment(operator(render(pinned, chart=chart))) for chart in (CHART, newer)]
    assert given[0] == given[1]
    images = [operator(render(pinned, chart=chart))["image"] for chart in (CHART, newer)]
    assert images[0] != images[1]


def test_an_environment_variable_of_ours_is_not_for_users() -> None:
    done = helm("--set-json", 'operator.extraEnv=[{"name":"NAT64_LEASE","value":"true"}]')
    assert done.returncode != 0
    assert "extraEnv" in done.stderr


def test_helm_finds_nothing_to_criticize() -> None:
    program = str(binaries.ensure("helm")["helm"])
    done = subprocess.run([program, "lint", "--strict", str(CHART)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "[WARNING]" not in done.stdout
    assert "[INFO]" not in done.stdout


def pod_specs(chart: dict[tuple[str, str], Any]) -> Iterator[tuple[str, Any]]:
    for (kind, name), obj in chart.items():
        if kind == "Pod":
            yield name, obj["spec"]
        elif kind in ("Deployment", "Job"):
            yield name, obj["spec"]["template"]["spec"]


def test_every_container_meets_what_kube_linter_and_trivy_ask_for() -> None:
    """Their rules of general use, by their names."""
    found = dict(pod_specs(render()))
    assert len(found) == 3
    for name, spec in found.items():
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), name  # host-network, ...
        assert not [v for v in spec.get("volumes", ()) if "hostPath" in v]  # sensitive-host-mounts
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}  # KSV-0030
        assert spec["securityContext"]["runAsNonRoot"] is True  # run-as-non-root, KSV-0012
        assert spec["securityContext"]["runAsUser"] > 10000  # KSV-0020
        assert spec["securityContext"]["runAsGroup"] > 10000  # KSV-0021
        for container in spec["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False  # KSV-0001
            assert security["readOnlyRootFilesystem"] is True  # no-read-only-root-fs, KSV-0014
            assert security["capabilities"] == {"drop": ["ALL"]}  # KSV-0003, drop-net-raw
            assert not container["image"].endswith(":latest")  # latest-tag, KSV-0013
            assert {"cpu", "memory"} <= set(container["resources"]["requests"])
            assert "memory" in container["resources"]["limits"]
            for variable in container.get("env", ()):
                assert "secretKeyRef" not in variable.get("valueFrom", {})  # env-var-secret
    main = found["nat64-operator"]["containers"][0]
    assert {"livenessProbe", "readinessProbe"} <= set(main)  # no-liveness-probe, no-readiness-probe


def test_no_role_has_what_the_scanners_call_dangerous() -> None:
    """wildcard-in-rules, access-to-secrets, access-to-create-pods, KSV-0041 to KSV-0056; the two
    reasons that are left are in docs/security.md: who may write DaemonSets may run pods, and pods
    of the operator's own namespace are patched so that the kubelet hands on changed data at once.
    """
    for (kind, name), obj in render("--set=coreDNS.createCustomConfigMap=true").items():
        for rule in obj.get("rules", ()) if kind in ("Role", "ClusterRole") else ():
            assert "*" not in (*rule["apiGroups"], *rule["resources"], *rule["verbs"]), name
            assert not {"secrets", "pods/exec", "nodes/proxy", "roles"} & set(rule["resources"])
            assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"]), name
            if "pods" in rule["resources"]:
                assert not {"create", "update"} & set(rule["verbs"]), name
                patched_here = obj["metadata"].get("namespace") == NAMESPACE and kind == "Role"
                assert "patch" not in rule["verbs"] or patched_here, name
