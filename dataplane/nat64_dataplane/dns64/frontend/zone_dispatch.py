"""The server blocks of one port: which one answers a query, by zone; and how to bind."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import NamedTuple

from nat64_dataplane.dns64.frontend.query_origin import QueryOrigin, Send
from nat64_dataplane.dns64.frontend.server_block import ServerBlock
from nat64_dataplane.dns64.instrumentation.internal_faults import faults
from nat64_dataplane.dns64.message import domain_names, wire
from nat64_dataplane.dns64.message.answer import bare_error, refusal
from nat64_dataplane.dns64.message.malformed import Malformed


class MessageSource(NamedTuple):
    """Where a message came from and how to answer it."""

    host: str
    port: int
    proto: str
    local: str
    send: Send


class ZoneDispatcher:
    """The server blocks of one port. A reload replaces them; the sockets stay."""

    def __init__(self, blocks: Sequence[ServerBlock]) -> None:
        self.blocks = list(blocks)

    def may_answer(self, host: str) -> bool:
        """Whether any server block may answer this client: strangers don't even get errors."""
        return any(block.clients.may_ask(host) for block in self.blocks)

    def drops(self, host: str) -> bool:
        """Whether every server block drops all queries of this client."""
        return all(block.clients.drops(host) for block in self.blocks)

    def find(self, name: bytes) -> ServerBlock | None:
        """The server block whose zone is the longest above `name`."""
        for zone in domain_names.ancestors(name):
            for block in self.blocks:
                if zone in block.zones:
                    return block
        return None


def take(dispatcher: ZoneDispatcher, message: bytes, source: MessageSource, started: float) -> None:
    """Read a message and let its server block answer it. Never raises."""
    try:
        _take(dispatcher, message, source, started)
    except Exception:  # a fault of the sidecar costs one answer, not the server
        faults.log("taking a query")
        source.send(bare_error(message, wire.SERVFAIL))


def _take(
    dispatcher: ZoneDispatcher, message: bytes, source: MessageSource, started: float
) -> None:
    """Give a query to the server block of its zone; answer it here if there is none."""
    try:
        query = wire.parse_query(message)
    except Malformed:
        for first in dispatcher.blocks[:1]:
            first.stats.dropped += 1
        known = dispatcher.may_answer(source.host)
        is_query = len(message) > 2 and not message[2] << 8 & wire.OPCODE_MASK
        rcode = wire.FORMERR if is_query else wire.NOTIMP
        source.send(bare_error(message, rcode) if known else None)
        return
    block = dispatcher.find(query.name)
    if block is None:
        _outside(dispatcher, query, source, len(message))
        return
    if source.proto == "udp" and block.cache is not None:
        block.cache.learn_opt_form(message, query)
    client = block.clients.get(source.host)
    block.accept(
        query,
        QueryOrigin(
            client, source.port, source.proto, len(message), started, source.local, source.send
        ),
    )


def _outside(
    dispatcher: ZoneDispatcher, query: wire.Query, source: MessageSource, size: int
) -> None:
    """Refuse a name outside every zone; CoreDNS counts these in a zone named `dropped`."""
    if dispatcher.drops(source.host):
        source.send(None)
        return
    response = refusal(query, wire.REFUSED)
    source.send(response)
    for first in dispatcher.blocks[:1]:
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
