"""What is used up, and whose sockets are in the way: said where an operator looks."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.lab.node import Node, wait_for
from tests.lab.topology import HTTP_PORT, NODE_V4, POD, SERVER, Line
from tests.lab.translator import Translator

pytestmark = pytest.mark.root

_CONNECT = """
import socket, sys, time
host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
open_ones = []
for number in range(count):
    one = socket.socket(socket.AF_INET6)
    one.settimeout(20)
    began = time.monotonic()
    try:
        one.connect((host, port))
    except OSError as error:
        print(len(open_ones), error.errno, round(time.monotonic() - began, 3), flush=True)
        break
    open_ones.append(one)
else:
    print(len(open_ones), 0, 0, flush=True)
sys.stdin.readline()
"""
_LISTEN = """
import socket, sys
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.bind(("", int(sys.argv[1])))
print("bound", flush=True)
while True:
    data, peer = one.recvfrom(100)
    one.sendto(b"node", peer)
"""
_ASK = """
import socket, sys
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.settimeout(60)
one.connect((sys.argv[1], int(sys.argv[2])))
one.send(b"?")
print(one.recv(100).decode())
"""
EHOSTUNREACH = 113
TOLD = 10
"""Seconds, half of what the program would wait. Linux tells it at the second SYN, a second later,
where the answer to the first one comes while connect() still has the socket, as on one machine; and
at the third, two seconds later, where the same happens to the second."""


def connect(lab: Line, count: int) -> tuple[subprocess.Popen[str], list[float]]:
    """Open so many connections and keep them: how many there are, the error, how long it took."""
    process = lab.pod.start(
        *(sys.executable, "-c", _CONNECT, str(SERVER), str(HTTP_PORT), str(count)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout
    return process, [float(word) for word in process.stdout.readline().split()]


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"limits": {"sessionsPerClient": 20}}, "client_session_limit"),
        ({"limits": {"portsPerClient": 20}}, "client_port_limit"),
    ],
)
def test_client_at_its_limit_is_told_at_once_and_named(
    lab: Line, nat64: Translator, config: dict[str, object], reason: str
) -> None:
    nat64.configure(**config)
    wait_for("the limit", lambda: "replaces" in nat64.log())
    nat64.wait_ready()
    process, (opened, error, seconds) = connect(lab, 40)
    assert (opened, error) == (20, EHOSTUNREACH)
    assert seconds < TOLD
    nat64.wait_ready(containing="warning ClientAtLimit")
    _, body = nat64.get("readyz")
    assert reason in body
    assert str(POD) not in body, "whoever reaches the probes may read this"
    assert nat64.metric("nat64_warning", reason="ClientAtLimit") == 1
    assert nat64.metric("nat64_dropped_packets_total", reason=reason) >= 1
    process.communicate("end\n")


def test_exhausted_pool_is_named(lab: Line, nat64: Translator) -> None:
    nat64.configure(pools=[{"ports": "61001-61010"}], overloadTcpPorts=False)
    wait_for("the pool", lambda: nat64.metric("nat64_pool_ports", protocol="tcp") == 10)
    process, (opened, error, seconds) = connect(lab, 40)
    assert (opened, error) == (10, EHOSTUNREACH)
    assert seconds < TOLD
    nat64.wait_ready(containing="warning PortsExhausted")
    process.communicate("end\n")
    resting = "nat64_pool_ports_resting"
    wait_for("rest", lambda: nat64.metric(resting, protocol="tcp") == 10)


def listen(node: Node, port: int) -> subprocess.Popen[str]:
    process = node.start(sys.executable, "-c", _LISTEN, str(port), stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == "bound\n"
    return process


def bound_port(nat64: Translator, protocol: str) -> int:
    [row] = [row for row in nat64.json("bib") if row["protocol"] == protocol]
    return int(str(row["address"]).rpartition(":")[2])


def test_later_listener_gets_all_but_exact_sessions_and_is_named(
    lab: Line, nat64: Translator
) -> None:
    ask = (sys.executable, "-c", _ASK)
    lab.pod.run(sys.executable, "-c", _ASK.replace("AF_INET", "AF_INET6"), str(SERVER), "7")
    port = bound_port(nat64, "udp")
    listener = listen(lab.node, port)
    nat64.wait_ready(containing="warning ListenersInPool")
    assert f"udp port {port}" in nat64.get("readyz")[1]
    assert lab.internet.run(*ask, str(NODE_V4), str(port)).strip() == "node"
    listener.kill()


def test_ping_of_the_node_with_an_identifier_of_a_client_is_answered(
    lab: Line, nat64: Translator
) -> None:
    lab.pod.run("ping", "-c", "1", "-W", "60", str(SERVER))
    identifier = str(bound_port(nat64, "icmp"))
    answer = lab.node.run("ping", "-c", "2", "-i", "0.2", "-e", identifier, "203.0.113.1")
    assert re.search(r"2 received", answer), answer
    assert "1 received" in lab.pod.run("ping", "-c", "1", "-W", "60", str(SERVER))
