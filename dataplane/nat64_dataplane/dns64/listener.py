"""Sockets that clients ask on: UDP drained at each wakeup, TCP with many queries each."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from nat64_dataplane.dns64 import names, wire
from nat64_dataplane.dns64.answer import format_error, refusal
from nat64_dataplane.dns64.batch import Batch
from nat64_dataplane.dns64.engine import Engine, Origin

RECEIVE_BUFFER = 4 << 20
MAX_CONNECTIONS = 512
MAX_PIPELINED = 64
"""Queries of one connection that wait for answers at once; more are read once there is room."""
IDLE_SECONDS = 10.0
"""As in CoreDNS: how long a TCP connection may be silent between queries."""
READ_SECONDS = 3.0
"""How long a started query may take to come in whole."""
IP_PKTINFO = 8
"""From linux/in.h; Python has no name for it before 3.12."""

Send = Callable[[bytes | None], None]
"""Sends a response; None where there is none to send."""


class Source(NamedTuple):
    """Where a message came from and how to answer it."""

    host: str
    port: int
    proto: str
    local: str
    send: Send


class Block:
    """The engines behind one port. A reload puts others in; sockets stay."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self.engines = list(engines)

    def may_answer(self, host: str) -> bool:
        """Whether any engine might answer this client at all: strangers get no errors either."""
        return any(engine.clients.may_ask(host) for engine in self.engines)

    def find(self, name: bytes) -> Engine | None:
        """The engine whose zone is the longest above `name`."""
        for zone in names.ancestors(name):
            for engine in self.engines:
                if zone in engine.zones:
                    return engine
        return None


class _Asker:
    """A datagram that waits for its answer."""

    __slots__ = ("_listener", "control", "message", "name", "started")

    def __init__(
        self, listener: UdpListener, message: bytes, name: bytes, control: bytes, started: float
    ) -> None:
        self.message = message
        self.started = started
        self.name = name
        self.control = control
        self._listener = listener

    def send(self, response: bytes) -> None:
        self._listener.send(self.name, self.control, response)

    def long_way(self) -> None:
        self._listener.take(self)


class UdpListener:
    """One UDP socket."""

    def __init__(self, address: str, port: int, block: Block, *, reuse: bool = False) -> None:
        self.block = block
        self._loop = asyncio.get_running_loop()
        self._socket = _bind(socket.SOCK_DGRAM, address, port, reuse=reuse)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        self.port = self._socket.getsockname()[1]
        self._local = f"[{address}]" if ":" in address else address
        control = 0
        # a node has many addresses: answer from the one that was asked
        if address == "::":
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            control = socket.CMSG_SPACE(20)  # an in6_pktinfo
        elif address == "0.0.0.0":
            self._socket.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
            control = socket.CMSG_SPACE(12)  # an in_pktinfo
        self._flushing = False
        self._batch = Batch(self._socket, control=control)
        self._loop.add_reader(self._socket, self._drain)

    def stop_reading(self) -> None:
        """Take no more queries; what is under way can still be answered."""
        self._loop.remove_reader(self._socket)

    def close(self) -> None:
        """Stop listening."""
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _drain(self) -> None:
        batch, host = self._batch, self._batch.host
        engines = self.block.engines
        started = self._loop.time()
        now = int(started)
        for message, name, control in batch.receive():
            for engine in engines:
                response = engine.hit(message, name[host], now)
                if response is not None:
                    batch.queue(response, name, control)
                    break
            else:
                asker = _Asker(self, message, name, control, started)
                if len(engines) != 1 or not engines[0].quick(asker, name[host]):
                    asker.long_way()
        batch.send()
        for engine in engines:
            engine.time_hits(self._loop.time() - started)

    def take(self, asker: _Asker) -> None:
        """Take a message the long way."""
        host, port = self._batch.address(asker.name)
        source = Source(
            host, port, "udp", self._local, partial(self.send, asker.name, asker.control)
        )
        take(self.block, asker.message, source, asker.started)

    def send(self, name: bytes, control: bytes, response: bytes | None) -> None:
        """Send together what the replies of one wakeup have made answers of."""
        if response is None:
            return
        self._batch.queue(response, name, control)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._socket.fileno() >= 0:
            self._batch.send()


