"""The product suite: what must hold in every environment, in this order.

Most of it are tests of tests/e2e, which run here once more.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Network

import pytest
import yaml

from nat64_dataplane import pref64
from nat64_operator.api.gateway_sections import Clat
from tests.cluster import Cluster
from tests.cluster.network import HTTP_IPV4, HTTP_IPV4_OTHER
from tests.cluster.product import KINDS, NAMESPACE, PREFIX, RELEASE, Pod, Product
from tests.cluster.run import wait_for
from tests.e2e.test_clat import CLAT_ADDRESS, ipv4, pod_ips, wait_for_rollout
from tests.e2e.test_kubectl import (
    Plugin,
    plugin,
    run_connectivity_test,
    test_trace_goes_all_the_way,
)
from tests.e2e.test_lifecycle import run_helm_test, run_upgrade
from tests.e2e.test_product import (
    IPV4_ONLY,
    SERVER,
    assert_nodes_are_clean,
    corefile,
    pod,
    running_pod,
    test_a_dual_stack_name_is_not_synthesized,
    test_a_pod_fetches_from_an_ipv4_only_name_and_the_server_sees_the_nodes_ipv4,
    test_an_ipv4_only_name_is_synthesized_under_the_gateways_prefix,
    test_an_upload_of_a_megabyte_arrives_whole,
    test_cluster_names_are_untouched,
    test_killing_the_translator_in_mid_transfer_loses_nothing,
    test_ping_reaches_an_ipv4_only_name,
    test_udp_comes_back_to_the_pod,
)
from tests.environments.environment import Environment

pytestmark = pytest.mark.cluster

# What tests/e2e lends: the fixtures and tests that are collected here.
__all__ = [
    "plugin",
    "pod",
    "test_a_dual_stack_name_is_not_synthesized",
    "test_a_pod_fetches_from_an_ipv4_only_name_and_the_server_sees_the_nodes_ipv4",
    "test_an_ipv4_only_name_is_synthesized_under_the_gateways_prefix",
    "test_an_upload_of_a_megabyte_arrives_whole",
    "test_cluster_names_are_untouched",
    "test_killing_the_translator_in_mid_transfer_loses_nothing",
    "test_ping_reaches_an_ipv4_only_name",
    "test_trace_goes_all_the_way",
    "test_udp_comes_back_to_the_pod",
]

OTHER = "other.internet.example"

# Asks until an answer is there: no network promises a datagram.
_ECHO = """
import socket, sys, time
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.settimeout(1)
data = bytes(range(256)) * (int(sys.argv[2]) // 256)
end = time.monotonic() + 60
while time.monotonic() < end:
    s.sendto(data, (sys.argv[1], 7))
    try:
        if s.recv(65535) == data:
            sys.exit(0)
    except TimeoutError:
        pass
sys.exit("no datagram came back whole")
"""

# Prints what came, each once and in order, until something honest comes.
_LISTEN = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], 4000))
seen = []
while seen[-1:] != ["honest"]:
    text = s.recv(100).decode()
    if text not in seen:
        seen.append(text)
print(*seen)
"""

# A UDP packet from an address that is not the sender's (RFC 8200, section 8.1: the checksum).
_FORGE = """
import socket, struct, sys
source, server = (socket.inet_pton(socket.AF_INET6, a) for a in sys.argv[1:3])
payload = sys.argv[3].encode()
length = 8 + len(payload)
pseudo = source + server + struct.pack("!II", length, 17)
udp = struct.pack("!HHHH", 4001, 4000, length, 0)
data = pseudo + udp + payload
data += bytes(len(data) % 2)
total = sum(struct.unpack(f"!{len(data) // 2}H", data))
while total >> 16:
    total = (total & 0xffff) + (total >> 16)
udp = struct.pack("!HHHH", 4001, 4000, length, 0xffff - total or 0xffff)
header = struct.pack("!IHBB", 6 << 28, length, 17, 64) + source + server
s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)
for _ in range(3):
    s.sendto(header + udp + payload, (sys.argv[2], 0))
"""

_HONEST = """
import socket, sys
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.sendto(b"honest", (sys.argv[1], 4000))
"""


@pytest.mark.parametrize("size", [2048, 8192])
def test_fragments_come_back_to_the_pod(pod: Pod, size: int) -> None:
    pod.exec("python3", "-c", _ECHO, SERVER, str(size))


def test_nothing_is_sent_in_the_name_of_others(
    product: Product, pod: Pod, environment: Environment
) -> None:
    """Of the node, of a stranger, and, where each pod has a link of its own, of another pod."""
    cluster = product.cluster
    sources = {"node": cluster.node(pod.node).host.ipv6, "stranger": "2001:db8:99::1"}
    with running_pod(cluster, "neighbour", pod.node) as neighbour:
        if environment.setup.pod_network.link_per_pod:
            sources["neighbour"] = neighbour.addresses(6)[0]
        seen: list[str] = []
        listen = ["python3", "-c", _LISTEN, HTTP_IPV4]
        listener = threading.Thread(target=lambda: seen.append(cluster.internet.run(listen)))
        listener.start()
        bound = ["ss", "-Huln", "sport = :4000"]
        wait_for("the listener", lambda: cluster.internet.run(bound) != "", timeout=30)
        for name, source in sources.items():
            pod.exec("python3", "-c", _FORGE, source, SERVER, name)

        def heard() -> bool:
            pod.exec("python3", "-c", _HONEST, SERVER)
            return not listener.is_alive()

        wait_for("an honest datagram to arrive", heard, timeout=60, every=1)
    assert seen == ["honest\n"]


def test_an_upgrade_loses_no_flow(product: Product) -> None:
    run_upgrade(product, rollback=False)


def test_helm_test_passes(product: Product, environment: Environment) -> None:
    if environment.setup.dual_stack:
        pytest.skip("helm test is for pods without IPv4, and these have it")
    run_helm_test(product)


def test_the_connectivity_test_passes_on_both_nodes(
    plugin: Plugin, environment: Environment
) -> None:
    run_connectivity_test(plugin, pods_have_ipv4=environment.setup.dual_stack)


def test_doctor_warns_of_what_is_wrong_here_and_of_nothing_else(
    plugin: Plugin, environment: Environment
) -> None:
    found = plugin.json("doctor")
    assert plugin.code == 0, found
    unexpected = [
        check["text"]
        for check in found
        if check["result"] != "ok"
        and not any(part in check["text"] for part in environment.warnings)
    ]
    assert unexpected == []
    texts = " ".join(check["text"] for check in found)
    assert [part for part in environment.warnings if part not in texts] == []
    wiring = [check["result"] for check in found if check["name"] in ("wiring", "synthesis")]
    assert wiring == ["ok", "ok"]


def test_network_policy_allows_and_denies_addresses_under_the_prefix(
    product: Product, environment: Environment
) -> None:
    if not environment.setup.pod_network.enforces_network_policy:
        pytest.skip("the pod network enforces no NetworkPolicy")
    cluster = product.cluster
    forbidden = pref64.embed(IPv6Network(PREFIX), IPv4Address(HTTP_IPV4_OTHER))
    with running_pod(cluster, "restricted", "node2") as pod:
        _wait_to_reach(pod, "both servers", IPV4_ONLY, OTHER)
        with _egress_only_to(pod, PREFIX, but=f"{forbidden}/128"):
            wait_for("the policy to deny one server", lambda: not _reaches(pod, OTHER), 60)
            _wait_to_reach(pod, "the policy to allow the other", IPV4_ONLY)
            assert not _reaches(pod, OTHER)
        _wait_to_reach(pod, "both servers again", OTHER)


def test_literals_take_the_clat_while_it_is_on(product: Product, environment: Environment) -> None:
    """A living pod gets it, NetworkPolicies hold for it, Kubernetes sees no other pod than before,
    and nothing of it stays; a pod with IPv4 of its own is left as it is.
    """
    cluster = product.cluster
    with running_pod(cluster, "literal", "node2") as pod:
        before = (pod_ips(pod), ipv4(pod), pod.exec("ip", "-4", "route"))
        product.apply(environment.gateway_object(clat={"mode": "Pods"}))
        try:
            wait_for_rollout(product)
            if environment.setup.dual_stack:
                assert (pod_ips(pod), ipv4(pod), pod.exec("ip", "-4", "route")) == before
            else:
                _assert_literals_pass(pod)
                assert pod_ips(pod) == before[0] == pod.addresses(6)
                if environment.setup.pod_network.enforces_network_policy:
                    # Both prefixes lie in it; to kube-router, ::/0 holds neither.
                    with _egress_only_to(pod, "64:ff9b::/32", but=Clat().prefix):
                        wait_for("the policy to deny it", lambda: not _reaches(pod, HTTP_IPV4), 60)
                        _wait_to_reach(pod, "names to pass", IPV4_ONLY)
                        assert not _reaches(pod, HTTP_IPV4)
                    _wait_to_reach(pod, "the literal again", HTTP_IPV4)
        finally:
            product.apply()
            wait_for_rollout(product)
        assert (pod_ips(pod), ipv4(pod), pod.exec("ip", "-4", "route")) == before
        assert "clsact" not in pod.exec("tc", "qdisc", "show")
        assert cluster.node("node2").run(["find", "/sys/fs/bpf/nat64-clat"], check=False) == ""
        _wait_to_reach(pod, "names to pass", IPV4_ONLY)


def _assert_literals_pass(pod: Pod) -> None:
    wait_for("the pod's CLAT", lambda: ipv4(pod) == [CLAT_ADDRESS], 60)
    _wait_to_reach(pod, "TCP to a literal", HTTP_IPV4)
    pod.exec("python3", "-c", _ECHO.replace("AF_INET6", "AF_INET"), HTTP_IPV4, "512")
    assert " 0% packet loss" in pod.exec("ping", "-4", "-c", "3", "-i", "0.2", HTTP_IPV4)


def _fetch(pod: Pod, host: str, *, check: bool) -> bool:
    """Whether HTTP gets there: to a name by IPv6 only."""
    family = "-6" if host.endswith(".example") else "-4"
    said = pod.exec("curl", f"{family}sS", "-m", "3", f"http://{host}/policy", check=check)
    return "path /policy" in said


def _reaches(pod: Pod, host: str) -> bool:
    return _fetch(pod, host, check=False)


def _wait_to_reach(pod: Pod, what: str, *hosts: str) -> None:
    """Fail with what curl said last if one of the hosts can't be reached for a minute."""
    wait_for(what, lambda: all(_fetch(pod, host, check=True) for host in hosts), timeout=60)


@contextlib.contextmanager
def _egress_only_to(pod: Pod, cidr: str, *, but: str) -> Iterator[None]:
    """A NetworkPolicy that lets the pod ask DNS, and connect to what is in a range but this."""
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": pod.name},
        "spec": {
            "podSelector": {"matchLabels": {"policy": pod.name}},
            "policyTypes": ["Egress"],
            "egress": [
                {"ports": [{"port": 53, "protocol": p} for p in ("UDP", "TCP")]},
                {"to": [{"ipBlock": {"cidr": cidr, "except": [but]}}]},
            ],
        },
    }
    pod.cluster.kubectl("label", "pod", pod.name, f"policy={pod.name}")
    pod.cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump(policy))
    try:
        yield
    finally:
        pod.cluster.kubectl("delete", "networkpolicy", pod.name)


def test_uninstalling_removes_every_trace(
    product: Product, cluster: Cluster, corefile_before: str
) -> None:
    """Last in the file: what comes after would find no product."""
    uninstall_and_look_for_traces(product, cluster, corefile_before)


def uninstall_and_look_for_traces(product: Product, cluster: Cluster, corefile_before: str) -> None:
    """Uninstall the product; what it has changed has to be as before."""
    where = f"--namespace={NAMESPACE}"
    cluster.helm("uninstall", RELEASE, where, "--wait", "--timeout=5m")
    for kind in KINDS:
        assert cluster.kubectl("get", kind, "-o", "name").strip() == ""
    assert_nodes_are_clean(cluster)
    assert corefile(cluster) == corefile_before
    wait_for("our pods to be gone", lambda: product.pods() == [], timeout=90)
