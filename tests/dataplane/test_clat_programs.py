"""Programs that know only IPv4, and what else may be in a pod beside its CLAT."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dataplane.test_clat_traffic import curl, megabyte_both_ways, udp, world
from tests.lab.clat import PREFIX
from tests.lab.node import wait_for
from tests.lab.topology import HTTP_PORT, NODE_V4, SERVER_V4, Line

pytestmark = pytest.mark.root

NAME = "old.example"

# A resolver's server on IPv4, over UDP and TCP: every name has one IPv4 address and no other.
_RESOLVER = """
import socketserver, sys, threading
import dns.message, dns.rrset
def answer(wire):
    query = dns.message.from_wire(wire)
    reply = dns.message.make_response(query)
    [asked] = query.question
    if asked.rdtype == 1:
        reply.answer.append(dns.rrset.from_text(asked.name, 60, "IN", "A", sys.argv[1]))
    return reply.to_wire()
class Udp(socketserver.BaseRequestHandler):
    def handle(self):
        wire, sock = self.request
        sock.sendto(answer(wire), self.client_address)
class Tcp(socketserver.StreamRequestHandler):
    def handle(self):
        while size := self.rfile.read(2):
            reply = answer(self.rfile.read(int.from_bytes(size, "big")))
            self.wfile.write(len(reply).to_bytes(2, "big") + reply)
servers = (socketserver.ThreadingUDPServer((sys.argv[1], 53), Udp),
           socketserver.ThreadingTCPServer((sys.argv[1], 53), Tcp))
for server in servers:
    threading.Thread(target=server.serve_forever).start()
print("ready", flush=True)
"""

# As a Java machine with -Djava.net.preferIPv4Stack=true works: it asks for IPv4 addresses, and
# opens only AF_INET sockets, bound to 0.0.0.0, which connect without blocking.
_IPV4_ONLY = """
import select, socket, sys
[(_, _, _, _, to)] = socket.getaddrinfo(sys.argv[1], int(sys.argv[2]), socket.AF_INET,
                                        socket.SOCK_STREAM)
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
s.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0x10)
s.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
s.bind(("0.0.0.0", 0))
s.setblocking(False)
s.connect_ex(to)
waiting = select.poll()
waiting.register(s, select.POLLOUT)
assert waiting.poll(60_000), "no connection"
assert s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
assert s.getsockname()[0] == "192.0.0.2", s.getsockname()
assert s.getpeername() == to
s.setblocking(True)
s.settimeout(60)
s.sendall(b"GET /peer HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
got = b""
while b"\\r\\n\\r\\n" not in got or not got.partition(b"\\r\\n\\r\\n")[2].count(b" "):
    got += s.recv(65536) or sys.exit(f"closed after {got!r}")
print(got.partition(b"\\r\\n\\r\\n")[2].decode())
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Line]:
    with world() as (built, _, _):
        yield built


@pytest.fixture(scope="module")
def resolver(lab: Line) -> None:
    """A DNS server that has only an IPv4 address."""
    server = lab.internet.start(
        sys.executable, "-c", _RESOLVER, str(SERVER_V4), stdout=subprocess.PIPE
    )
    assert server.stdout
    assert server.stdout.readline() == "ready\n"


@pytest.mark.parametrize("options", ["", "options use-vc\n"], ids=["udp", "tcp"])
@pytest.mark.usefixtures("resolver")
def test_an_ipv4_only_program_resolves_at_an_ipv4_address_and_connects(
    lab: Line, options: str, tmp_path: Path
) -> None:
    """libc's resolver asks by UDP, or by TCP, a server that resolv.conf names by its literal."""
    config = tmp_path / "resolv.conf"
    config.write_text(f"nameserver {SERVER_V4}\n{options}")
    # Where it is a link into /run, the pod has its own /run, and not the file.
    place = "$(readlink -m /etc/resolv.conf)"
    make = f'[ -e "{place}" ] || {{ mkdir -p "$(dirname "{place}")" && touch "{place}"; }}'
    lab.pod.run("sh", "-ec", make)
    lab.pod.run("mount", "--bind", str(config), "/etc/resolv.conf")
    try:
        out = lab.pod.run(sys.executable, "-c", _IPV4_ONLY, NAME, str(HTTP_PORT))
    finally:
        lab.pod.run("umount", "/etc/resolv.conf")
    assert out.split()[0] == str(NODE_V4)


