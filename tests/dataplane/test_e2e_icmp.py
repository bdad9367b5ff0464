"""Errors, traceroute, hairpins and refusals between real kernels."""

from __future__ import annotations

import json
import subprocess
import sys
from ipaddress import IPv4Address
from typing import IO

import pytest

from nat64_dataplane import pref64
from tests.lab.topology import ECHO_PORT, NODE_V4, PREFIX, ROUTER_V4, SERVER, Line
from tests.lab.translator import Translator

pytestmark = pytest.mark.root

# Bind at an echo server, say where from, then tell what comes to that binding.
_BOUND = """
import json, socket, sys, time
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.settimeout(20)
s.sendto(b"hello", (sys.argv[1], int(sys.argv[2])))
s.recv(100)
print("bound", flush=True)
data, peer = s.recvfrom(100)
print(json.dumps([data.decode(), peer[0], peer[1]]), flush=True)
"""

# Send with this TTL, and tell who sent an ICMP error about it.
_PROBE = """
import socket, sys
IP_RECVERR, MSG_ERRQUEUE = 11, 0x2000
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(3)
s.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, int(sys.argv[3]))
s.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
s.connect((sys.argv[1], int(sys.argv[2])))
s.send(b"probe")
try:
    s.recv(100)
except OSError as error:
    _, ancillary, _, _ = s.recvmsg(100, 256, MSG_ERRQUEUE)
    data = ancillary[0][2]
    print(data[5], data[6], socket.inet_ntoa(data[20:24]))
"""


def hop(lab: Line, limit: int) -> str:
    return lab.pod.run(
        "ping", "-6", "-n", "-c", "1", "-W", "2", "-t", str(limit), str(SERVER), check=False
    )


def bound(lab: Line, nat64: Translator) -> tuple[IO[str], str, str]:
    """Have the pod bind a UDP port: what it tells later, the pool address, and the port there."""
    words = (sys.executable, "-c", _BOUND, str(SERVER), str(ECHO_PORT))
    pod = lab.pod.start(*words, stdout=subprocess.PIPE)
    assert pod.stdout
    assert pod.stdout.readline() == "bound\n"
    (binding,) = [b for b in nat64.json("bib") if b["protocol"] == "udp"]
    address, _, port = binding["address"].partition(":")
    return pod.stdout, address, port


def test_traceroute_from_ipv6_shows_each_hop(lab: Line, nat64: Translator) -> None:
    assert "From fd64:1::1 icmp_seq=1 Time exceeded" in hop(lab, 1), "the node, as IPv6 router"
    router = pref64.embed(PREFIX, ROUTER_V4)
    assert f"From {router} icmp_seq=1 Time exceeded" in hop(lab, 2), "the IPv4 router"
    assert "1 received" in hop(lab, 3)


def test_traceroute_from_ipv4_shows_each_hop(lab: Line, nat64: Translator) -> None:
    told, address, port = bound(lab, nat64)

    def probe(ttl: int) -> str:
        return lab.internet.run(sys.executable, "-c", _PROBE, address, port, str(ttl), check=False)

    assert probe(1).split() == ["11", "0", "203.0.113.1"], "the IPv4 router"
    assert probe(2).split() == ["11", "0", str(NODE_V4)], "the node, as IPv4 router"
    assert probe(3) == "", "no error: it arrives"
    data, _, _ = json.loads(told.readline())
    assert data == "probe", "endpoint-independent filtering: another source port gets through"


def test_an_unreachable_ipv4_network_is_told_as_no_route(lab: Line, nat64: Translator) -> None:
    away = pref64.embed(PREFIX, IPv4Address("192.0.2.99"))
    lab.router.ip("route add unreachable 192.0.2.0/24")
    out = lab.pod.run("ping", "-6", "-n", "-c", "1", "-W", "2", str(away), check=False)
    assert f"From {pref64.embed(PREFIX, ROUTER_V4)}" in out
    assert "nreachable" in out


@pytest.mark.parametrize("address", ["169.254.169.254", "127.0.0.1", str(NODE_V4), "224.0.0.1"])
def test_what_must_never_be_reached_through_a_prefix_is_refused_at_once(
    lab: Line, nat64: Translator, address: str
) -> None:
    target = pref64.embed(PREFIX, IPv4Address(address))
    out = lab.pod.run("ping", "-6", "-n", "-c", "1", "-W", "2", str(target), check=False)
    assert "0 received" in out
    assert "prohibited" in out, "an ICMP error, so that nobody waits"
    assert lab.curl("ok") == "ok"


def test_two_clients_meet_at_a_pool_address(lab: Line, nat64: Translator) -> None:
    """Hairpinning (RFC 6146 section 3.8): seen from each other, both are at the pool address."""
    told, address, port = bound(lab, nat64)
    target = pref64.embed(PREFIX, IPv4Address(address))
    lab.pod.run(
        sys.executable,
        "-c",
        "import socket,sys; s=socket.socket(socket.AF_INET6, socket.SOCK_DGRAM);"
        "s.sendto(b'hairpin', (sys.argv[1], int(sys.argv[2])))",
        str(target),
        port,
    )
    data, peer, _ = json.loads(told.readline())
    assert data == "hairpin"
    assert peer == str(target)
