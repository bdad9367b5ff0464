"""Queries to one server over TCP or TLS: one connection, many queries on it.

RFC 7766 and RFC 7858 ask for this, because a handshake per query costs more than the query. So a
dead connection must be noticed although its peer never says so: if a query gets no reply in time,
and nothing else arrives on its connection either, the connection is closed with it.
"""

from __future__ import annotations

import asyncio
import math
import ssl

from nat64_dataplane.dns64.host.random_bytes import Entropy
from nat64_dataplane.dns64.message import wire
from nat64_dataplane.dns64.message.bare_error import is_bare_error, with_question
from nat64_dataplane.dns64.message.failed import Failed
from nat64_dataplane.dns64.message.malformed import Malformed
from nat64_dataplane.dns64.message.wire import Reply
from nat64_dataplane.dns64.settings import Upstream
from nat64_dataplane.dns64.upstream.upstream_query import UpstreamQuery

MAX_PENDING = 1024
MAX_SHORT_LIVED = 16
"""How many connections are open at once to a server that closes them after a few replies."""
SHORT_LIVED_SECONDS = 60.0
LOOK_SECONDS = 0.05
"""The shortest time between two checks whether a connection is idle."""


class _Connection(asyncio.Protocol):
    """A stream of messages, each with its length in front."""

    def __init__(self, owner: StreamTransport) -> None:
        self.pending: dict[bytes, tuple[UpstreamQuery, float]] = {}
        """Queries by ID, with their deadlines."""
        self.carried = 0
        """Queries sent on it."""
        self.replies = 0
        self.last_used = owner.loop.time()
        self.born = self.last_used
        self.heard = self.last_used
        """When the last bytes came from the peer."""
        self.opening: asyncio.Task[None] | None = None
        self.closed = False
        self._owner = owner
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._unsent: list[bytes] = []
        self._timer = owner.loop.call_later(owner.expire, self._idle)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self.closed:  # the connection was given up while it was being opened
            transport.abort()
            return
        for message in self._unsent:
            transport.write(message)
        self._unsent.clear()

    def send(self, ident: bytes, query: UpstreamQuery, deadline: float) -> None:
        self.pending[ident] = (query, deadline)
        self.carried += 1
        message = query.message(ident, query.question)
        self.last_used = self._owner.loop.time()
        framed = len(message).to_bytes(2, "big") + message
        if self._transport is None:
            self._unsent.append(framed)
        else:
            self._transport.write(framed)

    def data_received(self, data: bytes) -> None:
        self.heard = self._owner.loop.time()
        self._buffer += data
        while len(self._buffer) >= 2:
            end = 2 + int.from_bytes(self._buffer[:2], "big")
            if len(self._buffer) < end:
                return
            message = bytes(self._buffer[2:end])
            del self._buffer[:end]
            self._take(message)

    def expired(self, ident: bytes, query: UpstreamQuery, sent: float) -> None:
        """Give up on a query that has had no reply in time, and on the connection if it's dead."""
        waits = self.pending.get(ident)
        if waits is None or waits[0] is not query:
            return
        if self.heard <= sent:
            self.fail("no reply in time")
            return
        del self.pending[ident]
        query.finish(Failed(f"{self._owner.upstream}: no reply in time"))

    def _idle(self) -> None:
        """Close a connection that was idle for as long as it may be, or that another one has
        replaced.
        """
        left = self.last_used + self._owner.expire - self._owner.loop.time()
        if left <= 0 and not self.pending:
            self.close()
        else:
            again = left if left > 0 else self._owner.expire
            self._timer = self._owner.loop.call_later(max(again, LOOK_SECONDS), self._idle)

    def _take(self, message: bytes) -> None:
        waits = self.pending.pop(message[:2], None)
        if waits is None:
            return
        query, _ = waits
        self.replies += 1
        if is_bare_error(message):
            message = with_question(message, query.question)
        query.finish(self._read(message, query))

    def _read(self, message: bytes, query: UpstreamQuery) -> Reply | Failed:
        try:
            reply = wire.parse_reply(message)
        except Malformed as error:
            return Failed(f"{self._owner.upstream}: malformed reply: {error}")
        if reply.question.lower() != query.question:
            return Failed(f"{self._owner.upstream}: a reply to another question")
        return reply

    def connection_lost(self, error: Exception | None) -> None:
        reason = f"connection closed{f': {error}' if error else ''}"
        if not self.replies:
            self.fail(reason)
            return
        # Servers close connections at any time (RFC 7766 section 6.2.3). This one worked until now,
        # so its waiting queries go to another connection, and this is no failure of the server.
        waiting, self.pending = self.pending, {}
        self.close()
        if waiting:
            self._owner.closed_by_peer(self.replies)
        for query, deadline in waiting.values():
            if query.waits:
                self._owner.send(query, deadline=deadline, again=True)

    def fail(self, reason: str) -> None:
        lost, self.pending = self.pending, {}
        self.close()
        for query, _ in lost.values():
            query.finish(Failed(f"{self._owner.upstream}: {reason}"))

    def close(self) -> None:
        """Close at once: no reply is waited for, and a dead peer would never take the rest."""
        self.closed = True
        self._timer.cancel()
        self._owner.connections.discard(self)
        if self._transport is not None:
            self._transport.abort()
        elif self.opening is not None:
            self.opening.cancel()


