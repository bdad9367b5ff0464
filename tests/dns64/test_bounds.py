"""The bounds on what clients may hold, with numbers small enough to be reached."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import dns.message
import dns.rcode
import pytest

from nat64_dataplane.dns64.access.client_limits import LIMITS, ClientLimits
from nat64_dataplane.dns64.frontend.tcp_listener import TcpListener
from nat64_dataplane.dns64.message import wire
from tests.dns64.inprocess import Harness, in_loop
from tests.dns64.messages import SOA, reply

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def query(name: str = "ipv4only.arpa.") -> dns.message.Message:
    """A query; the default is answered at once, others wait for an upstream that is silent."""
    return dns.message.make_query(name, "AAAA", use_edns=False)


def framed(message: dns.message.Message) -> bytes:
    return message.to_wire(prepend_length=True)


async def receive(reader: asyncio.StreamReader) -> dns.message.Message:
    size = int.from_bytes(await reader.readexactly(2), "big")
    return dns.message.from_wire(await reader.readexactly(size))


async def is_answered(connection: Connection) -> bool:
    """Whether a query on this connection is answered, rather than the connection closed."""
    reader, writer = connection
    asked = query()
    try:
        writer.write(framed(asked))
        return (await receive(reader)).id == asked.id
    except (asyncio.IncompleteReadError, ConnectionError):
        return False


class Server:
    """A TCP listener with a server block behind it, and connections to it."""

    def __init__(self, limits: ClientLimits) -> None:
        self.harness = Harness(limits=limits)
        self.stats = self.harness.block.stats
        self.listener = TcpListener("::", 0, self.harness.dispatcher, limits)
        self._opened: list[Connection] = []

    async def connect(self, host: str = "::1") -> Connection:
        connection = await asyncio.open_connection(host, self.listener.port)
        self._opened.append(connection)
        return connection

    async def close(self) -> None:
        for _, writer in self._opened:
            writer.close()
        self.listener.close()
        self.harness.close()


@asynccontextmanager
async def server(**limits: float) -> AsyncIterator[Server]:
    running = Server(ClientLimits(**limits))  # type: ignore[arg-type]
    await running.listener.start()
    try:
        yield running
    finally:
        await running.close()


async def until(check: object) -> None:
    assert callable(check)
    while not check():
        await asyncio.sleep(0.01)


def test_the_bounds_are_those_that_are_documented() -> None:
    assert ClientLimits() == LIMITS
    assert (LIMITS.under_way, LIMITS.under_way_per_client) == (16384, 4096)
    assert (LIMITS.connections, LIMITS.connections_per_client) == (512, 128)
    assert (LIMITS.pipelined, LIMITS.idle, LIMITS.read) == (64, 10.0, 3.0)


@in_loop
async def test_connections_above_the_bound_are_closed_and_counted() -> None:
    async with server(connections=3) as running:
        kept = [await running.connect() for _ in range(3)]
        assert [await is_answered(each) for each in kept] == [True] * 3
        assert not await is_answered(await running.connect())
        assert running.stats.refused_connections == 1
        kept[0][1].close()
        await until(lambda: len(running.listener.connections) == 2)
        assert await is_answered(await running.connect())


@in_loop
async def test_no_client_holds_all_connections() -> None:
    async with server(connections=5, connections_per_client=2) as running:
        kept = [await running.connect() for _ in range(2)]
        assert [await is_answered(each) for each in kept] == [True] * 2
        assert not await is_answered(await running.connect())
        assert await is_answered(await running.connect("127.0.0.1"))
        assert running.stats.refused_connections == 1
        kept[0][1].close()
        await until(lambda: len(running.listener.connections) == 2)
        assert await is_answered(await running.connect())
        assert running.listener._held.total() == len(running.listener.connections)


@in_loop
async def test_a_connection_has_no_more_than_so_many_questions_open() -> None:
    async with server(pipelined=4) as running:
        reader, writer = await running.connect()
        queries = [query(f"n{number}.example.") for number in range(9)]
        writer.write(b"".join(framed(each) for each in queries))
        resolver = running.harness.block.resolver
        answered = []
        for count in (4, 4, 1):
            await until(lambda count=count: resolver.under_way == count)
            running.harness.time_out()
            answered += [(await receive(reader)).id for _ in range(count)]
        assert sorted(answered) == sorted(each.id for each in queries)


@in_loop
async def test_an_idle_connection_is_closed_and_one_that_waits_for_upstream_is_not() -> None:
    async with server(idle=0.3) as running:
        reader, _ = await running.connect()
        waits, writer = await running.connect()
        asked = query("www.example.")
        writer.write(framed(asked))
        assert await reader.read() == b""
        await asyncio.sleep(0.5)
        running.harness.time_out()
        assert (await receive(waits)).id == asked.id
        assert await waits.read() == b""


@pytest.mark.parametrize("waiting", [False, True], ids=["alone", "behind one that is open"])
@in_loop
async def test_a_query_that_trickles_in_has_one_time_for_all_its_bytes(waiting: bool) -> None:
    async with server(read=0.5, idle=30.0) as running:
        reader, writer = await running.connect()
        if waiting:
            writer.write(framed(query("open.example.")))
        sent = 0
        for byte in framed(query("a-name-that-takes-long-to-come-in.example.")):
            writer.write(bytes((byte,)))
            sent += 1
            await asyncio.sleep(0.1)
            if reader.at_eof() or not running.listener.connections:
                break
        assert not running.listener.connections
        assert sent < 40


@in_loop
async def test_each_query_of_a_slow_client_has_the_time_anew() -> None:
    async with server(read=2.0, idle=30.0) as running:
        reader, writer = await running.connect()
        for _ in range(3):
            asked = framed(query())
            writer.write(asked[:9])
            await asyncio.sleep(0.1)
            writer.write(asked[9:] + asked[:1])
            await receive(reader)
            writer.write(asked[1:])
            await receive(reader)


@in_loop
async def test_a_client_has_no_more_than_so_many_questions_under_way() -> None:
    harness = Harness(limits=ClientLimits(under_way_per_client=3))
    names = [f"n{number}.example." for number in range(4)]
    askers = [harness.ask(query(name).to_wire()) for name in names]
    assert [len(asker.answers) for asker in askers] == [0, 0, 0, 1]
    refused = dns.message.from_wire(askers[3].answers[0] or b"")
    assert refused.rcode() == dns.rcode.REFUSED
    assert harness.block.stats.over_limit == 1
    harness.time_out()
    assert [len(asker.answers) for asker in askers] == [1] * 4
    assert harness.idle()
    harness.close()


@in_loop
async def test_all_clients_have_no_more_than_so_many_questions_under_way() -> None:
    harness = Harness(limits=ClientLimits(under_way=2))
    askers = [harness.ask(query(f"n{number}.example.").to_wire()) for number in range(5)]
    assert [len(asker.answers) for asker in askers] == [0, 0, 1, 1, 1]
    assert harness.block.stats.over_limit == 3
    # what the cache has, and what is local, needs no place
    assert len(harness.ask(query().to_wire()).answers) == 1
    harness.time_out()
    assert harness.idle()
    harness.close()


@in_loop
async def test_a_question_that_others_ask_already_counts_for_who_asks() -> None:
    harness = Harness(limits=ClientLimits(under_way_per_client=3))
    askers = [harness.ask(query("www.example.").to_wire()) for _ in range(4)]
    assert [len(asker.answers) for asker in askers] == [0, 0, 0, 1]
    ((ident, _),) = harness.open()
    empty = reply("www.example.", "AAAA", authority=[SOA], rcode=wire.NXDOMAIN).wire
    harness.deliver([ident + empty[2:]])
    assert [len(asker.answers) for asker in askers] == [1] * 4
    assert harness.idle()
    harness.close()
