"""Odd behaviour of real upstreams and clients that must not make names fail, over real sockets."""

from __future__ import annotations

import concurrent.futures
import socket
import struct
import threading
import time

import dns.flags
import dns.message
import dns.opcode
import dns.query
import dns.rcode
import dns.rdatatype
import dns.rrset
import dns.update
import pytest

from tests.dns64.conftest import StartSidecar, StartUpstream
from tests.dns64.messages import rrset
from tests.dns64.sidecar import Sidecar
from tests.dns64.upstreams import SOA, Zone, texts

A, AAAA = dns.rdatatype.A, dns.rdatatype.AAAA
ZONE = Zone.of(
    "v4.example. 300 IN A 198.51.100.7",
    "v6.example. 300 IN AAAA 2001:db8::6",
    "blocked.example. 300 IN A 0.0.0.0",
    "loopback.example. 300 IN A 127.0.0.1",
    "mixed.example. 300 IN A 127.0.0.1",
    "mixed.example. 300 IN A 198.51.100.7",
    "text.example. 300 IN TXT text",
    "svc.example. 300 IN HTTPS 1 . alpn=h2 ipv4hint=198.51.100.7 ipv6hint=2001:db8::7",
    "_dns.v4.example. 300 IN SVCB 1 v4.example. alpn=dot ipv4hint=198.51.100.7",
)
SYNTHESIZED = "v4.example. 300 IN AAAA 64:ff9b:1::c633:6407"


def many(count: int, alias: str = "") -> Zone:
    owner = "target.example." if alias else "big.example."
    lines = [f"{owner} 300 IN A 198.51.{n >> 8}.{n & 255}" for n in range(count)]
    return Zone.of(*([f"{alias} 300 IN CNAME {owner}"] if alias else []), *lines)


@pytest.mark.parametrize(("edns", "limit"), [(False, 512), (0, 1232)])
def test_a_client_without_tcp_gets_the_aliases_and_as_many_addresses_as_fit(
    upstream: StartUpstream, sidecar: StartSidecar, edns: int | bool, limit: int
) -> None:
    server = sidecar(f"cache\nforward . {upstream(many(100, 'alias.example.'))}")
    for _ in range(2):  # a miss, then a hit
        cut = server.ask("alias.example", edns=edns)
        size = len(cut.to_wire(max_size=65535))
        assert cut.flags & dns.flags.TC
        assert limit - 28 < size <= limit
        alias, addresses = cut.answer
        assert (alias.name.to_text(), alias[0].to_text()) == ("alias.example.", "target.example.")
        assert {r.rdtype for r in addresses} == {AAAA}


