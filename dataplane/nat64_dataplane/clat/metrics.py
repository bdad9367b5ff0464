"""The CLAT agent's metrics and probes. Names are `nat64_clat_*`, with the label `gateway`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector as BaseCollector

from nat64_dataplane import http_server
from nat64_dataplane.clat.plan import LeftAlone
from nat64_dataplane.clat.state import State, Status, without_clients
from nat64_dataplane.errors import DataplaneError
from nat64_dataplane.http_server import Answer, Handler

_DIRECTIONS = {"4to6": "out", "6to4": "in"}


class Collector(BaseCollector):
    """Turns the agent's state and the programs' counters into metric families."""

    def __init__(
        self, gateway: str, state: State, counters: Callable[[], Mapping[str, int]]
    ) -> None:
        self._gateway = gateway
        self._state = state
        self._counters = counters

    def collect(self) -> Iterator[Metric]:
        """Yield every family. What can't be read is left out."""
        pods = list(self._state.pods.values())
        yield self._gauge(
            "nat64_clat_pods",
            "Pods with a CLAT on this node",
            sum(pod.state == "SetUp" for pod in pods),
        )
        yield self._gauge(
            "nat64_clat_pods_failed",
            "Pods that could not be given a CLAT",
            sum(pod.state == "Failed" for pod in pods),
        )
        left = GaugeMetricFamily(
            "nat64_clat_pods_left_alone",
            "Network namespaces that get no CLAT, by reason",
            labels=("gateway", "reason"),
        )
        for reason in LeftAlone:
            number = sum(pod.state == "LeftAlone" and pod.reason == reason for pod in pods)
            left.add_metric((self._gateway, reason.value), number)
        yield left
        for name, text, counted, label in (
            ("failures", "Attempts to give a pod a CLAT that failed", "failures", "reason"),
            ("repairs", "Parts of pods' set-ups that were restored", "repairs", "part"),
        ):
            family = CounterMetricFamily(f"nat64_clat_{name}", text, labels=("gateway", label))
            for key, value in sorted(getattr(self._state, counted).items()):
                family.add_metric((self._gateway, key), value)
            yield family
        yield self._gauge(
            "nat64_clat_config_refused",
            "Whether the config file is refused",
            bool(self._state.config_error),
        )
        try:
            yield from self._packets(self._counters())
        except (DataplaneError, OSError):
            return

    def _packets(self, counted: Mapping[str, int]) -> Iterator[Metric]:
        labels = ("gateway", "direction")
        received = CounterMetricFamily(
            "nat64_clat_received_packets", "Packets for the CLAT, out of pods and in", labels=labels
        )
        translated = CounterMetricFamily(
            "nat64_clat_translated_packets", "Packets translated", labels=labels
        )
        dropped = CounterMetricFamily(
            "nat64_clat_dropped_packets", "Packets dropped, by reason", labels=(*labels, "reason")
        )
        for key, value in counted.items():
            name, _, way = key.rpartition("_")
            direction = _DIRECTIONS[way]
            if name == "received":
                received.add_metric((self._gateway, direction), value)
            elif name == "translated":
                translated.add_metric((self._gateway, direction), value)
            elif name.startswith("dropped_") and value:
                reason = name.removeprefix("dropped_")
                dropped.add_metric((self._gateway, direction, reason), value)
        yield received
        yield translated
        yield dropped

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(name, text, labels=("gateway",))
        family.add_metric((self._gateway,), value)
        return family


def routes(
    gateway: str,
    state: State,
    status: Callable[[], Status],
    counters: Callable[[], Mapping[str, int]],
) -> dict[str, Handler]:
    """The paths of a running agent."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector(gateway, state, counters))

    async def livez() -> Answer:
        return http_server.text(HTTPStatus.OK, "ok")

    async def readyz() -> Answer:
        code = HTTPStatus.OK if state.ready else HTTPStatus.SERVICE_UNAVAILABLE
        return http_server.text(code, state.config_error or state.reason)

    async def metrics() -> Answer:
        body = await asyncio.to_thread(generate_latest, registry)
        return Answer(HTTPStatus.OK, body, CONTENT_TYPE_LATEST)

    def report() -> Answer:
        return Answer(
            HTTPStatus.OK, msgspec.json.encode(without_clients(status())), "application/json"
        )

    return {"/status": report, "/livez": livez, "/readyz": readyz, "/metrics": metrics}
