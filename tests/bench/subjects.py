"""What is compared: the same three machines each time, joined by the same two cables.

client -- forwarder -- server, IPv4 and IPv6 on both cables. A subject is what the forwarder does
with the client's packets and which address of the server the client then dials.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from nat64_dataplane import pref64
from nat64_dataplane.config import Limits
from tests.bench import load
from tests.lab import clat
from tests.lab.node import Lab, Node, wait_for
from tests.lab.translator import Translator

PREFIX = IPv6Network("2001:db8:64::/96")
SERVER_V4, SERVER_V6 = IPv4Address("198.51.100.10"), IPv6Address("fd64:2::10")
SOURCES_V6 = [str(IPv6Address("fd64:1::1:0") + n) for n in range(32)]
SOURCES_V4 = [str(IPv4Address("192.0.2.32") + n) for n in range(32)]
CLAT_ADDRESS = "192.0.0.2"
POOL = "198.51.100.64/27"
TAYGA_POOL = "198.19.0.0/16"
"""An address for each client; masquerade then gives all of them the forwarder's."""
CROWD_V6, CROWD_V4 = IPv6Network("fd64:1:0:0:2::/80"), IPv4Network("198.18.0.0/16")
"""Where very many clients have their addresses: all of them are the client's."""
LOAD = (sys.executable, "-m", load.__name__)


@dataclass
class Subject:
    """Three machines, ready to be measured."""

    name: str
    client: Node
    forwarder: Node
    server: Node
    host: str
    sources: list[str]
    crowd: str
    """The first of very many addresses of clients; empty: the subject has one client only."""
    sessions: int
    """Our translator's limit."""
    translator: Translator | None = field(default=None)

    @contextlib.contextmanager
    def loaded(self, *words: object) -> Iterator[None]:
        """Run a mode of load.py on the client meanwhile."""
        process = self.client.start(*LOAD, *map(str, words))
        try:
            yield
            assert process.poll() is None, "the load has ended before what was measured under it"
        finally:
            process.terminate()
            process.wait()

    def load(self, *words: object, timeout: float = 90) -> list[float]:
        """Run a mode of load.py on the client; its figures."""
        out = self.client.run(*LOAD, *map(str, words), timeout=timeout)
        return [float(word) for word in out.split()]


@contextlib.contextmanager
def subject(name: str, sessions: int = Limits().sessions) -> Iterator[Subject]:
    """Build the machines, have the forwarder do what `name` says, start the servers."""
    with Lab() as lab:
        client, forwarder, server = map(lab.node, ("client", "forwarder", "server"))
        _cables(client, forwarder, server)
        built = Subject(
            name,
            client,
            forwarder,
            server,
            str(SERVER_V6),
            SOURCES_V6,
            str(CROWD_V6[1]),
            sessions,
        )
        SETUPS[name](built, lab)
        ends_at_the_wire(server, f"udp dport {load.DISCARD}")
        ends_at_the_wire(client, f"udp sport {load.CALLS}")
        server.start(*LOAD, "server")
        wait_for("answer", lambda: built.load("rounds", built.host, 10), 20)
        yield built


def _cables(client: Node, forwarder: Node, server: Node) -> None:
    client.join(forwarder, "eth0", "client0")
    server.join(forwarder, "eth0", "server0")
    for v6 in ("fd64:1::10", *SOURCES_V6):
        client.ip(f"addr add {v6}/64 dev eth0 nodad")
    for v4 in ("192.0.2.10", *SOURCES_V4):
        client.ip(f"addr add {v4}/24 dev eth0")
    client.ip(
        "route add default via fd64:1::1 src fd64:1::10",
        "route add default via 192.0.2.1",
        f"route add local {CROWD_V6} dev lo",
        f"route add local {CROWD_V4} dev lo",
    )
    client.sysctl(net__ipv6__ip_nonlocal_bind=1)
    server.ip(
        f"addr add {SERVER_V6}/64 dev eth0 nodad",
        f"addr add {SERVER_V4}/24 dev eth0",
        "route add default via fd64:2::1",
        "route add default via 198.51.100.1",
    )
    forwarder.ip(
        "addr add fd64:1::1/64 dev client0 nodad",
        "addr add 192.0.2.1/24 dev client0",
        "addr add fd64:2::1/64 dev server0 nodad",
        "addr add 198.51.100.1/24 dev server0",
        "route add default via 198.51.100.10",
        f"route add {CROWD_V6} via fd64:1::10",
        f"route add {CROWD_V4} via 192.0.2.10",
    )
    forwarder.sysctl(net__ipv6__conf__all__forwarding=1, net__ipv4__ip_forward=1)
    for node in (client, server):
        node.sysctl(
            net__ipv4__ip_local_port_range="1024 65535",
            net__ipv4__tcp_max_syn_backlog=8192,
            net__core__somaxconn=8192,
        )


