"""`kubectl nat64` on the real cluster, as a user runs it: a process with a kubeconfig."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Network
from pathlib import Path
from typing import Any

import pytest
import yaml

from nat64_dataplane import pref64
from tests.cluster import Cluster, binaries
from tests.cluster.network import HTTP_IPV4
from tests.cluster.paths import REPO
from tests.cluster.product import NAMESPACE, PREFIX, RELEASE, Pod, Product

pytestmark = pytest.mark.cluster

PROGRAM = Path(sys.executable).with_name("kubectl-nat64")
NAME = "ipv4only.internet.example"
NODE = "node2"
NOBODY = "[64:ff9b:1::c000:263]:80"  # 192.0.2.99: an address of the nodes' own link, unused


class Plugin:
    """Runs the plugin; `code` is the last exit code."""

    def __init__(self, cluster: Cluster, kubeconfig: Path) -> None:
        self.cluster, self.kubeconfig = cluster, kubeconfig
        self.code = -1
        self.patience = 120.0
        self.errors = ""

    def __call__(self, *arguments: str) -> str:
        # The API is in the node's network, as for every client of the harness.
        where = self.cluster.beside_api()
        argv = [*where, f"KUBECONFIG={self.kubeconfig}", str(PROGRAM), *arguments]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=self.patience)
        self.code, self.errors = done.returncode, done.stderr
        return done.stdout

    def json(self, *arguments: str) -> Any:
        said = self(arguments[0], "-o", "json", *arguments[1:])
        assert said, self.errors
        return json.loads(said)


@pytest.fixture(scope="module")
def plugin(product: Product) -> Plugin:
    return Plugin(product.cluster, product.cluster.kubeconfig)


@pytest.fixture(scope="module")
def pod(product: Product) -> Iterator[Pod]:
    pod = Pod(product.cluster, "traced", NODE)
    pod.start()
    pod.exec("curl", "-sS", "--max-time", "10", f"http://{NAME}/")
    yield pod
    pod.delete()


def test_status_shows_gateways_policies_and_nodes(plugin: Plugin, pod: Pod) -> None:
    found = plugin.json("status")
    assert plugin.code == 0
    assert [(g["name"], g["ready"], g["nodes"]) for g in found["gateways"]] == [
        ("default", True, "2/2")
    ]
    assert found["policies"][0]["ready"] is True
    assert [(n["node"], n["programmed"]) for n in found["nodes"]] == [
        ("node1", True),
        ("node2", True),
    ]
    assert found["nodes"][1]["sessions"] >= 1
    assert 1 <= found["nodes"][1]["portsUsed"] < found["nodes"][1]["ports"] == 4535


def test_a_pods_session_and_binding_are_found(plugin: Plugin, pod: Pod) -> None:
    [session] = plugin.json("sessions", "--pod", pod.name, "--destination", HTTP_IPV4)
    assert (session["pod"], session["node"]) == (f"default/{pod.name}", NODE)
    assert session["remote"] == f"{HTTP_IPV4}:80"
    assert session["expiresInSeconds"] > 0
    shown = str(pref64.embed(IPv6Network(PREFIX), IPv4Address(HTTP_IPV4)))
    bindings = plugin.json("bib", "--destination", shown)
    assert (session["client"], session["address"]) in [
        (b["client"], b["address"]) for b in bindings
    ]
    text = plugin("sessions", "--node", "node1", "--pod", f"default/{pod.name}")
    assert text.splitlines()[0].split()[:3] == ["NODE", "POD", "PROTOCOL"]
    assert "\x1b" not in text


def test_trace_goes_all_the_way(plugin: Plugin, pod: Pod) -> None:
    found = plugin.json("trace", pod.name, f"{NAME}:80")
    assert (plugin.code, found["reached"], found["stopsAt"]) == (0, True, None), found
    assert [step["name"] for step in found["steps"]] == [
        *("pod", "translator", "DNS", "NetworkPolicy", "route", "policy", "IPv4 route", "program"),
        *("BIB", "packets"),
    ]


@pytest.mark.parametrize(
    ("target", "stops", "says"),
    [
        ("nothing.internet.example", "DNS", "NXDOMAIN"),
        (HTTP_IPV4, "CLAT", "is an IPv4 address"),
        ("ipv6only.internet.example", "translation", "plain IPv6"),
        ("[64:ff9b:1::a9fe:a9fe]:80", "policy", "169.254.169.254 may not be reached"),
        (f"{NAME}:81", "packets", "refuses"),
        (NOBODY, "packets", "no answer comes back"),
    ],
)
def test_trace_says_where_it_stops(
    plugin: Plugin, pod: Pod, target: str, stops: str, says: str
) -> None:
    found = plugin.json("trace", pod.name, target)
    assert (plugin.code, found["stopsAt"]) == (1, stops), found
    last = found["steps"][-1]
    assert says in last["text"]
    assert last["remedy"]


def test_trace_names_the_network_policy_in_the_way(plugin: Plugin, pod: Pod) -> None:
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "closed"},
        "spec": {"podSelector": {}, "policyTypes": ["Egress"]},
    }
    plugin.cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump(policy))
    try:
        found = plugin.json("trace", pod.name, f"{NAME}:80")
    finally:
        plugin.cluster.kubectl("delete", "networkpolicy", "closed")
    assert found["stopsAt"] == "NetworkPolicy"
    assert "closed" in found["steps"][-1]["text"]


def test_doctor_finds_nothing_wrong_with_a_good_cluster(plugin: Plugin, pod: Pod) -> None:
    found = plugin.json("doctor")
    assert plugin.code == 0, found
    assert {check["result"] for check in found} <= {"ok", "note"}
    subjects = {check["subject"] for check in found}
    assert subjects == {"cluster", "CoreDNS", "node node1, default", "node node2, default"}
    wiring = [check for check in found if check["name"] in ("wiring", "synthesis")]
    assert [check["result"] for check in wiring] == ["ok", "ok"]


def test_doctor_names_what_is_wrong_with_a_node(plugin: Plugin, pod: Pod, product: Product) -> None:
    node = plugin.cluster.node(NODE)
    node.run(["sysctl", "-qw", "net.ipv6.conf.all.forwarding=0"])
    node.run(["ip", "-6", "route", "add", "64:ff9b:1::c633:0/112", "dev", "eth0"])
    try:
        found = plugin.json("doctor")
    finally:
        node.run(["ip", "-6", "route", "del", "64:ff9b:1::c633:0/112", "dev", "eth0"])
        node.run(["sysctl", "-qw", "net.ipv6.conf.all.forwarding=1"])
        product.wait_ready()
    assert plugin.code == 1
    wrong = [c for c in found if c["subject"].startswith(f"node {NODE}") and c["result"] != "ok"]
    texts = " ".join(c["text"] for c in wrong)
    assert "net.ipv6.conf.all.forwarding is 0" in texts
    assert "64:ff9b:1::c633:0/112 leads to eth0" in texts
    assert all(c["remedy"] for c in wrong)
    assert not [c for c in found if "node1" in c["subject"] and c["result"] == "stop"]


def test_a_user_without_rights_is_told_which_are_missing(
    plugin: Plugin, pod: Pod, tmp_path: Path
) -> None:
    cluster = plugin.cluster
    cluster.kubectl("create", "serviceaccount", "reader")
    try:
        token = cluster.kubectl("create", "token", "reader").strip()
        config = yaml.safe_load(cluster.kubeconfig.read_text())
        config["users"][0]["user"] = {"token": token}
        mine = tmp_path / "kubeconfig"
        mine.write_text(yaml.safe_dump(config))
        reader = Plugin(cluster, mine)
        assert reader("status") == ""
        assert reader.code == 2
        assert 'cannot list resource "nat64gateways"' in reader.errors
        checks = reader.json("doctor")
    finally:
        cluster.kubectl("delete", "serviceaccount", "reader")
    unread = [check["text"] for check in checks if check["name"] == "not checked"]
    assert any(f'"pods" in API group "" in the namespace "{NAMESPACE}"' in text for text in unread)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("trace", "no-such-pod", "a.example"), 'pods "no-such-pod" not found'),
        (("trace", "traced", "a.example:http"), "write HOST or HOST:PORT"),
        (("sessions", "--node", "node9"), "node9 does not translate, or there is no such node"),
        (("bib", "--destination", "2001:db8::1"), "is under no gateway's prefix"),
    ],
)
def test_what_cannot_be_answered_is_said_and_exits_2(
    plugin: Plugin, pod: Pod, arguments: tuple[str, ...], message: str
) -> None:
    plugin(*arguments)
    assert plugin.code == 2
    assert message in plugin.errors
    assert "Traceback" not in plugin.errors


def left_behind(plugin: Plugin) -> str:
    what = ("get", "pods", "-A", "-l", "app.kubernetes.io/name=nat64-test", "-o", "name")
    return plugin.cluster.kubectl(*what).strip()


def test_the_connectivity_test_passes_on_both_nodes_and_cleans_up(
    plugin: Plugin, product: Product
) -> None:
    run_connectivity_test(plugin)


def run_connectivity_test(plugin: Plugin, *, pods_have_ipv4: bool = False) -> Any:
    """All checks must pass; of a pod that has IPv4 as well it may take note. What it has found."""
    plugin.patience = 300
    found = plugin.json(
        *("test", "--target", f"{NAME}:80", "--udp", f"{NAME}:7"),
        *("--dual-stack", "dual.internet.example"),
    )
    assert plugin.code == 0, (found, plugin.errors)
    assert found["passed"] is True
    nodes = {f"node {node.name}" for node in plugin.cluster.nodes}
    assert {check["subject"] for check in found["checks"]} == nodes
    for name in ("pod", "dns64", "tcp", "udp", "ping", "pmtu", "dual-stack", "denied", "node"):
        results = [c["result"] for c in found["checks"] if c["name"] == name]
        expected = "note" if name == "pod" and pods_have_ipv4 else "ok"
        assert set(results) == {expected}, (name, found)
    assert left_behind(plugin) == ""
    return found


def test_the_connectivity_test_says_what_is_wrong_and_cleans_up(
    plugin: Plugin, product: Product
) -> None:
    plugin.patience = 300
    found = plugin.json(
        *("test", "--node", NODE, "--target", "ipv6only.internet.example:80"),
        *("--skip", "ping", "--skip", "pmtu", "--skip", "udp"),
    )
    assert plugin.code == 1
    [wrong] = [check for check in found["checks"] if check["name"] == "dns64"]
    assert "IPv6 of its own" in wrong["text"]
    plugin("test", "--node", "node9", "--target", f"{NAME}:80")
    assert plugin.code == 2
    assert "--node node9: no translator there; there are node1, node2" in plugin.errors
    assert left_behind(plugin) == ""


# The operator sees the new settings once Helm is done; only then a rollout can be waited for.
_UPGRADE = """
generation() {{ {kubectl} -n {namespace} get {what} -o jsonpath={{.metadata.generation}}; }}
before=$(generation)
{helm} upgrade {release} {chart} --namespace={namespace} --reuse-values --wait --timeout=180s \\
  --set=dataplane.translator.resources.requests.cpu=21m || exit 1
