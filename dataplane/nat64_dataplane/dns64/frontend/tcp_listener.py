"""The TCP socket that clients connect to: many queries on a connection, answered in any order."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter

from nat64_dataplane.dns64.access.client_limits import LIMITS, ClientLimits
from nat64_dataplane.dns64.frontend.zone_dispatch import MessageSource, ZoneDispatcher, bind, take


class TcpListener:
    """One TCP socket and its connections."""

    def __init__(
        self, address: str, port: int, dispatcher: ZoneDispatcher, limits: ClientLimits = LIMITS
    ) -> None:
        self.dispatcher = dispatcher
        self.limits = limits
        self.connections: set[_Connection] = set()
        self._held: Counter[str] = Counter()
        """Connections by client."""
        self.local = f"[{address}]" if ":" in address else address
        self._socket = bind(socket.SOCK_STREAM, address, port)
        self.port = self._socket.getsockname()[1]
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Begin to accept."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self), sock=self._socket, backlog=256
        )

    def admit(self, connection: _Connection, host: str) -> bool:
        """Count a client's connection; False if that would be too many."""
        limits = self.limits
        if (
            len(self.connections) >= limits.connections
            or self._held[host] >= limits.connections_per_client
        ):
            for first in self.dispatcher.blocks[:1]:
                first.stats.refused_connections += 1
            return False
        self.connections.add(connection)
        self._held[host] += 1
        return True

    def forget(self, connection: _Connection, host: str) -> None:
        """Count it as gone."""
        self.connections.discard(connection)
        self._held[host] -= 1
        if not self._held[host]:
            del self._held[host]

    def close(self) -> None:
        """Stop accepting and close every connection."""
        if self._server is not None:
            self._server.close()
        self._socket.close()
        for connection in list(self.connections):
            connection.abort()


class _Connection(asyncio.Protocol):
    """Messages with their lengths in front; answers are sent in any order (RFC 7766)."""

    def __init__(self, owner: TcpListener) -> None:
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._open = 0
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._source: MessageSource | None = None
        self._limits = owner.limits
        self._full = False
        self._ended = False
        self._begun = False
        """Whether the timer belongs to a query whose first bytes have arrived."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        host, port, *_ = transport.get_extra_info("peername") or ("::", 0)
        if not self._owner.admit(self, host):
            transport.abort()
            return
        self._transport = transport
        self._source = MessageSource(host, port, "tcp", self._owner.local, self._send)
        self._wait(self._limits.idle)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._take()

    def eof_received(self) -> bool:
        """The client sends no more queries; answers in flight are still sent."""
        self._ended = True
        return self._open > 0

    def connection_lost(self, error: Exception | None) -> None:
        del error
        if self._source is not None:
            self._owner.forget(self, self._source.host)
        if self._timer is not None:
            self._timer.cancel()
        self._transport = None

    def pause_writing(self) -> None:
        """The client doesn't read its answers, so its queries aren't read."""
        self._full = True
        self._pause()

    def resume_writing(self) -> None:
        self._full = False
        self._take()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def _take(self) -> None:
        buffer, most = self._buffer, self._limits.pipelined
        taken = False
        while len(buffer) >= 2 and not self._full and self._open < most:
            end = 2 + int.from_bytes(buffer[:2], "big")
            if len(buffer) < end:
                break
            message = bytes(buffer[2:end])
            del buffer[:end]
            self._query(message)
            taken = True
        self._pause()
        if not buffer or self._full or self._open >= most:
            self._begun = False
            self._wait(self._limits.idle)
        elif taken or not self._begun:  # otherwise the timer of the same query continues
            self._begun = True
            self._wait(self._limits.read)

    def _query(self, message: bytes) -> None:
        assert self._source is not None, "data comes after the connection was made"
        self._open += 1
        if self._owner.dispatcher.may_answer(self._source.host):
            take(self._owner.dispatcher, message, self._source, self._loop.time())
        else:
            self._buffer.clear()
            self.abort()

    def _send(self, response: bytes | None) -> None:
        self._open -= 1
        if self._transport is None or self._transport.is_closing():
            return
        if response is None:
            self._buffer.clear()
            self._transport.close()
            return
        self._transport.write(len(response).to_bytes(2, "big") + response)
        if self._ended and not self._open:
            self._transport.close()
        elif self._buffer:
            self._loop.call_soon(self._take)
        self._pause()

    def _pause(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if self._full or self._open >= self._limits.pipelined:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _wait(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._idle)

    def _idle(self) -> None:
        if (
            self._open and not self._ended and not self._begun
        ):  # the upstream is slow, not the client
            self._wait(self._limits.idle)
        else:
            self.abort()
