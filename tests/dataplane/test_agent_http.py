"""The probe server, the lock and the status file. No kernel state."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from http import HTTPStatus
from pathlib import Path

import pytest
from msgspec.structs import replace

from nat64_dataplane import http_server
from nat64_dataplane.errors import BusyError, ConfigError
from nat64_dataplane.translator.run_directory import RunDir, Status

STATUS = Status(
    prefix="64:ff9b::/96", programmed=True, reason="Programmed", config_hash="00", since=1.0
)


async def hello() -> http_server.Answer:
    return http_server.text(HTTPStatus.OK, "hello")


def broken() -> http_server.Answer:
    raise ZeroDivisionError


async def exchange(host: str, request: bytes) -> bytes:
    server = http_server.HttpServer({"/hello": hello, "/broken": broken})
    socket = http_server._any_address(0)
    port = socket.getsockname()[1]
    socket.close()
    await server.start("::", port)
    try:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(request)
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        return answer
    finally:
        server.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_any_address_answers_both_families(host: str) -> None:
    answer = asyncio.run(exchange(host, b"GET /hello?x=1 HTTP/1.1\r\nHost: a\r\n\r\n"))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\nhello\n")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /nothing HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /hello HTTP/1.1\r\n\r\n", b"405"),
        (b"nonsense\r\n\r\n", b"405"),
        (b"GET /" + b"x" * 20000 + b" HTTP/1.1\r\n\r\n", b"400"),
    ],
)
def test_anything_else_is_refused(request_: bytes, status: bytes) -> None:
    answer = asyncio.run(exchange("::1", request_))
    assert answer.split(b" ")[1] == status


def test_a_head_request_gets_the_head_only() -> None:
    answer = asyncio.run(exchange("::1", b"HEAD /hello HTTP/1.1\r\n\r\n"))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nContent-Length: 6\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


def test_a_page_that_fails_says_so(caplog: pytest.LogCaptureFixture) -> None:
    answer = asyncio.run(exchange("::1", b"GET /broken HTTP/1.1\r\n\r\n"))
    assert answer.split(b" ")[1] == b"500"
    assert "the page /broken failed" in caplog.text


@pytest.mark.parametrize("listen", ["", "9464", "[::]", "[::]:port", "[::]:70000"])
def test_a_bad_listen_address_is_refused(listen: str) -> None:
    with pytest.raises(ConfigError, match="listen"):
        http_server.parse_listen(listen)


def test_a_status_reads_back_and_knows_what_changed(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path, "default")
    assert run_dir.read_status() is None
    run_dir.write_status(STATUS)
    assert run_dir.read_status() == STATUS
    assert b'"configHash"' in run_dir.status_path.read_bytes()
    assert STATUS.same_as(replace(STATUS, since=2.0))
    assert not STATUS.same_as(replace(STATUS, programmed=False))
    run_dir.remove()
    assert not run_dir.path.exists()


def test_the_second_holder_is_told_who_is_the_first(tmp_path: Path) -> None:
    first, second = RunDir(tmp_path, "default"), RunDir(tmp_path, "default")
    with first.locked():
        with pytest.raises(BusyError, match=rf"pid {os.getpid()}\b.*'default'"), second.locked():
            pass
        with RunDir(tmp_path, "other").locked():
            pass
    with second.locked():
        pass


def _hold_and_die(path: Path) -> None:
    with RunDir(path, "default").locked():
        os._exit(9)


def test_a_lock_dies_with_its_holder(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_hold_and_die, args=(tmp_path,))
    process.start()
    process.join()
    with RunDir(tmp_path, "default").locked():
        pass
