"""Nodes of both roles of topology Gateway: pods behind router nodes, gateway nodes, an internet.

    pod1 -- router1 --+             +-- gateway1 --+
    pod2 -- router2 --+--- link ----+-- gateway2 --+--- internet (IPv4)
                                    +-- gateway3 --+

Only the gateway nodes have IPv4. Every node is on one link, so that both transports work. A pod has
`CLIENTS` addresses: as many clients, which are steered each for itself.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

from nat64_dataplane import pref64
from nat64_dataplane.members import GatewayEntry, Gateways, RouterEntry, Routers, render
from nat64_dataplane.translator.steering.health import LONGEST_DAMPING
from tests.lab.node import PATIENCE, Lab, Node, wait_for
from tests.lab.topology import HTTP_PORT, PREFIX, SERVER_V4, serve
from tests.lab.translator import Translator

CLIENTS = 24
SERVER = pref64.embed(PREFIX, SERVER_V4)
LINK = IPv6Network("fd64:9::/64")
_OUTSIDE_V4 = IPv4Address("198.51.100.254")


@dataclass
class Member:
    """A node of either role, and its agent."""

    node: Node
    address: IPv6Address
    agent: Translator
    ipv4: IPv4Address | None = None
    """Its own, on a gateway node."""
    pod: Node | None = None
    pods: IPv6Network | None = None
    """The range of its pods, on a router node."""

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def clients(self) -> list[IPv6Address]:
        """The pod's addresses."""
        assert self.pods
        return [self.pods[0x10 + number] for number in range(CLIENTS)]


@dataclass
class Site:
    """All of it."""

    lab: Lab
    link: Node
    """The bridge between the nodes; a node's port is named like the node."""
    internet: Node
    """With the bridge to which the gateway nodes' eth1 lead; their ports are named like them."""
    gateways: list[Member]
    routers: list[Member]
    folder: Path
    draining: set[str] = field(default_factory=set)
    weights: dict[str, int] = field(default_factory=dict)

    def member(self, name: str) -> Member:
        return next(m for m in (*self.gateways, *self.routers) if m.name == name)

    def tell(
        self, gateways: Sequence[Member] | None = None, routers: Sequence[Member] | None = None
    ) -> None:
        """Write both membership files, as the operator would; all agents read them."""
        files: dict[str, Gateways | Routers] = {
            "gateways.json": Gateways(
                gateways=tuple(
                    GatewayEntry(
                        node=m.name,
                        address=m.address,
                        weight=self.weights.get(m.name, 1),
                        draining=m.name in self.draining,
                    )
                    for m in (self.gateways if gateways is None else gateways)
                )
            ),
            "routers.json": Routers(
                routers=tuple(
                    RouterEntry(node=m.name, address=m.address, pod_ranges=(m.pods,))
                    for m in (self.routers if routers is None else routers)
                    if m.pods
                )
            ),
        }
        for name, content in files.items():
            new = self.folder / f"{name}.new"
            new.write_bytes(render(content))
            new.replace(self.folder / name)

    def states(self, router: Member) -> dict[str, str]:
        """Each gateway's state, as a router node sees it."""
        shown = router.agent.json("topology")
        return {gateway["node"]: gateway["state"] for gateway in shown["gateways"]}

    def wait_states(self, **wanted: str) -> None:
        """Wait until every router node sees the gateways so.

        A gateway that has died several times needs a minute of answers in a row to be back, and one
        that a busy machine misses makes it two.
        """
        for router in self.routers:
            wait_for(
                f"{router.name} to see {wanted}",
                lambda router=router: wanted.items() <= self.states(router).items(),  # type: ignore[misc]
                PATIENCE + 2 * LONGEST_DAMPING,
            )

    def wait_healthy(self) -> None:
        """Wait until every router node sees every gateway as healthy."""
        self.wait_states(**{m.name: "healthy" for m in self.gateways})

    def seen_as(self, router: Member, client: IPv6Address, check: bool = True) -> str:
        """The IPv4 address that the internet sees a client with, by a new connection."""
        assert router.pod
        url = f"http://[{SERVER}]:{HTTP_PORT}/peer"
        command = ("curl", "-gsS", "--max-time", "20", "--interface", str(client), url)
        words = router.pod.run(*command, check=check).split()
        return words[0].removeprefix("::ffff:") if words else ""

    def gateway_of(self, router: Member, client: IPv6Address) -> Member:
        """Through which gateway a client's new connections go."""
        seen = self.seen_as(router, client)
        return next(m for m in self.gateways if str(m.ipv4) == seen)

    def clients_by_gateway(self, router: Member) -> dict[str, list[IPv6Address]]:
        """All clients of a router's pod."""
        found: dict[str, list[IPv6Address]] = {m.name: [] for m in self.gateways}
        for client in router.clients:
            found[self.gateway_of(router, client).name].append(client)
        return found


