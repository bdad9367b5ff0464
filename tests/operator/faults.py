"""A proxy between the operator and the API server that fails as networks and servers do."""

import asyncio
import contextlib
import json
import random
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

# Headers that belong to one connection, not to what is said over it.
HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "host", "content-encoding"}

STUCK_SECONDS = 25
"""Longer than the operator waits for an answer."""


class FaultProxy:
    """Plain HTTP on loopback; hands on to the API server, or doesn't."""

    def __init__(self, upstream: str, ca: Path) -> None:
        self.url = ""
        self.rates: dict[int, float] = {}
        """How often a request is answered with this status instead."""
        self.slow_seconds = 0.0
        self.failing: set[str] = set()
        """Resources for which every answer is 503."""
        self.stuck: set[str] = set()
        """Resources whose changes are answered only after the operator has given up."""
        self.down = False
        """Connections are accepted and cut."""
        self.missing: set[str] = set()
        """Resources that the API server doesn't know: it answers 404."""
        self.expire_watches = False
        """Every watch ends at once, with 410 Gone."""
        self.break_watches = False
        """Every watch ends at once, with an error that kopf knows no way to go on from."""
        self.silent: set[str] = set()
        """Resources whose watches get no answer, not even its header."""
        self.times: list[float] = []
        """When each request came."""
        self._upstream = upstream
        self._tls = ssl.create_default_context(cafile=str(ca))
        self._random = random.Random(1)
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._watches: set[asyncio.Transport] = set()
        threading.Thread(target=self._run, daemon=True).start()
        assert self._ready.wait(10), "the proxy starts"

    def count(self, seconds: float) -> int:
        """Requests in the last seconds."""
        since = time.monotonic() - seconds
        return sum(at >= since for at in self.times)

    def cut_watches(self) -> None:
        """End every watch that runs."""
        for transport in list(self._watches):
            self._loop.call_soon_threadsafe(transport.abort)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _end(self) -> None:
        await self._runner.cleanup()
        # Requests whose client went away are still at work.
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self._session.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        self._loop.run_forever()

    async def _start(self) -> None:
        self._session = aiohttp.ClientSession(auto_decompress=True)
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._handle)
        # Watches wait for events that nobody will make: they are cut.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        listening = socket.create_server(("127.0.0.1", 0))
        await web.SockSite(self._runner, listening).start()
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        self._ready.set()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.times.append(time.monotonic())
        watch = request.query.get("watch") == "true"
        if self.down:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        words = set(request.path.split("/"))
        if self.missing & words or self.failing & words:
            return _refusal(404 if self.missing & words else 503)
        for status, rate in self.rates.items():
            if status == 409 and request.method == "GET":
                continue  # no conflict without a write
            if self._random.random() < rate:
                return _refusal(status)
        if request.method == "PATCH" and self.stuck & words:
            await request.read()  # it was received, although no client waits for the response
            await asyncio.sleep(STUCK_SECONDS)
        if self.slow_seconds and not watch:
            await asyncio.sleep(self._random.random() * self.slow_seconds)
        if watch and self.silent & words:
            await asyncio.sleep(3600)
        if watch and self.expire_watches:
            gone = {"type": "ERROR", "object": _status(410)}
            return web.json_response(gone)
        if watch and self.break_watches:
            return web.json_response({"type": "ERROR", "object": _status(500)})
        return await self._forward(request, watch)

    async def _forward(self, request: web.Request, watch: bool) -> web.StreamResponse:
        headers = {k: v for k, v in request.headers.items() if k.lower() not in HOP_BY_HOP}
        async with self._session.request(
            request.method,
            self._upstream + request.path_qs,
            headers=headers,
            data=await request.read() or None,
            ssl=self._tls,
            timeout=aiohttp.ClientTimeout(total=None),
        ) as upstream:
            kept = {k: v for k, v in upstream.headers.items() if k.lower() not in HOP_BY_HOP}
            response = web.StreamResponse(status=upstream.status, headers=kept)
            with contextlib.suppress(ConnectionError):
                await response.prepare(request)
            transport = request.transport
            if watch and isinstance(transport, asyncio.Transport):
                self._watches.add(transport)
            try:
                async for chunk in upstream.content.iter_any():
                    await response.write(chunk)
                await response.write_eof()
            except (ConnectionError, aiohttp.ClientError):
                pass
            finally:
                if isinstance(transport, asyncio.Transport):
                    self._watches.discard(transport)
            return response


def _refusal(status: int) -> web.Response:
    headers = {"Retry-After": "1"} if status == 429 else {}
    text = json.dumps(_status(status))
    return web.Response(status=status, text=text, content_type="application/json", headers=headers)


REASONS = {404: "NotFound", 409: "Conflict", 410: "Expired", 429: "TooManyRequests"}


def _status(code: int) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Status",
        "status": "Failure",
        "code": code,
        "message": f"a fault: {code}",
        "reason": {404: "NotFound", 409: "Conflict", 410: "Expired", 429: "TooManyRequests"}.get(
            code, "Fault"
        ),
        "metadata": {},
    }
