"""Damaged bytes where they come in: each query gets exactly one answer, nothing is kept.

Beside `test_fuzz`, which gives the same kind of bytes to the functions that read them.
"""

from __future__ import annotations

import asyncio
from itertools import pairwise
from random import Random
from string import ascii_lowercase, digits

import dns.message

from nat64_dataplane.dns64.frontend.tcp_listener import TcpListener
from nat64_dataplane.dns64.frontend.tcp_listener import _Connection as ClientConnection
from nat64_dataplane.dns64.host.random_bytes import Entropy
from nat64_dataplane.dns64.instrumentation.internal_faults import faults
from nat64_dataplane.dns64.message import wire
from nat64_dataplane.dns64.message.answer import UDP_SIZE
from nat64_dataplane.dns64.message.failed import Failed
from nat64_dataplane.dns64.settings import Upstream
from nat64_dataplane.dns64.upstream.stream_transport import StreamTransport, _Connection
from tests.dns64.inprocess import Given, Harness, in_loop
from tests.dns64.messages import SOA, reply
from tests.dns64.test_fuzz import EACH, NAME, PREFIX_BYTES, damaged, queries, replies

NO_DATA = reply(NAME, "AAAA", authority=[SOA]).wire
USUAL = [
    NO_DATA,
    reply(NAME, "AAAA", authority=[SOA], opt=False).wire,
    reply(NAME, "A", f"{NAME} 60 IN A 198.51.100.7", authority=["example. 9 IN NS n.x."]).wire,
    reply(NAME, "A", f"{NAME} 60 IN CNAME b.test.", "b.test. 9 IN A 198.51.100.7").wire,
]


QUERY = dns.message.make_query(NAME, "AAAA", use_edns=False).to_wire()
LETTERS = (ascii_lowercase + digits).encode()
NAMES = len(LETTERS) ** 3


