"""Upstreams that are lost, slow, broken or hostile, over real sockets."""

from __future__ import annotations

import itertools
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import pytest

from tests.dns64.conftest import StartSidecar, StartUpstream
from tests.dns64.sidecar import eventually, free_port
from tests.dns64.upstreams import Upstream, Zone, texts

ZONE = Zone.of(
    *(f"n{number}.example. 300 IN AAAA 2001:db8::{number}" for number in range(40)),
    *(f"v{number}.example. 300 IN A 198.51.100.{number}" for number in range(40)),
    "short.example. 1 IN A 198.51.100.7",
)
SYNTHESIZED = "v7.example. 300 IN AAAA 64:ff9b:1::c633:6407"


def silent(query: dns.message.Message, proto: str) -> None:
    return None


def servfail(query: dns.message.Message, proto: str) -> dns.message.Message:
    response = dns.message.make_response(query)
    response.set_rcode(dns.rcode.SERVFAIL)
    return response


def test_a_lost_upstream_is_passed_over(upstream: StartUpstream, sidecar: StartSidecar) -> None:
    bad, good = upstream(silent), upstream(ZONE)
    server = sidecar(f"forward . {bad} {good} {{\npolicy sequential\nread_timeout 200ms\n}}")
    started = time.monotonic()
    assert texts(server.ask("v7.example").answer) == [SYNTHESIZED]
    assert time.monotonic() - started < 3


