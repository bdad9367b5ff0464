"""/livez, /readyz and /metrics of an agent."""

from __future__ import annotations

import asyncio
import time
from http import HTTPStatus

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from nat64_dataplane import http_server
from nat64_dataplane.http_server import Answer, Handler
from nat64_dataplane.translator.report.agent_state import AgentState
from nat64_dataplane.translator.report.metrics import Collector, Source

_STUCK_SECONDS = 120
"""A pass takes milliseconds and comes every few seconds."""


def routes(state: AgentState, source: Source) -> dict[str, Handler]:
    """The paths of a running agent."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector(state, source))
    started = time.monotonic()

    async def livez() -> Answer:
        idle = time.monotonic() - (state.last_pass or started)
        if idle > _STUCK_SECONDS:
            return http_server.text(HTTPStatus.SERVICE_UNAVAILABLE, f"no pass for {idle:.0f} s")
        return http_server.text(HTTPStatus.OK, "ok")

    async def readyz() -> Answer:
        if why := state.unready:
            return http_server.text(HTTPStatus.SERVICE_UNAVAILABLE, why)
        lines = [state.status.reason]
        lines += [f"warning {w.reason}: {w.message}; {w.remedy}" for w in state.warnings]
        return http_server.text(HTTPStatus.OK, "\n".join(lines))

    async def metrics() -> Answer:
        # Reading the maps takes system calls: not on the loop.
        body = await asyncio.to_thread(generate_latest, registry)
        return Answer(HTTPStatus.OK, body, CONTENT_TYPE_LATEST)

    def status() -> Answer:
        body = msgspec.json.encode(state.status)
        return Answer(HTTPStatus.OK, body, "application/json")

    return {"/status": status, "/livez": livez, "/readyz": readyz, "/metrics": metrics}
