"""The agent's metrics, read from the maps at the moment of the scrape.

Names are `nat64_*`; every series has the label `gateway`, the instance's name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector as BaseCollector

from nat64_dataplane.errors import DataplaneError
from nat64_dataplane.translator.datapath.port_bitmap import PoolUsage
from nat64_dataplane.translator.node_warning import REASONS
from nat64_dataplane.translator.report import gateway_metrics
from nat64_dataplane.translator.report.agent_state import AgentState

_OF_PACKETS = frozenset(
    {"received", "translated", "passed", "held", "sent_fast", "sent_kernel", "hairpinned"}
    | {"offloaded", "steered", "returned"}
)


class Source(Protocol):
    """The part of `Datapath` that metrics read."""

    def counters(self) -> Mapping[str, int]:
        """Every counter as NAME_DIRECTION."""

    def usage(self) -> Iterable[PoolUsage]:
        """Ports of every pool address and protocol."""

    def resting_ports(self) -> Mapping[str, int]:
        """Ports in use that come back when they are needed, by protocol."""

    def session_count(self) -> int:
        """How many sessions there are."""

    def session_limit(self) -> int:
        """How many sessions there may be."""


class Collector(BaseCollector):
    """Turns one agent's state and maps into metric families."""

    def __init__(self, state: AgentState, source: Source) -> None:
        self._state = state
        self._source = source

    def collect(self) -> Iterator[Metric]:
        """Yield every family. What can't be read is left out, and counted."""
        yield from self._agent()
        try:
            yield from self._maps()
        except (DataplaneError, OSError):
            self._state.failures += 1

    def _agent(self) -> Iterator[Metric]:
        state, name = self._state, self._state.config.name
        info = GaugeMetricFamily(
            "nat64_translator_info",
            "What this translator runs",
            labels=("gateway", "prefix", "config_hash", "attached_by"),
        )
        config = state.config
        info.add_metric((name, str(config.prefix), config.content_hash, state.attached_by), 1)
        yield info
        for metric, text, value in (
            ("programmed", "Whether the node translates as configured", state.settled),
            ("config_refused", "Whether the config file is refused", bool(state.config_error)),
            (
                "notrack",
                "Whether conntrack is kept off translated packets",
                not state.notrack_error,
            ),
        ):
            yield _gauge(f"nat64_{metric}", text, name, value)
        warnings = GaugeMetricFamily(
            "nat64_warning",
            "Whether something is wrong although packets are translated, by reason",
            labels=("gateway", "reason"),
        )
        present = {warning.reason for warning in state.warnings}
        for reason in REASONS:
            warnings.add_metric((name, reason), reason in present)
        yield warnings
        repairs = CounterMetricFamily(
            "nat64_repairs",
            "Parts of the node's setup that were changed and restored",
            labels=("gateway", "action"),
        )
        for action, count in sorted(state.repairs.items()):
            repairs.add_metric((name, action), count)
        yield repairs
        for metric, text, number in (
            ("reconcile_failures", "Passes that failed", state.failures),
            ("sweeps", "Sweeps of expired state", state.sweeps.runs),
            ("sweep_seconds", "Time spent in sweeps", state.sweeps.seconds),
            ("swept_sessions", "Expired sessions removed", state.sweeps.removed_sessions),
            ("swept_bindings", "Expired BIB entries removed", state.sweeps.removed_bindings),
        ):
            counter = CounterMetricFamily(f"nat64_{metric}", text, labels=("gateway",))
            counter.add_metric((name,), number)
            yield counter
        yield from self._advertisements()
        yield from gateway_metrics.families(state)

    def _advertisements(self) -> Iterator[Metric]:
        name, counted = self._state.config.name, self._state.advertisements
        on = GaugeMetricFamily(
            "nat64_advertised",
            "Whether hosts on a link are offered the prefix",
            labels=("gateway", "interface"),
        )
        offered = self._state.status.advertised
        for interface in self._state.config.advertise.interfaces:
            on.add_metric((name, interface), interface in offered)
        yield on
        for metric, text, label, counts in (
            ("advertisements_sent", "Router Advertisements sent", "kind", counted.sent),
            (
                "solicitations_dropped",
                "Router Solicitations that are not valid",
                "reason",
                counted.dropped,
            ),
        ):
            family = CounterMetricFamily(
                f"nat64_{metric}", text, labels=("gateway", "interface", label)
            )
            for (interface, value), count in sorted(counts.items()):
                family.add_metric((name, interface, value), count)
            yield family
        for metric, text, plain in (
            ("advertisements_failed", "Router Advertisements that were not sent", counted.failed),
            ("solicitations_received", "Router Solicitations that came in", counted.received),
        ):
            family = CounterMetricFamily(f"nat64_{metric}", text, labels=("gateway", "interface"))
            for interface, count in sorted(plain.items()):
                family.add_metric((name, interface), count)
            yield family

    def _maps(self) -> Iterator[Metric]:
        name, source = self._state.config.name, self._source
        yield _gauge("nat64_sessions", "Sessions in the table", name, source.session_count())
        yield _gauge("nat64_sessions_max", "Sessions there may be", name, source.session_limit())
        labels = ("gateway", "address", "protocol")
        used = GaugeMetricFamily("nat64_pool_ports_used", "Pool ports taken", labels=labels)
        available = GaugeMetricFamily("nat64_pool_ports", "Pool ports there are", labels=labels)
        for pool in source.usage():
            values = (name, str(pool.address), pool.protocol)
            used.add_metric(values, pool.used)
            available.add_metric(values, pool.available)
        resting = GaugeMetricFamily(
            "nat64_pool_ports_resting",
            "Pool ports of closed connections, given back when they are needed",
            labels=("gateway", "protocol"),
        )
        for protocol, count in source.resting_ports().items():
            resting.add_metric((name, protocol), count)
        yield used
        yield available
        yield resting
        yield from _counters(name, source.counters())


def _counters(gateway: str, values: Mapping[str, int]) -> Iterator[Metric]:
    drops = CounterMetricFamily(
        "nat64_dropped_packets",
        "Packets dropped, by reason",
        labels=("gateway", "direction", "reason"),
    )
    families: dict[str, CounterMetricFamily] = {}
    for key, value in values.items():
        name, _, direction = key.rpartition("_")
        if name.startswith("dropped_"):
            drops.add_metric((gateway, direction, name.removeprefix("dropped_")), value)
            continue
        if name not in families:
            metric = f"nat64_{name}_packets" if name in _OF_PACKETS else f"nat64_{name}"
            text = name.replace("_", " ").capitalize()
            families[name] = CounterMetricFamily(metric, text, labels=("gateway", "direction"))
        families[name].add_metric((gateway, direction), value)
    yield from families.values()
    yield drops


def _gauge(metric: str, text: str, name: str, value: float) -> GaugeMetricFamily:
    family = GaugeMetricFamily(metric, text, labels=("gateway",))
    family.add_metric((name,), value)
    return family
