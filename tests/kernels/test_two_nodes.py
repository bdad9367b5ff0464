"""The two-node suite in miniature: two agents, flows of both nodes' pods, a restart, removal."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

import pytest

from tests.dataplane.test_agent_life import footprint
from tests.lab import topology
from tests.lab.node import Lab, Node
from tests.lab.probes import udp_echo
from tests.lab.topology import ECHO_PORT, SERVER, SERVER_V4, serve
from tests.lab.translator import Translator

pytestmark = pytest.mark.root


_CONNECTION = """
import socket, sys
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])))
for line in sys.stdin:
    connection.sendall(line.encode())
    got = b""
    while len(got) < len(line):
        got += connection.recv(1000) or sys.exit("the server closed")
    print(got.decode(), end="", flush=True)
"""


class Connection:
    """A TCP connection that moves when it is told to: an emulator has no CPU for a busy one."""

    def __init__(self, pod: Node) -> None:
        program = (sys.executable, "-c", _CONNECTION, str(SERVER), str(ECHO_PORT))
        self._process = pod.start(*program, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def exchange(self, text: str) -> None:
        """Send a line, and have it back."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{text}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == f"{text}\n"


class Side(NamedTuple):
    """A node, its pod, and its address on its link to the router."""

    node: Node
    pod: Node
    address: IPv4Address


@pytest.fixture
def sides() -> Iterator[tuple[Side, Side]]:
    """Two nodes with a pod each, behind one router; the nodes know each other's pods."""
    with Lab() as lab:
        router, internet = lab.node("router"), lab.node("internet")
        router.join(internet, "eth0", "router0")
        router.ip("addr add 203.0.113.1/24 dev eth0")
        internet.ip(
            f"addr add {SERVER_V4}/24 dev router0", "route add default via 203.0.113.1 dev router0"
        )
        router.sysctl(net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1)
        built = side(lab, router, 1), side(lab, router, 2)
        for number, one in enumerate(built, 1):
            other = 3 - number
            router.ip(f"route add fd64:{number}::/64 via fd64:ff:{number}::2")
            one.node.ip(f"route add fd64:{other}::/64 via fd64:ff:{number}::1")
        serve(internet)
        yield built


def side(lab: Lab, router: Node, number: int) -> Side:
    node, pod = lab.node(f"node{number}"), lab.node(f"pod{number}")
    address = IPv4Address(f"198.51.100.{2 + 128 * (number - 1)}")
    pod.join(node, "eth0", "pod0")
    node.join(router, "eth0", f"node{number}")
    pod.ip(
        f"addr add fd64:{number}::10/64 dev eth0 nodad",
        f"route add default via fd64:{number}::1 dev eth0",
    )
    node.ip(
        f"addr add fd64:{number}::1/64 dev pod0 nodad",
        f"addr add fd64:ff:{number}::2/64 dev eth0 nodad",
        f"addr add {address}/25 dev eth0",
        f"route add default via {address - 1} dev eth0",
    )
    router.ip(
        f"addr add {address - 1}/25 dev node{number}",
        f"addr add fd64:ff:{number}::1/64 dev node{number} nodad",
    )
    return Side(node, pod, address)


def test_two_nodes_translate_and_one_restarts_under_the_flows_of_both(
    sides: tuple[Side, Side],
) -> None:
    for side in sides:
        side.node.settle()
    before = [footprint(side.node) for side in sides]
    agents = [Translator(side.node).started() for side in sides]
    for side in sides:
        assert udp_echo(side.pod, 0, 1452, 3000)
        out = side.pod.run("ping", "-6", "-n", "-c", "2", "-i", "0.2", "-W", "10", str(SERVER))
        assert "2 received" in out
        url = f"http://[{SERVER}]:{topology.HTTP_PORT}/peer"
        seen = side.pod.run("curl", "-gsS", "--fail", "--max-time", "60", url)
        assert seen.split()[0] == str(side.address)
    there = IPv6Address("fd64:2::10")
    assert "1 received" in sides[0].pod.run("ping", "-c", "1", "-W", "10", str(there))

    connections = [Connection(side.pod) for side in sides]
    for connection in connections:
        connection.exchange("before")
    agents[0].kill()
    for connection in connections:
        connection.exchange("without the agent")
    agents[0].started()
    for connection in connections:
        connection.exchange("after")

    for agent in agents:
        agent.stop()
        agent.remove()
    assert [footprint(side.node) for side in sides] == before
