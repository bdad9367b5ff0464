"""Jumbo frames: every link carries 9000 bytes, and so does the translator."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dataplane.test_e2e_mtu import without_gso
from tests.lab.probes import megabyte_both_ways, udp_echo
from tests.lab.topology import ECHO_PORT, SERVER, Line, line
from tests.lab.translator import Translator, translator

pytestmark = pytest.mark.root


# Say how large the segments are that a connection sends, and echo some of them.
_SEGMENTS = """
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60)
sent = bytes(i % 251 for i in range(100_000))
s.sendall(sent)
got = b""
while len(got) < len(sent):
    got += s.recv(65536)
assert got == sent
print(s.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG))
"""


@pytest.fixture
def jumbo() -> Iterator[Line]:
    with line(path_mtu=9000, uplink_mtu=9000, pod_mtu=9000) as built:
        yield built


@pytest.fixture(params=[1280, 9000])
def nat64(jumbo: Line, request: pytest.FixtureRequest) -> Iterator[Translator]:
    """With the usual bound on what IPv4 may have fragmented, and with one as large as the links."""
    with translator(jumbo.node, lowestIpv6Mtu=request.param) as running:
        yield running


@pytest.mark.parametrize("gso", [True, False], ids=["gso", "no-gso"])
def test_jumbo_segments_of_tcp_both_ways(
    jumbo: Line, nat64: Translator, gso: bool, tmp_path: Path
) -> None:
    if not gso:
        without_gso(jumbo)
    size = jumbo.pod.run(sys.executable, "-c", _SEGMENTS, str(SERVER), str(ECHO_PORT))
    assert 8800 < int(size) <= 9000 - 40 - 20
    megabyte_both_ways(jumbo, tmp_path)
    assert nat64.metric("nat64_sent_fast_packets_total") > 50
    assert nat64.metric("nat64_fragmented_total") == 0


def test_jumbo_datagrams_and_pings_go_whole(jumbo: Line, nat64: Translator) -> None:
    assert udp_echo(jumbo.pod, 8900, 8952)
    assert nat64.metric("nat64_fragments_translated_total") == 0
    out = jumbo.pod.run("ping", "-6", "-n", "-c", "2", "-i", "0.2", "-s", "8900", str(SERVER))
    assert "2 received" in out
    # Replies to pings are without DF: by RFC 7915 they go whole only up to lowestIPv6MTU.
    whole = nat64.metric("nat64_fragmented_total") == 0
    assert whole == ("9000" in nat64.file.read_text())


@pytest.mark.parametrize("size", [8980, 20000, 60000])
def test_fragments_as_large_as_the_links(jumbo: Line, nat64: Translator, size: int) -> None:
    assert udp_echo(jumbo.pod, size)
