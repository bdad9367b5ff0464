"""The pages of the HTTP endpoints: /health, /status, /ready and /metrics."""

from __future__ import annotations

import json
from collections.abc import Iterable
from http import HTTPStatus
from typing import Protocol

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from nat64_dataplane.dns64.report.dns_metrics import DnsCollector, Sidecar
from nat64_dataplane.dns64.settings import Listen, Settings
from nat64_dataplane.http_server import Answer, Handler


class Process(Sidecar, Protocol):
    """What the pages show about the running program beside its counts."""

    since: float
    """When the running Corefile was loaded, in seconds of the epoch."""
    reload_error: str | None


class HttpEndpoints:
    """The content of each page, at the time of the request."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._registry = CollectorRegistry()
        self._registry.register(DnsCollector(process))
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._runtime: GCCollector | None = None

    def show_runtime(self, wanted: bool) -> None:
        """Show or hide the interpreter's own counts."""
        if wanted and self._runtime is None:
            self._runtime = GCCollector(self._registry)
        elif not wanted and self._runtime is not None:
            self._registry.unregister(self._runtime)
            self._runtime = None

    def routes(self, paths: Iterable[str]) -> dict[str, Handler]:
        """The handlers of these pages."""
        pages: dict[str, Handler] = {
            "/health": self._health,
            "/ready": self._ready,
            "/status": self._status,
            "/metrics": self._metrics,
        }
        return {path: pages[path] for path in paths}

    def _health(self) -> Answer:
        return Answer(HTTPStatus.OK, b"OK")

    def _ready(self) -> Answer:
        reasons = self._process.unready()
        return (
            Answer(HTTPStatus.SERVICE_UNAVAILABLE, "\n".join(reasons).encode())
            if reasons
            else Answer(HTTPStatus.OK, b"OK")
        )

    def _status(self) -> Answer:
        process = self._process
        watched = [block.coupling.watch.status for block in process.blocks if block.settings.dns64]
        missing = next((status for status in watched if not status.programmed), None)
        status = {
            "corefile": process.settings.content_hash,
            "since": int(process.since),
            "reloadFailed": process.reload_error,
            "synthesis": bool(watched) and missing is None,
            "reason": missing.reason if missing else (watched[0].reason if watched else "no dns64"),
            "ready": not process.unready(),
        }
        return Answer(HTTPStatus.OK, json.dumps(status).encode() + b"\n", "application/json")

    def _metrics(self) -> Answer:
        return Answer(HTTPStatus.OK, generate_latest(self._registry), CONTENT_TYPE_LATEST)


def endpoints_of(settings: Settings) -> dict[tuple[str, int], list[str]]:
    """Which pages are served on which host and port."""
    wanted: dict[tuple[str, int], list[str]] = {}
    pages: list[tuple[Listen | None, list[str]]] = [
        (settings.health, ["/health", "/status"]),
        (settings.ready, ["/ready"]),
        (settings.prometheus, ["/metrics"]),
    ]
    for listen, paths in pages:
        if listen is not None:
            wanted.setdefault((listen.host, listen.port), []).extend(paths)
    return wanted
