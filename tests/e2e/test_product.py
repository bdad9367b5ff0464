"""The product on the real cluster: both resources, real pods, and an IPv4-only internet."""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import threading
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, IPv6Network

import pytest
import yaml

from nat64_dataplane import pref64
from tests.cluster import Cluster
from tests.cluster.network import HTTP_IPV4, HTTP_IPV6
from tests.cluster.paths import HERE
from tests.cluster.product import GATEWAY, NAMESPACE, PREFIX, Pod, Product
from tests.cluster.run import CommandError, wait_for

pytestmark = pytest.mark.cluster

IPV4_ONLY = "ipv4only.internet.example"
SERVER = str(pref64.embed(IPv6Network(PREFIX), IPv4Address(HTTP_IPV4)))
NODES = ("node1", "node2")


@pytest.fixture(scope="module", params=NODES)
def pod(request: pytest.FixtureRequest, product: Product) -> Iterator[Pod]:
    pod = Pod(product.cluster, f"client-{request.param}", request.param)
    pod.start()
    yield pod
    pod.delete()


def test_the_pod_has_ipv6_only(pod: Pod) -> None:
    assert pod.addresses(4) == []
    assert len(pod.addresses(6)) == 1


def test_a_pod_fetches_from_an_ipv4_only_name_and_the_server_sees_the_nodes_ipv4(pod: Pod) -> None:
    body = pod.exec("curl", "-6sS", "--max-time", "10", f"http://{IPV4_ONLY}/hello")
    assert f"client {pod.cluster.node(pod.node).host.ipv4}\n" in body
    assert "path /hello" in body


def test_an_upload_of_a_megabyte_arrives_whole(pod: Pod) -> None:
    script = (
        f"head -c 1000000 /dev/zero > /tmp/up; curl -6sS -m 20 -T /tmp/up http://{IPV4_ONLY}/up"
    )
    assert hashlib.sha256(bytes(1_000_000)).hexdigest() in pod.sh(script)


def test_udp_comes_back_to_the_pod(pod: Pod) -> None:
    script = (
        "import socket; s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.settimeout(5);"
        f"s.sendto(b'through NAT64', ('{SERVER}', 7)); print(s.recv(100).decode())"
    )
    assert pod.exec("python3", "-c", script) == "through NAT64\n"


def test_ping_reaches_an_ipv4_only_name(pod: Pod) -> None:
    assert " 0% packet loss" in pod.exec("ping", "-6", "-c", "3", "-i", "0.2", IPV4_ONLY)


def test_an_ipv4_only_name_is_synthesized_under_the_gateways_prefix(pod: Pod) -> None:
    assert dig(pod, IPV4_ONLY, "AAAA") == [IPv6Address(SERVER)]


def test_a_dual_stack_name_is_not_synthesized(pod: Pod) -> None:
    assert dig(pod, "dual.internet.example", "AAAA") == [IPv6Address(HTTP_IPV6)]


def test_a_chain_of_aliases_to_an_ipv4_only_name_is_followed(pod: Pod) -> None:
    assert dig(pod, "alias.internet.example", "AAAA") == [IPv6Address(SERVER)]


def test_a_name_that_does_not_exist_stays_so(pod: Pod) -> None:
    assert "status: NXDOMAIN" in pod.exec("dig", "nothing.internet.example", "AAAA")


def test_cluster_names_are_untouched(pod: Pod) -> None:
    service = pod.cluster.kubectl(
        "get", "service", "kubernetes", "-o", "jsonpath={.spec.clusterIP}"
    )
    assert dig(pod, "kubernetes.default.svc.cluster.local", "AAAA") == [IPv6Address(service)]


def test_the_mapping_of_a_connection_is_seen_in_the_bib(product: Product) -> None:
    with running_pod(product.cluster, "bib", "node2") as pod:
        pod.exec("curl", "-6sS", "--max-time", "10", f"http://{IPV4_ONLY}/")
        clients = [entry["client"] for entry in product.translator("node2", "bib")]
        assert any(client.startswith(f"[{pod.addresses(6)[0]}]:") for client in clients)


