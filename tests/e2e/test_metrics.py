"""Alerts and dashboard beside what real translators, sidecars and the operator export."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.cluster.network import HOSTS, Host
from tests.cluster.paths import REPO
from tests.cluster.product import NAMESPACE, PREFIX, Pod, Product
from tests.cluster.run import wait_for
from tests.e2e.test_product import IPV4_ONLY, running_pod

pytestmark = pytest.mark.cluster

FILES = REPO / "charts" / "nat64-operator" / "files"
# What Prometheus adds to every series that it scrapes from a pod; `node` by the chart's relabeling.
ADDED = {"pod", "namespace", "job", "instance", "container", "endpoint", "node"}
PORTS = (9464, 6467)
OPERATOR = ("-l", "app.kubernetes.io/component=operator")


@pytest.fixture(scope="module")
def exported(product: Product) -> dict[str, set[str]]:
    """The labels of every series, by name, after some traffic and a repair on each node."""
    urls = of_operators(product)
    texts = []
    for host in HOSTS:
        with running_pod(product.cluster, "scraper", host.name) as pod:
            for _ in range(8):  # two sidecars, behind one Service
                pod.exec("curl", "-sS", "--max-time", "10", f"http://{IPV4_ONLY}/")
                pod.exec("dig", "+short", "nothing.internet.example", "AAAA")
            repair(product, pod, host)
            urls_here = [f"http://[{host.ipv6}]:{port}/metrics" for port in PORTS]
            texts += [scrape(pod, url) for url in (*urls, *urls_here)]
    return {**series(texts), "up": ADDED}  # which Prometheus makes for each target


def of_operators(product: Product) -> list[str]:
    """Where the operator's metrics are."""
    path = "jsonpath={.items[*].status.podIP}"
    operators = product.cluster.kubectl("-n", NAMESPACE, "get", "pods", *OPERATOR, "-o", path)
    return [f"http://[{address}]:8080/metrics" for address in operators.split()]


def series(texts: list[str]) -> dict[str, set[str]]:
    """The labels of every series, by name."""
    found: dict[str, set[str]] = {}
    for text in texts:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
    return found


def scrape(pod: Pod, url: str) -> str:
    return pod.exec("curl", "-sSg", "--max-time", "10", url)


def repair(product: Product, pod: Pod, host: Host) -> None:
    """Give the translator something to repair, which it counts by what it was."""
    product.cluster.node(host.name).run(["ip", "-6", "route", "del", PREFIX])
    url = f"http://[{host.ipv6}]:{PORTS[0]}/metrics"
    what = f"the translator on {host.name} to put its route back"
    wait_for(what, lambda: "nat64_repairs_total{" in scrape(pod, url), timeout=60)


def expressions() -> Iterator[tuple[str, str, str]]:
    """What asks, its query, and the text that is made of the result's labels."""
    for alert in yaml.safe_load((FILES / "alerts.yaml").read_text()):
        yield alert["alert"], alert["expr"], alert["summary"]
    for panel in json.loads((FILES / "dashboard.json").read_text())["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"], target.get("legendFormat", "")


METRIC = r"\b((?:nat64|coredns)_[a-z0-9_]+|up(?=\{))\b(?:\{([^}]*)\})?"


def is_of_clat(expression: str) -> bool:
    """Whether it asks the agent that is there only with `spec.clat`: see test_clat.py."""
    return "nat64_clat_" in expression


def is_of_topology(expression: str) -> bool:
    """Whether it asks what is there with topology Gateway only: see test_topology.py."""
    return bool(
        re.search(
            r"nat64_(operator_router_nodes|operator_gateway_members|gateway_node|probe_rtt|failover)",
            expression,
        )
    )


@pytest.mark.parametrize(
    ("what", "expression", "text"),
    [each for each in expressions() if not (is_of_clat(each[1]) or is_of_topology(each[1]))],
)
def test_what_is_asked_for_is_there(
    exported: dict[str, set[str]], what: str, expression: str, text: str
) -> None:
    assert_exported(exported, what, expression, text)


def assert_exported(exported: dict[str, set[str]], what: str, expression: str, text: str) -> None:
    """What an expression asks for is exported, with the labels that it and its text need."""
    matched = re.findall(METRIC, expression)
    assert matched, what
    for name, matchers in matched:
        assert name in exported, f"{what}: {name} has no series"
        asked = set(re.findall(r"([a-z_]+)\s*=?[=~!]~?\"", matchers))
        assert asked <= exported[name] | ADDED, f"{what}: {name} has only {exported[name]}"
    labels = set.intersection(*(exported[name] for name, _ in matched)) | ADDED
    grouped = re.findall(r"\bby \(([^)]*)\)", expression)
    by = {label.strip() for group in grouped for label in group.split(",")}
    assert by <= labels, what
    shown = set(re.findall(r"\{\{\s*(?:\$labels\.)?([a-z_]+)\s*\}\}", text))
    assert shown <= (by if by else labels), f"{what}: the result has no label for {text!r}"
