"""`nat64-operator verify`, what `helm test` runs, in front of a real DNS server."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator
from ipaddress import IPv6Network

import dns.message
import dns.rdatatype
import dns.rrset
import pytest

from nat64_operator.edge import dns as cluster_dns
from nat64_operator.edge import verify

PREFIX = "64:ff9b:1::/96"
SYNTHESIZED = str(IPv6Network(PREFIX)[0xC00000AA])


class _Resolver(socketserver.UDPServer):
    """Answers without synthesis until it was asked `unready` times, then with it."""

    address_family = socket.AF_INET6

    def __init__(self, unready: int) -> None:
        super().__init__(("::1", 0), _Answer)
        self.unready = unready
        self.asked = 0


class _Answer(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        server = self.server
        assert isinstance(server, _Resolver)
        message, asker = self.request
        query = dns.message.from_wire(message)
        response = dns.message.make_response(query)
        name, rdtype = query.question[0].name, query.question[0].rdtype
        server.asked += rdtype == dns.rdatatype.AAAA
        if rdtype == dns.rdatatype.AAAA and server.asked > server.unready:
            response.answer.append(dns.rrset.from_text(name, 1, "IN", "AAAA", SYNTHESIZED))
        asker.sendto(response.to_wire(), self.client_address)


@pytest.fixture
def resolver(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[_Resolver]:
    with _Resolver(request.param) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        where = f"[::1]:{server.server_address[1]}"
        monkeypatch.setattr(cluster_dns, "cluster_server", lambda: where)
        # The pod has IPv6 only, this machine need not.
        monkeypatch.setattr(verify, "ipv4_addresses", lambda _: set())
        monkeypatch.setattr(verify, "PAUSE", 0.01)
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("resolver", [5], indirect=True)
def test_it_waits_for_a_coredns_that_remembers_the_time_before(
    resolver: _Resolver, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify.run(PREFIX, "", patience=30) == 0
    assert capsys.readouterr().out.splitlines() == [
        "ok: this pod has no IPv4 address",
        f"ok: the cluster's DNS synthesizes: ipv4only.arpa. is {SYNTHESIZED}",
        "ok: no target to connect to is set (helmTest.connect)",
    ]


@pytest.mark.parametrize("resolver", [10**9], indirect=True)
def test_without_synthesis_it_fails_and_says_what_to_look_at(
    resolver: _Resolver, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify.run(PREFIX, "", patience=0.1) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"failed: the cluster's DNS ([::1]:{resolver.server_address[1]}) does")
    assert "kubectl get dns64policy" in last


@pytest.mark.parametrize("resolver", [0], indirect=True)
def test_what_no_patience_mends_fails_at_once(
    resolver: _Resolver, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "ipv4_addresses", lambda _: {"192.0.2.7"})
    assert verify.run(PREFIX, "", patience=10**6) == 1
    assert "this pod has IPv4 (192.0.2.7)" in capsys.readouterr().out
