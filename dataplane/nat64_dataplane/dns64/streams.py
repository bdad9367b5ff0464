"""Queries to one server over TCP or TLS: one connection, many queries on it.

RFC 7766 and RFC 7858 ask for it: a handshake for each query costs more than the query.
"""

from __future__ import annotations

import asyncio
import ssl

from nat64_dataplane.dns64 import wire
from nat64_dataplane.dns64.entropy import Entropy
from nat64_dataplane.dns64.exchange import Query
from nat64_dataplane.dns64.rules import Failed
from nat64_dataplane.dns64.settings import Upstream

MAX_PENDING = 1024


class _Connection(asyncio.Protocol):
    """A stream of messages, each behind its length."""

    def __init__(self, owner: Streams) -> None:
        self.pending: dict[bytes, Query] = {}
        self.last_used = owner.loop.time()
        self.born = self.last_used
        self.closed = False
        self._owner = owner
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._unsent: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        for message in self._unsent:
            transport.write(message)
        self._unsent.clear()

    def send(self, ident: bytes, message: bytes, query: Query) -> None:
        self.pending[ident] = query
        self.last_used = self._owner.loop.time()
        framed = len(message).to_bytes(2, "big") + message
        if self._transport is None:
            self._unsent.append(framed)
        else:
            self._transport.write(framed)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= 2:
            end = 2 + int.from_bytes(self._buffer[:2], "big")
            if len(self._buffer) < end:
                return
            message = bytes(self._buffer[2:end])
            del self._buffer[:end]
            self._take(message)

    def _take(self, message: bytes) -> None:
        query = self.pending.pop(message[:2], None)
        if query is None:
            return
        try:
            reply = wire.parse_reply(message)
        except wire.Malformed as error:
            query.finish(Failed(f"{self._owner.upstream}: malformed reply: {error}"))
            return
        if reply.question.lower() != query.question:
            query.finish(Failed(f"{self._owner.upstream}: a reply to another question"))
            return
        query.finish(reply)

    def connection_lost(self, error: Exception | None) -> None:
        self.fail(f"connection closed{f': {error}' if error else ''}")

    def fail(self, reason: str) -> None:
        self.closed = True
        lost, self.pending = self.pending, {}
        for query in lost.values():
            query.finish(Failed(f"{self._owner.upstream}: {reason}"))
        self.close()

    def close(self) -> None:
        self.closed = True
        if self._transport is not None:
            self._transport.close()


class Streams:
    """The connection to one server: opened when needed, closed when idle."""

    def __init__(
        self,
        upstream: Upstream,
        source: str,
        entropy: Entropy,
        *,
        expire: float,
        max_age: float,
        tls: ssl.SSLContext | None,
        server_name: str,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.upstream = upstream
        self.opened = 0
        self.reused = 0
        self._source = source
        self._entropy = entropy
        self._expire = expire
        self._max_age = max_age
        self._tls = tls
        self._name = server_name
        self._connection: _Connection | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def send(self, query: Query, *, deadline: float) -> None:
        """Send a query. Its `result` is called with the reply, or Failed by `deadline`."""
        query.waits = True
        connection = self._usable()
        ident = self._entropy.bytes(2)
        while ident in connection.pending:
            ident = self._entropy.bytes(2)
        connection.send(ident, query.message(ident, query.question), query)
        self.loop.call_at(deadline, self._expired, connection, ident, query)

    def close(self) -> None:
        """Close the connection; what was under way fails."""
        if self._connection is not None:
            self._connection.fail("closing")
        for task in self._tasks:
            task.cancel()

    def _usable(self) -> _Connection:
        now = self.loop.time()
        current = self._connection
        if current is not None and not current.closed:
            idle = not current.pending and now - current.last_used > self._expire
            old = self._max_age and now - current.born > self._max_age
            if not idle and not old and len(current.pending) < MAX_PENDING:
                self.reused += 1
                return current
            if not current.pending:
                current.close()
        self.opened += 1
        self._connection = connection = _Connection(self)
        task = self.loop.create_task(self._connect(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return connection

    async def _connect(self, connection: _Connection) -> None:
        try:
            await self.loop.create_connection(
                lambda: connection,
                self.upstream.address,
                self.upstream.port,
                ssl=self._tls,
                server_hostname=self._server_name() if self._tls else None,
                local_addr=(self._source, 0) if self._source else None,
            )
        except (OSError, ssl.SSLError) as error:
            connection.fail(str(error))

    def _server_name(self) -> str:
        return self._name

    def _expired(self, connection: _Connection, ident: bytes, query: Query) -> None:
        if connection.pending.get(ident) is query:
            del connection.pending[ident]
            query.finish(Failed(f"{self.upstream}: no reply in time"))
