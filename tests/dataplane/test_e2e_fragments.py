"""Datagrams larger than any link: fragmented by real kernels on both sides, both ways."""

from __future__ import annotations

import sys

import pytest

from tests.lab.topology import ECHO_PORT, NODE_V4, SERVER, Line
from tests.lab.translator import Translator

pytestmark = pytest.mark.root

_ECHO = """
import socket, sys
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.settimeout(5)
s.connect((sys.argv[1], int(sys.argv[2])))
for size in map(int, sys.argv[3:]):
    sent = bytes(i % 251 for i in range(size))
    s.send(sent)
    assert s.recv(65535) == sent, size
print("ok")
"""


@pytest.mark.parametrize("size", [1473, 3000, 9000, 20000])
def test_a_large_datagram_and_its_echo_arrive_whole(
    lab: Line, nat64: Translator, size: int
) -> None:
    out = lab.pod.run(sys.executable, "-c", _ECHO, str(SERVER), str(ECHO_PORT), str(size))
    assert "ok" in out


def test_a_large_ping_is_answered(lab: Line, nat64: Translator) -> None:
    """Not by RFC 7915 (section 1.2): fragmented ICMP isn't translated; what fits in one is."""
    out = lab.pod.run("ping", "-6", "-n", "-c", "1", "-W", "2", "-s", "1400", str(SERVER))
    assert "1 received" in out


def test_a_reply_that_fits_ipv4_only_teaches_the_server_the_path(
    lab: Line, nat64: Translator
) -> None:
    """1472 bytes fill an IPv4 packet of 1500 with DF set: 1520 as IPv6, so the first is lost."""
    command = (sys.executable, "-c", _ECHO, str(SERVER), str(ECHO_PORT), "1472")
    lab.pod.run(*command, check=False)
    assert "ok" in lab.pod.run(*command)
    assert "mtu 1480" in lab.internet.run("ip", "route", "get", str(NODE_V4))
