"""Alerts and dashboard ask for metrics that exist, with labels that these have."""

import json
import re
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.core import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest

from nat64_dataplane import config
from nat64_dataplane.clat import metrics as clat_metrics
from nat64_dataplane.clat.state import State as ClatState
from nat64_dataplane.dns64.report import dns_metrics as dns64_metrics
from nat64_dataplane.members import GatewayEntry
from nat64_dataplane.topology import Role, Topology
from nat64_dataplane.translator.datapath import counters
from nat64_dataplane.translator.datapath.port_bitmap import PoolUsage
from nat64_dataplane.translator.report.agent_state import AgentState, GatewayReport
from nat64_dataplane.translator.report.metrics import Collector
from nat64_dataplane.translator.run_directory import Status
from nat64_dataplane.translator.steering.health import State
from nat64_dataplane.translator.steering.statistics import Statistics
from nat64_operator.edge import metrics
from nat64_operator.edge.store import Store
from nat64_operator.render.names import GATEWAY_LABEL
from tests.unit.operator_simulation import SETTINGS

REPO = Path(__file__).parents[2]
CHART = REPO / "charts" / "nat64-operator"
ALERTS: list[dict[str, str]] = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
DASHBOARD = json.loads((CHART / "files" / "dashboard.json").read_text())

# What Prometheus adds to every series that it scrapes from a pod; `node` by the chart's relabeling.
ADDED = {"pod", "namespace", "job", "instance", "container", "endpoint", "node"}


class Kernel:
    """Every counter that the program has, once."""

    def counters(self) -> dict[str, int]:
        return {f"{n}_{d}": 1 for n in counters.NAMES if n != "none" for d in counters.DIRECTIONS}

    def resting_ports(self) -> dict[str, int]:
        return {"tcp": 0}

    def usage(self) -> list[PoolUsage]:
        return [PoolUsage(IPv4Address("192.0.2.1"), "tcp", 1, 2)]

    def session_count(self) -> int:
        return 1

    def session_limit(self) -> int:
        return 2


def router() -> str:
    """What an agent of a router node says beside that."""
    parsed = config.Config(name="default", topology=Topology(role=Role.ROUTER))
    state = agent_state(parsed)
    entry = GatewayEntry(node="g", address=IPv6Address("fd00::1"))
    state.gateways = (GatewayReport(entry, State.HEALTHY, True, "", Statistics()),)
    registry = CollectorRegistry()
    registry.register(Collector(state, Kernel()))
    exposition: bytes = generate_latest(registry)  # type: ignore[no-untyped-call]
    return exposition.decode()


def agent_state(parsed: config.Config) -> AgentState:
    status = Status(prefix="64:ff9b::/96", programmed=True, reason="", config_hash="x", since=0)
    return AgentState(parsed, status, repairs={"route": 1})


def translator() -> str:
    state = agent_state(config.Config(name="default"))
    registry = CollectorRegistry()
    registry.register(Collector(state, Kernel()))
    exposition: bytes = generate_latest(registry)  # type: ignore[no-untyped-call]
    return exposition.decode()


def clat() -> str:
    registry = CollectorRegistry()
    counted = {"received_4to6": 2, "translated_4to6": 1, "dropped_malformed_4to6": 1}
    registry.register(clat_metrics.Collector("default", ClatState(), lambda: counted))
    exposition: bytes = generate_latest(registry)  # type: ignore[no-untyped-call]
    return exposition.decode()


def operator() -> str:
    store = Store(SETTINGS)
    conditions = [{"type": "Ready", "status": "True", "reason": "Ready"}]
    metadata = {"name": "default", "uid": "1", "resourceVersion": "1"}
    roles = {"routers": {"desired": 2, "ready": 1, "members": 2}, "gateways": {"serving": 1}}
    status = {"conditions": conditions, **roles}
    store.put({"kind": "NAT64Gateway", "metadata": metadata, "status": status})
    daemon_set = {"name": "nat64-default", "labels": {GATEWAY_LABEL: "default"}}
    counted = {"desiredNumberScheduled": 3, "numberReady": 2}
    store.put({"kind": "DaemonSet", "metadata": metadata | daemon_set, "status": counted})
    leaving = daemon_set | {"name": "nat64-default.leaving"}
    store.put({"kind": "DaemonSet", "metadata": metadata | leaving, "status": counted})
    return metrics.text(store).decode()


