"""The whole sidecar over real sockets: transports, cache, clients, endpoints, signals."""

from __future__ import annotations

import json
import re
import signal
import socket
import struct
import threading
import time
from pathlib import Path

import dns.edns
import dns.flags
import dns.message
import dns.query
import dns.rcode
import pytest

from nat64_dataplane.corefile import content_hash
from nat64_dataplane.dns64.message.answer import WITHHELD_TTL
from tests.dns64.conftest import PLUGINS, StartSidecar, StartUpstream
from tests.dns64.sidecar import eventually
from tests.dns64.upstreams import Zone, texts

ZONE = Zone.of(
    "v4.example. 300 IN A 198.51.100.7",
    "v6.example. 300 IN AAAA 2001:db8::1",
    "short.example. 1 IN A 198.51.100.7",
    "v4.exempt.example. 300 IN A 198.51.100.8",
    "alias.example. 60 IN CNAME v4.example.",
    "7.100.51.198.in-addr.arpa. 300 IN PTR v4.example.",
    *(f"big.example. 300 IN A 192.0.2.{host}" for host in range(1, 120)),
)


def every_name(query: dns.message.Message, _proto: str) -> dns.message.Message:
    """Every name has an A record and no AAAA."""
    name = query.question[0].name.to_text()
    return Zone.of(f"{name} 300 IN A 198.51.100.7")(query, _proto)


@pytest.mark.parametrize("tcp", [False, True])
def test_synthesizes_over_udp_and_tcp(
    upstream: StartUpstream, sidecar: StartSidecar, tcp: bool
) -> None:
    server = sidecar(f"cache\nforward . {upstream(ZONE)}")
    answer = texts(server.ask("alias.example", tcp=tcp).answer)
    assert answer == [
        "alias.example. 60 IN CNAME v4.example.",
        "v4.example. 300 IN AAAA 64:ff9b:1::c633:6407",
    ]


def test_a_hit_is_the_miss_with_lower_ttls(upstream: StartUpstream, sidecar: StartSidecar) -> None:
    up = upstream(ZONE)
    server = sidecar(f"cache\nforward . {up}")
    for edns in (False, True, 4096):
        first = server.ask("alias.example", edns=edns)
        time.sleep(1.1)
        again = server.ask("alias.example", edns=edns)
        assert [r.ttl for r in again.answer] != [r.ttl for r in first.answer]
        assert [(r.name, r.rdtype, list(r)) for r in again.answer] == [
            (r.name, r.rdtype, list(r)) for r in first.answer
        ]
        assert (again.rcode(), again.flags, again.payload) == (
            first.rcode(),
            first.flags,
            first.payload,
        )
    assert up.types() == ["AAAA", "A"]
    assert server.metric("coredns_cache_hits_total", type="success") == 5


def test_denials_are_cached_by_their_soa(upstream: StartUpstream, sidecar: StartSidecar) -> None:
    up = upstream(ZONE)
    server = sidecar(f"cache\nforward . {up}")
    for _ in range(3):
        assert server.ask("none.example").rcode() == dns.rcode.NXDOMAIN
    assert up.types() == ["AAAA"]
    assert server.metric("coredns_cache_hits_total", type="denial") == 2