# A mesh's sidecar: it accepts what the pod's rules redirect to it, and connects to where the
# connection was to go. Its own mark is excepted from the rules.
_SIDECAR = """
import socket, socketserver, struct, threading
class Relay(socketserver.BaseRequestHandler):
    def handle(self):
        original = self.request.getsockopt(0, 80, 16)  # SO_ORIGINAL_DST
        port, address = struct.unpack("!2xH4s8x", original)
        there = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        there.setsockopt(socket.SOL_SOCKET, 36, 1337)  # SO_MARK
        there.connect((socket.inet_ntoa(address), port))
        def pump(source, target):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        threading.Thread(target=pump, args=(there, self.request)).start()
        pump(self.request, there)
socketserver.ThreadingTCPServer.allow_reuse_address = True
server = socketserver.ThreadingTCPServer(("127.0.0.1", 15001), Relay)
server.block_on_close = False
print("ready", flush=True)
server.serve_forever()
"""
_RULES = """table ip mesh {
  chain output {
    type nat hook output priority -100;
    meta mark 1337 accept
    ip daddr 127.0.0.0/8 accept
    meta l4proto tcp counter redirect to :15001
  }
}
"""


def test_a_mesh_s_sidecar_takes_the_pods_ipv4_and_goes_on_by_the_clat(lab: Line) -> None:
    """Istio's way: rules in the pod redirect what it sends to a proxy in the pod."""
    sidecar = lab.pod.start(sys.executable, "-c", _SIDECAR, stdout=subprocess.PIPE)
    assert sidecar.stdout
    assert sidecar.stdout.readline() == "ready\n"
    lab.pod.run("nft", "-f", "-", input=_RULES)
    try:
        assert curl(lab, "peer").split()[0] == str(NODE_V4)
        assert "packets 0" not in lab.pod.run("nft", "list", "table", "ip", "mesh")
    finally:
        lab.pod.run("nft", "delete", "table", "ip", "mesh")
        sidecar.kill()
        sidecar.wait()
    assert curl(lab, "peer").split()[0] == str(NODE_V4)


def test_the_smallest_mtu_of_ipv6_leaves_enough(tmp_path: Path) -> None:
    with world(pod_mtu=1280) as (lab, _, _):
        assert "mtu 1252" in lab.pod.run("ip", "-4", "route")
        megabyte_both_ways(lab, tmp_path)
        assert udp(lab, 1224, 1225, 9000) == "ok"


def second_link(lab: Line, address: str) -> None:
    """A network besides, as Multus adds them. Its link has no default route."""
    lab.pod.join(lab.router, "net1", "pod1")
    lab.pod.ip(f"addr add {address} dev net1" + (" nodad" if ":" in address else ""))


def drop_second_link(lab: Line) -> None:
    lab.pod.ip("link del net1")


def test_of_several_links_the_one_with_the_route_gets_it(lab: Line) -> None:
    second_link(lab, "fd64:9::10/64")
    try:
        assert curl(lab, "peer").split()[0] == str(NODE_V4)
        assert "clat" in lab.pod.run("tc", "filter", "show", "dev", "eth0", "egress")
        assert "clsact" not in lab.pod.run("tc", "qdisc", "show", "dev", "net1")
    finally:
        drop_second_link(lab)


def test_a_second_link_with_ipv4_makes_it_a_pod_with_ipv4() -> None:
    """Its IPv4 is the owner's business, whichever link it is on. IPv6 stays as it is."""
    with world() as (lab, _, agent):
        second_link(lab, "192.0.2.10/24")
        agent.wait_pod("cni-1", "LeftAlone", "has_ipv4")
        assert "192.0.0.2" not in lab.pod.run("ip", "-4", "addr")
        assert "clat" not in lab.pod.run("tc", "filter", "show", "dev", "eth0", "egress")
        drop_second_link(lab)
        agent.wait_pod("cni-1")
        assert curl(lab, "peer").split()[0] == str(NODE_V4)


def test_the_route_s_link_changes_and_the_clat_with_it(lab: Line) -> None:
    """A second network takes the route over, as Multus can be told to, and gives it back."""
    second_link(lab, "fd64:9::10/64")
    route = f"route add {PREFIX} via fd64:9::1 dev net1"
    lab.pod.ip(route)
    try:
        wait_for(
            "the CLAT on net1 alone", lambda: (parts(lab, "net1"), parts(lab, "eth0")) == (3, 0)
        )
        # the route is the last part
        by_net1 = "via inet6 fd64:9::1 dev net1"
        wait_for("the way by net1", lambda: by_net1 in lab.pod.run("ip", "-4", "route"))
        lab.pod.ip(route.replace("add", "del"))
        wait_for(
            "the CLAT on eth0 alone", lambda: (parts(lab, "net1"), parts(lab, "eth0")) == (0, 3)
        )
        wait_for("the way by eth0", lambda: "dev eth0" in lab.pod.run("ip", "-4", "route"))
    finally:
        drop_second_link(lab)
    assert curl(lab, "peer").split()[0] == str(NODE_V4)


def parts(lab: Line, link: str) -> int:
    """How many of address, qdisc and egress program a link of the pod has."""
    return sum(
        part in lab.pod.run(*command.split(), link)
        for part, command in (
            ("192.0.0.2", "ip -4 addr show dev"),
            ("clsact", "tc qdisc show dev"),
            ("clat_egress", "tc filter show egress dev"),
        )
    )
