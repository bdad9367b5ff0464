"""What topology Gateway is compared with: the same four machines, and the same cables, each time.

client -- router -- gateway -- server, IPv6 all along, IPv4 between gateway and server too. A
subject is what router and gateway do with the client's packets.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path

from nat64_dataplane import pref64
from nat64_dataplane.config import Limits
from nat64_dataplane.members import GatewayEntry, Gateways, RouterEntry, Routers, render
from nat64_dataplane.topology import DEFAULT_TUNNEL_PORT
from tests.bench import load
from tests.bench.subjects import (
    LOAD,
    POOL,
    PREFIX,
    SERVER_V4,
    SERVER_V6,
    SOURCES_V6,
    Subject,
    ends_at_the_wire,
)
from tests.lab.node import Lab, Node, wait_for
from tests.lab.translator import Translator

PODS = IPv6Network("fd64:1::/64")
SERVERS = IPv6Network("fd64:2::/64")
ROUTER, GATEWAY = IPv6Address("fd64:9::1"), IPv6Address("fd64:9::2")


@contextlib.contextmanager
def subject(name: str) -> Iterator[Subject]:
    """Build the machines, have router and gateway do what `name` says, start the servers."""
    with Lab() as lab:
        client, router, gateway, server = map(lab.node, ("client", "router", "gateway", "server"))
        _cables(client, router, gateway, server)
        sessions = Limits().sessions
        built = Subject(name, client, gateway, server, str(SERVER_V6), SOURCES_V6, "", sessions)
        SETUPS[name](built, router, lab)
        ends_at_the_wire(server, f"udp dport {load.DISCARD}")
        ends_at_the_wire(client, f"udp sport {load.CALLS}")
        server.start(*LOAD, "server")
        wait_for("answer", lambda: built.load("rounds", built.host, 10), 20)
        yield built


def _cables(client: Node, router: Node, gateway: Node, server: Node) -> None:
    client.join(router, "eth0", "client0")
    router.join(gateway, "eth0", "eth0")
    server.join(gateway, "eth0", "server0")
    client.ip(
        *(f"addr add {address}/64 dev eth0 nodad" for address in ("fd64:1::10", *SOURCES_V6)),
        "route add default via fd64:1::1 src fd64:1::10",
    )
    router.ip(
        "addr add fd64:1::1/64 dev client0 nodad",
        f"addr add {ROUTER}/64 dev eth0 nodad",
    )
    gateway.ip(
        f"addr add {GATEWAY}/64 dev eth0 nodad",
        "addr add fd64:2::1/64 dev server0 nodad",
        "addr add 198.51.100.1/24 dev server0",
        f"route add default via {SERVER_V4}",
    )
    server.ip(
        f"addr add {SERVER_V6}/64 dev eth0 nodad",
        f"addr add {SERVER_V4}/24 dev eth0",
        "route add default via fd64:2::1",
        "route add default via 198.51.100.1",
    )
    for node in (router, gateway):
        node.sysctl(net__ipv6__conf__all__forwarding=1, net__ipv4__ip_forward=1)
    for node in (client, server):
        node.sysctl(
            net__ipv4__ip_local_port_range="1024 65535",
            net__ipv4__tcp_max_syn_backlog=8192,
            net__core__somaxconn=8192,
        )


def _steered(transport: str) -> Callable[[Subject, Node, Lab], None]:
    def set_up(built: Subject, router: Node, lab: Lab) -> None:
        if transport == "Direct":
            built.forwarder.ip(f"route add {PODS} via {ROUTER}")
        folder = Path(lab.enter_context(tempfile.TemporaryDirectory(prefix="nat64-bench-")))
        gateways = Gateways(gateways=(GatewayEntry(node="gateway", address=GATEWAY),))
        routers = Routers(routers=(RouterEntry(node="router", address=ROUTER, pod_ranges=(PODS,)),))
        (folder / "gateways.json").write_bytes(render(gateways))
        (folder / "routers.json").write_bytes(render(routers))
        pools = [{"addresses": POOL, "ports": "1024-65535"}]
        translates = Translator(
            built.forwarder,
            prefix=PREFIX,
            topology={"role": "Gateway", "transport": transport},
            pools=pools,
        )
        steers = Translator(
            router, prefix=PREFIX, topology={"role": "Router", "transport": transport}
        )
        for agent, files in ((translates, ("gateways", "routers")), (steers, ("gateways",))):
            lab.callback(agent.close)
            agent.arguments += ["--node", agent.node.name]
            for name in files:
                agent.arguments += [f"--{name}", str(folder / f"{name}.json")]
            agent.started()
        built.host = str(pref64.embed(PREFIX, SERVER_V4))

    return set_up


def _plain(built: Subject, router: Node, _lab: Lab) -> None:
    router.ip(f"route add {SERVERS} via {GATEWAY}")
    built.forwarder.ip(f"route add {PODS} via {ROUTER}")


def _plain_vxlan(built: Subject, router: Node, _lab: Lab) -> None:
    """One device at each end in external mode, as ours; the route says where to."""
    for node, peer, address, other, to in (
        (router, GATEWAY, ROUTER, "fd64:8::2", SERVERS),
        (built.forwarder, ROUTER, GATEWAY, "fd64:8::1", PODS),
    ):
        port = DEFAULT_TUNNEL_PORT
        node.ip(
            f"link add vxlan0 type vxlan external dstport {port} nolearning udp6zerocsumrx",
            "link set vxlan0 mtu 1430 up",
            f"route add {other}/128 dev vxlan0",
        )
        mac = "02:00:00:00:00:01" if peer == ROUTER else "02:00:00:00:00:02"
        mine = "02:00:00:00:00:02" if peer == ROUTER else "02:00:00:00:00:01"
        node.ip(
            f"link set vxlan0 address {mine}",
            f"neigh replace {other} lladdr {mac} dev vxlan0 nud permanent",
        )
        encap = f"encap ip6 id 1 dst {peer} src {address} hoplimit 64"
        node.run("ip", "-6", "route", "add", str(to), *encap.split(), "via", other, "dev", "vxlan0")


SETUPS: dict[str, Callable[[Subject, Node, Lab], None]] = {
    "direct": _steered("Direct"),
    "plain_ipv6": _plain,
    "tunnel": _steered("Tunnel"),
    "plain_vxlan": _plain_vxlan,
}
PAIRS = (("direct", "plain_ipv6"), ("tunnel", "plain_vxlan"))
"""Which is compared with which."""
