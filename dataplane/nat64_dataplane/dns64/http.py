"""The HTTP endpoints: /health, /ready, /metrics and /status, each on the addresses that show it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import NamedTuple

logger = logging.getLogger("nat64_dns64")

MAX_REQUEST = 8192
READ_SECONDS = 5.0


class Page(NamedTuple):
    """A response."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


Pages = dict[str, Callable[[], Page]]
_REASONS = {
    200: "OK",
    500: "Internal Server Error",
    404: "Not Found",
    405: "Method Not Allowed",
    503: "Service Unavailable",
}


class HttpServer:
    """A GET-only server for a few pages: one request to a connection."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self.pages: Pages = {}
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen. Raises OSError."""
        self._server = await asyncio.start_server(
            self._serve, self.host or None, self.port, limit=MAX_REQUEST
        )

    def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(
            OSError, TimeoutError, asyncio.LimitOverrunError, asyncio.IncompleteReadError
        ):
            async with asyncio.timeout(READ_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                page, with_body = self._page(head)
                writer.write(_render(page, with_body=with_body))
                await writer.drain()
        writer.close()

    def _page(self, head: bytes) -> tuple[Page, bool]:
        method, path, *_ = [*head.split(b"\r\n", 1)[0].decode("latin-1").split(" "), "", ""]
        if method not in ("GET", "HEAD"):
            return Page(405, b"only GET is answered\n"), True
        make = self.pages.get(path.partition("?")[0])
        try:
            page = make() if make else Page(404, b"no such page\n")
        except Exception:  # a fault in one page must be seen, and cost no more than that page
            logger.exception("the page %s failed", path)
            page = Page(500, b"this page failed; the log says why\n")
        return page, method == "GET"


def _render(page: Page, *, with_body: bool) -> bytes:
    head = (
        f"HTTP/1.1 {page.status} {_REASONS[page.status]}\r\n"
        f"Content-Type: {page.content_type}\r\n"
        f"Content-Length: {len(page.body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + (page.body if with_body else b"")
