"""Probes for a lab's nodes: small programs that run on a node and print what they have seen."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from tests.lab.node import Node
from tests.lab.servers import pattern
from tests.lab.topology import ECHO_PORT, SERVER, Line

_MEGABYTE = 1_000_000
_PATIENCE, _LOST = 60, 2
"""Seconds to wait for an echo that must come, and for one that may be lost."""

_UDP_ECHO = """
import socket, sys
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.settimeout(float(sys.argv[3]))
s.connect((sys.argv[1], int(sys.argv[2])))
for size in map(int, sys.argv[4:]):
    sent = bytes(i % 251 for i in range(size))
    s.send(sent)
    assert s.recv(65535) == sent, size
print("ok")
"""

_PROBE = """
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
probe.settimeout(60)
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


def udp_echo(node: Node, *sizes: int, host: object = SERVER, check: bool = True) -> bool:
    """Whether the echo server returns datagrams of these sizes unchanged.

    Without `check`, one may be lost, as the first one that is longer than the path carries.
    """
    numbers = (ECHO_PORT, _PATIENCE if check else _LOST, *sizes)
    command = (sys.executable, "-c", _UDP_ECHO, str(host), *map(str, numbers))
    return "ok" in node.run(*command, check=check)


def probe(node: Node, host: object, port: int, hops: int) -> list[str]:
    """Send a datagram with this hop limit: `error TYPE CODE WHO`, or `answer TEXT`."""
    return node.run(sys.executable, "-c", _PROBE, str(host), str(port), str(hops)).split()


def megabyte_both_ways(lab: Line, scratch: Path) -> None:
    """Upload a megabyte from the pod and download one; AssertionError if a byte differs."""
    body = scratch / "body"
    body.write_bytes(pattern(_MEGABYTE))
    digest = hashlib.sha256(body.read_bytes()).hexdigest()
    assert lab.curl("sink", "--data-binary", f"@{body}").split() == [str(_MEGABYTE), digest]
    url = lab.url(f"bytes/{_MEGABYTE}")
    down = lab.pod.run("sh", "-c", f"curl -gsS --max-time 30 '{url}' | sha256sum")
    assert down.split()[0] == digest