@contextlib.contextmanager
def site(
    gateways: int = 3,
    routers: int = 1,
    *,
    topology: Mapping[str, Any] | None = None,
    link_mtu: int = 1500,
    start: bool = True,
    **config: Any,
) -> Iterator[Site]:
    """Build it; every gateway is healthy as every router sees it when the block begins.

    `topology` has fields of that section of the config besides the role.
    """
    with Lab() as lab, tempfile.TemporaryDirectory(prefix="nat64-site-") as folder:
        link, internet = lab.node("link"), lab.node("internet")
        for bridge, extra in ((link, ()), (internet, _server())):
            bridge.ip(f"link add bridge0 mtu {link_mtu} type bridge", "link set bridge0 up", *extra)
        built = Site(lab, link, internet, [], [], Path(folder))
        for number in range(1, gateways + 1):
            built.gateways.append(_gateway(built, number, topology or {}, link_mtu, config))
        for number in range(1, routers + 1):
            built.routers.append(_router(built, number, topology or {}, link_mtu, config))
        for gateway in built.gateways:  # as a cloud or a routing CNI would
            gateway.node.ip(*(f"route add {r.pods} via {r.address}" for r in built.routers))
        built.tell()
        serve(internet)
        if start:
            for member in (*built.gateways, *built.routers):
                # by this thread: a process ends with the thread that has started it
                member.agent.prepare()
                member.agent.start()
            for member in (*built.gateways, *built.routers):
                member.agent.wait_ready()
            built.wait_healthy()
        yield built


def _server() -> tuple[str, ...]:
    return (
        f"addr add {_OUTSIDE_V4}/24 dev bridge0",
        f"addr add {SERVER_V4}/32 dev lo",
        # datagrams are answered from that address, too
        f"route change 198.51.100.0/24 dev bridge0 src {SERVER_V4}",
    )


def _on_link(built: Site, node: Node, host: int, mtu: int) -> IPv6Address:
    node.join(built.link, "eth0", node.name, mtu)
    built.link.ip(f"link set {node.name} master bridge0")
    address = LINK[host]
    node.ip(f"addr add {address}/64 dev eth0 nodad")
    return address


def _agent(
    built: Site, node: Node, role: str, topology: Mapping[str, Any], config: Mapping[str, Any]
) -> Translator:
    agent = Translator(node, topology={"role": role, **topology}, **config)
    built.lab.callback(agent.close)
    agent.arguments = ["--node", node.name]
    agent.arguments += ["--gateways", str(built.folder / "gateways.json")]
    if role == "Gateway":
        agent.arguments += ["--routers", str(built.folder / "routers.json")]
    return agent


def _gateway(
    built: Site, number: int, topology: Mapping[str, Any], mtu: int, config: Mapping[str, Any]
) -> Member:
    node = built.lab.node(f"gateway{number}")
    address = _on_link(built, node, 0x100 + number, mtu)
    ipv4 = IPv4Address("198.51.100.0") + number
    node.join(built.internet, "eth1", node.name, mtu)
    built.internet.ip(f"link set {node.name} master bridge0")
    node.ip(f"addr add {ipv4}/24 dev eth1", f"route add default via {_OUTSIDE_V4}")
    return Member(node, address, _agent(built, node, "Gateway", topology, config), ipv4)


def _router(
    built: Site, number: int, topology: Mapping[str, Any], mtu: int, config: Mapping[str, Any]
) -> Member:
    node, pod = built.lab.node(f"router{number}"), built.lab.node(f"pod{number}")
    address = _on_link(built, node, 0x200 + number, mtu)
    pods = IPv6Network(f"fd64:{number}::/64")
    pod.join(node, "eth0", "pod0", mtu)
    node.ip(f"addr add {pods[1]}/64 dev pod0 nodad")
    agent = _agent(built, node, "Router", topology, config)
    member = Member(node, address, agent, None, pod, pods)
    pod.ip(
        *(f"addr add {client}/64 dev eth0 nodad" for client in member.clients),
        f"route add default via {pods[1]} dev eth0",
    )
    return member
