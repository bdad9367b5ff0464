"""The `loop` stanza: if a question of ours comes back to us, an upstream forwards to us."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable

from nat64_dataplane.dns64.frontend.server_block import ServerBlock
from nat64_dataplane.dns64.message import domain_names, wire
from nat64_dataplane.dns64.message.failed import Failed
from nat64_dataplane.dns64.message.wire import Reply

HINFO = 13
TRY_SECONDS = 30.0
SEEN_MEANS_LOOP = 1
"""The probe goes to the upstream, not to ourselves as in CoreDNS: seeing it once proves a loop."""


class LoopProbe:
    """Sends the probe until an upstream has answered it once."""

    def __init__(self, block: ServerBlock, found: Callable[[str], None]) -> None:
        self._engine = block
        self._found = found
        self._loop = asyncio.get_running_loop()
        self._end = self._loop.time() + TRY_SECONDS
        zone = domain_names.from_text(block.settings.zones[0])
        labels = (str(secrets.randbits(62)).encode() for _ in range(2))
        self._name = b"".join(bytes((len(label),)) + label for label in labels) + zone

    def start(self) -> None:
        """Send it, unless the zone's name leaves no room for it."""
        if len(self._name) > wire.MAX_NAME:
            return
        self._engine.probe = self._name
        self._send()

    def _send(self) -> None:
        group = next((g for g in self._engine.groups if g.serves(self._name)), None)
        if group is None:
            self._engine.probe = None
            return
        question = self._name + HINFO.to_bytes(2, "big") + wire.IN.to_bytes(2, "big")
        group.ask(question, do=False, cd=False, done=self._done)

    def _done(self, result: Reply | Failed) -> None:
        if self._engine.probe_seen >= SEEN_MEANS_LOOP:
            self._found(
                f"Loop detected for zone {self._engine.settings.zones[0]!r}: an upstream sends "
                f"queries back here. Query: HINFO {domain_names.to_text(self._name)}"
            )
        elif isinstance(result, Failed) and self._loop.time() < self._end:
            self._loop.call_later(1.0, self._send)
        else:
            self._engine.probe = None
