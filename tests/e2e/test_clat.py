"""IPv4 literals from IPv6-only pods: `spec.clat.mode: Pods` on the real cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from nat64_operator.api.gateway_sections import Clat
from tests.cluster.network import HOSTS, HTTP_IPV4
from tests.cluster.product import GATEWAY, NAMESPACE, Pod, Product
from tests.cluster.run import wait_for
from tests.e2e.test_kubectl import Plugin, run_connectivity_test
from tests.e2e.test_metrics import assert_exported, expressions, is_of_clat, scrape, series

pytestmark = pytest.mark.cluster

NODE = "node2"
METRICS = 9466
WITH_CLAT = {**GATEWAY, "spec": {**GATEWAY["spec"], "clat": {"mode": "Pods"}}}
CLAT_ADDRESS = "192.0.0.2"
FETCH = ("curl", "-4sS", "--max-time", "10", f"http://{HTTP_IPV4}/hello")
UDP = f"""
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5)
s.sendto(b"over IPv4", ("{HTTP_IPV4}", 7))
print(s.recv(100).decode())
"""


@pytest.fixture(scope="module")
def living(product: Product) -> Iterator[Pod]:
    """A pod that is there before the switch goes on, and after it has gone off."""
    pod = Pod(product.cluster, "literal-before", NODE)
    pod.start()
    yield pod
    pod.delete()


@pytest.fixture(scope="module")
def clat(product: Product, living: Pod) -> Iterator[Product]:
    """The product with the switch on; off again afterwards."""
    assert ipv4(living) == []
    product.apply(WITH_CLAT)
    wait_for_rollout(product)
    yield product
    product.apply(GATEWAY)
    wait_for_rollout(product)


@pytest.fixture(scope="module")
def pod(clat: Product) -> Iterator[Pod]:
    """A pod that comes while the switch is on, and has its CLAT."""
    pod = Pod(clat.cluster, "literal", NODE)
    pod.start()
    wait_for("the CLAT of a new pod", lambda: bool(ipv4(pod)), timeout=30)
    yield pod
    pod.delete()


def wait_for_rollout(product: Product) -> None:
    """Wait until the nodes, of both roles, run what the spec says now."""
    kinds = {
        "Node": ("Programmed", "Ready"),
        "Gateway": ("Programmed", "RoutersProgrammed", "Ready"),
    }

    def done() -> bool:
        text = product.cluster.kubectl("get", "nat64gateway/default", "-o", "json")
        found = json.loads(text)
        true = {
            condition["type"]
            for condition in found["status"]["conditions"]
            if condition["status"] == "True"
            and condition["observedGeneration"] == found["metadata"]["generation"]
        }
        return true.issuperset(kinds[found["spec"].get("topology", "Node")])

    wait_for("the gateway to be Ready with its new spec", done, timeout=300)


def ipv4(pod: Pod) -> list[str]:
    """The pod's IPv4 addresses but that of lo."""
    listing = json.loads(pod.exec("ip", "-json", "-4", "address", "show"))
    return [
        address["local"]
        for link in listing
        for address in link.get("addr_info", [])
        if link["ifname"] != "lo"
    ]


def pod_ips(pod: Pod) -> list[str]:
    path = "jsonpath={.status.podIPs[*].ip}"
    return pod.cluster.kubectl("get", "pod", pod.name, "-o", path).split()


def test_tcp_udp_and_ping_to_a_literal_over_ipv4_sockets(pod: Pod) -> None:
    body = pod.exec(*FETCH)
    assert f"client {pod.cluster.node(NODE).host.ipv4}\n" in body
    assert pod.exec("python3", "-c", UDP) == "over IPv4\n"
    assert " 0% packet loss" in pod.exec("ping", "-4", "-c", "3", "-i", "0.2", HTTP_IPV4)


def test_a_pod_from_before_the_switch_has_it_too(clat: Product, living: Pod) -> None:
    wait_for("its CLAT", lambda: ipv4(living) == [CLAT_ADDRESS], timeout=30)
    assert "path /hello" in living.exec(*FETCH)


def test_kubernetes_sees_the_pod_as_it_was(pod: Pod) -> None:
    [address] = pod_ips(pod)
    assert address == pod.addresses(6)[0]


def test_sessions_of_literals_share_the_gateway_with_those_of_names(
    clat: Product, pod: Pod
) -> None:
    pod.exec(*FETCH)
    pod.exec("curl", "-6sS", "--max-time", "10", "http://ipv4only.internet.example/")
    client = pod.addresses(6)[0]
    remotes = [
        session["remote"]
        for session in clat.translator(NODE, "sessions")
        if f"[{client}]" in session["client"] and session["protocol"] == "tcp"
    ]
    assert remotes.count(f"{HTTP_IPV4}:80") >= 2


