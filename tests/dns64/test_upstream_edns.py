"""Upstreams that know EDNS, or don't, or not for one question; and forged replies that say so."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest

from tests.dns64.conftest import StartSidecar, StartUpstream
from tests.dns64.sidecar import eventually
from tests.dns64.test_upstreams import SYNTHESIZED, ZONE
from tests.dns64.upstreams import texts

ODD = "TYPE128"


def bare(query: dns.message.Message, rcode: int, opt: bool = False) -> bytes:
    """An error without the question: a header, and perhaps an OPT record."""
    tail = b"\0\0\x29\x04\xd0\0\0\0\0\0\0" if opt else b""
    return struct.pack("!6H", query.id, 0x8180 | rcode, 0, 0, 0, bool(opt)) + tail


def error(query: dns.message.Message, rcode: int, *, opt: bool) -> dns.message.Message:
    response = dns.message.make_response(query)
    response.set_rcode(dns.rcode.Rcode.make(rcode))
    response.use_edns(0 if opt else False)
    return response


@pytest.mark.parametrize("rcode", [dns.rcode.FORMERR, dns.rcode.NOTIMP])
def test_a_refusal_of_one_odd_question_leaves_edns_on_for_the_others(
    upstream: StartUpstream, sidecar: StartSidecar, rcode: int
) -> None:
    """As Unbound 1.25 and later answer TYPE128: without OPT, with EDNS and without."""

    def answer(query: dns.message.Message, proto: str) -> dns.message.Message:
        odd = query.question[0].rdtype == 128
        return error(query, rcode, opt=False) if odd else ZONE(query, proto)

    up = upstream(answer)
    server = sidecar(f"cache\nforward . {up}")
    assert server.ask("odd.example", ODD).rcode() == rcode
    assert texts(server.ask("v7.example", do=True).answer) == [SYNTHESIZED]
    assert all(query.edns == 0 for query in up.queries if query.question[0].rdtype != 128)
    assert all(q.ednsflags & dns.flags.DO for q in up.queries if q.question[0].rdtype != 128)


def test_only_the_kind_of_question_that_did_better_without_edns_goes_without(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    def answer(query: dns.message.Message, proto: str) -> dns.message.Message:
        odd = query.question[0].rdtype == dns.rdatatype.HTTPS
        return error(query, 4, opt=False) if odd and query.edns >= 0 else ZONE(query, proto)

    up = upstream(answer)
    server = sidecar(f"forward . {up}")
    for number in range(3):
        assert server.ask(f"v{number}.example", "HTTPS").rcode() == dns.rcode.NOERROR
        assert server.ask(f"v{number}.example").answer
    https = [q.edns for q in up.queries if q.question[0].rdtype == dns.rdatatype.HTTPS]
    assert https == [0, -1, -1, -1]
    others = [q.edns for q in up.queries if q.question[0].rdtype != dns.rdatatype.HTTPS]
    assert set(others) == {0}


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_formerr_that_echoes_opt_is_asked_without_edns_and_never_passed_on(
    upstream: StartUpstream, sidecar: StartSidecar, tcp: bool, whole: bool
) -> None:
    def answer(query: dns.message.Message, proto: str) -> dns.message.Message | bytes:
        if query.edns < 0 and query.question[0].name.to_text().lower() != "n1.example.":
            return ZONE(query, proto)
        return error(query, 1, opt=True) if whole else bare(query, 1, opt=True)

    up = upstream(answer)
    server = sidecar(f"forward . {up}" + (" {\nforce_tcp\n}" if tcp else ""))
    assert texts(server.ask("v7.example").answer) == [SYNTHESIZED]
    assert [query.edns for query in up.queries].count(0) == 1
    failed = server.ask("n1.example", "TXT")
    assert failed.rcode() == dns.rcode.SERVFAIL
    assert "FORMERR" in str(failed.extended_errors()[0].text)


@contextmanager
def forger(zone: object, *, late: float = 0.0) -> Iterator[tuple[int, list[int]]]:
    """A server of which a bare FORMERR seems to come before each reply to an EDNS query."""
    assert callable(zone)
    edns: list[int] = []
    stop = threading.Event()
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as server:
        server.bind(("::1", 0))
        server.settimeout(0.1)

        def serve() -> None:
            while not stop.is_set():
                try:
                    data, source = server.recvfrom(4096)
                except OSError:
                    continue
                query = dns.message.from_wire(data)
                edns.append(query.edns)
                if query.edns >= 0:
                    true = zone(query, "udp").to_wire()
                    server.sendto(bare(query, 1), source)
                    if late:
                        threading.Timer(late, server.sendto, (true, source)).start()
                    else:
                        server.sendto(true, source)
                else:
                    server.sendto(zone(query, "udp").to_wire(), source)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1], edns
        finally:
            stop.set()
            thread.join()
            time.sleep(late)


@pytest.mark.parametrize("late", [0.0, 0.3])
def test_a_forged_bare_formerr_does_not_turn_edns_off(sidecar: StartSidecar, late: float) -> None:
    with forger(ZONE, late=late) as (port, edns):
        server = sidecar(f"forward . [::1]:{port}")
        for number in range(4):
            answer = server.ask(f"v{number}.example", do=True).answer
            assert [record.to_text() for record in answer[0]] == [f"64:ff9b:1::c633:640{number}"]
            time.sleep(2 * late)
        # all eight questions were asked with EDNS first; where the true reply is late, it is
        # believed when it comes, which is after the A question
        assert edns.count(0) == (4 if late else 8)


@pytest.mark.parametrize("do", [False, True])
def test_an_upstream_that_drops_edns_in_silence_is_found_out_within_the_first_time_out(
    upstream: StartUpstream, sidecar: StartSidecar, do: bool
) -> None:
    def answer(query: dns.message.Message, proto: str) -> dns.message.Message | None:
        return ZONE(query, proto) if query.edns < 0 else None

    up = upstream(answer)
    server = sidecar(f"forward . {up} {{\nread_timeout 2s\n}}")
    started = time.monotonic()
    assert server.ask("n1.example", do=do).answer  # one question: AAAA
    assert time.monotonic() - started < 3.9
    server.ask("n2.example", do=do)
    time.sleep(2.3)  # by then both are known to have had no reply
    asked = len(up.queries)
    started = time.monotonic()
    assert server.ask("n3.example", do=do).answer
    assert time.monotonic() - started < 1.9
    assert [query.edns for query in up.queries[asked:]] == [-1]


def test_a_lost_datagram_does_not_turn_edns_off(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    lost: list[str] = []

    def answer(query: dns.message.Message, proto: str) -> dns.message.Message | None:
        name = query.question[0].name.to_text().lower()
        if query.edns >= 0 and name in ("n3.example.", "n5.example.") and name not in lost:
            lost.append(name)
            return None
        return ZONE(query, proto)

    up = upstream(answer)
    server = sidecar(f"forward . {up} {{\nread_timeout 1500ms\n}}")
    for number in range(8):
        assert server.ask(f"n{number}.example").answer
    time.sleep(1.6)
    asked = len(up.queries)
    assert server.ask("n9.example").answer
    assert [query.edns for query in up.queries[asked:]] == [0]


def test_an_upstream_that_answers_is_sent_no_copies(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    """Once it has shown that it knows EDNS, a slow reply is waited for."""

    def answer(query: dns.message.Message, proto: str) -> dns.message.Message:
        if query.question[0].name.to_text().lower() == "n2.example.":
            time.sleep(2.5)
        return ZONE(query, proto)

    up = upstream(answer)
    server = sidecar(f"forward . {up} {{\nread_timeout 4s\n}}")
    assert server.ask("n1.example").answer
    assert server.ask("n2.example").answer
    assert [query.edns for query in up.queries] == [0, 0]


@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.NOTIMP])
@pytest.mark.parametrize("tcp", [False, True])
def test_a_bare_error_is_a_reply(
    upstream: StartUpstream, sidecar: StartSidecar, rcode: int, tcp: bool
) -> None:
    """12 bytes, as Unbound refuses with: no waiting for another reply."""

    def answer(query: dns.message.Message, proto: str) -> bytes:
        return bare(query, rcode)

    options = "read_timeout 20s\n" + ("force_tcp\n" if tcp else "")
    server = sidecar(f"forward . {upstream(answer)} {{\n{options}}}")
    started = time.monotonic()
    assert server.ask("v7.example").rcode() == rcode
    assert server.ask("v7.example", "TXT").rcode() == rcode
    assert time.monotonic() - started < 10


def test_a_bare_error_makes_another_upstream_be_asked_where_failover_says_so(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    def answer(query: dns.message.Message, proto: str) -> bytes:
        return bare(query, dns.rcode.REFUSED)

    bad, good = upstream(answer), upstream(ZONE)
    server = sidecar(f"forward . {bad} {good} {{\npolicy sequential\nfailover REFUSED\n}}")
    assert texts(server.ask("v7.example").answer) == [SYNTHESIZED]


def test_a_bare_header_with_tc_is_followed_over_tcp(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    def answer(query: dns.message.Message, proto: str) -> dns.message.Message | bytes:
        if proto == "tcp":
            return ZONE(query, proto)
        return struct.pack("!6H", query.id, 0x8380, 0, 0, 0, 0)

    server = sidecar(f"forward . {upstream(answer)}")
    assert texts(server.ask("v7.example").answer) == [SYNTHESIZED]


def test_a_bare_header_without_error_is_no_reply(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    def answer(query: dns.message.Message, proto: str) -> bytes:
        return struct.pack("!6H", query.id, 0x8180, 0, 0, 0, 0)

    bad, good = upstream(answer), upstream(ZONE)
    server = sidecar(f"forward . {bad} {good} {{\npolicy sequential\nread_timeout 200ms\n}}")
    assert texts(server.ask("v7.example").answer) == [SYNTHESIZED]
    eventually(lambda: server.metric("nat64_dns64_stray_replies_total", to=str(bad)) >= 2)