def test_an_upstream_that_loses_every_other_datagram_costs_time_and_no_answer(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    asked = itertools.count()

    def lossy(query: dns.message.Message, proto: str) -> dns.message.Message | None:
        return ZONE(query, proto) if next(asked) % 2 else None

    up = upstream(lossy)
    server = sidecar(
        f"cache\nforward . {up} {{\nread_timeout 100ms\nmax_fails 0\nmax_connect_attempts 20\n}}"
    )
    for number in range(10):
        assert server.ask(f"v{number}.example").answer[0].ttl == 300
    assert len(up.types()) > 20
    assert server.metric("nat64_dns64_under_way") == 0


def test_a_reply_that_comes_too_late_is_a_stray_and_the_next_try_answers(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    late = threading.Event()

    def delayed(query: dns.message.Message, proto: str) -> dns.message.Message:
        late.wait(20)
        return ZONE(query, proto)

    slow, quick = upstream(delayed), upstream(ZONE)
    server = sidecar(
        f"cache\nforward . {slow} {quick} {{\n"
        "policy sequential\nread_timeout 200ms\nmax_fails 0\n}"
    )
    assert texts(server.ask("v7.example").answer) == [SYNTHESIZED]
    late.set()
    strays = "nat64_dns64_stray_replies_total"
    # two questions, each with a copy without EDNS half-way through the time-out
    eventually(lambda: server.metric(strays, to=str(slow)) == 4)
    assert server.ask("v7.example").answer[0][0].to_text() == "64:ff9b:1::c633:6407"


def test_a_closed_port_is_passed_over_at_once(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    server = sidecar(f"forward . [::1]:{free_port()} {upstream(ZONE)} {{\npolicy sequential\n}}")
    started = time.monotonic()
    assert texts(server.ask("v7.example").answer) == [SYNTHESIZED]
    assert time.monotonic() - started < 3  # waiting for a reply would take 4


def test_no_upstream_at_all_is_servfail_with_the_reason(sidecar: StartSidecar) -> None:
    server = sidecar(f"cache\nforward . [::1]:{free_port()}")
    response = server.ask("v7.example")
    assert response.rcode() == dns.rcode.SERVFAIL
    (error,) = response.extended_errors()
    assert (error.code, "Connection refused" in (error.text or "")) == (23, True)
    assert "plugin/errors: 2 v7.example. AAAA" in server.log()


def test_an_upstream_that_dies_counts_as_down_and_comes_back(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    port = free_port()
    first = Upstream(ZONE, port=port)
    second = upstream(ZONE)
    server = sidecar(
        f"forward . {first} {second} {{\npolicy sequential\nread_timeout 200ms\n"
        "health_check 50ms\nmax_fails 1\n}"
    )
    assert server.ask("n1.example").answer
    assert not second.types()
    first.close()
    assert server.ask("n2.example").answer
    eventually(lambda: server.metric("nat64_dns64_upstream_down", to=f"[::1]:{port}") == 1)
    asked = len(second.types())
    assert server.ask("n3.example").answer
    assert len(second.types()) == asked + 1
    with Upstream(ZONE, port=port) as again:
        eventually(lambda: server.metric("nat64_dns64_upstream_down", to=f"[::1]:{port}") == 0)
        assert server.ask("n4.example").answer
        assert "AAAA" in again.types()
    assert server.metric("coredns_proxy_healthcheck_failures_total") > 0


def test_failfast_answers_at_once_while_all_are_down(sidecar: StartSidecar) -> None:
    server = sidecar(
        f"forward . [::1]:{free_port()} {{\nfailfast_all_unhealthy_upstreams\n"
        "health_check 20ms\nmax_fails 1\n}"
    )
    server.ask("v7.example")
    eventually(lambda: server.metric("nat64_dns64_upstream_down") == 1)
    assert server.ask("v8.example").rcode() == dns.rcode.SERVFAIL
    assert server.metric("coredns_forward_healthcheck_broken_total") > 0


@pytest.mark.parametrize("policy", ["random", "round_robin"])
def test_policies_spread_queries(
    upstream: StartUpstream, sidecar: StartSidecar, policy: str
) -> None:
    ups = [upstream(ZONE) for _ in range(3)]
    server = sidecar(f"forward . {' '.join(map(str, ups))} {{\npolicy {policy}\n}}")
    for number in range(30):
        server.ask(f"n{number}.example")
    counts = [len(up.types()) for up in ups]
    assert sum(counts) == 30
    assert min(counts) > 0
    if policy == "round_robin":
        assert counts == [10, 10, 10]


def test_failover_tries_another_upstream_for_an_rcode(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    bad, good = upstream(servfail), upstream(ZONE)
    server = sidecar(f"forward . {bad} {good} {{\npolicy sequential\nfailover SERVFAIL\n}}")
    assert texts(server.ask("v7.example").answer) == [SYNTHESIZED]


def test_next_passes_on_to_the_next_forward_stanza(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    first, second = upstream(Zone.of()), upstream(ZONE)
    server = sidecar(f"forward . {first} {{\nnext NXDOMAIN\n}}\nforward . {second}")
    assert texts(server.ask("v7.example").answer) == [SYNTHESIZED]


def test_except_and_zones_choose_the_stanza(upstream: StartUpstream, sidecar: StartSidecar) -> None:
    one, other = upstream(ZONE), upstream(ZONE)
    server = sidecar(f"forward v7.example {one}\nforward . {other} {{\nexcept v8.example\n}}")
    server.ask("v7.example")
    server.ask("v9.example")
    assert server.ask("v8.example").rcode() == dns.rcode.REFUSED
    assert {name for name, _, _ in one.asked} == {"v7.example."}
    assert {name for name, _, _ in other.asked} == {"v9.example."}


def test_max_concurrent_refuses_what_is_above_it(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    server = sidecar(f"forward . {upstream(silent)} {{\nmax_concurrent 1\nread_timeout 1s\n}}")
    thread = threading.Thread(target=lambda: server.ask("a.example"))
    thread.start()
    time.sleep(0.3)
    assert server.ask("b.example", "A").rcode() == dns.rcode.REFUSED
    thread.join()
    assert server.metric("coredns_forward_max_concurrent_rejects_total") == 1


def test_a_truncated_reply_is_fetched_over_tcp(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    def cut(query: dns.message.Message, proto: str) -> dns.message.Message:
        response = ZONE(query, proto)
        if proto == "udp":
            response.answer.clear()
            response.flags |= dns.flags.TC
        return response

    up = upstream(cut)
    server = sidecar(f"forward . {up}")
    assert texts(server.ask("v7.example").answer) == [SYNTHESIZED]
    assert [proto for name, _, proto in up.asked if name != "."] == ["udp", "tcp", "udp", "tcp"]


def ends_of(up: Upstream) -> list[int]:
    """The source ports of the connections to an upstream that are over, as they end."""
    ended: list[int] = []
    plain = up._serve_connection

    def serve(connection: socket.socket, source: int) -> None:
        plain(connection, source)
        ended.append(source)

    up._serve_connection = serve  # type: ignore[method-assign]
    return ended


def test_a_dead_tcp_connection_is_given_up_and_another_is_opened(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    """The peer is gone without a word: it takes queries, and says nothing more."""
    up = upstream(ZONE)
    server = sidecar(
        f"forward . {up} {{\nforce_tcp\nread_timeout 500ms\nmax_fails 0\nexpire 300s\n}}"
    )
    assert server.ask("v1.example").answer
    first = {port for port, _ in up.sources}
    dead = up.sources[0][0]
    up.answer = lambda query, proto: None if up.sources[-1][0] == dead else ZONE(query, proto)
    assert texts(server.ask("v7.example").answer) == [SYNTHESIZED]
    assert len(first) == 1
    assert server.metric("coredns_proxy_conn_cache_misses_total") == 2


def test_a_connection_too_old_answers_what_waits_on_it_and_is_closed(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    release = threading.Event()

    def answer(query: dns.message.Message, proto: str) -> dns.message.Message:
        if query.question[0].name.to_text().startswith("v1"):
            release.wait(30)
        return ZONE(query, proto)

    up = upstream(answer)
    ended = ends_of(up)
    server = sidecar(f"forward . {up} {{\nforce_tcp\nread_timeout 20s\nexpire 1s\nmax_age 1s\n}}")
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
        client.settimeout(20)
        client.connect(("::1", server.port))
        client.send(dns.message.make_query("v1.example", "A").to_wire())
        eventually(lambda: up.sources)
        slow = up.sources[0][0]
        time.sleep(1.1)  # past max_age
        assert texts(server.ask("v7.example").answer) == [SYNTHESIZED]
        assert up.sources[-1][0] != slow
        release.set()
        assert dns.message.from_wire(client.recv(4096)).answer
    eventually(lambda: slow in ended, 4)  # the upstream itself would wait 5 seconds


def test_an_idle_connection_is_closed_and_the_next_question_opens_another(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    up = upstream(ZONE)
    ended = ends_of(up)
    server = sidecar(f"forward . {up} {{\nforce_tcp\nexpire 300ms\n}}")
    assert server.ask("v1.example").answer
    first = up.sources[-1][0]
    eventually(lambda: first in ended, 4)  # the upstream itself would wait 5 seconds
    assert server.ask("v2.example").answer
    assert up.sources[-1][0] != first


def test_force_tcp_asks_over_tcp_only(upstream: StartUpstream, sidecar: StartSidecar) -> None:
    up = upstream(ZONE)
    server = sidecar(f"forward . {up} {{\nforce_tcp\n}}")
    for number in range(5):
        assert server.ask(f"v{number}.example").answer
    assert {proto for _, _, proto in up.asked} == {"tcp"}
    assert len({port for port, _ in up.sources}) == 1  # one connection, kept


def test_a_tcp_connection_that_is_closed_between_queries_is_opened_again(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    port = free_port()
    server = None
    for number in range(3):
        with Upstream(ZONE, port=port) as up:
            server = server or sidecar(f"forward . {up} {{\nforce_tcp\nmax_fails 0\n}}")
            assert server.ask(f"v{number}.example").answer


GARBAGE = [
    b"",
    b"\0",
    b"\0" * 12,
    b"\xff" * 12,
    b"\xff" * 600,
    b"\0\0\x81\x80\0\1\0\1\0\0\0\0",
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_no_reply(
    upstream: StartUpstream, sidecar: StartSidecar, garbage: bytes
) -> None:
    def answer(query: dns.message.Message, proto: str) -> bytes:
        return struct.pack("!H", query.id)[: len(garbage)] + garbage[2:]

    bad, good = upstream(answer), upstream(ZONE)
    server = sidecar(f"forward . {bad} {good} {{\npolicy sequential\nread_timeout 200ms\n}}")
    assert texts(server.ask("v7.example").answer) == [SYNTHESIZED]


def test_a_reply_with_a_cut_record_is_no_reply(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    def answer(query: dns.message.Message, proto: str) -> bytes:
        message = ZONE(query, proto)
        message.use_edns(False)
        return message.to_wire()[:-3]

    bad, good = upstream(answer), upstream(ZONE)
    server = sidecar(f"forward . {bad} {good} {{\npolicy sequential\nread_timeout 200ms\n}}")
    assert texts(server.ask("v7.example").answer) == [SYNTHESIZED]


def test_replies_to_other_questions_and_from_other_places_do_not_count(
    sidecar: StartSidecar,
) -> None:
    """A forger who knows the ID: wrong name, wrong type, wrong source. Then the true reply."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as up:
        up.bind(("::1", 0))
        up.settimeout(5)
        stop = threading.Event()

        def serve() -> None:
            while not stop.is_set():
                try:
                    data, source = up.recvfrom(4096)
                except OSError:
                    continue
                query = dns.message.from_wire(data)
                for wrong in ("x.example.", "v7.test."):
                    forged = dns.message.make_query(wrong, query.question[0].rdtype)
                    forged.id = query.id
                    up.sendto(dns.message.make_response(forged).to_wire(), source)
                other = dns.message.make_query(query.question[0].name, "TXT")
                other.id = query.id
                up.sendto(dns.message.make_response(other).to_wire(), source)
                with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as stranger:
                    forged_answer = dns.message.make_response(query)
                    forged_answer.set_rcode(dns.rcode.NXDOMAIN)
                    stranger.sendto(forged_answer.to_wire(), source)
                up.sendto(ZONE(query, "udp").to_wire(), source)

        thread = threading.Thread(target=serve)
        thread.start()
        server = sidecar(f"forward . [::1]:{up.getsockname()[1]}")
        assert texts(server.ask("v7.example").answer) == [SYNTHESIZED]
        assert server.metric("nat64_dns64_stray_replies_total") >= 4
        stop.set()
        thread.join()


def test_ids_ports_and_letter_case_can_not_be_guessed(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    up = upstream(ZONE)
    server = sidecar(f"forward . {up}")
    for number in range(40):
        assert server.ask(f"n{number}.example").answer
    ports = [port for port, _ in up.sources]
    idents = [ident for _, ident in up.sources]
    assert len(set(ports)) >= 3
    assert len(set(idents)) > 35
    assert ports != sorted(ports)
    spelled = {query.question[0].name.to_text()[-8:] for query in up.queries}
    assert len(spelled) > 10


def test_an_upstream_that_folds_letter_case_is_asked_over_tcp_then_in_lower_case(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    zone = [ZONE]

    def fold(query: dns.message.Message, proto: str) -> bytes:
        response = zone[0](query, proto)
        lower = dns.name.from_text(query.question[0].name.to_text().lower())
        response.question[0].name = lower
        for rrset in response.answer:
            rrset.name = lower
        return response.to_wire()

    up = upstream(fold)
    server = sidecar(f"forward . {up}")
    # long enough that no letter case chosen at random is the lower one
    names = [f"{'letters' * 8}{number}.example" for number in range(8)]
    for number, name in enumerate(names):
        zone[0] = Zone.of(f"{name}. 300 IN {'A 192.0.2.1' if number % 2 else 'AAAA 2001:db8::1'}")
        response = server.ask(name)
        address = response.answer[0][0].to_text()
        assert address == ("64:ff9b:1::c000:201" if number % 2 else "2001:db8::1")
    protos = [proto for name, _, proto in up.asked if name != "."]
    assert protos[:3] == ["udp", "tcp", "udp"]
    assert protos.count("tcp") == 1
    assert all(q.question[0].name.to_text().islower() for q in up.queries[2:])


def test_a_forged_denial_in_the_wrong_case_is_not_believed(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    """A forger who knows all but the letter case says that there is no AAAA. TCP says there is."""

    def forged(query: dns.message.Message, proto: str) -> dns.message.Message:
        if proto == "tcp":
            return ZONE(query, proto)
        question = query.question[0]
        swapped = question.name.to_text().swapcase()
        response = Zone.of("x.n7.example. 300 IN A 192.0.2.1")(query, proto)
        response.question[0].name = dns.name.from_text(swapped)
        return response

    server = sidecar(f"cache\nforward . {upstream(forged)}")
    assert texts(server.ask("n7.example").answer) == ["n7.example. 300 IN AAAA 2001:db8::7"]


@pytest.mark.parametrize("tcp", [False, True])
def test_an_upstream_that_answers_edns_with_a_bare_header_is_asked_without(
    upstream: StartUpstream, sidecar: StartSidecar, tcp: bool
) -> None:
    """FORMERR without a question, as old servers say it."""

    def old(query: dns.message.Message, proto: str) -> dns.message.Message | bytes:
        if query.edns < 0:
            return ZONE(query, proto)
        return struct.pack("!6H", query.id, 0x8001, 0, 0, 0, 0)

    up = upstream(old)
    option = " {\nforce_tcp\n}" if tcp else ""
    server = sidecar(f"cache\nforward . {up}{option}")
    assert texts(server.ask("v7.example").answer) == [SYNTHESIZED]
    assert [query.edns for query in up.queries].count(0) == 1
    assert server.metric("nat64_dns64_stray_replies_total") == 0


@pytest.mark.parametrize("rcode", [dns.rcode.FORMERR, dns.rcode.NOTIMP])
def test_an_upstream_older_than_edns_is_asked_without(
    upstream: StartUpstream, sidecar: StartSidecar, rcode: dns.rcode.Rcode
) -> None:
    def old(query: dns.message.Message, proto: str) -> dns.message.Message:
        if query.edns < 0:
            return ZONE(query, proto)
        response = dns.message.make_response(query)
        response.use_edns(False)
        response.set_rcode(rcode)
        return response

    up = upstream(old)
    server = sidecar(f"forward . {up}")
    assert texts(server.ask("v7.example").answer) == [SYNTHESIZED]
    assert texts(server.ask("v8.example").answer)
    assert [query.edns for query in up.queries].count(0) == 1


@contextmanager
def tcp_server(serve: object) -> Iterator[int]:
    """A TCP server that says over UDP that all is truncated, so that TCP is asked."""
    assert callable(serve)
    with Upstream(silent) as up:
        up.answer = _truncated

        def run(connection: socket.socket, source: int) -> None:
            with connection:
                serve(connection)

        up._serve_connection = run  # type: ignore[method-assign]
        yield up.port


def _truncated(query: dns.message.Message, proto: str) -> dns.message.Message:
    response = dns.message.make_response(query)
    response.flags |= dns.flags.TC
    return response


def test_a_trickle_over_tcp_costs_no_more_than_the_timeout(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    def trickle(connection: socket.socket) -> None:
        connection.recv(4096)
        for byte in b"\x00\x50" + b"\0" * 60:
            try:
                connection.sendall(bytes([byte]))
            except OSError:
                return
            time.sleep(0.1)

    with tcp_server(trickle) as port:
        server = sidecar(
            f"forward . [::1]:{port} {upstream(ZONE)} {{\npolicy sequential\nread_timeout 400ms\n}}"
        )
        started = time.monotonic()
        assert texts(server.ask("v7.example").answer) == [SYNTHESIZED]
        assert time.monotonic() - started < 3
        assert server.ask("n1.example").answer


def test_a_tcp_peer_that_closes_without_a_reply_is_passed_over(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    with tcp_server(lambda connection: connection.recv(1)) as port:
        server = sidecar(f"forward . [::1]:{port} {upstream(ZONE)} {{\npolicy sequential\n}}")
        assert texts(server.ask("v7.example").answer) == [SYNTHESIZED]


def certificate(directory: Path) -> tuple[Path, Path]:
    """A self-signed certificate for dns.example."""
    cert, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-keyout", key, "-out", cert, "-nodes", "-days", "2", "-subj", "/CN=dns.example",
         "-addext", "subjectAltName=DNS:dns.example"],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


def test_tls_upstreams_are_verified_by_name(sidecar: StartSidecar, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with Upstream(ZONE) as up:
        plain = up._serve_connection

        def over_tls(connection: socket.socket, source: int) -> None:
            try:
                plain(context.wrap_socket(connection, server_side=True), source)
            except OSError:
                connection.close()

        up._serve_connection = over_tls  # type: ignore[method-assign]
        tls = f"tls {cert}\nmax_fails 0\n"
        good = sidecar(f"forward . tls://{up} {{\n{tls}tls_servername dns.example\n}}")
        assert texts(good.ask("v7.example").answer) == [SYNTHESIZED]
        assert {proto for _, _, proto in up.asked} == {"tcp"}
        per_upstream = f"tls://[::1%dns.example]:{up.port}".replace("]:", "]:")
        named = sidecar(f"forward . {per_upstream} {{\n{tls}}}")
        assert texts(named.ask("v7.example").answer) == [SYNTHESIZED]
        other = sidecar(f"forward . tls://{up} {{\n{tls}tls_servername other.example\n}}")
        response = other.ask("v7.example")
        assert response.rcode() == dns.rcode.SERVFAIL
        assert "certificate verify failed" in str(response.extended_errors()[0].text)


def test_servfail_is_cached_for_as_long_as_it_says(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    up = upstream(servfail)
    server = sidecar(f"cache {{\nservfail 3s\n}}\nforward . {up}")
    for _ in range(5):
        assert server.ask("v7.example", "A").rcode() == dns.rcode.SERVFAIL
    assert up.types() == ["A"]
    time.sleep(3.1)
    server.ask("v7.example", "A")
    assert up.types() == ["A", "A"]


def test_stale_answers_bridge_a_dead_upstream(sidecar: StartSidecar) -> None:
    with Upstream(ZONE) as up:
        server = sidecar(
            "cache {\nsuccess 1024 3600 0\nserve_stale 1h immediate 7s\n}\n"
            f"forward . {up} {{\nread_timeout 200ms\nmax_connect_attempts 1\n}}"
        )
        assert server.ask("short.example").answer[0].ttl == 1
    time.sleep(2.1)
    for _ in range(2):
        response = server.ask("short.example")
        assert response.answer[0].ttl == 7
        assert [error.code for error in response.extended_errors()] == [3]
    assert server.metric("coredns_cache_served_stale_total") == 2


def test_stale_answers_are_refreshed_in_the_background(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    up = upstream(ZONE)
    server = sidecar(f"cache {{\nsuccess 1024 3600 0\nserve_stale\n}}\nforward . {up}")
    server.ask("short.example")
    time.sleep(2.1)
    assert server.ask("short.example").answer[0].ttl == 0
    eventually(lambda: len(up.types()) == 4)
    assert server.ask("short.example").answer[0].ttl == 1


def test_verify_asks_first_and_serves_stale_only_on_failure(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    up = upstream(ZONE)
    server = sidecar(
        "cache {\nsuccess 1024 3600 0\nserve_stale 1h verify 300ms\n}\n"
        f"forward . {up} {{\nread_timeout 4s\n}}"
    )
    server.ask("short.example")
    time.sleep(2.1)
    assert server.ask("short.example").answer[0].ttl == 1
    time.sleep(2.1)
    up.answer = silent
    started = time.monotonic()
    assert server.ask("short.example").answer[0].ttl == 0
    assert 0.2 < time.monotonic() - started < 3.5


@pytest.mark.parametrize("log", ["", "log\n"], ids=["fast path", "logged"])
def test_popular_answers_are_fetched_before_they_expire(
    upstream: StartUpstream, sidecar: StartSidecar, log: str
) -> None:
    zone = Zone.of("p.example. 3 IN A 198.51.100.7")
    up = upstream(zone)
    server = sidecar(f"{log}cache {{\nsuccess 1024 3600 0\nprefetch 2 1m 50%\n}}\nforward . {up}")
    for _ in range(12):
        assert server.ask("p.example").answer[0].ttl > 0
        time.sleep(0.4)
    assert len(up.types()) >= 4
    assert server.metric("coredns_cache_prefetch_total") >= 1
    assert server.metric("coredns_cache_misses_total") == 1


def test_positive_answers_are_preferred_where_that_is_asked_for(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    up = upstream(ZONE)
    server = sidecar(
        "cache {\nsuccess 1024 3600 0\nserve_stale\nserve_stale_policy prefer_positive\n}\n"
        f"forward . {up}"
    )
    assert server.ask("short.example").answer
    up.answer = Zone.of()
    time.sleep(2.1)
    for _ in range(4):  # the refresh brings NXDOMAIN, and the old answer stays
        assert server.ask("short.example").answer[0].ttl == 0
        time.sleep(0.2)
    assert server.metric("coredns_cache_entries", type="denial") >= 1


@pytest.mark.parametrize(
    ("option", "recursion"), [("", True), (" no_rec domain up.example", False)]
)
def test_health_checks_ask_as_configured(
    upstream: StartUpstream, sidecar: StartSidecar, option: str, recursion: bool
) -> None:
    up = upstream(silent)
    server = sidecar(f"forward . {up} {{\nread_timeout 100ms\nhealth_check 100ms{option}\n}}")
    server.ask("v7.example")
    name = "." if recursion else "up.example."
    probes = [q for q in up.queries if q.question[0].name.to_text().lower() == name]
    assert probes
    assert all(bool(q.flags & dns.flags.RD) is recursion for q in probes)