until [ "$(generation)" != "$before" ]; do sleep 1; done
{kubectl} -n {namespace} rollout status {what} --timeout=240s
"""


def test_no_flow_breaks_over_a_helm_upgrade_that_replaces_every_agent(
    plugin: Plugin, product: Product
) -> None:
    plugin.patience = 700
    script = _UPGRADE.format(
        kubectl=binaries.ensure("kubectl")["kubectl"],
        helm=binaries.ensure("helm")["helm"],
        namespace=NAMESPACE,
        release=RELEASE,
        chart=REPO / "charts" / "nat64-operator",
        what="daemonset/nat64-default",
    )
    found = plugin.json(
        *("test", "--disruption", "--target", f"{NAME}:80"), *("--", "sh", "-c", script)
    )
    assert found["commandExitCode"] == 0, plugin.errors
    assert (found["flows"], found["brokenFlows"]) == (8, 0), found
    assert found["requests"] >= 8
    assert found["newConnections"] >= 2
    assert plugin.code == (1 if found["failedConnections"] else 0), found
    assert left_behind(plugin) == ""
    product.wait_ready()


def test_a_bundle_holds_what_a_developer_asks_for_and_no_clients(
    plugin: Plugin, pod: Pod, tmp_path: Path
) -> None:
    target = tmp_path / "report.tar.gz"
    found = plugin.json("bundle", "--file", str(target))
    assert (plugin.code, found["missing"]) == (0, {}), found
    with tarfile.open(target) as tar:
        names = tar.getnames()
        members = [m for m in tar.getmembers() if m.isfile()]
        texts = {m.name: tar.extractfile(m).read().decode() for m in members}  # type: ignore[union-attr]
    for name in (
        *("objects/nat64gateways.yaml", "objects/nodes.yaml", "objects/coredns-configmaps.yaml"),
        *("doctor.txt", "status.json", "nodes/node2/default-inspect.json"),
        "nodes/node2/default-drops.json",
    ):
        assert f"report/{name}" in names
    logs = [name for name in names if name.startswith("report/logs/")]
    assert {name.rpartition("/")[2] for name in logs} >= {"operator.log", "dns64.log"}
    [client] = pod.addresses(6)
    assert [name for name, text in texts.items() if client in text] == []
    assert "kind: Secret" not in "".join(texts.values())


def test_version_and_impersonation(plugin: Plugin, product: Product) -> None:
    found = plugin.json("version")
    assert found["client"] == found["operator"][0]["version"]
    assert found["dataplane"][0]["name"] == "nat64-default"
    plugin("status", "--as", "system:anonymous")
    assert plugin.code == 2
    assert 'User "system:anonymous" cannot list' in plugin.errors
    # Commands in pods go over a websocket, which must say the same.
    grant = ("create", "clusterrolebinding", "nat64-half", "--clusterrole=view", "--user=half")
    plugin.cluster.kubectl(*grant)
    try:
        plugin("sessions", "--as", "half", "--node", NODE)
    finally:
        plugin.cluster.kubectl("delete", "clusterrolebinding", "nat64-half")
    assert plugin.code in (1, 2)
    assert "orbidden" in plugin.errors
