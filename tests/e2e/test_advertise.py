"""Advertising the prefix from the real cluster: rdisc6, on the router of the nodes' segment, hears
every node, and each of them withdraws when the gateway no longer advertises.
"""

from __future__ import annotations

import json
import re

import pytest

from tests.cluster.network import HOSTS, INTERNET
from tests.cluster.product import GATEWAY, NAMESPACE, PREFIX, Product
from tests.cluster.run import run, wait_for
from tests.e2e.test_kubectl import Plugin
from tests.e2e.test_lifecycle import generation, rollout

pytestmark = pytest.mark.cluster

ADVERTISE = {"interfaces": ["eth0"], "intervalSeconds": 1800}


def link_local(host: str) -> str:
    shown = run(["ip", "-6", "-n", f"nat64-cluster-{host}", "addr", "show", "eth0"])
    (address,) = re.findall(r"inet6 (fe80\S+)/64", shown)
    return str(address)


def routers() -> dict[str, str]:
    """Who answers a solicitation, by address: the prefix and the lifetime of the route."""
    shown = run(["ip", "netns", "exec", INTERNET, "rdisc6", "-m", "-w", "5000", "lan"], check=False)
    found, route, lifetime = {}, "", ""
    for line in shown.splitlines():
        name, _, value = (part.strip() for part in line.partition(":"))
        if name == "Route":
            route = value
        elif name == "Route lifetime":
            lifetime = value.split()[0]
        elif line.strip().startswith("from "):
            found[line.split()[1]] = f"{route} {lifetime}"
    return found


def changed_to(product: Product, spec: dict[str, object]) -> None:
    before = generation(product)
    product.apply({**GATEWAY, "spec": {**GATEWAY["spec"], **spec}})
    wait_for("the operator", lambda: generation(product) > before, timeout=120)
    rollout(product)


def rights(product: Product) -> set[str]:
    pods = json.loads(
        product.cluster.kubectl("-n", NAMESPACE, "get", "daemonset/nat64-default", "-o", "json")
    )["spec"]["template"]["spec"]
    (translator,) = (each for each in pods["containers"] if each["name"] == "translator")
    return set(translator["securityContext"]["capabilities"]["add"])


def test_every_node_advertises_until_the_gateway_no_longer_does(product: Product) -> None:
    addresses = {link_local(host.name) for host in HOSTS}
    assert "NET_RAW" not in rights(product)
    hosts = ["2001:db8:1::/64", "fd00:10:244::/48"]
    try:
        changed_to(product, {"advertise": ADVERTISE, "policy": {"allowedSources": hosts}})
        assert "NET_RAW" in rights(product)
        expected = dict.fromkeys(addresses, f"{PREFIX} 5400")
        wait_for("both nodes", lambda: routers() == expected, timeout=120)
        shown = Plugin(product.cluster, product.cluster.kubeconfig)("status")
        assert "ADVERTISED ON" in shown
    finally:
        changed_to(product, {})
        product.apply()
        product.wait_ready()
    assert "NET_RAW" not in rights(product)
    wait_for("silence", lambda: not routers(), timeout=120)
