"""The real programs on the bench: packets in, packets and counters out, nothing on any wire.

BPF_PROG_TEST_RUN runs them under the real verifier. They ask the routes and neighbours of the
network namespace they run in, so a Machine has one: pod0 towards a pod, up0 towards the internet.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

import yaml
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from nat64_dataplane import pref64
from nat64_dataplane.config import Config, Limits, parse
from nat64_dataplane.translator.datapath.datapath import Datapath
from nat64_dataplane.translator.host_view import HostView, PoolRange, Uplink
from tests.lab.node import Node
from tests.lab.taps import Tap

PREFIX = IPv6Network("64:ff9b:1::/96")
PREFIXES = (
    "2001:db8::/32",
    "2001:db8:100::/40",
    "2001:db8:122::/48",
    "2001:db8:122:300::/56",
    "2001:db8:122:344::/64",
    "2001:db8:122:344::/96",
)
"""One of each length that RFC 6052 allows."""
POOL = IPv4Address("192.0.2.1")
SERVER = IPv4Address("203.0.113.10")
OTHER = IPv4Address("203.0.113.11")
POD = IPv6Address("fd64:1::10")
POD2 = IPv6Address("fd64:1::11")
FIRST, LAST = 61001, 65535

REDIRECT, SHOT, NEXT = 7, 2, -1
MAC = bytes.fromhex("020000000064")
_LINK = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:64")
_POD_LINK = Ether(src="02:00:00:00:01:10", dst="02:00:00:00:01:01")
_CLONE_NEWNET = 0x40000000

_STATE = ("bib4", "bib6", "sessions", "overloads", "clients", "fragments", "held", "ports")

POOL_RANGE = PoolRange(POOL, FIRST, LAST)

_LINKS = """
link add nat64-t address 02:00:00:00:00:64 type veth peer name n64p-t
link add up0 address 02:00:00:00:00:64 mtu 1500 type veth peer name far0
link add pod0 address 02:00:00:00:01:01 mtu 1500 type veth peer name in0
"""
PEERS = {"nat64-t": "n64p-t", "up0": "far0", "pod0": "in0"}
PEERS |= {there: here for here, there in PEERS.items()}
"""The other end of each link."""

_NETWORK = """
link set nat64-t up mtu 65535
link set n64p-t up
link set up0 up
link set far0 up
link set pod0 up
link set in0 up
addr add 192.0.2.1/24 dev up0
addr add fd64:1::1/64 dev pod0 nodad
addr add 192.0.0.8/32 dev nat64-t
neigh add 192.0.2.254 lladdr 02:00:00:00:02:54 dev up0 nud permanent
route add default via 192.0.2.254 dev up0
"""


@dataclass
class Out:
    """What became of one packet."""

    verdict: int
    frame: bytes
    counted: dict[str, int]
    """The counters that moved, without direction."""
    link_header: int = 14
    gso_size: int = 0
    """Of the segments that the packet still stands for."""
    mark: int = 0

    @functools.cached_property
    def packet(self) -> Packet:
        """From the IP header on, as the program left it."""
        return dissect(self.frame[self.link_header :])

    @property
    def dropped(self) -> str | None:
        """The reason, where it was dropped."""
        reasons = [name for name in self.counted if name.startswith("dropped_")]
        if not reasons:
            assert self.verdict != SHOT or "held" in self.counted, self.counted
            return None
        answered = "resets_sent" in self.counted
        assert self.verdict == (REDIRECT if answered else SHOT), self.verdict
        assert len(reasons) == 1, reasons
        return reasons[0].removeprefix("dropped_")

    @property
    def translated(self) -> bool:
        """Whether it goes on in the other IP version."""
        return "translated" in self.counted and self.verdict == REDIRECT

    @property
    def passed(self) -> bool:
        """Whether the host gets it as it was."""
        return "passed" in self.counted and self.verdict == NEXT


class Machine:
    """One translator without hooks."""

    node: Node

    def __init__(self, limits: Limits | None = None, pins: Path | None = None) -> None:
        self.interface = _index("nat64-t")
        self.uplink = _index("up0")
        self.pod_link = _index("pod0")
        self.datapath = Datapath.open(pins, "t", limits or Limits(sessions=65536))
        self.config = Config(name="t", prefix=PREFIX)
        self.pool: tuple[PoolRange, ...] = (POOL_RANGE,)
        self.far_link = _index("far0")
        self.outside: tuple[int, ...] = ()
        self.route_mtu = 65535
        self.local: frozenset[IPv4Network] = frozenset()
        self.uplinks: tuple[Uplink, ...] = (Uplink(self.uplink, 1500, "up0"),)

    def reset(self, pool: tuple[PoolRange, ...] = (POOL_RANGE,), **config: Any) -> Config:
        """Forget all state, then `configure`."""
        for name in (
            "bib4",
            "bib6",
            "sessions",
            "overloads",
            "clients",
            "fragments",
            "held",
            "ports",
        ):
            table = self.datapath.map(name)
            for key, _ in list(table.items()):
                table.delete(key)
        shared = self.datapath.map("shared")
        shared.set(bytes(4), bytes(shared.layout.value_size))
        return self.configure(pool, **config)

    def configure(self, pool: tuple[PoolRange, ...] = (POOL_RANGE,), **config: Any) -> Config:
        """Apply a config, given as the file's fields."""
        self.pool = pool
        self.config = parse(_yaml({"name": "t", "prefix": str(PREFIX), **config}))
        self.datapath.apply(self.config, self.host)
        return self.config

    @property
    def host(self) -> HostView:
        """What the agent would find."""
        return HostView(
            interface_index=self.interface,
            interface_mac=MAC,
            uplinks=self.uplinks,
            pool=self.pool,
            local_ranges=self.local | {IPv4Network(POOL), IPv4Network("192.0.0.8")},
            outside=self.outside,
            route_mtu=self.route_mtu,
        )

    def from_pod(self, packet: Packet | bytes, *, link: Packet | None = _LINK, **run: Any) -> Out:
        """Give `packet`, which starts at its IPv6 header, to nat64_egress.

        IPv4 there is what the kernel has fragmented: it came in on the translator's own link.
        """
        run.setdefault("ifindex", self.interface)
        if bytes(packet)[:1] and bytes(packet)[0] >> 4 == 4:
            run.setdefault("ingress_ifindex", self.interface)
        run.setdefault("ingress_ifindex", self.pod_link)
        return self._run("nat64_egress", packet, link, run)

    def from_internet(
        self, packet: Packet | bytes, *, link: Packet | None = _LINK, **run: Any
    ) -> Out:
        """Give `packet`, which starts at its IPv4 header, to nat64_ingress."""
        run.setdefault("ifindex", self.uplink)
        run.setdefault("ingress_ifindex", self.uplink)
        return self._run("nat64_ingress", packet, link, run)

    def on_pod_link(self, packet: Packet | bytes, *, link: Packet | None = None, **run: Any) -> Out:
        """Give `packet`, which starts at its IPv6 header, to nat64_offload."""
        run.setdefault("ifindex", self.pod_link)
        run.setdefault("ingress_ifindex", run["ifindex"])
        return self._run("nat64_offload", packet, link or _POD_LINK, run)

    def _run(self, program: str, packet: Packet | bytes, link: Packet | None, run: Any) -> Out:
        before = self.datapath.counters()
        data = bytes(packet)
        if link is not None:
            kind = 0x86DD if data[0] >> 4 == 6 else 0x0800
            data = bytes(link / b"")[:12] + kind.to_bytes(2, "big") + data
        result = self.datapath.program(program).run(data, **run)
        after = self.datapath.counters()
        moved = {
            name.rpartition("_")[0]: after[name] - before[name]
            for name in after
            if after[name] != before[name]
        }
        link_header = 0 if link is None else 14
        context = result.context
        return Out(
            result.verdict, result.packet, moved, link_header, context.gso_size, context.mark
        )

    def balance(self) -> dict[str, tuple[int, int]]:
        """Per direction: packets in, and what became of them. The two are equal."""
        counted = self.datapath.counters()
        return {
            direction: (
                counted[f"received_{direction}"],
                sum(
                    value
                    for name, value in counted.items()
                    if name.endswith(direction)
                    and name.startswith(
                        ("translated_", "passed_", "dropped_", "steered_", "returned_", "probes_")
                    )
                ),
            )
            for direction in ("6to4", "4to6")
        }

    @contextlib.contextmanager
    def routed(self, route: str) -> Iterator[None]:
        """Let the namespace have a route for a while, given as `ip route add` takes it."""
        self.node.ip(f"route add {route}")
        try:
            yield
        finally:
            self.node.ip(f"route del {route}")

    @contextlib.contextmanager
    def capture(self, link: str) -> Iterator[list[bytes]]:
        """Collect the frames that reach `link`: clones are really sent, even by a test run."""
        frames: list[bytes] = []
        with contextlib.closing(Tap(link, PEERS[link])) as tap:
            tap.settled()  # what was under way before
            yield frames
            frames += tap.settled()

    def close(self) -> None:
        """Let the kernel have everything back."""
        self.datapath.close()


