"""The agent: keeps one translator instance on this node as its config file says.

No packet goes through it. Killing it changes nothing for packets; when it starts again, it finds
the pinned state and continues. Everything that uses the kernel runs in one worker thread, in order;
the event loop only decides when.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address
from typing import TypeVar

from pyroute2 import IPRoute

from nat64_dataplane.agent_process import set_on_stop, until_one_ends
from nat64_dataplane.config import Config, Role
from nat64_dataplane.errors import ConfigError, DataplaneError, HostError
from nat64_dataplane.http_server import HttpServer, parse_listen
from nat64_dataplane.translator import sweep_loop
from nat64_dataplane.translator.advertise import links
from nat64_dataplane.translator.advertise.advertiser import Advertiser
from nat64_dataplane.translator.advertise.record import Record
from nat64_dataplane.translator.agent_options import Options
from nat64_dataplane.translator.config_source import ConfigSource
from nat64_dataplane.translator.host_view import HostView
from nat64_dataplane.translator.instance import Instance
from nat64_dataplane.translator.node import fact_parts, netlink_monitor, pools
from nat64_dataplane.translator.publisher import Publisher
from nat64_dataplane.translator.report import probes
from nat64_dataplane.translator.report.agent_state import AgentState
from nat64_dataplane.translator.run_directory import RunDir, Status
from nat64_dataplane.translator.steerer import Steerer

T = TypeVar("T")

_RESYNC_SECONDS = 10.0
_RETRY_SECONDS = 1.0
_SETTLE_SECONDS = 0.1  # changes come in bursts: one pass for all
_CONFIG_POLL_SECONDS = 1.0
_CONFIG_POLLS = 10  # between, it is only looked whether they are other files
_POD_LINK_POLL_SECONDS = 0.5

_CANNOT_TRANSLATE = (
    "NoAddress",
    "NoIPv4Address",
    "NoIPv4DefaultRoute",
    "NoUplink",
    "UplinkMissing",
)
"""Reasons for which router nodes are to leave this one at once."""

log = logging.getLogger(__name__)


class Agent:
    """Runs until told to stop. Detaches nothing when it does."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._source = ConfigSource(
            options.config,
            options.node_file,
            options.node,
            gateways=options.gateways,
            routers=options.routers,
            node_address=options.node_address,
        )
        config = self._source.current
        self.run_dir = RunDir(options.run_dir, config.name)
        # A predecessor's status is still true: what it set up translates whether an agent runs or
        # not.
        status = self.run_dir.read_status() or Status.starting(config)
        self.state = AgentState(config, status, warnings=status.warnings)
        if self._source.error:
            self._refuse(self._source.error)
        self._advertiser = Advertiser(Record(self.run_dir.path), self.state.advertisements)
        self._publisher = Publisher(self.state, self.run_dir, self._advertiser)
        self._links: dict[str, links.AdvertisingLink] = {}
        self._draining = False
        self._steerer: Steerer | None = None
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()
        self._kernel = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kernel")

    async def run(self) -> None:
        """Supervise until SIGTERM or SIGINT.

        Raises BusyError where another agent runs this instance, DataplaneError where the programs
        can't be loaded, OSError where the probes' address is taken.
        """
        set_on_stop(self._stop)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._wake.set)
        instance = Instance(self.options.pins, self.options.attach_by)
        with self.run_dir.locked(), self._kernel, netlink_monitor.watching(self._wake.set):
            server = HttpServer(probes.routes(self.state, instance))
            if self.state.config.listen:
                await server.start(*parse_listen(self.state.config.listen))
            try:
                await self._work(instance)
            finally:
                server.close()
                await self._in_kernel(instance.close)
        log.info("agent stopped; translator %r goes on", self.state.config.name)

    async def _work(self, instance: Instance) -> None:
        self._note_role()
        await self._in_kernel(instance.open, self.state.config)
        self._steerer = Steerer(instance, self.state, self._in_kernel, self._publisher.steering)
        self.state.attached_by = instance.attached_by
        log.info(
            "agent of translator %r runs, hooks by %s",
            self.state.config.name,
            instance.attached_by,
        )
        await until_one_ends(
            self._supervise(instance),
            sweep_loop.run(instance, self.state.sweeps, self._in_kernel),
            self._watch_file(),
            self._watch_pod_links(instance),
            self._advertiser.run(),
            self._steerer.run(),
            self._stop.wait(),
        )

    async def _in_kernel(self, work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._kernel, work, *arguments)

    async def _supervise(self, instance: Instance) -> None:
        while True:
            self._wake.clear()
            config = self.state.config
            try:
                self._check_pools(config)
                await self._in_kernel(self.run_dir.claim, config, _node_address)
                membership = self._source.membership
                settled = await self._in_kernel(instance.reconcile, config, membership)
                assert self._steerer
                self._note_draining(membership.draining and not config.is_router)
                await self._steerer.follow(config, membership, settled.address)
            except DataplaneError as error:
                if isinstance(error, HostError) and error.reason in _CANNOT_TRANSLATE:
                    with contextlib.suppress(DataplaneError):
                        await self._in_kernel(instance.stop_serving, config)
                self.state.failures += 1
                self.state.settled = False
                await self._advertise(config, None)
                self._publisher.publish(_reason(error), programmed=False)
                pause = _RETRY_SECONDS
            else:
                await self._advertise(config, settled.view)
                self._publisher.settled(settled)
                pause = _RESYNC_SECONDS
            self.state.notrack_error = instance.notrack_error
            self.state.last_pass = time.monotonic()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause)
                await asyncio.sleep(_SETTLE_SECONDS)

    async def _advertise(self, config: Config, view: HostView | None) -> None:
        """`view` is what packets are translated by; None where they aren't."""
        if config.is_router:
            return
        if names := self._advertiser.names(config):
            try:
                self._links = await self._in_kernel(links.read, names, self._links)
            except HostError as error:
                log.warning("advertising goes on as before: %s", error)
                return
        self._advertiser.follow(
            config,
            self._links if names else {},
            healthy=view is not None,
            strangers=view.strangers if view else frozenset(),
        )

    def _note_role(self) -> None:
        topology = self.state.config.topology
        role = topology.role.value if topology else ""
        self.run_dir.path.mkdir(parents=True, exist_ok=True)
        before = self.run_dir.note_role(role)
        if before is not None:
            log.info("this node was %s: what only that had is taken away", before or "Node")

    def _note_draining(self, draining: bool) -> None:
        if draining != self._draining:
            log.info("new clients go to other gateway nodes" if draining else "new clients again")
            self._draining = draining

    def _check_pools(self, config: Config) -> None:
        if not config.pools:
            raise HostError(
                "NoAddress",
                f"no address of the pools' ranges is allocated to node {self.options.node!r} yet; "
                "the NAT64Gateway's status says whether there are enough",
            )

    async def _watch_file(self) -> None:
        while True:
            await self._until_touched()
            try:
                before = self._source.membership
                if self._source.changed():
                    self._adopt(self._source.current)
                    if self._source.membership != before:
                        self.state.settled = False  # what the next pass does is no repair
                        self._wake.set()
                    if self._source.error:
                        self._refuse(self._source.error)
            except ConfigError as error:
                self._refuse(str(error))

    async def _until_touched(self) -> None:
        """Until the files should be read again: a node that is to drain hears of it by them."""
        for _ in range(_CONFIG_POLLS):
            await asyncio.sleep(_CONFIG_POLL_SECONDS / _CONFIG_POLLS)
            if self._source.touched():
                return

    async def _watch_pod_links(self, instance: Instance) -> None:
        """Flow offload must not take packets past programs that come to a pod's link."""
        while True:
            await asyncio.sleep(_POD_LINK_POLL_SECONDS)
            with contextlib.suppress(DataplaneError, OSError):  # the next pass says it
                if await self._in_kernel(instance.has_new_strangers):
                    self._wake.set()

    def _adopt(self, config: Config) -> None:
        if config.name != self.state.config.name:
            raise ConfigError(
                f"name: {config.name!r}: this agent runs {self.state.config.name!r}; "
                "start another agent for another name"
            )
        if config.listen != self.state.config.listen:
            raise ConfigError(f"listen: {config.listen!r}: needs a restart of the agent")
        if _role(config) is not _role(self.state.config):
            raise ConfigError(f"topology: {_role(config)}: needs a restart of the agent")
        if config != self.state.config:
            try:
                if config.pools:
                    self.run_dir.claim(config, _node_address)
            except HostError as error:
                raise ConfigError(str(error)) from error
        self.state.config_error = ""
        if config != self.state.config:
            log.info("config %s replaces %s", config.content_hash, self.state.config.content_hash)
            self.state.config = config
            self.state.settled = False  # what the next pass does is no repair
            self._wake.set()

    def _refuse(self, why: str) -> None:
        if why != self.state.config_error:
            self.state.config_error = why
            log.warning("config refused, the last good one stays: %s", why)


def _role(config: Config) -> Role | None:
    return config.topology.role if config.topology else None


def _node_address() -> list[IPv4Address]:
    """The address that the pool `node` stands for, if there is one."""
    with contextlib.suppress(HostError), IPRoute(strict_check=True) as ipr:
        return [pools.node_address(fact_parts.read(ipr))]
    return []


def _reason(error: DataplaneError) -> str:
    word = error.reason if isinstance(error, HostError) else "DatapathFailed"
    return f"{word}: {error}"