def test_killing_the_translator_in_mid_transfer_loses_nothing(product: Product) -> None:
    size, cluster = 30_000_000, product.cluster
    restarts = translator_restarts(product, "node2")
    with running_pod(cluster, "transfer", "node2") as pod:
        result: list[str] = []
        url = f"http://{IPV4_ONLY}/bytes/{size}?rate={size // 10}"
        script = f"curl -6sS --max-time 60 --no-keepalive '{url}' | sha256sum"
        transfer = threading.Thread(target=lambda: result.append(pod.sh(script, check=False)))
        transfer.start()
        time.sleep(2)
        cluster.node("node2").run(["pkill", "-KILL", "-f", "nat64-translator run"])
        time.sleep(1)
        assert transfer.is_alive(), "the transfer was over before the kill could matter"
        transfer.join()
    pattern = bytes(range(256))
    expected = hashlib.sha256((pattern * (size // 256 + 1))[:size]).hexdigest()
    assert [line.split()[0] for line in result] == [expected]
    wait_for(
        "the kubelet to restart the translator",
        lambda: translator_restarts(product, "node2") == restarts + 1,
        timeout=30,
    )
    product.wait_ready()


@pytest.mark.parametrize("prefix", ["64:ff9b:1::/90", "2001:db8::/128"])
def test_a_prefix_length_that_rfc_6052_lacks_is_refused_by_the_api_server(
    product: Product, prefix: str
) -> None:
    bad = {**GATEWAY, "metadata": {"name": "bad"}, "spec": {"prefix": prefix}}
    with pytest.raises(CommandError) as refused:
        product.apply(bad)
    message = str(refused.value)
    assert "spec.prefix" in message
    for length in ("/32", "/40", "/48", "/56", "/64", "/96"):
        assert length in message


def test_deleting_the_resources_removes_every_trace(product: Product) -> None:
    """Last in the file: it removes the product and installs it again for later tests."""
    cluster = product.cluster
    installed = {name: node_state(cluster, name) for name in NODES}
    wired = corefile(cluster)
    product.delete()
    try:
        assert_nodes_are_clean(cluster)
        assert all(node_state(cluster, name) != installed[name] for name in NODES)
        assert wired != corefile(cluster) == original_corefile()
        leftovers = cluster.kubectl(
            "-n", NAMESPACE, "get", "daemonsets,configmaps,services", "-o", "name"
        )
        assert "daemonset" not in leftovers
        with running_pod(cluster, "after", "node1") as pod:
            wait_for(
                "CoreDNS to forget the synthesized answer",
                lambda: dig(pod, IPV4_ONLY, "AAAA") == [],
                timeout=60,
                every=1,
            )
    finally:
        product.apply()
        product.wait_ready()


def dig(pod: Pod, name: str, kind: str) -> list[IPv6Address]:
    [addresses] = dig_often(pod, name, kind, 1)
    return addresses


def dig_often(pod: Pod, name: str, kind: str, times: int = 24) -> list[list[IPv6Address]]:
    """The addresses in each answer. So many questions miss neither of CoreDNS's two pods.

    In lines that begin with `;;` dig says that it has asked again: no network promises a datagram.
    """
    asked = f"for n in $(seq {times}); do dig +short {name} {kind} || exit; echo end; done"
    answers = pod.sh(asked).split("end\n")[:-1]
    return [
        sorted(IPv6Address(line) for line in said.split("\n") if ":" in line and line[0] != ";")
        for said in answers
    ]


def translator_restarts(product: Product, node: str) -> int:
    path = "jsonpath={.status.containerStatuses[?(@.name=='translator')].restartCount}"
    pod = product.agent_on(node)
    return int(product.cluster.kubectl("-n", NAMESPACE, "get", "pod", pod, "-o", path))


def node_state(cluster: Cluster, name: str) -> str:
    """Everything on a node that a translator could have left behind, as text."""
    commands = [
        "ip -details link show",
        "ip -4 route show table all; ip -6 route show table all",
        "ip -4 rule show; ip -6 rule show",
        "for d in $(ls /sys/class/net); do tc filter show dev $d ingress;"
        " tc filter show dev $d egress; done",
        "bpftool net show",
        "find /sys/fs/bpf -mindepth 1",
        "nft list tables",
        "sysctl net.ipv4.ip_local_reserved_ports",
        "find /run/nat64-operator -type f || true",
    ]
    return cluster.node(name).run(["sh", "-c", "; ".join(commands)])


def assert_nodes_are_clean(cluster: Cluster) -> None:
    """No node has anything of a translator."""
    for name in NODES:
        left = node_state(cluster, name)
        for trace in ("nat64", "n64p-", "61001", PREFIX.removesuffix("/96")):
            assert trace not in left, left


def corefile(cluster: Cluster) -> str:
    return cluster.kubectl(
        "-n", "kube-system", "get", "configmap", "coredns", "-o", "jsonpath={.data.Corefile}"
    )


def original_corefile() -> str:
    """What the harness deployed, and kubeadm would have."""
    manifest = (HERE / "manifests" / "coredns.yaml").read_text()
    [text] = [
        document["data"]["Corefile"]
        for document in yaml.safe_load_all(manifest)
        if document["kind"] == "ConfigMap"
    ]
    return str(text)


@contextlib.contextmanager
def running_pod(cluster: Cluster, name: str, node: str) -> Iterator[Pod]:
    pod = Pod(cluster, name, node)
    pod.start()
    try:
        yield pod
    finally:
        with contextlib.suppress(CommandError, subprocess.TimeoutExpired):
            pod.delete()
