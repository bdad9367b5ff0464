"""A small HTTP server for probes and metrics: GET, one answer, close."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import NamedTuple

from nat64_dataplane.errors import ConfigError

_READ_SECONDS = 5
_LARGEST_REQUEST = 8192
_MOST_CONNECTIONS = 64


class Answer(NamedTuple):
    """A response."""

    status: HTTPStatus
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


Handler = Callable[[], Awaitable[Answer]]


def text(status: HTTPStatus, line: str) -> Answer:
    """A one-line answer."""
    return Answer(status, f"{line}\n".encode())


def parse_listen(listen: str) -> tuple[str, int]:
    """Read `[::]:9464`, `127.0.0.1:9464` or `:9464`. Raises ConfigError."""
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise ConfigError(f"listen: {listen!r}: write ADDRESS:PORT, as in [::]:9464")
    return host.strip("[]") or "::", int(port)


class Server:
    """Serves `routes` (path to handler) at an address until closed."""

    def __init__(self, routes: dict[str, Handler]) -> None:
        self._routes = routes
        self._server: asyncio.Server | None = None
        self._open = 0

    async def start(self, listen: str) -> None:
        """Listen; on `::` for IPv4 too. Raises ConfigError and OSError."""
        host, port = parse_listen(listen)
        self._server = await asyncio.start_server(
            self._serve, sock=_listening(host, port), limit=_LARGEST_REQUEST
        )

    async def close(self) -> None:
        """Stop listening."""
        if self._server:
            self._server.close()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                if self._open <= _MOST_CONNECTIONS:
                    answer = await self._answer(reader)
                    writer.write(_encode(answer))
                    await asyncio.wait_for(writer.drain(), _READ_SECONDS)
        finally:
            self._open -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> Answer:
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _READ_SECONDS)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return text(HTTPStatus.BAD_REQUEST, "not an HTTP request")
        words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(words) != 3 or words[0] != "GET":
            return text(HTTPStatus.METHOD_NOT_ALLOWED, "only GET is served here")
        handler = self._routes.get(words[1].partition("?")[0])
        if handler is None:
            known = " ".join(self._routes)
            return text(HTTPStatus.NOT_FOUND, f"nothing is there; known: {known}")
        return await handler()


def _listening(host: str, port: int) -> socket.socket:
    if ":" not in host:
        return socket.create_server((host, port))
    # asyncio by itself would make `::` IPv6 only.
    return socket.create_server(
        (host, port), family=socket.AF_INET6, dualstack_ipv6=host == "::" and socket.has_ipv6
    )


def _encode(answer: Answer) -> bytes:
    head = (
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}\r\n"
        f"Content-Type: {answer.content_type}\r\n"
        f"Content-Length: {len(answer.body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + answer.body
