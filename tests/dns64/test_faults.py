"""Whatever upstream sends and whatever fails here: each query gets exactly one answer."""

from __future__ import annotations

import asyncio
import socket
import struct
from pathlib import Path

import dns.message
import dns.rcode
import pytest

from nat64_dataplane.dns64 import settings
from nat64_dataplane.dns64.app import App
from nat64_dataplane.dns64.cache.answer_cache import AnswerCache
from nat64_dataplane.dns64.frontend.server_block import ServerBlock
from nat64_dataplane.dns64.frontend.udp_listener import UdpListener
from nat64_dataplane.dns64.frontend.zone_dispatch import ZoneDispatcher
from nat64_dataplane.dns64.instrumentation.counters import Counters
from nat64_dataplane.dns64.instrumentation.internal_faults import faults
from nat64_dataplane.dns64.message import wire
from nat64_dataplane.dns64.resolver.full_path import FullResolution
from nat64_dataplane.dns64.synthesis import one_pass
from nat64_dataplane.dns64.upstream.upstream_group import UNLIMITED, Attempts, UpstreamGroup
from nat64_dataplane.dns64.upstream.upstream_query import UpstreamQuery
from tests.dns64.inprocess import Given, Harness, PendingMessage, in_loop
from tests.dns64.messages import SOA, reply

NAME = "www.example."


def query(name: str = NAME, rdtype: str = "AAAA") -> bytes:
    return dns.message.make_query(name, rdtype, use_edns=False).to_wire()


def rcodes(*askers: PendingMessage) -> list[str]:
    """The RCODE of each one's only answer."""
    assert [len(asker.answers) for asker in askers] == [1] * len(askers)
    answers = [asker.answers[0] for asker in askers]
    return [dns.rcode.to_text(dns.message.from_wire(a).rcode()) for a in answers if a]


def to(harness: Harness, message: bytes) -> bytes:
    """A reply with the ID that is open."""
    ((ident, _),) = harness.open()
    return ident + message[2:]


EMPTY = reply(NAME, "AAAA", authority=[SOA]).wire
WITH_A = reply(NAME, "A", f"{NAME} 60 IN A 198.51.100.7").wire
UNUSUAL = reply(NAME, "A", f"{NAME} 60 IN A 198.51.100.7", authority=[SOA]).wire
AT = 12 + len(NAME) + 5


def no_data(mname: bytes, rname: bytes) -> bytes:
    """A reply to the AAAA question with nothing but a SOA, whose names are these bytes."""
    data = mname + rname + struct.pack("!5I", 1, 2, 3, 4, 5)
    soa = b"\xc0\x0c" + struct.pack("!HHIH", wire.SOA, 1, 900, len(data)) + data
    return struct.pack("!6H", 0, 0x8180, 1, 0, 1, 0) + EMPTY[12:AT] + soa


@pytest.mark.parametrize(
    "soa",
    [(b"\xc0\xff", b"\0"), (b"\0", b"\x80"), (b"\3x", b"\0"), (b"\0", b"\0\0"), (b"\0", b"\5abc")],
    ids=["pointer ahead", "no label type", "label past its end", "bytes left", "past the data"],
)
@in_loop
async def test_a_malformed_soa_costs_one_answer_and_not_the_name(
    soa: tuple[bytes, bytes],
) -> None:
    assert one_pass.no_data(no_data(b"\0", b"\0"), AT) == 900
    assert one_pass.no_data(no_data(*soa), AT) is None
    harness = Harness()
    first, joined = harness.ask(query()), harness.ask(query())
    harness.deliver([to(harness, no_data(*soa))])
    if harness.open():  # counted as no reply: A is asked, and that reply has no usual shape
        harness.deliver([to(harness, UNUSUAL)])
    assert rcodes(first, joined) == ["NOERROR"] * 2
    assert harness.idle()
    harness.close()


@in_loop
async def test_a_reply_that_ends_behind_its_question_is_malformed_and_no_fault() -> None:
    cut = no_data(b"\0", b"\0")[:AT]
    assert one_pass.no_data(cut, AT) is None
    harness, before = Harness(), faults.total
    asker = harness.ask(query())
    harness.deliver([to(harness, cut)])
    harness.time_out()
    assert rcodes(asker) == ["SERVFAIL"]
    assert faults.total == before
    assert harness.idle()
    harness.close()


PLACES: list[tuple[object, str]] = [
    (one_pass, "no_data"),
    (one_pass, "synthesized"),
    (wire, "skip_name"),
    (AnswerCache, "put"),
    (AnswerCache, "find"),
    (UpstreamQuery, "read"),
    (Attempts, "restart"),
    (Attempts, "succeeded"),
    (Attempts, "result"),
    (Attempts, "next"),
    (UpstreamGroup, "passes_on"),
    (FullResolution, "_step"),
    (Counters, "count"),
    (ServerBlock, "_respond"),
]


