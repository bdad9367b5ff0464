"""The process: listeners, reload, readiness, endpoints, and an end without a gap."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import time
from http import HTTPStatus
from pathlib import Path
from random import Random

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from nat64_dataplane.corefile import CorefileError
from nat64_dataplane.dns64 import settings as settings_module
from nat64_dataplane.dns64.frontend.loop_probe import LoopProbe
from nat64_dataplane.dns64.frontend.server_block import Engine
from nat64_dataplane.dns64.frontend.tcp_listener import TcpListener
from nat64_dataplane.dns64.frontend.udp_listener import UdpListener
from nat64_dataplane.dns64.frontend.zone_dispatch import Block
from nat64_dataplane.dns64.host.random_bytes import Entropy
from nat64_dataplane.dns64.host.translator_status import POLL_SECONDS
from nat64_dataplane.dns64.instrumentation.internal_faults import faults
from nat64_dataplane.dns64.report.dns_metrics import DnsCollector, Upstreams
from nat64_dataplane.dns64.settings import Listen, Server, Settings
from nat64_dataplane.http_server import Answer, Handler, HttpServer

logger = logging.getLogger("nat64_dns64")

DRAIN_SECONDS = 5.0
"""How long queries under way may take to end once the listeners are closed."""

Place = tuple[str, int]


class App:
    """Everything that runs. `path` is the Corefile, read again on reload."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path = path
        self.settings = settings
        self.engines: list[Engine] = []
        self.upstreams = Upstreams()
        self.since = time.time()
        self.reload_failures = 0
        self.reload_error: str | None = None
        self.stopping = False
        self.stop = asyncio.Event()
        self.failed = False
        """Whether the process ends because something is wrong, as `loop` may find."""
        self._entropy = Entropy()
        self._blocks: dict[Place, Block] = {}
        self._listeners: dict[Place, list[UdpListener | TcpListener]] = {}
        self._http: dict[Place, HttpServer] = {}
        self._registry = CollectorRegistry()
        self._registry.register(DnsCollector(self))
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._runtime: GCCollector | None = None

    async def run(self) -> int:
        """Serve until SIGTERM or SIGINT. Returns the exit status. Raises OSError at the start."""
        loop = asyncio.get_running_loop()
        # before anyone can see us listen, and send a signal that would end us
        reload_now = asyncio.Event()
        loop.add_signal_handler(signal.SIGHUP, reload_now.set)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop.set)
        await self.apply(self.settings)
        tasks = [
            loop.create_task(self._watch_translator()),
            loop.create_task(self._watch_corefile(reload_now)),
        ]
        await self.stop.wait()
        self.stopping = True
        if not self.failed and self.settings.lameduck:
            logger.info("lame duck: unready, answering for %gs more", self.settings.lameduck)
            await asyncio.sleep(self.settings.lameduck)
        for task in tasks:
            task.cancel()
        await self.close()
        return 1 if self.failed else 0

    async def apply(self, settings: Settings) -> None:
        """Run these settings instead of the present ones. Raises OSError and changes nothing."""
        engines, places = self._build(settings)
        added: list[UdpListener | TcpListener | HttpServer] = []
        listeners: dict[Place, list[UdpListener | TcpListener]] = {}
        endpoints: dict[Place, HttpServer] = {}
        try:
            for place, names in _endpoints(settings).items():
                if place not in self._http:
                    server = HttpServer({name: self._page(name) for name in names})
                    await server.start(*place)
                    added.append(server)
                    endpoints[place] = server
            for place, members in places.items():
                block = self._blocks.get(place) or Block([])
                if place not in self._listeners:
                    udp = UdpListener(*place, block)
                    added.append(udp)
                    tcp = TcpListener(*place, block)
                    added.append(tcp)
                    await tcp.start()
                    listeners[place] = [udp, tcp]
                    block.engines = members
                    self._blocks[place] = block
        except BaseException:
            for item in added:
                item.close()
            for place in listeners:
                del self._blocks[place]
            for engine in engines:
                engine.close()
            raise
        # from here on nothing can fail
        old = self.engines
        self.engines, self.settings, self.since = engines, settings, time.time()
        self._listeners |= listeners
        self._http |= endpoints
        for place, members in places.items():
            self._blocks[place].engines = members
        for place in [place for place in self._listeners if place not in places]:
            for listener in self._listeners.pop(place):
                listener.close()
            del self._blocks[place]
        wanted = _endpoints(settings)
        for place in [place for place in self._http if place not in wanted]:
            self._http.pop(place).close()
        for place, names in wanted.items():
            self._http[place].routes = {name: self._page(name) for name in names}
        self._show_runtime(settings.runtime_metrics)
        for engine in old:
            asyncio.get_running_loop().call_later(DRAIN_SECONDS, engine.close)
        for engine in engines:
            if engine.settings.loop:
                LoopProbe(engine, self._loop_found).start()

    def _show_runtime(self, wanted: bool) -> None:
        if wanted and self._runtime is None:
            self._runtime = GCCollector(self._registry)
        elif not wanted and self._runtime is not None:
            self._registry.unregister(self._runtime)
            self._runtime = None

    async def close(self) -> None:
        """Close the listeners, wait for what is under way, close the rest."""
        for listeners in self._listeners.values():
            for listener in listeners:
                if isinstance(listener, UdpListener):
                    listener.stop_reading()
        end = time.monotonic() + DRAIN_SECONDS
        while any(engine.under_way for engine in self.engines) and time.monotonic() < end:
            await asyncio.sleep(0.02)
        for listeners in self._listeners.values():
            for listener in listeners:
                listener.close()
        for engine in self.engines:
            engine.close()
        for server in self._http.values():
            server.close()

    def unready(self) -> list[str]:
        """Why /ready isn't OK; empty when it is."""
        reasons = ["shutting down"] if self.stopping else []
        for engine in self.engines:
            status = engine.watch.status
            if not status.programmed:
                reasons.append(f"dns64: no translator: {status.reason}")
        return list(dict.fromkeys(reasons))

    async def reload(self, *, asked: bool = True) -> None:
        """Read the Corefile again; keep the running one where it is refused, and say so once.

        `asked`: somebody wants to know, so say it again.
        """
        try:
            settings = settings_module.from_file(self.path)
            if settings.content_hash == self.settings.content_hash:
                self.reload_error = None
                return
            await self.apply(settings)
        except (CorefileError, OSError) as error:
            self._refused(str(error), asked)
            return
        except Exception as error:  # whatever it is, the next Corefile must be read
            faults.log("reading the Corefile")
            self._refused(f"{self.path}: internal error: {type(error).__name__}: {error}", asked)
            return
        self.reload_error = None
        logger.info("plugin/reload: running Corefile, SHA512 = %s", settings.content_hash)

    def _refused(self, text: str, asked: bool) -> None:
        if asked or text != self.reload_error:
            logger.error("plugin/reload: refused, the last good Corefile stays: %s", text)
            self.reload_failures += 1
        self.reload_error = text

    def _build(self, settings: Settings) -> tuple[list[Engine], dict[Place, list[Engine]]]:
        engines: list[Engine] = []
        places: dict[Place, list[Engine]] = {}
        # with a block more or less on a port, what one has cached may be another's to answer
        zones = _zones_by_port(settings)
        before = _zones_by_port(self.settings)
        try:
            for server in settings.servers:
                engine = Engine(
                    server,
                    self._entropy,
                    self.upstreams.observe,
                    self._before(server),
                    keep_cache=zones[server.port] == before.get(server.port),
                )
                engines.append(engine)
                for address in server.addresses or ("::",):
                    places.setdefault((str(address), server.port), []).append(engine)
        except BaseException:  # such as a certificate that can't be read
            for engine in engines:
                engine.close()
            raise
        return engines, places

    def _before(self, server: Server) -> Engine | None:
        """The engine that runs this block now."""
        for engine in self.engines:
            old = engine.settings
            if (old.zones, old.label) == (server.zones, server.label):
                return engine
        return None

    async def _watch_translator(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            for engine in self.engines:
                if engine.look_at_translator():
                    status = engine.watch.status
                    state = "synthesis on" if status.programmed else "no synthesis"
                    logger.warning("plugin/dns64: %s: %s", state, status.reason)

    async def _watch_corefile(self, now: asyncio.Event) -> None:
        random = Random()
        while True:
            reload = self.settings.reload
            delay = None
            if reload is not None:
                delay = reload.interval + random.uniform(-reload.jitter / 2, reload.jitter / 2)
            try:
                async with asyncio.timeout(delay):
                    await now.wait()
                now.clear()
                asked = True
            except TimeoutError:
                asked = False
            await self.reload(asked=asked)

    def _loop_found(self, reason: str) -> None:
        logger.critical("plugin/loop: %s", reason)
        self.failed = True
        self.stop.set()

    def _page(self, name: str) -> Handler:
        return {
            "/health": self._health,
            "/ready": self._ready,
            "/status": self._status,
            "/metrics": self._metrics,
        }[name]

    def _health(self) -> Answer:
        return Answer(HTTPStatus.OK, b"OK")

    def _ready(self) -> Answer:
        reasons = self.unready()
        return (
            Answer(HTTPStatus.SERVICE_UNAVAILABLE, "\n".join(reasons).encode())
            if reasons
            else Answer(HTTPStatus.OK, b"OK")
        )

    def _status(self) -> Answer:
        watched = [engine.watch.status for engine in self.engines if engine.settings.dns64]
        missing = next((status for status in watched if not status.programmed), None)
        status = {
            "corefile": self.settings.content_hash,
            "since": int(self.since),
            "reloadFailed": self.reload_error,
            "synthesis": bool(watched) and missing is None,
            "reason": missing.reason if missing else (watched[0].reason if watched else "no dns64"),
            "ready": not self.unready(),
        }
        return Answer(HTTPStatus.OK, json.dumps(status).encode() + b"\n", "application/json")

    def _metrics(self) -> Answer:
        return Answer(HTTPStatus.OK, generate_latest(self._registry), CONTENT_TYPE_LATEST)


def _endpoints(settings: Settings) -> dict[Place, list[str]]:
    wanted: dict[Place, list[str]] = {}
    pages: list[tuple[Listen | None, list[str]]] = [
        (settings.health, ["/health", "/status"]),
        (settings.ready, ["/ready"]),
        (settings.prometheus, ["/metrics"]),
    ]
    for listen, names in pages:
        if listen is not None:
            wanted.setdefault((listen.host, listen.port), []).extend(names)
    return wanted


def _zones_by_port(settings: Settings) -> dict[int, set[str]]:
    zones: dict[int, set[str]] = {}
    for server in settings.servers:
        zones.setdefault(server.port, set()).update(server.zones)
    return zones
