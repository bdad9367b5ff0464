"""Topologies that tests and benchmarks share. Documentation and ULA addresses only."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network

from nat64_dataplane import pref64
from tests.lab.node import Lab, Node, wait_for

PREFIX = IPv6Network("64:ff9b:1::/96")
POD = IPv6Address("fd64:1::10")
NODE_V4 = IPv4Address("198.51.100.1")
ROUTER_V4 = IPv4Address("198.51.100.254")
SERVER_V4 = IPv4Address("203.0.113.10")
SERVER = pref64.embed(PREFIX, SERVER_V4)
HTTP_PORT, ECHO_PORT = 8080, 7


@dataclass(frozen=True)
class Line:
    """pod (IPv6) -- node (IPv6, IPv4) -- router (IPv4) -- internet (IPv4)."""

    pod: Node
    node: Node
    router: Node
    internet: Node

    def __str__(self) -> str:
        return f"pod {POD} -- node {NODE_V4} -- router {ROUTER_V4} -- internet {SERVER_V4}"

    def url(self, path: str, host: IPv6Address = SERVER) -> str:
        """A URL of the internet's HTTP server, as the pod sees it."""
        return f"http://[{host}]:{HTTP_PORT}/{path}"

    def curl(self, path: str, *args: str, check: bool = True) -> str:
        """Fetch from the pod."""
        return self.pod.run(
            "curl", "-gsS", "--fail", "--max-time", "30", *args, self.url(path), check=check
        )


@contextlib.contextmanager
def line(*, path_mtu: int = 1500, uplink_mtu: int = 1500, pod_mtu: int = 1500) -> Iterator[Line]:
    """Build a `Line`, with servers on the internet; `path_mtu` is that behind the router."""
    with Lab() as lab:
        pod, node, router, internet = map(lab.node, ("pod", "node", "router", "internet"))
        pod.join(node, "eth0", "pod0", pod_mtu)
        node.join(router, "eth0", "node0", uplink_mtu)
        router.join(internet, "eth0", "router0", path_mtu)
        pod.ip(
            f"addr add {POD}/64 dev eth0 nodad",
            "route add default via fd64:1::1 dev eth0",
        )
        node.ip(
            "addr add fd64:1::1/64 dev pod0 nodad",
            f"addr add {NODE_V4}/24 dev eth0",
            f"route add default via {ROUTER_V4} dev eth0",
        )
        router.ip(f"addr add {ROUTER_V4}/24 dev node0", "addr add 203.0.113.1/24 dev eth0")
        internet.ip(
            f"addr add {SERVER_V4}/24 dev router0", "route add default via 203.0.113.1 dev router0"
        )
        router.sysctl(net__ipv4__ip_forward=1)
        built = Line(pod, node, router, internet)
        serve(internet)
        yield built


def serve(node: Node) -> None:
    """Start the lab's servers on a node and wait until they answer."""
    node.start(sys.executable, "-m", "tests.lab.servers")
    wait_for(
        "lab servers", lambda: "ok" in node.run("curl", "-sS", f"http://127.0.0.1:{HTTP_PORT}/ok")
    )
