"""/healthz, /readyz and /metrics. They answer before the operator has reached the API server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from aiohttp import web

from nat64_operator.edge import dns, metrics
from nat64_operator.edge.loop import Loop
from nat64_operator.edge.store import Store

STUCK_SECONDS = 300
"""A working loop finishes a pass or a request far more often, because requests have timeouts."""
METRICS_TYPE = "text/plain; version=0.0.4"


@asynccontextmanager
async def serving(
    address: str, loop: Loop, store: Store, tasks: Collection[asyncio.Task[None]]
) -> AsyncIterator[None]:
    """Serve /healthz, /readyz and /metrics at `[::]:8080`, or nothing if there is no address."""

    async def healthz(_: web.Request) -> web.Response:
        since = time.monotonic() - loop.alive
        if since > STUCK_SECONDS or any(task.done() for task in tasks):
            return web.Response(
                status=500,
                text=f"the loop made no progress for {since:.0f} s, or a task has ended\n",
            )
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        if not loop.ready:
            return web.Response(status=503, text="the cluster has not been read yet\n")
        return web.Response(text="ok\n")

    async def prometheus(_: web.Request) -> web.Response:
        return web.Response(body=metrics.text(store), headers={"Content-Type": METRICS_TYPE})

    app = web.Application()
    app.add_routes(
        [
            web.get("/healthz", healthz),
            web.get("/readyz", readyz),
            web.get("/metrics", prometheus),
        ]
    )
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        if address:
            host, port = dns.split(address)
            await web.TCPSite(runner, host, port).start()
        yield
    finally:
        await runner.cleanup()
