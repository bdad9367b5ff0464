"""The test equipment itself: an IPv6-only cluster, and an internet that is partly IPv4-only."""

import hashlib
from collections.abc import Iterator

import pytest

from tests.cluster import Cluster
from tests.cluster.network import HTTP_IPV4, HTTP_IPV6, NODE1, NODE2
from tests.cluster.product import Pod

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def pods(cluster: Cluster) -> Iterator[tuple[Pod, Pod]]:
    """A client on each node."""
    pods = Pod(cluster, "here", NODE1.name), Pod(cluster, "there", NODE2.name)
    for pod in pods:
        pod.start()
    yield pods
    for pod in pods:
        pod.delete()


def test_it_has_no_problems_once_it_is_up(cluster: Cluster) -> None:
    assert cluster.problems() == []


def test_both_nodes_are_ready_and_have_a_64_of_pod_addresses(cluster: Cluster) -> None:
    form = "{range .items[*]}{.metadata.name} {.spec.podCIDR}{'\\n'}{end}"
    lines = cluster.kubectl("get", "nodes", "-o", f"jsonpath={form}").splitlines()
    assert [line.split()[0] for line in lines] == [NODE1.name, NODE2.name]
    assert all(line.endswith("/64") for line in lines)


def test_a_pod_has_one_ipv6_address_and_no_ipv4_address(pods: tuple[Pod, Pod]) -> None:
    for pod in pods:
        assert pod.addresses(4) == []
        assert len(pod.addresses(6)) == 1


def test_pods_on_different_nodes_reach_each_other(pods: tuple[Pod, Pod]) -> None:
    here, there = pods
    assert " 0% packet loss" in here.exec("ping", "-c", "2", "-i", "0.2", there.addresses(6)[0])


def test_a_service_is_found_by_name_and_reached_on_the_other_node(pods: tuple[Pod, Pod]) -> None:
    url = "https://kubernetes.default.svc.cluster.local/version"
    for pod in pods:
        assert '"major": "1"' in pod.exec("curl", "-sSk", "--max-time", "5", url)


@pytest.mark.parametrize(
    ("name", "kind", "answer"),
    [
        ("ipv4only.internet.example", "A", HTTP_IPV4),
        ("ipv6only.internet.example", "AAAA", HTTP_IPV6),
        ("dual.internet.example", "A", HTTP_IPV4),
        ("dual.internet.example", "AAAA", HTTP_IPV6),
        ("alias.internet.example", "A", HTTP_IPV4),
    ],
)
def test_coredns_resolves_names_of_the_internet(
    pods: tuple[Pod, Pod], name: str, kind: str, answer: str
) -> None:
    assert pods[1].exec("dig", "+short", name, kind).split()[-1] == answer


def test_a_pod_reaches_a_server_that_has_ipv6(pods: tuple[Pod, Pod]) -> None:
    here, _ = pods
    body = here.exec("curl", "-sS", "--max-time", "5", "http://ipv6only.internet.example/x")
    assert f"client {here.addresses(6)[0]}\npath /x\n" in body


def test_a_node_reaches_a_server_over_ipv4(cluster: Cluster) -> None:
    argv = ["curl", "-sS", "--max-time", "5", f"http://{HTTP_IPV4}/"]
    assert f"client {NODE2.ipv4}\n" in cluster.node(NODE2.name).run(argv)


def test_a_pod_sends_and_receives_megabytes(pods: tuple[Pod, Pod]) -> None:
    here, _ = pods
    url = "http://ipv6only.internet.example"
    script = f"curl -sS {url}/bytes/3000000 > /tmp/b; curl -sS -T /tmp/b {url}/; rm /tmp/b"
    body = here.sh(script)
    assert "received 3000000\n" in body
    pattern = bytes(range(256)) * (3_000_000 // 256 + 1)
    assert f"sha256 {hashlib.sha256(pattern[:3_000_000]).hexdigest()}\n" in body


def test_nothing_leads_out_of_the_internet(cluster: Cluster) -> None:
    assert cluster.internet.run(["ip", "route", "show", "default"]) == ""
    assert cluster.internet.run(["ip", "-6", "route", "show", "default"]) == ""
