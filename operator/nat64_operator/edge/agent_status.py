"""How the operator asks the translators' agents for their warnings, which Kubernetes has no place
for.

An agent has no access to the API server, so it can't report. It serves `/status` on its metrics
port, and the operator asks every node of every gateway once a minute. If a node does not answer,
only the condition's message changes, because a packet filter may block the operator.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import aiohttp
import msgspec

from nat64_operator.api.gateway import KIND, Gateway
from nat64_operator.edge.lease import Lease
from nat64_operator.edge.store import Store
from nat64_operator.errors import InvalidObjectError
from nat64_operator.reconcile import roles
from nat64_operator.reconcile.node_warnings import Asked, NodeWarning

log = logging.getLogger("nat64_operator")

EVERY_SECONDS = 60
TIMEOUT = 3.0
AT_ONCE = 32
LARGEST_ANSWER = 64 * 1024
MOST_WARNINGS = 32


class AgentStatus:
    """Keeps `Store.asked` up to date until cancelled."""

    def __init__(self, store: Store, lease: Lease | None = None) -> None:
        self._store, self._lease = store, lease

    async def run(self) -> None:
        """Ask all nodes once a minute."""
        timeout = aiohttp.ClientTimeout(total=TIMEOUT)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                if self._lease is None or self._lease.holds:
                    try:
                        await self.ask_all(session)
                    except Exception:  # the next round may succeed, and nothing depends on it
                        log.exception("the nodes' warnings could not be read")
                await asyncio.sleep(EVERY_SECONDS)

    async def ask_all(self, session: aiohttp.ClientSession) -> None:
        """Ask every node of every gateway."""
        found = {}
        for name, targets in self._targets().items():
            found[name] = await _ask_gateway(session, targets)
        if found != self._store.asked:
            self._store.asked = found
            self._store.changed.set()

    def _targets(self) -> dict[str, dict[str, str]]:
        """By gateway: the URL of each node's agent."""
        world = self._store.world(time.time(), {})
        known = world.nodes
        targets = {}
        for obj in list(self._store.objects(KIND)):
            try:
                gateway = Gateway.parse(obj)
            except InvalidObjectError:
                continue
            given = (gateway.status.get("hostPorts") or {}).get("translator")
            nodes = (known[name] for name in sorted(roles.nodes(gateway, world)))
            targets[gateway.name] = {
                node.name: _url(node.addresses[0], given or gateway.ports.translator)
                for node in nodes
                if node.ready and node.addresses
            }
        return targets


async def _ask_gateway(session: aiohttp.ClientSession, targets: dict[str, str]) -> Asked:
    slots = asyncio.Semaphore(AT_ONCE)

    async def ask(url: str) -> tuple[NodeWarning, ...] | None:
        async with slots:
            try:
                async with session.get(url) as response:
                    if response.status != 200:
                        return None
                    return parse(await response.content.read(LARGEST_ANSWER))
            except (aiohttp.ClientError, TimeoutError, ValueError):
                return None

    answers = await asyncio.gather(*map(ask, targets.values()))
    by_node = dict(zip(targets, answers, strict=True))
    return Asked(
        {node: answer for node, answer in by_node.items() if answer is not None},
        tuple(node for node, answer in by_node.items() if answer is None),
    )


def parse(body: bytes) -> tuple[NodeWarning, ...]:
    """Read an agent's status. Raises ValueError."""
    try:
        data: Any = msgspec.json.decode(body)
        found = data.get("warnings") or ()
        return tuple(
            NodeWarning(_word(w["reason"]), str(w["message"])[:500], str(w["remedy"])[:500])
            for w in found[:MOST_WARNINGS]
        )
    except (msgspec.DecodeError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not an agent's status: {error}") from error


def _word(text: Any) -> str:
    if not (isinstance(text, str) and text.isascii() and text.isalnum() and len(text) <= 64):
        raise TypeError("a reason is one word")
    return text


def _url(address: str, port: int) -> str:
    host = f"[{address}]" if ":" in address else address
    return f"http://{host}:{port}/status"
