"""The internet's DNS dies and comes back, seen by a pod through CoreDNS and the sidecars."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from ipaddress import IPv6Address
from typing import Any

import pytest

from tests.cluster.network import HOSTS
from tests.cluster.product import POLICY, Pod, Product
from tests.cluster.run import wait_for
from tests.e2e.test_product import IPV4_ONLY, NODES, SERVER, dig, dig_often

pytestmark = pytest.mark.cluster

# A client that asks once waits for so long at most: CoreDNS gives up on its upstreams after 5 s,
# the sidecars sooner. The rest is for a busy machine.
BOUND = 10
BRIEF = "brief.internet.example"
SYNTHESIZED = [IPv6Address(SERVER)]
_numbers = itertools.count(time.time_ns())


def fresh() -> str:
    """A name that nobody has asked for yet, so that no cache has it."""
    return f"n{next(_numbers)}.fresh.internet.example"


def ask(pod: Pod, name: str) -> tuple[str, float]:
    """What a client that asks once is told, and how long that takes."""
    began = time.monotonic()
    said = pod.exec("dig", "+tries=1", f"+time={BOUND + 5}", name, "AAAA", check=False)
    return said, time.monotonic() - began


def restarts(product: Product) -> Any:
    """How often each container of ours and of CoreDNS was started, by pod."""
    found = {}
    for where in (("-n", "nat64-system"), ("-n", "kube-system", "-l", "k8s-app=kube-dns")):
        for item in json.loads(product.cluster.kubectl(*where, "get", "pods", "-o", "json"))[
            "items"
        ]:
            statuses = item["status"]["containerStatuses"]
            found[item["metadata"]["name"]] = [s["restartCount"] for s in statuses]
    return found


@pytest.fixture(scope="module", params=NODES)
def pod(request: pytest.FixtureRequest, product: Product) -> Iterator[Pod]:
    pod = Pod(product.cluster, f"outage-{request.param}", request.param)
    pod.start()
    yield pod
    pod.delete()


@pytest.mark.parametrize("silent", [False, True], ids=["refuses", "silent"])
def test_names_fail_in_time_what_is_cached_goes_on_and_all_comes_back_without_a_restart(
    product: Product, pod: Pod, silent: bool
) -> None:
    before = restarts(product)
    known = fresh()
    # The name's TTL is a minute; each of CoreDNS's two pods has a cache of its own.
    assert all(found == SYNTHESIZED for found in dig_often(pod, known, "AAAA"))
    service = pod.cluster.kubectl(
        "get", "service", "kubernetes", "-o", "jsonpath={.spec.clusterIP}"
    )
    with product.cluster.internet.dns_outage(silent=silent):
        asked = time.monotonic()
        said, took = ask(pod, known)
        assert SERVER in said, "the answer was in a cache"
        assert took < BOUND
        for _ in range(3):
            said, took = ask(pod, fresh())
            assert "status: SERVFAIL" in said
            assert took < BOUND
        assert dig(pod, "kubernetes.default.svc.cluster.local", "AAAA") == [IPv6Address(service)]
        # Addresses that are known are reached all the while.
        body = pod.exec("curl", "-sS", "-m", "10", f"http://[{SERVER}]/during")
        assert "path /during" in body
        assert time.monotonic() - asked < 60
    wait_for("names to resolve again", lambda: dig(pod, fresh(), "AAAA") == SYNTHESIZED, timeout=30)
    assert "path /after" in pod.exec("curl", "-sS", "-m", "10", f"http://{IPV4_ONLY}/after")
    assert restarts(product) == before
    product.wait_ready()


def test_expired_answers_are_served_while_upstream_is_down_where_the_policy_says_so(
    product: Product,
) -> None:
    cache = {"cache": {"serveStale": {"maxSeconds": 3600, "ttlSeconds": 5}}}
    with_stale = {**POLICY, "spec": cache}
    pod = Pod(product.cluster, "stale", "node2")
    pod.start()
    before = {node: corefiles_run(product, node) for node in NODES}
    try:
        product.apply(with_stale)
        for node in NODES:
            wait_for(
                f"the sidecar on {node} to serve stale answers",
                lambda node=node: corefiles_run(product, node) > before[node],  # type: ignore[misc]
                timeout=150,
                every=1,
            )
        # Every sidecar is to know the name, whichever CoreDNS asks.
        for host in HOSTS:
            server = (f"@{host.ipv6}", "-p", "6464")
            assert SERVER in pod.exec("dig", *server, "+short", BRIEF, "AAAA")
        with product.cluster.internet.dns_outage(silent=False):
            time.sleep(15)  # its TTL is 5 s, for CoreDNS's own cache too
            for _ in range(4):
                said, took = ask(pod, BRIEF)
                assert SERVER in said, said
                assert took < BOUND
    finally:
        product.apply()
        pod.delete()
        product.wait_ready()


def corefiles_run(product: Product, node: str) -> int:
    """How many Corefiles a node's sidecar has run: one more once it has read another."""
    where = ("-n", "nat64-system", "logs", product.agent_on(node), "-c", "dns64")
    return product.cluster.kubectl(*where).count("running Corefile")
