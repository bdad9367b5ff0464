"""Metrics of a router node: how gateway nodes do, as seen from here."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from nat64_dataplane.translator.report.agent_state import AgentState
from nat64_dataplane.translator.steering.health import State
from nat64_dataplane.translator.steering.statistics import RTT_BUCKETS

# Not `node`: monitoring gives that to every series, for the node that the series is from.
_LABELS = ("gateway", "gateway_node")


def families(state: AgentState) -> Iterator[Metric]:
    """Every family; none on a node that is no router."""
    if not state.config.is_router:
        return
    name, nodes = state.config.name, state.gateways
    states = GaugeMetricFamily(
        "nat64_gateway_nodes", "Gateway nodes by state", labels=("gateway", "state")
    )
    for each in State:
        count = sum(node.state is each for node in nodes)
        states.add_metric((name, each.value.lower()), count)
    yield states
    up = GaugeMetricFamily(
        "nat64_gateway_node_up", "Whether packets may go to a gateway node", labels=_LABELS
    )
    rtt = HistogramMetricFamily(
        "nat64_probe_rtt_seconds", "Time from a probe to its answer", labels=_LABELS
    )
    counted = {
        "sent": CounterMetricFamily("nat64_gateway_node_probes", "Probes of it", labels=_LABELS),
        "missed": CounterMetricFamily(
            "nat64_gateway_node_probes_missed", "Probes without an answer in time", labels=_LABELS
        ),
        "deaths": CounterMetricFamily(
            "nat64_gateway_node_deaths", "How often a gateway node was lost", labels=_LABELS
        ),
    }
    for node in nodes:
        labels, seen = (name, node.entry.node), node.statistics
        up.add_metric(labels, node.serves)
        for what, family in counted.items():
            family.add_metric(labels, getattr(seen, what))
        bounds = [*map(str, RTT_BUCKETS), "+Inf"]
        buckets = list(zip(bounds, accumulate(seen.rtt_counts), strict=True))
        rtt.add_metric(labels, buckets=buckets, sum_value=seen.rtt_sum)
    yield up
    yield rtt
    yield from counted.values()
    failovers = CounterMetricFamily(
        "nat64_failovers",
        "How often the clients of a gateway node were given to others",
        labels=("gateway",),
    )
    failovers.add_metric((name,), state.failovers)
    yield failovers