def test_letter_case_of_the_question_comes_back(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    server = sidecar(f"cache\nforward . {upstream(ZONE)}")
    for name in ("V4.Example.", "v4.EXAMPLE.", "v4.example."):
        response = server.ask(name)
        assert response.question[0].name.to_text() == name
        assert response.answer[0].name.to_text() == name


def test_what_expired_is_asked_again(upstream: StartUpstream, sidecar: StartSidecar) -> None:
    up = upstream(ZONE)
    server = sidecar(f"cache {{\nsuccess 1024 3600 0\n}}\nforward . {up}")
    server.ask("short.example")
    time.sleep(2.1)
    server.ask("short.example")
    assert up.types() == ["AAAA", "A"] * 2


def test_what_is_too_large_for_udp_is_truncated_and_whole_over_tcp(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    server = sidecar(f"cache\nforward . {upstream(ZONE)}")
    for _ in range(2):  # a miss, then a hit
        cut = server.ask("big.example")
        assert cut.flags & dns.flags.TC
        assert len(cut.to_wire(max_size=65535)) <= 1232
        assert len(cut.answer[0]) == 42  # as many as fit, for clients without TCP
        whole = server.ask("big.example", tcp=True)
        assert not whole.flags & dns.flags.TC
        assert len(whole.answer[0]) == 119


@pytest.mark.parametrize(("size", "fits"), [(512, False), (1232, True), (65535, True), (0, False)])
def test_edns_sizes_are_kept_to(
    upstream: StartUpstream, sidecar: StartSidecar, size: int, fits: bool
) -> None:
    zone = Zone.of(*(f"m.example. 300 IN A 192.0.2.{host}" for host in range(1, 31)))
    server = sidecar(f"cache\nforward . {upstream(zone)}")
    for _ in range(2):
        response = server.ask("m.example", edns=0 if size else False)
        query = dns.message.make_query("m.example", "AAAA", use_edns=bool(size), payload=size)
        response = dns.query.udp(query, "::1", 20, server.port)
        assert bool(response.flags & dns.flags.TC) is not fits
        assert (response.edns == 0) is bool(size)


def test_do_is_told_upstream_and_back(upstream: StartUpstream, sidecar: StartSidecar) -> None:
    up = upstream(ZONE)
    server = sidecar(f"cache\nforward . {up}")
    response = server.ask("v4.example", do=True)
    assert response.ednsflags & dns.flags.DO
    assert [error.code for error in response.extended_errors()] == [29]
    assert all(q.ednsflags & dns.flags.DO for q in up.queries if q.question[0].name.labels[0])
    assert not server.ask("v4.example").ednsflags & dns.flags.DO


def test_ipv4_clients_get_no_synthesis_unless_allowed(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    up = upstream(ZONE)
    plugins = PLUGINS.replace("bind ::1", "bind ::1 127.0.0.1")
    server = sidecar(f"cache\nforward . {up}", plugins=plugins)
    assert server.ask("v4.example", address="::1").answer
    assert not server.ask("v4.example", address="127.0.0.1").answer
    allowed = sidecar(
        f"cache\nforward . {up}",
        plugins=plugins,
        dns64="dns64 {\nprefix 64:ff9b:1::/96\nallow_ipv4\n}\n",
    )
    assert allowed.ask("v4.example", address="127.0.0.1").answer


def test_the_wildcard_serves_both_families_and_answers_from_the_address_asked(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    server = sidecar(f"cache\nforward . {upstream(ZONE)}", plugins="bind ::\n")
    for _ in range(2):  # dns.query checks the source of the response
        assert server.ask("v4.example", address="::1").answer
        assert server.ask("v6.example", address="127.0.0.1").answer
        assert server.ask("v6.example", address="127.1.2.3").answer


def test_without_acl_strangers_are_refused(upstream: StartUpstream, sidecar: StartSidecar) -> None:
    plugins = PLUGINS + "acl {\nblock net ::1\n}\n"
    server = sidecar(f"cache\nforward . {upstream(ZONE)}", plugins=plugins)
    assert server.ask("v4.example").rcode() == dns.rcode.REFUSED
    assert server.metric("coredns_acl_blocked_requests_total") == 1


def test_who_is_dropped_gets_no_error_either(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    plugins = PLUGINS + "acl {\ndrop net ::1\n}\n"
    server = sidecar(f"cache\nforward . {upstream(ZONE)}", plugins=plugins)
    server.write(f"example:PORT {{\n{plugins}forward . {upstream(ZONE)}\n}}\n")
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: server.metric("coredns_plugin_enabled", zone="example.") > 0)
    notify = dns.message.make_query("example", "SOA")
    notify.set_opcode(dns.opcode.NOTIFY)
    versioned = dns.message.make_query("v4.example", "AAAA", use_edns=1)
    outside = dns.message.make_query("www.test", "AAAA")
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
        client.connect(("::1", server.port))
        for query in (notify, versioned, outside):
            client.send(query.to_wire())
        client.send(struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + b"\x03www")
        eventually(lambda: server.metric("nat64_dns64_malformed_queries_total") == 1)
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(512)
    assert server.metric("coredns_acl_dropped_requests_total") == 2


def test_acl_filters_drops_and_goes_by_type(upstream: StartUpstream, sidecar: StartSidecar) -> None:
    plugins = PLUGINS + "acl {\nfilter type MX\ndrop type TXT\nallow net ::1\nblock\n}\n"
    server = sidecar(f"cache\nforward . {upstream(ZONE)}", plugins=plugins)
    assert server.ask("v4.example").answer
    assert server.ask("v4.example", "MX").rcode() == dns.rcode.NOERROR
    with pytest.raises(dns.exception.Timeout):
        server.ask("v4.example", "TXT", timeout=0.5)


def test_transfers_other_opcodes_and_edns_versions_are_refused(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    server = sidecar(f"forward . {upstream(ZONE)}")
    assert server.ask("example", "AXFR", tcp=True).rcode() == dns.rcode.REFUSED
    notify = dns.message.make_query("example", "SOA")
    notify.set_opcode(dns.opcode.NOTIFY)
    assert dns.query.udp(notify, "::1", 20, server.port).rcode() == dns.rcode.NOTIMP
    versioned = dns.message.make_query("v4.example", "AAAA", use_edns=1)
    assert dns.query.udp(versioned, "::1", 20, server.port).rcode() == dns.rcode.BADVERS


def test_cookies_and_other_options_are_no_obstacle(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    server = sidecar(f"cache\nforward . {upstream(ZONE)}")
    for number in range(3):
        cookie = dns.edns.GenericOption(dns.edns.OptionType.COOKIE, bytes([number]) * 8)
        query = dns.message.make_query("v4.example", "AAAA", options=[cookie])
        assert dns.query.udp(query, "::1", 20, server.port).answer


def test_tcp_answers_pipelined_queries_out_of_order(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    def answer(query: dns.message.Message, proto: str) -> dns.message.Message:
        if query.question[0].name.to_text().lower().startswith("slow"):
            time.sleep(0.5)
        return Zone.of("slow.example. 9 IN AAAA ::2", "v6.example. 9 IN AAAA ::1")(query, proto)

    server = sidecar(f"cache\nforward . {upstream(answer)} {upstream(answer)}\n")
    server.ask("v6.example")
    queries = [dns.message.make_query(name, "AAAA") for name in ("slow.example", "v6.example")]
    with socket.create_connection(("::1", server.port), timeout=20) as connection:
        for query in queries:
            dns.query.send_tcp(connection, query)
        first = dns.query.receive_tcp(connection, time.time() + 20)[0]
        second = dns.query.receive_tcp(connection, time.time() + 20)[0]
    assert [first.id, second.id] == [queries[1].id, queries[0].id]


def test_tcp_reads_queries_however_they_are_cut(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    server = sidecar(f"cache\nforward . {upstream(ZONE)}")
    wire = dns.message.make_query("v4.example", "AAAA").to_wire(prepend_length=True)
    with socket.create_connection(("::1", server.port), timeout=20) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in wire + wire:
            connection.sendall(bytes([byte]))
            time.sleep(0.002)
        for _ in range(2):
            assert dns.query.receive_tcp(connection, time.time() + 20)[0].answer


def test_tcp_connections_that_are_slow_or_idle_are_closed(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    server = sidecar(f"cache\nforward . {upstream(ZONE)}")
    with socket.create_connection(("::1", server.port), timeout=8) as connection:
        connection.sendall(b"\0\x30half")
        started = time.monotonic()
        assert connection.recv(1) == b""
        assert 2 < time.monotonic() - started < 6


def test_half_closed_connections_get_their_answers(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    server = sidecar(f"cache\nforward . {upstream(ZONE)}")
    with socket.create_connection(("::1", server.port), timeout=8) as connection:
        dns.query.send_tcp(connection, dns.message.make_query("v4.example", "AAAA"))
        connection.shutdown(socket.SHUT_WR)
        assert dns.query.receive_tcp(connection, time.time() + 20)[0].answer
        assert connection.recv(1) == b""


def test_questions_asked_at_once_are_asked_upstream_once(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    def slowly(query: dns.message.Message, proto: str) -> dns.message.Message:
        time.sleep(0.2)
        return ZONE(query, proto)

    up = upstream(slowly)
    server = sidecar(f"cache\nforward . {up}")
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
        client.settimeout(20)
        client.connect(("::1", server.port))
        queries = [dns.message.make_query("v4.example", "AAAA") for _ in range(20)]
        for query in queries:
            client.send(query.to_wire())
        received = {dns.message.from_wire(client.recv(4096)).id for _ in queries}
    assert received == {query.id for query in queries}
    assert up.types() == ["AAAA", "A"]


def test_malformed_messages_get_formerr_or_nothing(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    server = sidecar(f"cache\nforward . {upstream(ZONE)}")
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
        client.settimeout(20)
        client.connect(("::1", server.port))
        client.send(struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + b"\x03www")
        assert dns.message.from_wire(client.recv(512)).rcode() == dns.rcode.FORMERR
        client.send(b"short")
        client.send(struct.pack("!6H", 7, 0x8000, 1, 0, 0, 0) + b"\0\0\1\0\1")  # a response
        client.settimeout(1)
        with pytest.raises(TimeoutError):
            client.recv(512)
    assert server.ask("v4.example").answer
    assert server.metric("nat64_dns64_malformed_queries_total") == 3


def test_several_blocks_and_zones_share_a_port(
    upstream: StartUpstream, sidecar: StartSidecar, tmp_path: Path
) -> None:
    one, other = upstream(ZONE), upstream(Zone.of("x.other.test. 9 IN A 192.0.2.9"))
    server = sidecar(
        f"cache\nforward . {one}\n}}\nother.test:PORT third.test:PORT {{\nbind ::1\n"
        f"dns64 64:ff9b:2::/96\ncache\nforward . {other}"
    )
    for _ in range(2):
        assert server.ask("v4.example").answer[0][0].to_text() == "64:ff9b:1::c633:6407"
        assert server.ask("x.other.test").answer[0][0].to_text() == "64:ff9b:2::c000:209"
    assert server.metric("coredns_dns_requests_total", zone="other.test.") == 2


def test_a_name_outside_every_zone_is_refused(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    corefile = f"forward . {upstream(ZONE)}\n}}\n"
    server = sidecar(corefile.replace("\n}\n", ""))
    server.write(f"example:PORT {{\n{PLUGINS}forward . {upstream(ZONE)}\n}}\n")
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: server.ask("www.test").rcode() == dns.rcode.REFUSED)
    before = server.metric("coredns_dns_responses_total", zone="dropped", rcode="REFUSED")
    assert before >= 1
    server.ask("www.test", "MX", tcp=True)
    labels = {"zone": "dropped", "proto": "tcp", "type": "MX"}
    assert server.metric("coredns_dns_requests_total", **labels) == 1


def test_log_lines_are_coredns_common_format(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    server = sidecar(f"cache\nforward . {upstream(ZONE)}", plugins=PLUGINS + "log\n")
    server.ask("v4.example", do=True)
    server.ask("v4.example", do=True)
    server.ask("none.example", tcp=True, edns=False)
    time.sleep(0.1)
    lines = [line for line in server.log().splitlines() if "example." in line]
    form = r'\[INFO\] \[::1\]:\d+ - \d+ "%s" %s \d+ \d\.\d{9}s'
    first = form % (r"AAAA IN v4\.example\. udp 39 true 1232", "NOERROR qr,rd,ra")
    assert re.fullmatch(first, lines[0])
    assert re.fullmatch(first, lines[1])
    third = form % (r"AAAA IN none\.example\. tcp 30 false 512", "NXDOMAIN qr,rd,ra")
    assert re.fullmatch(third, lines[2])


def test_log_by_class_and_name(upstream: StartUpstream, sidecar: StartSidecar) -> None:
    plugins = PLUGINS + 'log v4.example "{name} {rcode}" {\nclass success\n}\n'
    server = sidecar(f"cache\nforward . {upstream(ZONE)}", plugins=plugins)
    for name in ("v4.example", "v6.example", "x.v4.example"):
        server.ask(name)
    time.sleep(0.1)
    lines = [line for line in server.log().splitlines() if "example." in line]
    assert lines == ["[INFO] v4.example. NOERROR"]


def test_metrics_have_corednss_names(upstream: StartUpstream, sidecar: StartSidecar) -> None:
    server = sidecar(f"cache\nforward . {upstream(ZONE)}")
    for _ in range(3):
        server.ask("v4.example")
    server.ask("none.example", "MX", tcp=True)
    label = {"server": f"dns://[::1]:{server.port}"}
    metric = server.metric
    assert metric("coredns_dns64_requests_translated_total", **label) == 3
    assert metric("coredns_dns_requests_total", type="AAAA", proto="udp", family="2") == 3
    assert metric("coredns_dns_requests_total", type="MX", proto="tcp", zone=".") == 1
    assert metric("coredns_dns_responses_total", rcode="NXDOMAIN") == 1
    assert metric("coredns_dns_request_duration_seconds_count") == 4
    assert metric("coredns_dns_response_size_bytes_count", proto="udp") == 3
    assert metric("coredns_cache_requests_total") == 4
    assert metric("coredns_cache_misses_total") == 2
    assert metric("coredns_cache_entries", type="success") == 1
    assert metric("coredns_proxy_request_duration_seconds_count", rcode="NOERROR") >= 2
    assert "coredns_cache_drops_total{" in server.get("/metrics")[1]
    assert "nat64_dns64_tcp_connections_refused_total{" in server.get("/metrics")[1]


def test_cached_failures_are_hits_among_the_denials(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    def fails(query: dns.message.Message, _proto: str) -> dns.message.Message:
        response = dns.message.make_response(query)
        response.set_rcode(dns.rcode.SERVFAIL)
        return response

    server = sidecar(f"cache {{\nservfail 300s\n}}\nforward . {upstream(fails)}")
    for _ in range(4):
        assert server.ask("v4.example", "A").rcode() == dns.rcode.SERVFAIL
    assert server.metric("coredns_cache_hits_total", type="denial") == 3
    assert server.metric("coredns_cache_misses_total") == 1
    assert server.metric("coredns_cache_entries", type="denial") == 1


def test_replies_to_other_questions_are_cache_drops(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    def other(query: dns.message.Message, proto: str) -> dns.message.Message:
        response = ZONE(query, proto)
        response.question[0].name = dns.name.from_text("v6.example.")
        return response

    body = f"cache\nforward . {upstream(other)} {{\nread_timeout 50ms\nmax_fails 0\n}}"
    server = sidecar(body)
    assert server.ask("v4.example", "A").rcode() == dns.rcode.SERVFAIL
    assert server.metric("coredns_cache_drops_total") >= 1


def test_runtime_metrics_are_shown_where_they_are_asked_for(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    server = sidecar(f"forward . {upstream(ZONE)}")
    assert "python_gc_collections_total" not in server.get("/metrics")[1]
    good = server.path.read_text()
    listen = f"prometheus [::1]:{server.metrics_port}"
    for runtime, wanted in ((" {\nruntime_metrics\n}", True), ("", False)):
        server.write(good.replace(listen, listen + runtime))
        server.process.send_signal(signal.SIGHUP)
        eventually(
            lambda wanted=wanted: (
                ("python_gc_collections_total" in server.get("/metrics")[1]) is wanted
            )
        )


def test_the_running_corefiles_hash_is_told(upstream: StartUpstream, sidecar: StartSidecar) -> None:
    server = sidecar(f"forward . {upstream(ZONE)}")
    expected = content_hash(server.path.read_text())
    assert server.status()["corefile"] == expected
    assert server.metric("coredns_reload_version_info", hash="sha512", value=expected) == 1


def test_a_reload_changes_answers_and_a_bad_one_changes_nothing(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    up = upstream(ZONE)
    server = sidecar(f"reload 2s 0s\ncache\nforward . {up}")
    good = server.path.read_text()
    before = server.status()["corefile"]
    server.write(good.replace("64:ff9b:1::/96", "64:ff9b:1::/95"))
    eventually(lambda: server.status()["reloadFailed"])
    status = server.status()
    assert status["corefile"] == before
    assert "/95" in str(status["reloadFailed"])
    assert "allowed are /32, /40, /48, /56, /64, /96" in str(status["reloadFailed"])
    assert server.ask("v4.example").answer[0][0].to_text() == "64:ff9b:1::c633:6407"
    assert server.metric("coredns_reload_failed_total") >= 1
    server.write(good.replace("64:ff9b:1::/96", "64:ff9b:2::/96"))
    eventually(lambda: server.status()["corefile"] != before)
    assert server.status()["reloadFailed"] is None
    assert server.ask("v4.example").answer[0][0].to_text() == "64:ff9b:2::c633:6407"


def test_a_reload_loses_no_query(upstream: StartUpstream, sidecar: StartSidecar) -> None:
    """Each reload has questions that came before it and are answered after it."""
    answer = threading.Event()

    def held(query: dns.message.Message, proto: str) -> dns.message.Message:
        answer.wait(20)
        return every_name(query, proto)

    server = sidecar(f"cache\nforward . {upstream(held)} {{\nread_timeout 20s\n}}")
    good = server.path.read_text()
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
        client.settimeout(20)
        client.connect(("::1", server.port))
        for number in range(5):
            answer.clear()
            names = [f"r{number}x{each}.example" for each in range(10)]
            for name in names:
                client.send(dns.message.make_query(name, "AAAA").to_wire())
            eventually(lambda: server.metric("nat64_dns64_under_way") == 10)
            hash_before = server.status()["corefile"]
            server.write(good.replace("cache", f"cache {100 + number}"))
            server.process.send_signal(signal.SIGHUP)
            eventually(lambda before=hash_before: server.status()["corefile"] != before)
            client.send(dns.message.make_query("later.example", "AAAA").to_wire())
            answer.set()
            received = [dns.message.from_wire(client.recv(4096)) for _ in range(11)]
            assert all(message.answer for message in received)
            asked = {message.question[0].name.to_text() for message in received}
            assert asked == {f"{name}." for name in (*names, "later.example")}


def test_a_reload_that_adds_a_block_leaves_nothing_cached_for_its_names(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    server = sidecar(f"cache\nforward . {upstream(ZONE)}")
    good = server.path.read_text()
    assert server.ask("v4.example").answer
    assert server.ask("v4.example").answer
    server.write(
        good
        + f"example:PORT {{\nbind ::1\nacl {{\nblock net *\n}}\nforward . {upstream(ZONE)}\n}}\n"
    )
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: server.metric("coredns_plugin_enabled", zone="example.") > 0)
    assert server.ask("v4.example").rcode() == dns.rcode.REFUSED


def test_a_reload_with_what_no_one_foresaw_keeps_everything(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    """The Corefile becomes a directory, then text that is no text; then it is good again."""
    server = sidecar(f"reload 2s 0s\ncache\nforward . {upstream(ZONE)}")
    good, before = server.path.read_text(), server.status()["corefile"]
    server.path.unlink()
    server.path.mkdir()
    eventually(lambda: "directory" in str(server.status()["reloadFailed"]))
    failures = server.metric("coredns_reload_failed_total")
    assert failures >= 1
    server.path.rmdir()
    server.path.write_bytes(b". {\xff}")
    eventually(lambda: "UTF-8" in str(server.status()["reloadFailed"]))
    assert server.ask("v4.example").answer
    server.write(good.replace("cache", "cache 77"))
    eventually(lambda: server.status()["corefile"] != before)
    assert server.status()["reloadFailed"] is None


def test_a_reload_to_a_taken_port_keeps_everything(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    server = sidecar(f"cache\nforward . {upstream(ZONE)}")
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        port = taken.getsockname()[1]
        corefile = server.path.read_text()
        server.write(corefile.replace(f"health [::1]:{server.health}", f"health [::1]:{port}"))
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: server.status()["reloadFailed"])
        assert server.ask("v4.example").answer


def test_termination_goes_unready_answers_on_and_ends(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    plugins = PLUGINS.replace("HEALTH", "HEALTH {\nlameduck 1s\n}")
    server = sidecar(f"cache\nforward . {upstream(ZONE)}", plugins=plugins)
    assert server.get("/ready") == (200, "OK")
    server.process.send_signal(signal.SIGTERM)
    started = time.monotonic()
    eventually(lambda: server.get("/ready")[0] == 503)
    assert server.get("/health") == (200, "OK")
    assert server.ask("v4.example").answer
    assert server.process.wait(8) == 0
    assert time.monotonic() - started > 0.9


def status_file(path: Path, programmed: bool, reason: str) -> None:
    """Write the translator's status as its agent does: by rename."""
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps({"programmed": programmed, "reason": reason, "configHash": "x"}))
    draft.replace(path)


def test_without_translator_there_is_no_synthesis_and_it_says_why(
    upstream: StartUpstream, sidecar: StartSidecar, tmp_path: Path
) -> None:
    up, path = upstream(ZONE), tmp_path / "status.json"
    dns64 = f"dns64 {{\nprefix 64:ff9b:1::/96\nexempt exempt.example\ntranslator {path}\n}}\n"
    server = sidecar(f"cache\nforward . {up}", dns64=dns64)
    assert not server.ask("v4.example").answer
    assert server.ask("v6.example").answer
    assert not server.ask("ipv4only.arpa").answer
    code, text = server.get("/ready")
    assert (code, "doesn't exist" in text) == (503, True)
    assert server.metric("nat64_dns64_synthesis_enabled") == 0
    assert not server.ask("v4.example").answer
    assert not server.ask("none.example").answer
    assert not server.ask("v4.example", cd=True).answer
    assert not server.ask("v4.exempt.example").answer
    # what has real AAAA, doesn't exist, is exempt or asked for with CD would not be synthesized
    assert server.metric("nat64_dns64_synthesis_withheld_total") == 3
    status_file(path, True, "")
    eventually(lambda: server.get("/ready")[0] == 200)
    assert server.ask("v4.example").answer
    status_file(path, False, "hook missing on eth0")
    eventually(lambda: server.get("/ready")[0] == 503)
    assert "hook missing on eth0" in str(server.status()["reason"])
    denial = server.ask("v4.example")
    assert not denial.answer
    # CoreDNS behind us asks again soon; what a translator would not change lives as long as ever
    assert [rrset.ttl for rrset in denial.authority] == [WITHHELD_TTL]
    assert server.ask("none.example").authority[0].ttl > WITHHELD_TTL
    assert "no synthesis: hook missing on eth0" in server.log()


def test_without_translator_it_can_fail_instead(
    upstream: StartUpstream, sidecar: StartSidecar, tmp_path: Path
) -> None:
    path = tmp_path / "status.json"
    dns64 = (
        f"dns64 {{\nprefix 64:ff9b:1::/96\nexempt exempt.example\ntranslator {path} servfail\n}}\n"
    )
    server = sidecar(f"cache\nforward . {upstream(ZONE)}", dns64=dns64)
    assert server.ask("v4.example").rcode() == dns.rcode.SERVFAIL
    assert server.ask("v4.example", "A").answer
    assert server.ask("v4.exempt.example").rcode() == dns.rcode.NOERROR
    status_file(path, True, "")
    eventually(lambda: server.get("/ready")[0] == 200)
    assert server.ask("v4.example").answer


def test_the_cache_does_not_answer_for_a_translator_that_is_gone(
    upstream: StartUpstream, sidecar: StartSidecar, tmp_path: Path
) -> None:
    """An empty answer that is cached for clients without synthesis is not the answer to those who
    are to be told SERVFAIL.
    """
    path = tmp_path / "status.json"
    status_file(path, True, "")
    dns64 = f"dns64 {{\nprefix 64:ff9b:1::/96\ntranslator {path} servfail\n}}\n"
    plugins = PLUGINS.replace("bind ::1", "bind ::1 127.0.0.1")
    server = sidecar(f"cache\nforward . {upstream(ZONE)}", dns64=dns64, plugins=plugins)
    assert not server.ask("v4.example", address="127.0.0.1").answer  # IPv4 clients get no synthesis
    status_file(path, False, "hook missing")
    eventually(lambda: server.get("/ready")[0] == 503)
    for _ in range(3):
        assert server.ask("v4.example").rcode() == dns.rcode.SERVFAIL
    assert server.metric("nat64_dns64_synthesis_withheld_total") == 3


def test_loop_ends_a_process_that_forwards_to_itself(sidecar: StartSidecar) -> None:
    server = sidecar("loop\nforward . [::1]:PORT")
    assert server.process.wait(8) == 1
    assert "Loop detected" in server.log()


def test_like_errors_are_told_together(sidecar: StartSidecar) -> None:
    plugins = PLUGINS.replace("errors", 'errors {\nconsolidate 1s "refused" warning show_first\n}')
    server = sidecar("forward . 127.0.0.1:1 {\nmax_fails 0\n}", plugins=plugins)
    for number in range(4):
        server.ask(f"n{number}.example", "A")
    eventually(lambda: "3 errors like" in server.log() or "4 errors like" in server.log())
    assert server.log().count("plugin/errors: 2 n") == 1


def test_the_ipv4_wildcard_answers_from_the_address_asked(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    server = sidecar(
        f"cache\nforward . {upstream(ZONE)}", plugins="bind 0.0.0.0\n", address="127.0.0.1"
    )
    for address in ("127.0.0.1", "127.9.8.7"):  # dns.query checks the source of the response
        for _ in range(2):
            assert server.ask("v6.example", address=address).answer