def query_for(number: int) -> bytes:
    """A query for a name as long as `NAME`, so that what is compressed against it stays right."""
    label = bytes(LETTERS[number // 36**power % 36] for power in range(3))
    return QUERY[:13] + label + QUERY[16:]


def as_reply(data: bytes, ident: bytes, question: bytes, random: Random | None = None) -> bytes:
    """A message as the reply to a question; with `random`, some are left a stray."""
    if random is None or random.random() < 0.9:
        head = ident + data[2:12].ljust(10, b"\0")
        return (
            head[:2] + bytes((head[2] | 0x80,)) + head[3:] + question + data[12 + len(question) :]
        )
    return ident + data[2:]


def check_response(response: bytes | None, message: bytes) -> wire.Reply:
    """A response to this query, of a size that may be sent."""
    assert response is not None
    parsed = wire.parse_reply(response)
    assert response[:2] == message[:2]
    assert parsed.question == message[12 : 12 + len(parsed.question)]
    assert len(response) <= UDP_SIZE
    return parsed


@in_loop
async def test_whatever_upstream_says_each_who_waits_gets_one_answer() -> None:
    """Damaged replies to the AAAA question, or to the A question behind a good one."""
    random, before = Random(11), faults.total
    harness = Harness()
    quick = answered = 0
    for number, data in enumerate(damaged([*USUAL, *replies()], EACH, 12)):
        if number % NAMES == 0:  # each name is asked for once
            harness.close()
            harness = Harness()
        query = query_for(number)
        askers = [harness.ask(query) for _ in range(1 + number % 2)]
        denied = number % 3 > 0
        if denied:
            ((ident, asked),) = harness.open()
            harness.deliver([as_reply(NO_DATA, ident, asked.question)])
        for ident, asked in harness.open():
            harness.deliver([as_reply(data, ident, asked.question, random)])
        answered += bool(askers[0].answers)
        harness.time_out()
        assert [len(asker.answers) for asker in askers] == [1] * len(askers)
        assert harness.idle()
        quick += harness.block.stats.quick > 0
        for asker in askers:
            found = check_response(asker.answers[0], query)
            if denied and found.counts[0]:  # each AAAA is ours: upstream had none
                synthesized = [found.data(r)[:12] for r in found.answer if r.type == wire.AAAA]
                assert set(synthesized) <= {PREFIX_BYTES} or wire.AAAA in _types(data)
        if number % 100 == 0:
            await asyncio.sleep(0)  # what is to be tried again is tried now
    assert faults.total == before
    assert quick
    assert answered > EACH // 4
    harness.close()


def _types(data: bytes) -> list[int]:
    """Types that a damaged reply may be read to hold: each pair of its bytes."""
    return [int.from_bytes(data[at : at + 2], "big") for at in range(len(data) - 1)]


@in_loop
async def test_damaged_queries_get_one_response_or_none_from_a_warm_cache() -> None:
    before = faults.total
    harness = Harness()
    originals = queries()
    for original in originals:
        harness.ask(original)
        for ident, asked in harness.open():
            data = reply(NAME, "A", f"{NAME} 60 IN A 198.51.100.7").wire
            harness.deliver([as_reply(data, ident, asked.question)])
        harness.time_out()
    hits = 0
    for data in damaged(originals, EACH, 13):
        asker = harness.ask(data)
        hits += harness.block._hits_now
        harness.block._hits_now = 0
        harness.time_out()
        assert len(asker.answers) == 1
        response = asker.answers[0]
        if response is None:
            assert len(data) < 12 or data[2] & 0x80
        elif len(response) > 12:
            check_response(response, data)
        else:
            assert response[:2] == data[:2]
            other = data[2] & 0x78  # another opcode, whatever is behind the header
            assert response[3] & 15 == (wire.NOTIMP if other else wire.FORMERR)
    assert faults.total == before
    assert harness.idle()
    assert hits > EACH // 100
    harness.close()


class Transport(asyncio.Transport):
    """What a client's connection writes to."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closing = False

    def get_extra_info(self, name: str, default: object = None) -> object:
        return ("::1", 5353) if name == "peername" else default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closing
        self.written += data

    def close(self) -> None:
        self.closing = True

    abort = close

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


def frames(data: bytes) -> list[bytes]:
    """The messages of a stream."""
    found = []
    while data:
        end = 2 + int.from_bytes(data[:2], "big")
        assert len(data) >= end, "half a message"
        found.append(bytes(data[2:end]))
        data = data[end:]
    return found


def cut(stream: bytes, random: Random) -> list[bytes]:
    """A stream in pieces as a network may deliver it."""
    at = sorted(random.randrange(len(stream) + 1) for _ in range(random.randrange(12)))
    ends = [0, *at, len(stream)]
    return [stream[a:b] for a, b in pairwise(ends) if b > a]


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message


@in_loop
async def test_damaged_queries_over_tcp_are_framed_however_they_are_cut() -> None:
    """Up to 8 to a connection. All are answered but those that get none, which end it."""
    random, before = Random(14), faults.total
    harness = Harness()
    listener = TcpListener("::1", 0, harness.dispatcher)
    messages = list(damaged(queries(), EACH, 15))
    while messages:
        batch, messages = messages[:8], messages[8:]
        transport = Transport()
        connection = ClientConnection(listener)
        connection.connection_made(transport)
        for piece in cut(b"".join(map(framed, batch)), random):
            if not transport.closing:
                connection.data_received(piece)
        while connection._open and not transport.closing:
            harness.time_out()
        asked = [message[:2] for message in batch]
        got = [message[:2] for message in frames(bytes(transport.written))]
        if transport.closing:
            assert any(len(m) < 12 or m[2] & 0x80 for m in batch)
            assert len(got) < len(asked)
        else:
            assert sorted(got) == sorted(asked)
        harness.time_out()
        connection.connection_lost(None)
        assert not listener.connections
    assert faults.total == before
    assert harness.idle()
    listener.close()
    harness.close()


@in_loop
async def test_damaged_replies_over_tcp_end_each_query_once() -> None:
    random, before = Random(16), faults.total
    upstream = Upstream("::1", 53)
    messages = list(damaged([*USUAL, *replies()], EACH, 17))
    replied = 0
    while messages:
        batch, messages = messages[:8], messages[8:]
        streams = StreamTransport(
            upstream, "", Entropy(), expire=10.0, max_age=0.0, tls=None, server_name=""
        )
        connection = _Connection(streams)
        asked = [Given(NAME) for _ in batch]
        for number, query in enumerate(asked):
            query.waits = True
            connection.send(number.to_bytes(2, "big"), query, 0.0)
        stream = b""
        for number, data in enumerate(batch):
            stream += framed(as_reply(data, number.to_bytes(2, "big"), asked[0].question, random))
        if random.random() < 0.2:
            stream = stream[: random.randrange(len(stream))]
        for piece in cut(stream, random):
            connection.data_received(piece)
        came = [query.came[0] for query in asked if query.came]
        replied += sum(not isinstance(result, Failed) for result in came)
        connection.replies = 0  # else the remaining questions would be asked on another connection
        connection.connection_lost(None)
        assert [len(query.came) for query in asked] == [1] * len(asked)
        assert connection.closed
    assert faults.total == before
    assert replied > EACH // 20