class StreamTransport:
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
        self.expire = expire
        self._max_age = max_age
        self._tls = tls
        self._name = server_name
        self.connections: set[_Connection] = set()
        """The open connections: the one in use, and replaced ones until they are idle."""
        self._connection: _Connection | None = None
        self._most_carried = 0
        self._most_until = 0.0

    def send(self, query: UpstreamQuery, *, deadline: float, again: bool = False) -> None:
        """Send a query. Its `result` is called with the reply, or with Failed by `deadline`.

        `again`: with the rest of the time that it had on a connection that was closed. This may be
        little, so its time-out doesn't show that the new connection is dead.
        """
        query.waits = True
        connection = self._usable()
        ident = self._entropy.bytes(2)
        while ident in connection.pending:
            ident = self._entropy.bytes(2)
        connection.send(ident, query, deadline)
        sent = -math.inf if again else self.loop.time()
        self.loop.call_at(deadline, connection.expired, ident, query, sent)

    def closed_by_peer(self, replies: int) -> None:
        """Note that the server closed a connection after this many replies, with queries waiting.
        For a while, no connection gets more queries than that.
        """
        self._most_carried = replies
        self._most_until = self.loop.time() + SHORT_LIVED_SECONDS

    def close(self) -> None:
        """Close every connection; what was in flight fails."""
        for connection in list(self.connections):
            connection.fail("closing")

    def _usable(self) -> _Connection:
        now = self.loop.time()
        current = self._connection
        if current is not None and not current.closed:
            old = self._max_age and now - current.born > self._max_age
            if not old and len(current.pending) < MAX_PENDING and not self._is_used_up(current):
                self.reused += 1
                return current
        self.opened += 1
        self._connection = connection = _Connection(self)
        self.connections.add(connection)
        connection.opening = self.loop.create_task(self._connect(connection))
        return connection

    def _is_used_up(self, connection: _Connection) -> bool:
        """Whether the server is expected to close a connection before it answers one more."""
        if self.loop.time() >= self._most_until or len(self.connections) >= MAX_SHORT_LIVED:
            return False
        return connection.carried >= self._most_carried

    async def _connect(self, connection: _Connection) -> None:
        try:
            await self.loop.create_connection(
                lambda: connection,
                self.upstream.address,
                self.upstream.port,
                ssl=self._tls,
                server_hostname=self._name if self._tls else None,
                local_addr=(self._source, 0) if self._source else None,
            )
        except (OSError, ssl.SSLError) as error:
            connection.fail(str(error))
