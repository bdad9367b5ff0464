"""The operator's own metrics, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from nat64_operator.api import gateway as gateway_api
from nat64_operator.api import policy as policy_api
from nat64_operator.edge.store import OWNED, Store
from nat64_operator.reconcile.readiness import Counts
from nat64_operator.render import names

REGISTRY = CollectorRegistry()

RECONCILE = Histogram(
    "nat64_operator_reconcile_seconds",
    "Time that one pass took to decide what to do.",
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.0, 5.0),
    registry=REGISTRY,
)
REQUESTS = Counter(
    "nat64_operator_api_requests_total",
    "Requests to the API server, without watches, by method and status code; `error` where "
    "no answer came.",
    ["method", "code"],
    registry=REGISTRY,
)
FAILURES = Counter(
    "nat64_operator_failures_total",
    "What failed: a `pass` that could not read the cluster, an `action` that could not be carried "
    "out, a `decision` that a defect prevented, a `watch` that ended and had to be started again.",
    ["kind"],
    registry=REGISTRY,
)
for _kind in ("pass", "action", "decision", "watch"):
    FAILURES.labels(_kind)  # Prometheus sees an increase only of a series that existed before
PUT_BACK = ("CorefileRolledBack", "CorefileSteppedBack", "CorefileNotRestored")
"""Reasons of Events about names that didn't resolve, or might not. An alert uses them."""
WARNINGS = Counter(
    "nat64_operator_warnings_total",
    "Events of type Warning about gateways and policies, by kind of the object and reason.",
    ["kind", "reason"],
    registry=REGISTRY,
)
for _reason in PUT_BACK:
    WARNINGS.labels(policy_api.KIND, _reason)
WATCHES_UP = Gauge(
    "nat64_operator_watches_up",
    "1 while the API server's objects are watched, 0 while that is tried again.",
    registry=REGISTRY,
)
LAST_PASS = Gauge(
    "nat64_operator_last_pass_timestamp_seconds",
    "When a pass was last completed.",
    registry=REGISTRY,
)
ProcessCollector(registry=REGISTRY)


class Objects(Collector):
    """Counts of the objects in the store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Read the store."""
        conditions = GaugeMetricFamily(
            "nat64_operator_conditions",
            "Gateways and policies, by condition, its status and its reason.",
            labels=["kind", "condition", "status", "reason"],
        )
        counts: dict[tuple[str, str, str, str], int] = {}
        for kind in (gateway_api.KIND, policy_api.KIND):
            for obj in self._store.objects(kind):
                for found in (obj.get("status") or {}).get("conditions") or ():
                    key = kind, found["type"], found["status"], found.get("reason", "")
                    counts[key] = counts.get(key, 0) + 1
        for key, count in sorted(counts.items()):
            conditions.add_metric(key, count)
        yield conditions
        managed = GaugeMetricFamily(
            "nat64_operator_managed_objects",
            "Objects that the operator reconciles or has made, by kind.",
            labels=["kind"],
        )
        for kind in (gateway_api.KIND, policy_api.KIND, *OWNED):
            managed.add_metric([kind], self._store.count(kind))
        yield managed
        nodes = GaugeMetricFamily(
            "nat64_operator_gateway_nodes",
            "Nodes of a gateway's DaemonSet that should translate (`desired`), or do (`ready`).",
            labels=["gateway", "state"],
        )
        for gateway, counted in sorted(self._nodes()):
            nodes.add_metric([gateway, "desired"], counted.desired)
            nodes.add_metric([gateway, "ready"], counted.ready)
        yield nodes
        yield from self._topology()

    def _topology(self) -> Iterator[GaugeMetricFamily]:
        routers = GaugeMetricFamily(
            "nat64_operator_router_nodes",
            "Nodes that should steer to the nodes that translate (`desired`), do (`ready`), or are "
            "known to the gateway nodes (`members`).",
            labels=["gateway", "state"],
        )
        members = GaugeMetricFamily(
            "nat64_operator_gateway_members",
            "Nodes that translate for others, by whether they take new clients (`serving`) or not "
            "(`draining`).",
            labels=["gateway", "state"],
        )
        for obj in self._store.objects(gateway_api.KIND):
            name, status = obj["metadata"]["name"], obj.get("status") or {}
            for state in ("desired", "ready", "members") if "routers" in status else ():
                routers.add_metric([name, state], status["routers"].get(state, 0))
            if "gateways" in status:
                members.add_metric([name, "serving"], status["gateways"].get("serving", 0))
                draining = len(status["gateways"].get("draining") or ())
                members.add_metric([name, "draining"], draining)
        yield routers
        yield members

    def _nodes(self) -> Iterator[tuple[str, Counts]]:
        for obj in self._store.objects("DaemonSet"):
            gateway = (obj["metadata"].get("labels") or {}).get(names.GATEWAY_LABEL, "")
            if obj["metadata"]["name"] == names.daemon_set(gateway):
                yield gateway, Counts.of(obj)


def text(store: Store) -> bytes:
    """All metrics in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(Objects(store))
    return bytes(generate_latest(REGISTRY)) + bytes(generate_latest(registry))
