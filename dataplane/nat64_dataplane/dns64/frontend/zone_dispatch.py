"""The server blocks behind one port: whose query is this, and how is its socket opened."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import NamedTuple

from nat64_dataplane.dns64.frontend.query_origin import Origin, Send
from nat64_dataplane.dns64.frontend.server_block import Engine
from nat64_dataplane.dns64.instrumentation.internal_faults import faults
from nat64_dataplane.dns64.message import domain_names, wire
from nat64_dataplane.dns64.message.answer import bare_error, refusal


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

    def drops(self, host: str) -> bool:
        """Whether every engine drops what this client asks, whatever it is."""
        return all(engine.clients.drops(host) for engine in self.engines)

    def find(self, name: bytes) -> Engine | None:
        """The engine whose zone is the longest above `name`."""
        for zone in domain_names.ancestors(name):
            for engine in self.engines:
                if zone in engine.zones:
                    return engine
        return None


def take(block: Block, message: bytes, source: Source, started: float) -> None:
    """Read a message and have it answered. Never raises."""
    try:
        _take(block, message, source, started)
    except Exception:  # a fault of ours costs one answer, not the server
        faults.log("taking a query")
        source.send(bare_error(message, wire.SERVFAIL))


def _take(block: Block, message: bytes, source: Source, started: float) -> None:
    """Give a query to the engine of its zone; answer it here where there is none."""
    try:
        query = wire.parse_query(message)
    except wire.Malformed:
        for first in block.engines[:1]:
            first.stats.dropped += 1
        known = block.may_answer(source.host)
        source.send(bare_error(message, wire.FORMERR) if known else None)
        return
    engine = block.find(query.name)
    if engine is None:
        _outside(block, query, source, len(message))
        return
    if source.proto == "udp" and engine.cache is not None:
        engine.cache.learn_form(message, query)
    client = engine.clients.get(source.host)
    engine.accept(
        query,
        Origin(client, source.port, source.proto, len(message), started, source.local, source.send),
    )


def _outside(block: Block, query: wire.Query, source: Source, size: int) -> None:
    """Refuse a name outside every zone; CoreDNS counts these in a zone named `dropped`."""
    if block.drops(source.host):
        source.send(None)
        return
    response = refusal(query, wire.REFUSED)
    source.send(response)
    for first in block.engines[:1]:
        first.stats.count(
            (
                "dropped",
                source.proto,
                first.clients.get(source.host).family,
                query.type,
                query.do,
                wire.REFUSED,
                False,
                size,
                len(response),
            )
        )


def bind(kind: int, address: str, port: int) -> socket.socket:
    """Open and bind a socket. Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    opened = socket.socket(family, kind | socket.SOCK_NONBLOCK)
    try:
        if kind == socket.SOCK_STREAM:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            both = address == "::"
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if both else 1)
        opened.bind((address, port))
    except OSError as error:
        opened.close()
        raise OSError(error.errno, f"[{address}]:{port}: {error.strerror}") from None
    return opened