def dissect(payload: bytes) -> Packet:
    """Read an IP packet of either version."""
    return IPv6(payload) if payload[:1] and payload[0] >> 4 == 6 else IP(payload)


def at(address: IPv4Address | str, prefix: IPv6Network = PREFIX) -> str:
    """The IPv6 address that stands for `address`."""
    return str(pref64.embed(prefix, IPv4Address(address)))


def spare(timeout: int) -> int:
    """For how many seconds at most a session in use outlives its timer (session_update.h)."""
    return min(timeout // 8, 60)


def right_checksums(packet: Packet) -> bool:
    """Whether every checksum is what it should be, by building the packet anew without them."""
    again = packet.copy()
    layer: Packet = again
    while layer:
        for name in ("chksum", "cksum"):
            if name in layer.fields:
                delattr(layer, name)
        layer = layer.payload
    return bytes(again) == bytes(packet)


@contextlib.contextmanager
def machine(
    limits: Limits | None = None, pins: Path | None = None, kind: type[Machine] | None = None
) -> Iterator[Machine]:
    """A Machine in a network namespace of its own, in which the caller is meanwhile."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    node = Node("bench")
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        _lay_links(node)
        node.ip(*_NETWORK.strip().splitlines())
        for pod in (POD, POD2):
            node.ip(f"neigh add {pod} lladdr 02:00:00:00:01:10 dev pod0 nud permanent")
        inside = os.open(f"/proc/{node.pid}/ns/net", os.O_RDONLY)
        assert libc.setns(inside, _CLONE_NEWNET) == 0
        os.close(inside)
        built = (kind or Machine)(limits, pins)
        built.node = node
        try:
            yield built
        finally:
            built.close()
    finally:
        assert libc.setns(home, _CLONE_NEWNET) == 0
        os.close(home)
        node.close()


def _lay_links(node: Node) -> None:
    """Links on which the kernel says as little as it can: it has IPv6 only at our ends, and no
    link-local addresses. What it says of multicast groups can't be turned off."""
    ipv6 = "net__ipv6__conf__{}__disable_ipv6".format
    node.sysctl(
        net__ipv4__ip_forward=1,
        net__ipv6__conf__all__forwarding=1,
        net__ipv6__conf__default__addr_gen_mode=1,
        **{ipv6("default"): 1},
    )
    node.ip(*_LINKS.strip().splitlines())
    node.sysctl(**{ipv6(link): 0 for link in ("nat64-t", "up0", "pod0", "default")})


def _index(link: str) -> int:
    return int(socket.if_nametoindex(link))


def _yaml(config: dict[str, Any]) -> str:
    return str(yaml.safe_dump(config))
