"""The agent: gives a CLAT to every IPv6-only pod of this node, and keeps it as it should be.

No packet goes through it. Killing it changes nothing for pods that are set up; those that come
meanwhile wait, and the next agent catches up with them. Everything that enters a namespace runs in
one worker thread, in order; the event loop only decides when.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from nat64_dataplane.agent_process import set_on_stop, until_one_ends
from nat64_dataplane.clat import metrics, mounts, programs, runtime_data
from nat64_dataplane.clat.follower import Follower
from nat64_dataplane.clat.keeper import Keeper
from nat64_dataplane.clat.programs import DEFAULT_PINS, Programs
from nat64_dataplane.clat.run_directory import DEFAULT_RUN_DIR, RunDir
from nat64_dataplane.clat.runtime_data import RuntimeData
from nat64_dataplane.clat.state import State, Status
from nat64_dataplane.errors import ConfigError
from nat64_dataplane.http_server import HttpServer, parse_listen
from nat64_dataplane.translator.config_source import ConfigSource

T = TypeVar("T")

DEFAULT_LISTEN = "[::]:9466"

_RESCAN_SECONDS = 5.0
_RESCAN_UNNAMED_SECONDS = 1.0
_CONFIG_POLL_SECONDS = 1.0
_PUBLISH_SECONDS = 0.5

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Where things are; the config file says what to do."""

    config: Path
    listen: str = DEFAULT_LISTEN
    mounts: Path = mounts.DEFAULT_DIRECTORY
    runtime_data: tuple[Path, ...] = runtime_data.DEFAULT_DIRECTORIES
    pins: Path = DEFAULT_PINS
    run_dir: Path = DEFAULT_RUN_DIR


class Agent:
    """Runs until told to stop. Takes nothing out of pods when it does."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._source = ConfigSource(options.config)
        self.config = self._source.current
        self.run_dir = RunDir(options.run_dir, self.config.name)
        self.state = State(config_error=self._source.error)
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()
        self._kernel = ThreadPoolExecutor(max_workers=1, thread_name_prefix="namespaces")
        self._data = RuntimeData(options.runtime_data)
        self._published: Status | None = None

    async def run(self) -> None:
        """Work until SIGTERM or SIGINT.

        Raises BusyError where another agent runs this instance, DataplaneError where the programs
        can't be loaded, OSError where the probes' address is taken.
        """
        set_on_stop(self._stop)
        _raise_file_limit()
        name = self.config.name
        with self.run_dir.locked(), self._kernel:
            opened = await self._in_kernel(Programs.open, self.options.pins, name)
            try:
                keeper = await self._in_kernel(Keeper, name, opened)
                follower = Follower(keeper, self.state, self._in_kernel, self._wake.set)
                server = HttpServer(metrics.routes(name, self.state, self._status, opened.counters))
                if self.options.listen:
                    await server.start(*parse_listen(self.options.listen))
                try:
                    await self._work(follower)
                finally:
                    server.close()
                    await follower.close()
            finally:
                await self._in_kernel(opened.close)
        log.info("agent stopped; the pods' CLAT goes on")

    async def _work(self, follower: Follower) -> None:
        log.info("agent of CLAT %r runs", self.config.name)
        try:
            await until_one_ends(
                self._follow(follower),
                self._watch_file(follower),
                self._publish(),
                follower.failed(),
                self._stop.wait(),
            )
        finally:
            self._write_status()

    async def _in_kernel(self, work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._kernel, work, *arguments)

    async def _follow(self, follower: Follower) -> None:
        """Look for namespaces that have come or gone, as soon as something says so."""
        watched = mounts.Mounts(self.options.mounts, self._wake.set)
        follower.configure(self.config.clat.prefix if self.config.clat else None)
        try:
            while True:
                self._wake.clear()
                try:
                    follower.follow(watched.paths())
                except OSError as error:
                    self._not_ready(f"can't watch {self.options.mounts}: {error}")
                else:
                    if follower.all_seen and not self.state.ready:
                        await self._caught_up(follower)
                pause = _RESCAN_UNNAMED_SECONDS if follower.unnamed else _RESCAN_SECONDS
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), pause)
                    continue
                follower.name(await asyncio.to_thread(self._data.pods))
        finally:
            watched.close()

    async def _caught_up(self, follower: Follower) -> None:
        """Every pod has been looked at: what nobody has claimed belongs to nobody."""
        await follower.clear_unclaimed()
        await self._in_kernel(programs.remove_others, self.options.pins, self.config.name)
        self.state.ready = True
        self.state.reason = "Ready"
        log.info("all pods of the node have been looked at: %s", follower.summary())

    def _not_ready(self, why: str) -> None:
        if why != self.state.reason:
            log.warning("%s", why)
        self.state.ready, self.state.reason = False, why

    async def _watch_file(self, follower: Follower) -> None:
        while True:
            await asyncio.sleep(_CONFIG_POLL_SECONDS)
            try:
                if self._source.changed():
                    self._adopt(follower)
                    error = self._source.error
                else:
                    continue
            except ConfigError as refused:
                error = str(refused)
            if error and error != self.state.config_error:
                log.warning("config refused, the last good one stays: %s", error)
            self.state.config_error = error

    def _adopt(self, follower: Follower) -> None:
        config = self._source.current
        if config.name != self.config.name:
            raise ConfigError(
                f"name: {config.name!r}: this agent runs {self.config.name!r}; "
                "start another agent for another name"
            )
        if config.clat != self.config.clat:
            prefix = config.clat.prefix if config.clat else None
            log.info("CLAT prefix: %s", prefix or "none; it is taken out of all pods")
            follower.configure(prefix)
        self.config = config

    def _status(self) -> Status:
        prefix = str(self.config.clat.prefix) if self.config.clat else None
        return self.state.status(prefix, self.config.content_hash)

    async def _publish(self) -> None:
        while True:
            self._write_status()
            await asyncio.sleep(_PUBLISH_SECONDS)

    def _write_status(self) -> None:
        status = self._status()
        if status == self._published and self.run_dir.status_path.exists():
            return
        try:
            self.run_dir.write_status(status)
        except OSError as error:
            log.error("can't write %s: %s", self.run_dir.status_path, error.strerror)
        else:
            self._published = status


def _raise_file_limit() -> None:
    """Each pod takes one descriptor."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
