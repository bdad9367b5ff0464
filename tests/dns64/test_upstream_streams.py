"""Servers that close their connections, as they may at any time (RFC 7766 section 6.2.3)."""

from __future__ import annotations

import concurrent.futures
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import dns.message
import dns.rcode
import pytest

from tests.dns64.conftest import StartSidecar
from tests.dns64.test_upstreams import ZONE
from tests.dns64.upstreams import Upstream, _exactly


@contextmanager
def closes_after(replies: int) -> Iterator[tuple[Upstream, list[int]]]:
    """A server that closes each connection after so many replies, whatever is asked beyond.

    The list has how many replies each connection was given.
    """
    given: list[int] = []
    with Upstream(ZONE) as up:

        def serve(connection: socket.socket, source: int) -> None:
            given.append(0)
            mine = len(given) - 1
            with connection:
                connection.settimeout(5)
                try:
                    while given[mine] < replies and (head := _exactly(connection, 2)):
                        (length,) = struct.unpack("!H", head)
                        response = up._reply(_exactly(connection, length), "tcp", source)
                        assert response is not None
                        connection.sendall(struct.pack("!H", len(response)) + response)
                        given[mine] += 1
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(4096):  # so that what was sent isn't lost to a reset
                        pass
                except OSError:
                    return

        up._serve_connection = serve  # type: ignore[method-assign]
        yield up, given


@pytest.mark.parametrize("replies", [1, 3, 10])
def test_queries_on_a_connection_that_the_server_closes_are_asked_on_another(
    sidecar: StartSidecar, replies: int
) -> None:
    """20 clients at once, 200 questions: none fails."""
    with closes_after(replies) as (up, given):
        server = sidecar(f"forward . {up} {{\nforce_tcp\nread_timeout 5s\n}}")

        def client(number: int) -> list[str]:
            found = []
            for turn in range(10):
                response = server.ask(f"n{(number * 10 + turn) % 40}.example")
                found.append(dns.rcode.to_text(response.rcode()))
            return found

        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            rcodes = [rcode for rcodes in pool.map(client, range(20)) for rcode in rcodes]
        assert rcodes == ["NOERROR"] * 200
        assert max(given) <= replies
        assert len(given) > 200 // 40 // replies


def test_a_server_that_closes_at_once_is_no_endless_loop(sidecar: StartSidecar) -> None:
    with closes_after(0) as (up, given):
        server = sidecar(f"forward . {up} {{\nforce_tcp\n}}")
        assert server.ask("n1.example").rcode() == dns.rcode.SERVFAIL
        assert len(given) <= 8


def test_a_server_that_closes_after_each_reply_gets_several_connections(
    sidecar: StartSidecar,
) -> None:
    """Known to be short-lived, a connection isn't given more than it will answer."""
    with closes_after(1) as (up, _):
        server = sidecar(f"forward . {up} {{\nforce_tcp\n}}")
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: server.ask(f"n{n}.example"), range(8)))
            before = len(up.asked)
            list(pool.map(lambda n: server.ask(f"n{n}.example"), range(8, 16)))
        assert len(up.asked) - before <= 10
