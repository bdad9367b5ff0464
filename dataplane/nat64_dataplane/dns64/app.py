"""The process: listeners, reload, readiness, HTTP endpoints, and an end without a gap."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from pathlib import Path
from random import Random

from nat64_dataplane.corefile import CorefileError
from nat64_dataplane.dns64 import settings as settings_module
from nat64_dataplane.dns64.frontend.loop_probe import LoopProbe
from nat64_dataplane.dns64.frontend.server_block import ServerBlock
from nat64_dataplane.dns64.frontend.tcp_listener import TcpListener
from nat64_dataplane.dns64.frontend.udp_listener import UdpListener
from nat64_dataplane.dns64.frontend.zone_dispatch import ZoneDispatcher
from nat64_dataplane.dns64.host.random_bytes import Entropy
from nat64_dataplane.dns64.host.translator_status import POLL_SECONDS
from nat64_dataplane.dns64.instrumentation.counters import UpstreamExchanges
from nat64_dataplane.dns64.instrumentation.internal_faults import faults
from nat64_dataplane.dns64.report.http_endpoints import HttpEndpoints, endpoints_of
from nat64_dataplane.dns64.settings import Server, Settings
from nat64_dataplane.http_server import HttpServer

logger = logging.getLogger("nat64_dns64")

DRAIN_SECONDS = 5.0
"""How long queries in flight have to end once the listeners are closed."""

ListenAddress = tuple[str, int]


class App:
    """Everything that runs. `path` is the Corefile, read again on reload."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path = path
        self.settings = settings
        self.blocks: list[ServerBlock] = []
        self.exchanges = UpstreamExchanges()
        self.since = time.time()
        self.reload_failures = 0
        self.reload_error: str | None = None
        self.stopping = False
        self.stop = asyncio.Event()
        self.failed = False
        """Whether the process ends because of a fault, which `loop` may find."""
        self._entropy = Entropy()
        self._dispatchers: dict[ListenAddress, ZoneDispatcher] = {}
        self._listeners: dict[ListenAddress, list[UdpListener | TcpListener]] = {}
        self._http: dict[ListenAddress, HttpServer] = {}
        self._pages = HttpEndpoints(self)

    async def run(self) -> int:
        """Serve until SIGTERM or SIGINT. Returns the exit status. Raises OSError at the start."""
        loop = asyncio.get_running_loop()
        # before anybody can see that we listen, and send a signal that would end us
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
        blocks, places = self._build(settings)
        added: list[UdpListener | TcpListener | HttpServer] = []
        listeners: dict[ListenAddress, list[UdpListener | TcpListener]] = {}
        endpoints: dict[ListenAddress, HttpServer] = {}
        try:
            for place, names in endpoints_of(settings).items():
                if place not in self._http:
                    server = HttpServer(self._pages.routes(names))
                    await server.start(*place)
                    added.append(server)
                    endpoints[place] = server
            for place, members in places.items():
                dispatcher = self._dispatchers.get(place) or ZoneDispatcher([])
                if place not in self._listeners:
                    udp = UdpListener(*place, dispatcher)
                    added.append(udp)
                    tcp = TcpListener(*place, dispatcher)
                    added.append(tcp)
                    await tcp.start()
                    listeners[place] = [udp, tcp]
                    dispatcher.blocks = members
                    self._dispatchers[place] = dispatcher
        except BaseException:
            for item in added:
                item.close()
            for place in listeners:
                del self._dispatchers[place]
            for block in blocks:
                block.close()
            raise
        # from here on nothing can fail
        old = self.blocks
        self.blocks, self.settings, self.since = blocks, settings, time.time()
        self._listeners |= listeners
        self._http |= endpoints
        for place, members in places.items():
            self._dispatchers[place].blocks = members
        for place in [place for place in self._listeners if place not in places]:
            for listener in self._listeners.pop(place):
                listener.close()
            del self._dispatchers[place]
        wanted = endpoints_of(settings)
        for place in [place for place in self._http if place not in wanted]:
            self._http.pop(place).close()
        for place, names in wanted.items():
            self._http[place].routes = self._pages.routes(names)
        self._pages.show_runtime(settings.runtime_metrics)
        for block in old:
            asyncio.get_running_loop().call_later(DRAIN_SECONDS, block.close)
        for block in blocks:
            if block.settings.loop:
                LoopProbe(block, self._loop_found).start()

    async def close(self) -> None:
        """Close the listeners, wait for what is in flight, close the rest."""
        for listeners in self._listeners.values():
            for listener in listeners:
                if isinstance(listener, UdpListener):
                    listener.stop_reading()
        end = time.monotonic() + DRAIN_SECONDS
        while any(block.under_way for block in self.blocks) and time.monotonic() < end:
            await asyncio.sleep(0.02)
        for listeners in self._listeners.values():
            for listener in listeners:
                listener.close()
        for block in self.blocks:
            block.close()
        for server in self._http.values():
            server.close()

    def unready(self) -> list[str]:
        """Why /ready isn't OK; empty when it is."""
        reasons = ["shutting down"] if self.stopping else []
        for block in self.blocks:
            status = block.coupling.watch.status
            if not status.programmed:
                reasons.append(f"dns64: no translator: {status.reason}")
        return list(dict.fromkeys(reasons))

    async def reload(self, *, asked: bool = True) -> None:
        """Read the Corefile again. If it is refused, keep the running one and log it once.

        `asked`: a person waits for the result, so log it again.
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
        except Exception as error:  # the loop must go on: the next Corefile may be good
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

    def _build(
        self, settings: Settings
    ) -> tuple[list[ServerBlock], dict[ListenAddress, list[ServerBlock]]]:
        blocks: list[ServerBlock] = []
        places: dict[ListenAddress, list[ServerBlock]] = {}
        # if a block is added or removed on a port, another block may have to answer what one has
        # cached
        zones = _zones_by_port(settings)
        before = _zones_by_port(self.settings)
        try:
            for server in settings.servers:
                block = ServerBlock(
                    server,
                    self._entropy,
                    self.exchanges.observe,
                    self._before(server),
                    keep_cache=zones[server.port] == before.get(server.port),
                )
                blocks.append(block)
                for address in server.addresses or ("::",):
                    places.setdefault((str(address), server.port), []).append(block)
        except BaseException:  # such as a certificate that can't be read
            for block in blocks:
                block.close()
            raise
        return blocks, places

    def _before(self, server: Server) -> ServerBlock | None:
        """The server block that runs this block now."""
        for block in self.blocks:
            old = block.settings
            if (old.zones, old.label) == (server.zones, server.label):
                return block
        return None

    async def _watch_translator(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            for block in self.blocks:
                if block.look_at_translator():
                    status = block.coupling.watch.status
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


def _zones_by_port(settings: Settings) -> dict[int, set[str]]:
    zones: dict[int, set[str]] = {}
    for server in settings.servers:
        zones.setdefault(server.port, set()).update(server.zones)
    return zones