def series(text: str) -> Iterator[tuple[str, set[str]]]:
    for line in text.splitlines():
        found = re.match(r"^([a-z0-9_]+)(?:\{(.*)\})? ", line)
        if found:
            yield found[1], set(re.findall(r"([a-z_]+)=\"", found[2] or ""))


def families_of_the_sidecar() -> set[str]:
    """Families have a name without samples, too; labels come with them."""
    source = Path(dns64_metrics.__file__).read_text()
    return set(re.findall(r"\"((?:coredns|nat64)_[a-z0-9_]+)\"", source))


EXPORTED: dict[str, set[str]] = {}
for _name, _labels in series(translator()):
    EXPORTED.setdefault(_name, set()).update(_labels)
for _name, _labels in series(router()):
    EXPORTED.setdefault(_name, set()).update(_labels)
for _name, _labels in series(clat()):
    EXPORTED.setdefault(_name, set()).update(_labels)
for _name, _labels in series(operator()):
    EXPORTED.setdefault(_name, set()).update(_labels)
SIDECAR = families_of_the_sidecar()


def expressions() -> Iterator[tuple[str, str]]:
    for alert in ALERTS:
        yield alert["alert"], alert["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


@pytest.mark.parametrize(("what", "expression"), list(expressions()))
def test_every_metric_that_is_asked_for_is_exported(what: str, expression: str) -> None:
    names = re.findall(r"\b(?:nat64|coredns)_[a-z0-9_]+\b", expression)
    assert names or re.match(r"up\{", expression), what  # Prometheus' own
    for name in names:
        base = re.sub(r"_(total|bucket|sum|count)$", "", name)
        assert name in EXPORTED or base in SIDECAR, f"{what}: {name} is not exported"


@pytest.mark.parametrize(("what", "expression"), list(expressions()))
def test_every_label_of_the_translators_that_is_asked_for_is_there(
    what: str, expression: str
) -> None:
    for name, matchers in re.findall(r"\b(nat64_[a-z0-9_]+)\{([^}]*)\}", expression):
        if name in EXPORTED:
            asked = set(re.findall(r"([a-z_]+)\s*=~?\"", matchers))
            assert asked <= EXPORTED[name] | ADDED, what


def test_no_series_has_a_label_that_monitoring_adds() -> None:
    """It would be called `exported_node`, say, and every expression with `node` mean the other."""
    taken = {name: labels & ADDED for name, labels in EXPORTED.items() if labels & ADDED}
    assert not taken


def test_the_operator_counts_the_nodes_that_should_translate_and_those_that_do() -> None:
    text = operator()
    for state, count in (("desired", 3), ("ready", 2)):
        line = f'nat64_operator_gateway_nodes{{gateway="default",state="{state}"}} {count}.0'
        assert line in text.splitlines()


def test_what_an_alert_asks_the_increase_of_is_there_before_it_happens() -> None:
    for reason in metrics.PUT_BACK:
        assert (
            f'nat64_operator_warnings_total{{kind="DNS64Policy",reason="{reason}"}}' in operator()
        )


def test_drop_reasons_that_alerts_name_exist() -> None:
    for alert in ALERTS:
        for reasons in re.findall(r"dropped_packets_total\{reason=~?\"([^\"]+)\"", alert["expr"]):
            assert set(reasons.split("|")) <= set(counters.DROP_REASONS)


def test_every_alert_has_a_runbook() -> None:
    text = (REPO / "docs" / "alerts.md").read_text()
    headings = set(re.findall(r"^## (\w+)$", text, re.M))
    assert headings == {alert["alert"] for alert in ALERTS}


def test_alerts_are_complete() -> None:
    for alert in ALERTS:
        assert set(alert) == {"alert", "expr", "for", "severity", "summary"}
        assert alert["severity"] in ("warning", "critical")


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at: dict[str, Any] = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
