"""Uplinks of 576 bytes and more: errors reach whoever sent the packet, whatever their size."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.node import wait_for
from tests.lab.probes import megabyte_both_ways, udp_echo
from tests.lab.topology import NODE_V4, POD, SERVER, Line, line
from tests.lab.translator import Translator, translator

pytestmark = pytest.mark.root

CLOSED, OPEN = 7777, 7
MAPPINGS = [
    {
        "protocol": "udp",
        "client": str(POD),
        "clientPort": port,
        "address": str(NODE_V4),
        "port": port,
    }
    for port in (CLOSED, OPEN)
]

# Sends a datagram of so many bytes, DF as asked, and prints the error that comes back.
_ASK = """
import socket, sys
host, port, size, dont_fragment, hops = sys.argv[1], *map(int, sys.argv[2:6])
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ask:
    ask.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR
    ask.setsockopt(socket.IPPROTO_IP, 10, 3 if dont_fragment else 0)  # IP_MTU_DISCOVER: PROBE
    ask.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, hops)
    ask.settimeout(60)
    ask.connect((host, port))
    ask.send(bytes(size))
    try:
        ask.recv(10)
    except TimeoutError:
        pass
    except OSError:
        _, controls, _, _ = ask.recvmsg(2000, 500, 0x2000)  # MSG_ERRQUEUE
        data = controls[0][2]
        print(data[5], data[6], int.from_bytes(data[8:12], sys.byteorder))
"""


@pytest.fixture(scope="module", params=[576, 1259, 1260])
def narrow(request: pytest.FixtureRequest) -> Iterator[tuple[Line, Translator, int]]:
    """A node whose only uplink has that MTU."""
    with (
        line(uplink_mtu=request.param) as lab,
        translator(lab.node, staticMappings=MAPPINGS) as nat64,
    ):
        yield lab, nat64, request.param


def ask(lab: Line, port: int, size: int, *, dont_fragment: bool, hops: int = 64) -> list[str]:
    """ICMPv4 type, code and MTU that the internet's host hears, as text; empty: none."""
    arguments = (str(NODE_V4), str(port), str(size), str(int(dont_fragment)), str(hops))
    return lab.internet.run(sys.executable, "-c", _ASK, *arguments).split()


@pytest.mark.parametrize("size", [8, 540, 1232, 1400])
def test_the_pods_refusal_reaches_the_internet(
    narrow: tuple[Line, Translator, int], size: int
) -> None:
    """Port unreachable: the pod quotes all of the packet, up to 1280 bytes."""
    lab, _, _ = narrow
    assert ask(lab, CLOSED, size, dont_fragment=False)[:2] == ["3", "3"]


@pytest.mark.parametrize("spare", [0, 1, 20, 200])
def test_the_nodes_time_exceeded_reaches_the_internet(
    narrow: tuple[Line, Translator, int], spare: int
) -> None:
    """The node's kernel quotes all of the packet too: up to 1280 bytes, more than some uplinks."""
    lab, _, mtu = narrow
    told = ask(lab, CLOSED, mtu - 28 - spare, dont_fragment=False, hops=2)
    assert told[:2] == ["11", "0"]


def test_traffic_passes(narrow: tuple[Line, Translator, int], tmp_path: Path) -> None:
    lab, _, _ = narrow
    megabyte_both_ways(lab, tmp_path)
    for size in (100, 1200, 1400, 4000):
        # Large ones teach the pod the path, and their answers teach the server.
        wait_for("echo", functools.partial(udp_echo, lab.pod, size, check=False))


def test_pods_learn_a_path_that_ipv6_allows(narrow: tuple[Line, Translator, int]) -> None:
    lab, _, mtu = narrow
    for _ in range(2):
        lab.pod.run("ping", "-6", "-c", "1", "-s", "1452", "-M", "do", str(SERVER), check=False)
    told = lab.pod.run("ip", "-6", "route", "get", str(SERVER))
    assert f"mtu {max(1280, mtu + 20)}" in told
