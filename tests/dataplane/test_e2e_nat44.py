"""NAT44 beside us: kube-proxy and container engines masquerade to the same address."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.lab.node import Node
from tests.lab.topology import ECHO_PORT, SERVER, SERVER_V4, Line
from tests.lab.translator import Translator

pytestmark = pytest.mark.root

HELD, CLIENTS = 4000, 8
EXCHANGES = 600
OTHER_PORT = 4242
"""Of the server. What the pods hold is towards ECHO_PORT, so no two flows have the same ends."""
FIRST_PORT = 61001
"""Of the default pool. A masquerade that may choose keeps a source port that it finds free."""

_ECHO = """
import selectors, socket, sys
port = int(sys.argv[1])
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("", port))
tcp = socket.create_server(("", port), backlog=1024)
ready = selectors.DefaultSelector()
for one in (udp, tcp):
    ready.register(one, selectors.EVENT_READ)
print("ready", flush=True)
while True:
    for key, _ in ready.select():
        if key.fileobj is udp:
            data, peer = udp.recvfrom(2048)
            udp.sendto(data, peer)
        elif key.fileobj is tcp:
            ready.register(tcp.accept()[0], selectors.EVENT_READ)
        elif data := key.fileobj.recv(2048):
            key.fileobj.send(data)
        else:
            ready.unregister(key.fileobj)
            key.fileobj.close()
"""

_HOLD = """
import resource, socket, sys
server, port, sources, count = sys.argv[1], int(sys.argv[2]), sys.argv[3].split(), int(sys.argv[4])
resource.setrlimit(resource.RLIMIT_NOFILE, (count + 64, count + 64))
held = []
for number in range(count):
    one = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    one.settimeout(60)
    one.bind((sources[number % len(sources)], 0))
    one.connect((server, port))
    one.send(b"x")
    one.recv(10)
    held.append(one)
print("held", flush=True)
sys.stdin.readline()
print(sum(one.send(b"y") and one.recv(10) == b"y" for one in held), flush=True)
"""

_EXCHANGE = """
import json, socket, sys
server, port, first, count = sys.argv[1], *map(int, sys.argv[2:])
lost = {"udp": 0, "tcp": 0}
for number in range(count):
    for kind in lost:
        udp = kind == "udp"
        one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)
        one.settimeout(30)
        one.bind(("", first + number))
        try:
            one.connect((server, port))
            one.send(b"x")
            lost[kind] += one.recv(10) != b"x"
        except OSError:
            lost[kind] += 1
        one.close()
print(json.dumps(lost))
"""


@pytest.fixture
def container(lab: Line) -> Iterator[Node]:
    """A container with IPv4 on the same node."""
    one = Node("container")
    try:
        one.join(lab.node, "eth0", "docker0")
        lab.node.ip("addr add 192.0.2.1/24 dev docker0")
        one.ip("addr add 192.0.2.10/24 dev eth0", "route add default via 192.0.2.1 dev eth0")
        lab.node.sysctl(net__ipv4__ip_forward=1)
        yield one
    finally:
        one.close()


def hold_ports(lab: Line) -> subprocess.Popen[str]:
    """So many ports of the pool, each by a socket of a pod that has heard its answer."""
    sources = [f"fd64:1::{number:x}" for number in range(0x100, 0x100 + CLIENTS)]
    lab.pod.ip(*(f"addr add {source}/64 dev eth0 nodad" for source in sources))
    command = (sys.executable, "-c", _HOLD, str(SERVER), str(ECHO_PORT), " ".join(sources))
    pipe = subprocess.PIPE
    process = lab.pod.start(*command, str(HELD), stdin=pipe, stdout=pipe)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("how", ["masquerade", "masquerade fully-random"])
def test_exchanges_of_a_container_beside_thousands_of_our_ports_all_arrive(
    lab: Line, container: Node, nat64: Translator, how: str
) -> None:
    lab.node.run(
        "nft",
        "add table ip docker; add chain ip docker out "
        "{ type nat hook postrouting priority srcnat; }; "
        f"add rule ip docker out ip saddr 192.0.2.0/24 oifname eth0 {how}",
    )
    server = lab.internet.start(
        sys.executable, "-c", _ECHO, str(OTHER_PORT), stdout=subprocess.PIPE
    )
    assert server.stdout
    assert server.stdout.readline() == "ready\n"
    holding = hold_ports(lab)
    assert nat64.metric("nat64_pool_ports_used", protocol="udp") >= HELD
    lost = json.loads(
        container.run(
            *(sys.executable, "-c", _EXCHANGE, str(SERVER_V4), str(OTHER_PORT)),
            *(str(FIRST_PORT), str(EXCHANGES)),
        )
    )
    assert lost == {"udp": 0, "tcp": 0}
    assert nat64.metric("nat64_passed_packets_total", direction="4to6") > 0
    out, _ = holding.communicate("go\n", timeout=60)
    assert int(out) == HELD, "what the pods hold still works"
