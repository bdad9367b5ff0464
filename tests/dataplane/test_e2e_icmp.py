"""Errors, traceroute, hairpins and refusals between real kernels."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from nat64_dataplane import pref64
from tests.lab.probes import probe
from tests.lab.topology import NODE_V4, POD, PREFIX, ROUTER_V4, SERVER, Line
from tests.lab.translator import Translator, translator

pytestmark = pytest.mark.root


@pytest.fixture
def traced(lab: Line) -> Iterator[Line]:
    """The lab with a translator and a port of the pod open to the internet."""
    mapping = {
        "protocol": "udp",
        "client": str(POD),
        "clientPort": 7777,
        "address": str(NODE_V4),
        "port": 7777,
    }
    with translator(lab.node, staticMappings=[mapping]):
        yield lab


def test_route_traced_from_the_pod_shows_each_hop(traced: Line) -> None:
    echo = 7
    assert probe(traced.pod, SERVER, echo, 1)[:3] == ["error", "3", "0"]  # the node, in IPv6
    router = str(pref64.embed(PREFIX, ROUTER_V4))
    assert probe(traced.pod, SERVER, echo, 2) == ["error", "3", "0", router]
    assert probe(traced.pod, SERVER, echo, 3)[0] == "answer"


def test_route_traced_from_the_internet_shows_each_hop(traced: Line) -> None:
    assert probe(traced.internet, NODE_V4, 7777, 1)[:3] == ["error", "11", "0"]  # the router
    assert probe(traced.internet, NODE_V4, 7777, 2) == ["error", "11", "0", str(NODE_V4)]
    # the third is the pod: no socket listens there, so it answers with an error
    assert probe(traced.internet, NODE_V4, 7777, 3) == ["error", "3", "3", str(NODE_V4)]


def test_an_unreachable_ipv4_network_is_told_as_no_route(lab: Line, nat64: Translator) -> None:
    away = pref64.embed(PREFIX, IPv4Address("192.0.2.99"))
    lab.router.ip("route add unreachable 192.0.2.0/24")
    out = lab.pod.run("ping", "-6", "-n", "-c", "1", "-W", "60", str(away), check=False)
    assert f"From {pref64.embed(PREFIX, ROUTER_V4)}" in out
    assert "nreachable" in out


@pytest.mark.parametrize("address", ["169.254.169.254", "127.0.0.1", str(NODE_V4), "224.0.0.1"])
def test_what_must_never_be_reached_through_a_prefix_is_refused_at_once(
    lab: Line, nat64: Translator, address: str
) -> None:
    target = pref64.embed(PREFIX, IPv4Address(address))
    out = lab.pod.run("ping", "-6", "-n", "-c", "1", "-W", "60", str(target), check=False)
    assert "0 received" in out
    assert "prohibited" in out, "an ICMP error, so that nobody waits"
    assert lab.curl("ok") == "ok"


_HAIRPIN = """
import socket, sys
host, port, answers = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "answers"
client = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
client.settimeout(60)
if answers:
    server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    server.bind(("::", port))
    server.settimeout(60)
client.connect((host, port))
client.send(b"there")
if answers:
    data, peer = server.recvfrom(100)
    server.sendto(data + b" and back", peer)
    print(client.recv(100).decode(), "from", peer[0])
else:
    try:
        client.recv(100)
    except ConnectionRefusedError:
        print("refused")
"""


def test_hairpin_by_way_of_lo(traced: Line) -> None:
    own = str(pref64.embed(PREFIX, NODE_V4))
    out = traced.pod.run(sys.executable, "-c", _HAIRPIN, own, "7777", "answers")
    assert out.strip() == f"there and back from {own}"


def test_closed_port_refuses_through_a_hairpin(traced: Line) -> None:
    own = str(pref64.embed(PREFIX, NODE_V4))
    assert traced.pod.run(sys.executable, "-c", _HAIRPIN, own, "7777", "").strip() == "refused"


_SCTP = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 132)
s.settimeout(60)
s.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR
s.connect((sys.argv[1], 0))
s.send(bytes(16))
try:
    s.recv(100)
except OSError:
    _, ancillary, _, _ = s.recvmsg(100, 256, 0x2000)  # MSG_ERRQUEUE
    data = ancillary[0][2]
    print(data[5], data[6], socket.inet_ntoa(data[20:24]))
"""


def test_other_transports_from_ipv4_are_told_protocol_unreachable(lab: Line) -> None:
    """At the node's own address and at a pool that is routed to it (RFC 6146 section 3.5)."""
    lab.router.ip(f"route add 192.0.2.8/29 via {NODE_V4}")
    with translator(lab.node, pools=[{}, {"addresses": "192.0.2.8/29"}]):
        for address in (str(NODE_V4), "192.0.2.9"):
            told = lab.internet.run(sys.executable, "-c", _SCTP, address).split()
            assert told[:2] == ["3", "2"], (address, told)
            assert told[2] in (address, str(NODE_V4))