@pytest.mark.parametrize("comes", ["usual", "unusual", "nothing"])
@pytest.mark.parametrize(("owner", "name"), PLACES, ids=[name for _, name in PLACES])
@in_loop
async def test_a_fault_anywhere_costs_no_more_than_one_answer(
    owner: object, name: str, comes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once all have asked, each place raises; the fast path and the full one are both in use."""
    harness = Harness()
    askers = [harness.ask(query()) for _ in range(3)]
    signed = dns.message.make_query(NAME, "AAAA", want_dnssec=True).to_wire()
    askers += [harness.ask(signed) for _ in range(2)]

    def raises(*_: object, **__: object) -> object:
        raise ZeroDivisionError(name)

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, raises)
        for _ in range(4):
            for ident, asked in harness.open() if comes != "nothing" else ():
                with_a = WITH_A if comes == "usual" else UNUSUAL
                message = EMPTY if asked.question[-3] == wire.AAAA else with_a
                harness.deliver([ident + message[2:]])
        harness.time_out()
    assert len(rcodes(*askers)) == len(askers)
    assert harness.idle()
    harness.close()


@in_loop
async def test_one_datagram_that_fails_is_answered_and_does_not_cost_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    harness = Harness()
    listener = UdpListener("::1", 0, ZoneDispatcher([harness.block]))
    real = ServerBlock.hit

    def hit(block: ServerBlock, message: bytes, host: bytes, now: int) -> bytes | None:
        if b"bad" in message:
            raise ZeroDivisionError("a fault")
        return real(block, message, host, now)

    monkeypatch.setattr(ServerBlock, "hit", hit)
    asked = ["ipv4only.arpa.", "bad.example.", "ipv4only.arpa."]
    queries = [dns.message.make_query(name, "AAAA") for name in asked]
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        client.connect(("::1", listener.port))
        for each in queries:
            client.send(each.to_wire())
        loop = asyncio.get_running_loop()
        received = [dns.message.from_wire(await loop.sock_recv(client, 512)) for _ in queries]
    by_id = {message.id: message.rcode() for message in received}
    wanted = [dns.rcode.NOERROR, dns.rcode.SERVFAIL, dns.rcode.NOERROR]
    assert [by_id[each.id] for each in queries] == wanted
    listener.close()
    harness.close()


@in_loop
async def test_a_query_with_little_time_left_is_not_kept_by_one_with_more() -> None:
    harness = Harness()
    now = harness.loop.time()
    times = (30.0, 0.2, 40.0, 0.1, 0.0)
    queries = [Given(f"n{number}.example.") for number in range(len(times))]
    for each, seconds in zip(queries, times, strict=True):
        harness.upstream.send(each, deadline=now + seconds)
    while sum(len(each.came) for each in queries) < 3:
        await asyncio.sleep(0.01)
    assert [len(each.came) for each in queries] == [0, 1, 0, 1, 1]
    assert len(harness.open()) == 2
    harness.upstream.close()
    assert [len(each.came) for each in queries] == [1] * 5
    harness.close()


@in_loop
async def test_a_response_that_can_not_be_sent_costs_the_others_nothing() -> None:
    harness = Harness()
    listener = UdpListener("::1", 0, ZoneDispatcher([harness.block]))
    name = socket.inet_pton(socket.AF_INET6, "::1").rjust(24, b"\0") + bytes(4)
    before = faults.total
    listener.send(name, b"", bytes(100_000))
    assert faults.total == before + 1
    asked = dns.message.make_query("ipv4only.arpa.", "AAAA")
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        client.connect(("::1", listener.port))
        client.send(asked.to_wire())
        received = await asyncio.get_running_loop().sock_recv(client, 512)
    assert dns.message.from_wire(received).id == asked.id
    listener.close()
    harness.close()


@pytest.mark.parametrize("tries", [5000, UNLIMITED])
@in_loop
async def test_sends_that_fail_at_once_are_tried_again_until_tries_or_time_are_up(
    tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source address is none of this host's. `max_connect_attempts 0` is UNLIMITED."""
    monkeypatch.setattr("nat64_dataplane.dns64.upstream.upstream_group.TOTAL_SECONDS", 0.5)
    harness = Harness()
    monkeypatch.setattr(harness.block.groups[0], "tries", tries)
    monkeypatch.setattr(harness.upstream, "_source", "2001:db8::1")
    before = faults.total
    askers = [harness.ask(query(name)) for name in (NAME, "x.example.")]
    while not all(asker.answers for asker in askers):
        await asyncio.sleep(0.01)
    assert rcodes(*askers) == ["SERVFAIL"] * 2
    assert faults.total == before
    assert harness.idle()
    harness.close()


@in_loop
async def test_a_reply_in_the_wrong_case_gives_no_more_time_than_there_is() -> None:
    harness = Harness()
    harness.upstream.mixes_case = True
    asker = harness.ask(query("a-name-with-letters.example."))
    end = harness.loop.time() + 0.25
    ((ident, asked),) = harness.open()
    asked.end = end
    folded = reply("a-name-with-letters.example.", "AAAA", authority=[SOA]).wire
    harness.deliver([ident + folded[2:]])
    assert harness.streams.deadlines == [end]
    harness.time_out()
    assert rcodes(asker) == ["SERVFAIL"]
    harness.close()


@in_loop
async def test_a_reload_that_fails_in_a_way_no_one_foresaw_is_told_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "Corefile"
    path.write_text(". {\nforward . ::1\n}\n")
    app = App(path, settings.from_file(path))

    def raises(_path: Path) -> object:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(settings, "from_file", raises)
    before = faults.total
    await app.reload()
    assert (app.reload_failures, faults.total) == (1, before + 1)
    assert app.reload_error == f"{path}: internal error: ZeroDivisionError: a fault"
    monkeypatch.undo()
    await app.reload()
    assert app.reload_error is None
