"""One server block in the test's own process: its upstream's messages come from the test.

All is real but the network: what would be received is handed over where it is read.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable
from functools import wraps
from typing import ParamSpec, cast

from nat64_dataplane.dns64.access.client_limits import LIMITS, ClientLimits
from nat64_dataplane.dns64.frontend.server_block import ServerBlock
from nat64_dataplane.dns64.frontend.zone_dispatch import MessageSource, ZoneDispatcher, take
from nat64_dataplane.dns64.host.random_bytes import Entropy
from nat64_dataplane.dns64.host.recvmmsg import DatagramReceiver
from nat64_dataplane.dns64.message import domain_names
from nat64_dataplane.dns64.message.failed import Failed
from nat64_dataplane.dns64.message.wire import Reply
from nat64_dataplane.dns64.settings import from_text
from nat64_dataplane.dns64.upstream.stream_transport import StreamTransport
from nat64_dataplane.dns64.upstream.udp_transport import _Port
from nat64_dataplane.dns64.upstream.upstream_query import UpstreamQuery
from tests.dns64.conftest import DNS64

HOST = socket.inet_pton(socket.AF_INET6, "::1") + bytes(4)
"""A client as the kernel has it."""


P = ParamSpec("P")


def in_loop(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """Run a test in an event loop."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def main() -> None:
            async with asyncio.timeout(60):
                await test(*args, **kwargs)

        asyncio.run(main())

    return run


class PendingMessage:
    """A datagram of a client's, and what is sent back."""

    def __init__(self, harness: Harness, message: bytes) -> None:
        self.message = message
        self.started = harness.loop.time()
        self.answers: list[bytes | None] = []
        self._harness = harness

    def send(self, response: bytes | None) -> None:
        self.answers.append(response)

    def take_full_path(self) -> None:
        source = MessageSource("::1", 5353, "udp", "[::1]", self.send)
        take(self._harness.dispatcher, self.message, source, self.started)


class _Inbox:
    """A DatagramReceiver whose datagrams are given by the test."""

    def __init__(self, messages: list[bytes]) -> None:
        self._messages = messages

    def receive(self) -> list[bytes]:
        return self._messages


class _Offline:
    """In the place of StreamTransport: what is asked over TCP waits until the test fails it."""

    def __init__(self) -> None:
        self.waiting: list[UpstreamQuery] = []
        self.deadlines: list[float] = []

    def send(self, query: UpstreamQuery, *, deadline: float) -> None:
        self.deadlines.append(deadline)
        query.waits = True
        self.waiting.append(query)

    def close(self) -> None:
        self.waiting.clear()


class Given(UpstreamQuery):
    """A query that keeps what came of it."""

    __slots__ = ("came",)

    def __init__(self, name: str) -> None:
        super().__init__(domain_names.from_text(name) + b"\0\x1c\0\1", do=False, cd=False)
        self.came: list[Reply | Failed] = []

    def result(self, result: Reply | Failed) -> None:
        self.came.append(result)


class Harness:
    """A server block with one upstream, a socket that never answers."""

    def __init__(self, stanzas: str = "cache", *, limits: ClientLimits = LIMITS) -> None:
        self.loop = asyncio.get_running_loop()
        self._blackhole = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self._blackhole.bind(("::1", 0))
        port = self._blackhole.getsockname()[1]
        options = "max_connect_attempts 1\nmax_fails 0"
        text = f". {{\n{DNS64}{stanzas}\nforward . [::1]:{port} {{\n{options}\n}}\n}}\n"
        (server,) = from_text(text).servers
        self.block = ServerBlock(server, Entropy(), lambda *_: None, limits=limits)
        self.dispatcher = ZoneDispatcher([self.block])
        upstream = self.block.groups[0].servers[0]
        self.upstream = upstream.datagrams
        self.streams = _Offline()
        upstream.streams = cast(StreamTransport, self.streams)
        self.upstream.mixes_case = False

    def close(self) -> None:
        self.block.close()
        self._blackhole.close()

    def ask(self, message: bytes) -> PendingMessage:
        """Take a datagram as the UDP listener does."""
        asker = PendingMessage(self, message)
        response = self.block.hit(message, HOST, int(asker.started))
        if response is not None:
            asker.send(response)
        elif not self.block.take_fast_path(asker, HOST):
            asker.take_full_path()
        return asker

    def open(self) -> list[tuple[bytes, UpstreamQuery]]:
        """ID and query of what waits for upstream."""
        return [(i, query) for port in self._ports() for i, (query, *_) in port.pending.items()]

    def deliver(self, messages: Iterable[bytes]) -> None:
        """Receive messages from upstream, on the port on which their ID is open, else on any."""
        for message in messages:
            ports = self._ports()
            port = next((port for port in ports if message[:2] in port.pending), ports[0])
            port._receiver = cast(DatagramReceiver, _Inbox([message]))
            port._readable()

    def time_out(self) -> None:
        """Let every query that waits for upstream time out."""
        while self.streams.waiting or any(port.pending for port in self._ports()):
            asked, self.streams.waiting = self.streams.waiting, []
            for query in asked:
                query.finish(Failed("no reply in time"))
            for port in self._ports():
                pending, port.pending = port.pending, {}
                for query, *_ in pending.values():
                    self.upstream.fail(query, "no reply in time")

    def idle(self) -> bool:
        """Whether no query is in flight, by every counter."""
        resolver = self.block.resolver
        clients = self.block.clients._known.values()
        return not (
            resolver._jobs
            or resolver.under_way
            or self.block.groups[0].under_way
            or any(client.under_way for client in clients)
        )

    def _ports(self) -> list[_Port]:
        return [*self.upstream._ports, *self.upstream._retired]
