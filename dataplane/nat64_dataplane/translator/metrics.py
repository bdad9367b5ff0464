"""The agent's metrics, read from the maps at the moment of the scrape.

Names are `nat64_*`; every series has the label `gateway`, the instance's name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector as BaseCollector

from nat64_dataplane.errors import DataplaneError
from nat64_dataplane.translator.state import State


class Usage(Protocol):
    """The part of `Datapath.usage()` that is shown."""

    @property
    def sessions(self) -> int:
        """Sessions in the table."""

    @property
    def pools(self) -> Iterable[PoolUsage]:
        """One for each pool address and protocol."""


class PoolUsage(Protocol):
    """Ports of one pool address and protocol."""

    address: object
    protocol: str
    in_use: int
    available: int


class Source(Protocol):
    """The part of `Datapath` that metrics read."""

    def counters(self) -> Mapping[str, int]:
        """Every counter by name."""

    def usage(self) -> Usage:
        """Ports and sessions in use."""


class Collector(BaseCollector):
    """Turns one agent's state and maps into metric families."""

    def __init__(self, state: State, source: Source) -> None:
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
        repairs = CounterMetricFamily(
            "nat64_repairs",
            "Parts of the node's setup found changed and put back",
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

    def _maps(self) -> Iterator[Metric]:
        name = self._state.config.name
        usage = self._source.usage()
        yield _gauge("nat64_sessions", "Sessions in the table", name, usage.sessions)
        ports = GaugeMetricFamily(
            "nat64_pool_ports_used", "Pool ports taken", labels=("gateway", "address", "protocol")
        )
        available = GaugeMetricFamily(
            "nat64_pool_ports", "Pool ports there are", labels=("gateway", "address", "protocol")
        )
        for pool in usage.pools:
            labels = (name, str(pool.address), pool.protocol)
            ports.add_metric(labels, pool.in_use)
            available.add_metric(labels, pool.available)
        yield ports
        yield available
        yield from _counters(name, self._source.counters())


def _counters(name: str, values: Mapping[str, int]) -> Iterator[Metric]:
    drops = CounterMetricFamily(
        "nat64_dropped_packets", "Packets dropped, by reason", labels=("gateway", "reason")
    )
    for key, value in values.items():
        if key.startswith("dropped_"):
            drops.add_metric((name, key.removeprefix("dropped_")), value)
        else:
            family = CounterMetricFamily(f"nat64_{key}", key.replace("_", " "), labels=("gateway",))
            family.add_metric((name,), value)
            yield family
    yield drops


def _gauge(metric: str, text: str, name: str, value: float) -> GaugeMetricFamily:
    family = GaugeMetricFamily(metric, text, labels=("gateway",))
    family.add_metric((name,), value)
    return family