def test_a_rule_that_denies_the_prefix_denies_literals_and_nothing_else(
    clat: Product, pod: Pod
) -> None:
    """What leaves the pod is IPv6 to the CLAT prefix, as the node's filters and policies see it.
    The cluster's own pod network enforces no NetworkPolicy.
    """
    node = clat.cluster.node(NODE)
    rule = ("FORWARD", "-d", Clat().prefix, "-j", "DROP")
    node.run(["ip6tables", "-I", *rule])
    try:
        refused = pod.exec("curl", "-4sS", "--max-time", "3", f"http://{HTTP_IPV4}/", check=False)
        assert "client" not in refused
        assert "path /hello" in pod.exec(
            "curl", "-6sS", "--max-time", "10", "http://ipv4only.internet.example/hello"
        )
    finally:
        node.run(["ip6tables", "-D", *rule])
    assert "path /hello" in pod.exec(*FETCH)


def test_kubectl_follows_a_literal_counts_pods_and_finds_nothing_wrong(
    clat: Product, pod: Pod
) -> None:
    plugin = Plugin(clat.cluster, clat.cluster.kubeconfig)
    found = plugin.json("trace", pod.name, f"{HTTP_IPV4}:80")
    assert (plugin.code, found["stopsAt"]) == (0, None), found
    assert "CLAT" in [step["name"] for step in found["steps"]]
    counted = {entry["node"]: entry for entry in plugin.json("status")["clat"]}
    assert counted[NODE]["setUp"] >= 2
    assert counted[NODE]["failed"] == {}
    checks = [c for c in plugin.json("doctor") if c["name"] == "CLAT"]
    assert checks, "doctor says nothing of the CLAT"
    assert all(check["result"] != "stop" for check in checks), checks


def test_the_connectivity_test_tries_a_literal_too(clat: Product, pod: Pod) -> None:
    plugin = Plugin(clat.cluster, clat.cluster.kubeconfig)
    found = run_connectivity_test(plugin)
    literals = [check["result"] for check in found["checks"] if check["name"] == "literal"]
    assert literals == ["ok"] * len(clat.cluster.nodes), found


def test_alerts_and_panels_ask_for_what_the_agent_exports(pod: Pod) -> None:
    multicast = "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'', ('224.0.0.1', 9))"
    pod.exec("python3", "-c", multicast)  # dropped: a reason has a series once it is counted
    found = series([scrape(pod, f"http://[{host.ipv6}]:{METRICS}/metrics") for host in HOSTS])
    asked = [each for each in expressions() if is_of_clat(each[1])]
    assert asked
    for each in asked:
        assert_exported(found, *each)


def test_the_agent_s_restart_is_not_seen_by_pods(clat: Product, pod: Pod) -> None:
    clat.cluster.node(NODE).run(["pkill", "-KILL", "-f", "nat64-clat run"])
    assert "path /hello" in pod.exec(*FETCH)
    agent = clat.agent_on(NODE)
    ready = (
        "jsonpath={.status.containerStatuses[?(@.name=='clat')].ready} "
        "{.status.containerStatuses[?(@.name=='clat')].restartCount}"
    )
    where = ("-n", NAMESPACE, "get", "pod", agent, "-o", ready)
    wait_for(
        "the agent to be back",
        lambda: (
            clat.cluster.kubectl(*where).split()[:1] == ["true"]
            and int(clat.cluster.kubectl(*where).split()[1]) > 0
        ),
        timeout=90,
    )
    assert ipv4(pod) == [CLAT_ADDRESS]
    assert "path /hello" in pod.exec(*FETCH)


def test_the_switch_off_leaves_nothing_in_living_pods(clat: Product, pod: Pod, living: Pod) -> None:
    """Last in the file."""
    clat.apply(GATEWAY)
    wait_for_rollout(clat)
    for each in (pod, living):
        assert ipv4(each) == []
        assert each.exec("ip", "-4", "route", "show") == ""
        assert "clsact" not in each.exec("tc", "qdisc", "show")
        assert each.exec("curl", "-4sS", "-m", "5", f"http://{HTTP_IPV4}/", check=False) == ""
    assert clat.cluster.node(NODE).run(["find", "/sys/fs/bpf/nat64-clat"], check=False) == ""
    assert "path /hello" in pod.exec(
        "curl", "-6sS", "--max-time", "10", "http://ipv4only.internet.example/hello"
    )
