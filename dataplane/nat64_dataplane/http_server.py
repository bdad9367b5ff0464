"""The HTTP server of both programs, for probes, metrics and status: one GET per connection."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import socket
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import NamedTuple

from nat64_dataplane.errors import ConfigError

_READ_SECONDS = 5
_LARGEST_REQUEST = 8192
_MOST_CONNECTIONS = 64

log = logging.getLogger(__name__)


class Answer(NamedTuple):
    """A response."""

    status: HTTPStatus
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


Handler = Callable[[], Answer | Awaitable[Answer]]


def text(status: HTTPStatus, line: str) -> Answer:
    """A one-line answer."""
    return Answer(status, f"{line}\n".encode())


def parse_listen(listen: str) -> tuple[str, int]:
    """Read `[::]:9464`, `127.0.0.1:9464` or `:9464`. Raises ConfigError."""
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise ConfigError(f"listen: {listen!r}: write ADDRESS:PORT, as in [::]:9464")
    return host.strip("[]") or "::", int(port)


class HttpServer:
    """Serves `routes` (path to handler) at one address until closed. `routes` may be replaced."""

    def __init__(self, routes: dict[str, Handler]) -> None:
        self.routes = routes
        self._server: asyncio.Server | None = None
        self._open = 0

    async def start(self, host: str, port: int) -> None:
        """Listen; an empty host or `::` means IPv4 too. Raises OSError."""
        if host in ("", "::"):
            self._server = await asyncio.start_server(
                self._serve, sock=_any_address(port), limit=_LARGEST_REQUEST
            )
        else:
            self._server = await asyncio.start_server(
                self._serve, host, port, limit=_LARGEST_REQUEST
            )

    def close(self) -> None:
        """Stop listening."""
        if self._server:
            self._server.close()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                if self._open <= _MOST_CONNECTIONS:
                    answer, with_body = await self._answer(reader)
                    writer.write(_encode(answer, with_body=with_body))
                    await asyncio.wait_for(writer.drain(), _READ_SECONDS)
        finally:
            self._open -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[Answer, bool]:
        """Read a request. Returns the answer, and whether its body is wanted."""
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _READ_SECONDS)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return text(HTTPStatus.BAD_REQUEST, "not an HTTP request"), True
        words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(words) != 3 or words[0] not in ("GET", "HEAD"):
            return text(HTTPStatus.METHOD_NOT_ALLOWED, "only GET is served here"), True
        return await self._page(words[1].partition("?")[0]), words[0] == "GET"

    async def _page(self, path: str) -> Answer:
        handler = self.routes.get(path)
        if handler is None:
            known = " ".join(self.routes)
            return text(HTTPStatus.NOT_FOUND, f"nothing is there; known: {known}")
        try:
            answer = handler()
            return await answer if inspect.isawaitable(answer) else answer
        except Exception:  # a fault in one page must be seen, and cost no more than that page
            log.exception("the page %s failed", path)
            return text(HTTPStatus.INTERNAL_SERVER_ERROR, "this page failed; the log says why")


def _any_address(port: int) -> socket.socket:
    # asyncio by itself would make `::` IPv6 only.
    if socket.has_dualstack_ipv6():
        return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def _encode(answer: Answer, *, with_body: bool) -> bytes:
    head = (
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}\r\n"
        f"Content-Type: {answer.content_type}\r\n"
        f"Content-Length: {len(answer.body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + (answer.body if with_body else b"")
