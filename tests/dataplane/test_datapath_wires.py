"""What only real kernels on both sides show: routes traced, and an uplink without Ethernet."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from nat64_dataplane import pref64
from tests.lab.node import Node, wait_for
from tests.lab.topology import NODE_V4, POD, PREFIX, ROUTER_V4, SERVER, SERVER_V4, Line, line
from tests.lab.translator import translator

pytestmark = pytest.mark.root

# Sends one datagram with a given TTL and prints who complains of it, or who answers.
PROBE = """
import socket, sys
host, port, hops = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
six = ":" in host
family = socket.AF_INET6 if six else socket.AF_INET
probe = socket.socket(family, socket.SOCK_DGRAM)
if six:
    probe.setsockopt(socket.IPPROTO_IPV6, 25, 1)  # IPV6_RECVERR
    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, hops)
else:
    probe.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR
    probe.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, hops)
probe.settimeout(3)
probe.connect((host, port))
probe.send(b"probe")
try:
    print("answer", probe.recv(100).decode())
except OSError:
    _, controls, _, _ = probe.recvmsg(100, 500, 0x2000)  # MSG_ERRQUEUE
    data = controls[0][2]
    kind, code = data[5], data[6]
    offender = data[24:40] if six else data[20:24]
    print("error", kind, code, socket.inet_ntop(family, offender))
"""


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


def probe(node: Node, host: object, port: int, hops: int) -> list[str]:
    return node.run(sys.executable, "-c", PROBE, str(host), str(port), str(hops)).split()


def test_route_traced_from_the_pod_shows_each_hop(traced: Line) -> None:
    echo = 7
    assert probe(traced.pod, SERVER, echo, 1)[:3] == ["error", "3", "0"]  # the node, in IPv6
    router = str(pref64.embed(PREFIX, ROUTER_V4))
    assert probe(traced.pod, SERVER, echo, 2) == ["error", "3", "0", router]
    assert probe(traced.pod, SERVER, echo, 3)[0] == "answer"


def test_route_traced_from_the_internet_shows_each_hop(traced: Line) -> None:
    assert probe(traced.internet, NODE_V4, 7777, 1)[:3] == ["error", "11", "0"]  # the router
    assert probe(traced.internet, NODE_V4, 7777, 2) == ["error", "11", "0", str(NODE_V4)]
    # the third is the pod: nobody listens there, and it says so
    assert probe(traced.internet, NODE_V4, 7777, 3) == ["error", "3", "3", str(NODE_V4)]


# A cable of TUN devices: what one end sends, without any link header, the other one receives.
CABLE = """
import fcntl, os, select, struct, sys
def tun(name):
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH", name.encode(), 0x1001))  # IFF_TUN | IFF_NO_PI
    return fd
"""


def test_uplink_without_ethernet_headers(lab: Line) -> None:
    """The uplink is a TUN device whose far end is a program that echoes UDP, as a VPN would."""
    server = (
        CABLE
        + """
fd = tun("tun0")
print("ready", flush=True)
def swap(packet):
    head, body = bytearray(packet[:20]), packet[20:]
    head[12:16], head[16:20] = packet[16:20], packet[12:16]
    udp = body[2:4] + body[0:2] + body[4:]
    return bytes(head) + udp
while True:
    packet = os.read(fd, 65536)
    if packet[0] >> 4 == 4 and packet[9] == 17:
        os.write(fd, swap(packet))
"""
    )
    lab.node.start(sys.executable, "-c", server)
    wait_for("tun0", lambda: "tun0" in lab.node.run("ip", "link"))
    lab.node.ip(
        "link set tun0 up mtu 1400",
        "addr add 192.0.2.1/32 dev tun0",
        f"route replace {SERVER_V4}/32 dev tun0 src 192.0.2.1",
    )
    with translator(
        lab.node,
        uplinks=["tun0"],
        pools=[{"addresses": "192.0.2.1/32", "ports": "61001-65535"}],
    ):
        assert probe(lab.pod, SERVER, 4242, 9) == ["answer", "probe"]
        assert probe(lab.pod, SERVER, 4243, 9) == ["answer", "probe"]


HAIRPIN = """
import socket, sys
host, port, answers = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "answers"
client = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
client.settimeout(3)
if answers:
    server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    server.bind(("::", port))
    server.settimeout(3)
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
    out = traced.pod.run(sys.executable, "-c", HAIRPIN, own, "7777", "answers")
    assert out.strip() == f"there and back from {own}"


def test_closed_port_refuses_through_a_hairpin(traced: Line) -> None:
    own = str(pref64.embed(PREFIX, NODE_V4))
    assert traced.pod.run(sys.executable, "-c", HAIRPIN, own, "7777", "").strip() == "refused"


# Ten datagrams in one segmented send (UDP_SEGMENT), each way; the receiver counts what arrives.
SEGMENTED = """
import socket, sys
role, host, port, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
family = socket.AF_INET6 if ":" in host else socket.AF_INET
sock = socket.socket(family, socket.SOCK_DGRAM)
sock.settimeout(10)
def burst(send):
    sock.setsockopt(socket.IPPROTO_UDP, 103, size)
    send(b"".join(bytes((i,)) * size for i in range(10)))
def collect():
    got = [sock.recvfrom(65536) for _ in range(10)]
    assert sorted(data for data, _ in got) == [bytes((i,)) * size for i in range(10)]
    return got[0][1]
if role == "server":
    sock.bind((host, port))
    print("ready", flush=True)
    while True:
        peer = collect()
        burst(lambda data: sock.sendto(data, peer))
else:
    sock.connect((host, port))
    burst(sock.send)
    collect()
    print("ten each way")
"""


@pytest.mark.parametrize("size", [100, 1200, 1440])
def test_segmented_udp_both_ways(traced: Line, size: int) -> None:
    server = traced.internet.start(
        sys.executable,
        "-c",
        SEGMENTED,
        "server",
        str(SERVER_V4),
        "9999",
        str(size),
        stdout=subprocess.PIPE,
    )
    assert server.stdout
    assert server.stdout.readline().strip() == "ready"
    client = ("-c", SEGMENTED, "client", str(SERVER), "9999", str(size))
    assert traced.pod.run(sys.executable, *client).strip() == "ten each way"


def test_upload_over_a_path_of_576_that_the_server_does_not_know_of() -> None:
    """The server offers large segments. The pod can't go below 1280, so routers must fragment."""
    with line(path_mtu=576) as lab, translator(lab.node):
        default = lab.internet.run("ip", "route", "show", "default").strip()
        lab.internet.ip(f"route replace {default} advmss 1460")
        assert lab.curl("sink", "--data-binary", "x" * 100_000).split()[0] == "100000"
        counters = lab.router.run("nstat", "-az", "IpFragOKs")
        assert int(counters.split()[-2]) > 50, counters
