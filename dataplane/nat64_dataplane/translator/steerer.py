"""A router node at work: whom to ask, what follows from the answers, and telling the kernel."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from ipaddress import IPv6Address
from typing import Any

from nat64_dataplane.config import Config, Transport
from nat64_dataplane.errors import DataplaneError
from nat64_dataplane.members import GatewayEntry
from nat64_dataplane.topology import probe_address
from nat64_dataplane.translator.instance import Instance
from nat64_dataplane.translator.membership import Membership
from nat64_dataplane.translator.report.agent_state import AgentState, GatewayReport
from nat64_dataplane.translator.steering import places
from nat64_dataplane.translator.steering.decision import Decision, Use, decide
from nat64_dataplane.translator.steering.health import State, Thresholds
from nat64_dataplane.translator.steering.places import Places
from nat64_dataplane.translator.steering.prober import Prober, Round

_RETRY_SECONDS = 1.0

log = logging.getLogger(__name__)


class Steerer:
    """Keeps the steering table as the gateway nodes are. Idle on nodes that aren't routers."""

    def __init__(
        self,
        instance: Instance,
        state: AgentState,
        in_kernel: Callable[..., Awaitable[Any]],
        published: Callable[[], None],
    ) -> None:
        """`published` is called when `state.gateways` has changed."""
        self._instance = instance
        self._state = state
        self._in_kernel = in_kernel
        self._published = published
        self._changed = asyncio.Event()
        self._prober = Prober(self._changed.set)
        self._places: Places | None = None
        self._entries: dict[IPv6Address, GatewayEntry] = {}
        self._decided: tuple[object, ...] = ()

    async def follow(
        self, config: Config, membership: Membership, source: IPv6Address | None
    ) -> None:
        """Ask the gateway nodes of `membership` from now on, and steer to those that serve.

        `source` is this node's address. Raises DataplaneError.
        """
        if config.topology is None or not config.is_router:
            self._prober.follow(None)
            self._places, self._entries, self._decided = None, {}, ()
            self._state.gateways = ()
            return
        states: dict[IPv6Address, State] = {}
        if self._places is None:
            # What an agent before this one knew is still true until probes tell otherwise.
            known = await self._in_kernel(self._instance.known_gateways)
            self._places = {index: address for index, (address, _) in known.items()}
            states = dict(known.values())
        self._entries = dict(membership.by_address)
        self._places = places.assign(self._places, self._entries)
        topology = config.topology
        tunnelled = topology.transport is Transport.TUNNEL
        thresholds = Thresholds(
            topology.probe_milliseconds / 1000,
            topology.failure_threshold,
            topology.recovery_threshold,
        )
        asked = (
            Round(
                dict(self._places),
                source,
                probe_address(config.prefix),
                config.interface if tunnelled else "",
                thresholds,
            )
            if source
            else None
        )
        self._prober.follow(asked, states)
        await self._steer()

    async def run(self) -> None:
        """Ask and steer, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._prober.run())
            tasks.create_task(self._follow_answers())

    async def _follow_answers(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self._steer()
            except DataplaneError as error:
                log.warning("clients are steered as before: %s", error)
                self._state.failures += 1
                await asyncio.sleep(_RETRY_SECONDS)
                self._changed.set()

    async def _steer(self) -> None:
        if self._places is None:
            return
        states = dict(self._prober.states)
        decided = (dict(self._places), dict(self._entries), states)
        if decided == self._decided:
            return
        decision = decide(self._places, self._entries, states)
        await self._in_kernel(self._instance.steer, decision)
        self._decided = decided
        self._report(decision, states)

    def _report(self, decision: Decision, states: dict[IPv6Address, State]) -> None:
        before = {each.entry.address: each for each in self._state.gateways}
        uses = dict(decision.gateways.values())
        reports = []
        for address, entry in self._entries.items():
            report = GatewayReport(
                entry,
                states.get(address, State.NEW),
                uses[address] is not Use.DEAD,
                self._prober.why(address),
                self._prober.statistics(address),
            )
            reports.append(report)
            self._note(before.get(address), report)
        self._state.gateways = tuple(reports)
        self._published()

    def _note(self, before: GatewayReport | None, now: GatewayReport) -> None:
        if before and before.serves and not now.serves:
            self._state.failovers += 1
        if before is None or before.state is not now.state:
            why = f": {now.why}" if now.why else ""
            log.info("gateway node %s is %s%s", now.entry.node, now.state.value.lower(), why)