def _ours(built: Subject, lab: Lab, **more: Any) -> None:
    built.translator = Translator(
        built.forwarder,
        prefix=PREFIX,
        **more,
        pools=[{"addresses": POOL, "ports": "1024-65535"}],
        limits={"sessions": built.sessions},
    )
    lab.callback(built.translator.close)
    built.translator.started()
    built.host = str(pref64.embed(PREFIX, SERVER_V4))


def _ours_clat(built: Subject, lab: Lab) -> None:
    """The client has IPv6 only, and dials IPv4 through its CLAT."""
    _ours(built, lab, clat={"prefix": str(clat.PREFIX)})
    built.client.run("ip", "-4", "address", "flush", "dev", "eth0")
    agent = clat.Clat(built.forwarder)
    lab.callback(agent.close)
    agent.mount(built.client, "client")
    agent.start()
    agent.wait_pod("client")
    built.host, built.sources, built.crowd = str(SERVER_V4), [CLAT_ADDRESS], ""


def _plain(_built: Subject, _lab: Lab) -> None:
    """Forwarding is on already."""


def _conntrack(built: Subject, _lab: Lab) -> None:
    _track(built, "chain f { type filter hook forward priority 0; ct state invalid drop; };")


def _nat44(built: Subject, _lab: Lab) -> None:
    _track(
        built,
        "chain p { type nat hook postrouting priority 100; oifname server0 masquerade; };",
    )
    built.host, built.sources, built.crowd = str(SERVER_V4), SOURCES_V4, str(CROWD_V4[1])


def _tayga(built: Subject, _lab: Lab) -> None:
    config = (
        "tun-device xlat\nipv4-addr 203.0.113.1\n"
        f"prefix {PREFIX}\ndynamic-pool {TAYGA_POOL}\ndata-dir /run\n"
    )
    node = built.forwarder
    node.run("sh", "-c", "cat > /run/tayga.conf", input=config)
    node.run("tayga", "--config", "/run/tayga.conf", "--mktun")
    node.ip(
        "link set xlat up",
        f"route add {TAYGA_POOL} dev xlat",
        f"route add {PREFIX} dev xlat",
    )
    node.start("tayga", "--config", "/run/tayga.conf", "--nodetach", "-d")
    _track(
        built,
        "chain p { type nat hook postrouting priority 100; oifname server0 masquerade; };",
    )
    built.host = str(pref64.embed(PREFIX, SERVER_V4))


def ends_at_the_wire(node: Node, what: str) -> None:
    """Count it on the interface, and no more."""
    chain = f"chain c {{ type filter hook prerouting priority -300; {what} drop; }};"
    node.run("nft", "-f", "-", input=f"table inet sink {{ {chain} }}\n")


def _track(built: Subject, chain: str) -> None:
    built.forwarder.run("nft", "-f", "-", input=f"table inet bench {{ {chain} }}\n")


SETUPS: dict[str, Callable[[Subject, Lab], None]] = {
    "ours": _ours,
    "ours_clat": _ours_clat,
    "plain_ipv6": _plain,
    "plain_ipv6_conntrack": _conntrack,
    "nat44": _nat44,
    "tayga": _tayga,
}
"""Ours first: every ratio is ours to one of the others."""