def test_aliases_behind_the_addresses_are_kept_when_the_rest_is_cut(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    def answer(query: dns.message.Message, proto: str) -> dns.message.Message:
        response = many(100, "alias.example.")(query, proto)
        response.answer.reverse()
        return response

    server = sidecar(f"forward . {upstream(answer)}")
    cut = server.ask("alias.example")
    assert cut.flags & dns.flags.TC
    by_type = {found.rdtype: found for found in cut.answer}
    assert texts([by_type[dns.rdatatype.CNAME]])
    assert len(by_type[AAAA]) > 30


def test_what_is_too_large_for_tcp_is_cut_and_not_emptied(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    server = sidecar(
        f"forward . {upstream(many(3500))} {{\nforce_tcp\n}}",
        dns64="dns64 {\nprefix 64:ff9b:1::/96\nprefix 2001:db8:64::/96\n}\n",
    )
    whole = server.ask("big.example", tcp=True)
    assert 2300 < len(whole.answer[0]) < 7000
    assert len(whole.to_wire(max_size=65535)) > 65000


def changed(change: object) -> object:
    def answer(query: dns.message.Message, proto: str) -> bytes:
        assert callable(change)
        return bytes(change(query, ZONE(query, proto)))

    return answer


def trailing(query: dns.message.Message, good: dns.message.Message) -> bytes:
    return good.to_wire() + b"\0trailing"


def second_opt(query: dns.message.Message, good: dns.message.Message) -> bytes:
    wire = good.to_wire()
    return wire[:11] + b"\2" + wire[12:] + b"\0\0\x29\x10\0\0\0\0\0\0\0"


def bad_additional(query: dns.message.Message, good: dns.message.Message) -> bytes:
    good.use_edns(False)
    wire = good.to_wire()
    return wire[:11] + b"\1" + wire[12:] + b"\xc0\x0c\0\1\0\1\0\0\0\1\0\3abc"


def cut_additional(query: dns.message.Message, good: dns.message.Message) -> bytes:
    good.use_edns(False)
    wire = good.to_wire()
    return wire[:11] + b"\2" + wire[12:] + b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4abcd\xc0\x0c\0\1"


def bad_option(query: dns.message.Message, good: dns.message.Message) -> bytes:
    good.use_edns(False)
    wire = good.to_wire()
    return wire[:11] + b"\1" + wire[12:] + b"\0\0\x29\x10\0\0\0\0\0\0\5\0\x0f\0\x63a"


@pytest.mark.parametrize(
    "change", [trailing, second_opt, bad_additional, cut_additional, bad_option]
)
@pytest.mark.parametrize("tcp", [False, True])
def test_of_an_untidy_reply_what_is_good_is_read(
    upstream: StartUpstream, sidecar: StartSidecar, change: object, tcp: bool
) -> None:
    up = upstream(changed(change))  # type: ignore[arg-type]
    server = sidecar(f"forward . {up}" + (" {\nforce_tcp\n}" if tcp else ""))
    for do in (False, True):
        assert texts(server.ask("v4.example", do=do).answer) == [SYNTHESIZED]
        for name, rdtype in (("text.example", "TXT"), ("v4.example", "A")):
            response = server.ask(name, rdtype, do=do)  # dnspython parses the whole message
            assert len(response.answer) == 1
    assert server.ask("gone.example").rcode() == dns.rcode.NXDOMAIN


def test_a_truncated_reply_that_ends_in_a_record_is_fetched_over_tcp(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    def answer(query: dns.message.Message, proto: str) -> dns.message.Message | bytes:
        response = ZONE(query, proto)
        if proto == "tcp":
            return response
        response.use_edns(False)
        response.flags |= dns.flags.TC
        return response.to_wire()[:-5]

    up = upstream(answer)
    server = sidecar(f"forward . {up} {{\nmax_connect_attempts 1\n}}")
    assert texts(server.ask("v4.example").answer) == [SYNTHESIZED]


def test_update_and_notify_with_records_are_not_implemented(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    server = sidecar(f"forward . {upstream(ZONE)}")
    update = dns.update.UpdateMessage("example")
    update.add("new", 300, "A", "198.51.100.1")
    update.present("v4")
    notify = dns.message.make_query("example", "SOA")
    notify.set_opcode(dns.opcode.NOTIFY)
    notify.answer.append(rrset(SOA))
    for message in (update, notify):
        for send in (dns.query.udp, dns.query.tcp):
            response = send(message, "::1", 20, server.port)
            assert response.rcode() == dns.rcode.NOTIMP
            assert response.opcode() == message.opcode()
    status = struct.pack("!6H", 7, 0x1000, 0, 0, 0, 0)  # no question at all
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
        client.settimeout(20)
        client.sendto(status, ("::1", server.port))
        assert client.recv(512)[3] & 15 == dns.rcode.NOTIMP


def test_an_empty_answer_offers_recursion_whatever_upstream_does(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    """glibc takes a response without RA for one of a lame server, and asks the next."""

    def authoritative(query: dns.message.Message, proto: str) -> dns.message.Message:
        response = ZONE(query, proto)
        response.flags &= ~dns.flags.RA
        return response

    server = sidecar(f"cache\nforward . {upstream(authoritative)}")
    for name, rdtype in (
        ("text.example", "AAAA"),
        ("text.example", "A"),
        ("v4.example", "MX"),
        ("blocked.example", "AAAA"),
    ):
        for _ in range(2):
            response = server.ask(name, rdtype)
            assert (response.rcode(), response.answer) == (dns.rcode.NOERROR, [])
            assert response.flags & dns.flags.RA, (name, rdtype)


@pytest.mark.parametrize("prefix", ["64:ff9b:1::/96", "64:ff9b::/96", "2001:db8:64::/48"])
@pytest.mark.parametrize("special", ["filter", "allow"])
def test_a_blocked_name_is_blocked_over_ipv6_too(
    upstream: StartUpstream, sidecar: StartSidecar, prefix: str, special: str
) -> None:
    server = sidecar(
        f"forward . {upstream(ZONE)}",
        dns64=f"dns64 {{\nprefix {prefix}\nspecial_use {special}\nmap 127.0.0.0/8 {prefix}\n}}\n",
    )
    for name in ("blocked.example", "loopback.example"):
        response = server.ask(name)
        assert (response.rcode(), response.answer) == (dns.rcode.NOERROR, [])
    mixed = server.ask("mixed.example").answer
    assert sum(map(len, mixed)) == (0 if (prefix, special) == ("64:ff9b::/96", "filter") else 1)


def without_recursion(server: Sidecar, name: str, rdtype: str) -> dns.message.Message:
    query = dns.message.make_query(name, rdtype)
    query.flags &= ~dns.flags.RD
    return dns.query.udp(query, "::1", 20, server.port)


def test_without_rd_upstream_is_not_asked_to_recurse_and_nothing_is_kept(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    def recursive(query: dns.message.Message, proto: str) -> dns.message.Message:
        if query.flags & dns.flags.RD:
            return ZONE(query, proto)
        response = dns.message.make_response(query, recursion_available=True)
        response.set_rcode(dns.rcode.REFUSED)
        return response

    up = upstream(recursive)
    server = sidecar(f"cache\nforward . {up}")
    for rdtype in ("AAAA", "A", "TXT"):
        assert without_recursion(server, "v4.example", rdtype).rcode() == dns.rcode.REFUSED
    assert not any(query.flags & dns.flags.RD for query in up.queries)
    assert texts(server.ask("v4.example").answer) == [SYNTHESIZED]
    asked = len(up.queries)
    cached = without_recursion(server, "v4.example", "AAAA")
    assert len(cached.answer) == 1
    assert not cached.flags & dns.flags.RD
    assert len(up.queries) == asked


@pytest.mark.parametrize("do", [False, True])
@pytest.mark.parametrize("log", ["", "log\n"])
def test_a_then_aaaa_of_one_name_are_two_questions_for_upstream(
    upstream: StartUpstream, sidecar: StartSidecar, do: bool, log: str
) -> None:
    up = upstream(ZONE)
    server = sidecar(f"{log}cache\nforward . {up}")
    assert server.ask("v4.example", "A", do=do).answer
    assert texts(server.ask("v4.example", do=do).answer) == [SYNTHESIZED]
    assert up.types() == ["A", "AAAA"]
    server.ask("blocked.example", "A", do=do)
    assert not server.ask("blocked.example", do=do).answer
    server.ask("text.example", "A", do=do)
    assert server.ask("text.example", do=do).rcode() == dns.rcode.NOERROR
    assert up.types() == ["A", "AAAA"] * 3
    server.ask("gone.example", "A", do=do)
    assert server.ask("gone.example", do=do).rcode() == dns.rcode.NXDOMAIN


@pytest.mark.parametrize("do", [False, True])
def test_a_and_aaaa_at_once_are_two_questions_for_upstream(
    upstream: StartUpstream, sidecar: StartSidecar, do: bool
) -> None:
    """As getaddrinfo asks. The reply to A is slow, so the AAAA question waits for the same one."""
    late = threading.Event()

    def answer(query: dns.message.Message, proto: str) -> dns.message.Message:
        if query.question[0].rdtype == AAAA:
            late.set()
        return ZONE(query, proto)

    up, slow = upstream(answer), upstream(ZONE)
    del slow
    reply_udp = up._reply

    def hold(message: bytes, proto: str, source: int) -> bytes | None:
        if dns.message.from_wire(message).question[0].rdtype == A:
            held.append((message, source))
            return None
        return reply_udp(message, proto, source)

    held: list[tuple[bytes, int]] = []
    up._reply = hold  # type: ignore[method-assign]
    server = sidecar(f"cache\nforward . {up}")
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(server.ask, "v4.example", "A", do=do)
        while not held:
            time.sleep(0.01)
        second = pool.submit(server.ask, "v4.example", "AAAA", do=do)
        assert late.wait(5)
        time.sleep(0.1)
        message, source = held[0]
        response = reply_udp(message, "udp", source)
        assert response is not None
        up._udp.sendto(response, ("::1", source))
        assert first.result().answer
        assert texts(second.result().answer) == [SYNTHESIZED]
    assert len(held) == 1


def test_a_loop_of_aliases_is_servfail_and_is_cached(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    """Each reply has one alias: a to b, b to c, c to a."""
    targets = {"a.example.": "b.example.", "b.example.": "c.example.", "c.example.": "a.example."}

    def one_step(query: dns.message.Message, proto: str) -> dns.message.Message:
        response = dns.message.make_response(query, recursion_available=True)
        name = query.question[0].name.to_text().lower()
        response.answer.append(rrset(f"{name} 300 IN CNAME {targets[name]}"))
        return response

    up = upstream(one_step)
    server = sidecar(f"cache\nforward . {up}")
    for _ in range(3):
        response = server.ask("a.example")
        assert response.rcode() == dns.rcode.SERVFAIL
        assert "loop of aliases" in str(response.extended_errors()[0].text)
    assert len(up.types()) == 3
    assert server.metric("nat64_dns64_resolutions_total", rule="alias_loop") == 1


def test_an_alias_to_itself_in_one_reply_is_servfail(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    loop = Zone.of("a.example. 300 IN CNAME b.example.", "b.example. 300 IN CNAME a.example.")
    up = upstream(loop)
    server = sidecar(f"cache\nforward . {up}")
    assert server.ask("a.example").rcode() == dns.rcode.SERVFAIL
    assert len(up.types()) == 1


def test_an_alias_with_name_servers_in_authority_is_followed(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    """As an authoritative server says it: the target is in a zone that it doesn't have."""

    def answer(query: dns.message.Message, proto: str) -> dns.message.Message:
        if query.question[0].name.to_text().lower() != "alias.example.":
            return ZONE(query, proto)
        response = dns.message.make_response(query)
        response.answer.append(rrset("alias.example. 60 IN CNAME v4.example."))
        response.authority.append(rrset("example. 60 IN NS ns.example."))
        response.additional.append(rrset("ns.example. 60 IN A 198.51.100.53"))
        return response

    server = sidecar(f"forward . {upstream(answer)}")
    alias, address = server.ask("alias.example").answer
    assert alias.to_text() == "alias.example. 60 IN CNAME v4.example."
    assert address[0].to_text() == "64:ff9b:1::c633:6407"


@pytest.mark.parametrize(
    ("name", "rdtype"), [("svc.example", "HTTPS"), ("_dns.v4.example", "SVCB")]
)
def test_address_hints_of_https_and_svcb_are_never_touched(
    upstream: StartUpstream, sidecar: StartSidecar, name: str, rdtype: str
) -> None:
    """RFC 9460 section 4.2.1: a DNS64 must not change or add hints."""
    up = upstream(ZONE)
    server = sidecar(f"cache\nforward . {up}", dns64="dns64 {\ntranslate_all\n}\n")
    expected = dns.query.udp(dns.message.make_query(name, rdtype), "::1", 20, up.port)
    for _ in range(2):
        assert texts(server.ask(name, rdtype).answer) == texts(expected.answer)


@pytest.mark.parametrize("dns64", ["dns64\n", ""])
def test_resolver_arpa_is_never_forwarded(
    upstream: StartUpstream, sidecar: StartSidecar, dns64: str
) -> None:
    """RFC 9462 section 6.4: upstream would designate itself."""
    up = upstream(ZONE)
    server = sidecar(f"cache\nforward . {up}", dns64=dns64)
    for name, rdtype, rcode in (
        ("_dns.resolver.arpa", "SVCB", dns.rcode.NOERROR),
        ("_dns.Resolver.ARPA", "AAAA", dns.rcode.NOERROR),
        ("resolver.arpa", "A", dns.rcode.NOERROR),
        ("x.resolver.arpa", "AAAA", dns.rcode.NXDOMAIN),
    ):
        response = server.ask(name, rdtype)
        assert (response.rcode(), response.answer) == (rcode, [])
        assert response.authority[0].name.to_text().lower() == "resolver.arpa."
    assert server.ask("resolver.arpa", "SOA").answer
    assert up.types() == []
    server.ask("xresolver.arpa", "SVCB")
    server.ask("resolver.arpa", "DS")
    assert up.types() == ["SVCB", "DS"]


def test_the_ds_of_ipv4only_arpa_is_asked_upstream(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    """RFC 8880: the proof that the zone isn't signed is the parent's."""
    up = upstream(ZONE)
    server = sidecar(f"forward . {up}")
    names = ("ipv4only.arpa", "170.0.0.192.in-addr.arpa", "171.0.0.192.in-addr.arpa")
    for name in names:
        server.ask(name, "DS", do=True)
    assert up.types() == ["DS"] * 3
    for name in names:
        for owner, rcode in ((name, dns.rcode.NOERROR), (f"x.{name}", dns.rcode.NXDOMAIN)):
            denied = server.ask(owner, "TXT")
            assert denied.rcode() == rcode
            assert denied.authority[0].name.to_text() == f"{name}."
        assert server.ask(name, "SOA").answer[0].name.to_text() == f"{name}."
    assert up.types() == ["DS"] * 3