def take(block: Block, message: bytes, source: Source, started: float) -> None:
    """Read a message and give it to the engine of its zone; answer it here where none is."""
    try:
        query = wire.parse_query(message)
    except wire.Malformed:
        for first in block.engines[:1]:
            first.stats.dropped += 1
        source.send(format_error(message) if block.may_answer(source.host) else None)
        return
    engine = block.find(query.name)
    if engine is None:
        source.send(refusal(query, wire.REFUSED))
        return
    if source.proto == "udp" and engine.cache is not None:
        engine.cache.learn_form(message, query)
    client = engine.clients.get(source.host)
    engine.accept(
        query,
        Origin(client, source.port, source.proto, len(message), started, source.local, source.send),
    )


class TcpListener:
    """One TCP socket and its connections."""

    def __init__(self, address: str, port: int, block: Block, *, reuse: bool = False) -> None:
        self.block = block
        self.connections: set[_Connection] = set()
        self.refused = 0
        self.local = f"[{address}]" if ":" in address else address
        self._socket = _bind(socket.SOCK_STREAM, address, port, reuse=reuse)
        self.port = self._socket.getsockname()[1]
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Begin to accept."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self), sock=self._socket, backlog=256
        )

    def close(self) -> None:
        """Stop accepting and close every connection."""
        if self._server is not None:
            self._server.close()
        self._socket.close()
        for connection in list(self.connections):
            connection.abort()


class _Connection(asyncio.Protocol):
    """Messages behind their lengths; answers go out as they come, in any order (RFC 7766)."""

    def __init__(self, owner: TcpListener) -> None:
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._open = 0
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._source: Source | None = None
        self._full = False
        self._ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        owner = self._owner
        if len(owner.connections) >= MAX_CONNECTIONS:
            owner.refused += 1
            transport.abort()
            return
        owner.connections.add(self)
        self._transport = transport
        host, port, *_ = transport.get_extra_info("peername") or ("::", 0)
        self._source = Source(host, port, "tcp", owner.local, self._send)
        self._wait(IDLE_SECONDS)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._take()

    def eof_received(self) -> bool:
        """The client has asked all it wants; answers under way are still sent."""
        self._ended = True
        return self._open > 0

    def connection_lost(self, error: Exception | None) -> None:
        del error
        self._owner.connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        self._transport = None

    def pause_writing(self) -> None:
        """The client doesn't read its answers: don't read its questions."""
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
        buffer = self._buffer
        while len(buffer) >= 2 and not self._full and self._open < MAX_PIPELINED:
            end = 2 + int.from_bytes(buffer[:2], "big")
            if len(buffer) < end:
                break
            message = bytes(buffer[2:end])
            del buffer[:end]
            self._query(message)
        self._pause()
        self._wait(READ_SECONDS if buffer and not self._open else IDLE_SECONDS)

    def _query(self, message: bytes) -> None:
        assert self._source is not None, "data comes after the connection was made"
        self._open += 1
        if self._owner.block.may_answer(self._source.host):
            take(self._owner.block, message, self._source, self._loop.time())
        else:
            self.abort()

    def _send(self, response: bytes | None) -> None:
        self._open -= 1
        if self._transport is None:
            return
        if response is None:
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
        if self._full or self._open >= MAX_PIPELINED:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _wait(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._idle)

    def _idle(self) -> None:
        if self._open and not self._ended:  # upstream is slow, not the client
            self._wait(IDLE_SECONDS)
        else:
            self.abort()


def _bind(kind: int, address: str, port: int, *, reuse: bool) -> socket.socket:
    """Open and bind a socket. Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    opened = socket.socket(family, kind | socket.SOCK_NONBLOCK)
    try:
        if kind == socket.SOCK_STREAM:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            both = address == "::"
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if both else 1)
        opened.bind((address, port))
    except OSError as error:
        opened.close()
        raise OSError(error.errno, f"[{address}]:{port}: {error.strerror}") from None
    return opened
