"""Runs on a lab node: sets it up, has the translator follow, and lets node and pod connect.

`python -m tests.lab.ways.worker PINS` reads one job per line on standard input, as JSON, and
answers each with a Report. The translator is the agent's own `Instance`, driven one pass at a time,
so that hundreds of set-ups take no longer than their packets do.
"""

from __future__ import annotations

import errno
import json
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import msgspec

from nat64_dataplane import pref64
from nat64_dataplane.config import Config, parse
from nat64_dataplane.errors import DataplaneError
from nat64_dataplane.translator.instance import Instance
from tests.lab.ways.compare import Compared, Outcome, Probe, Report, Way
from tests.lab.ways.setup import LINKS, MARK, MARKED_PORT, PORT, PREFIX, Setup, clearing, commands
from tests.lab.ways.taps import Syn, Tap, World, mac_of, syn_of_pod

POD = IPv6Address("fd64:1::10")
CHOICES = 16
"""How many connections a node makes if a route gives it a choice."""
MORE_CHOICES = 300
"""How many more at most, while a pod went a way that the node has not gone yet: one that a hash
takes for every fourth connection is missing among 16 in one node of a hundred.
"""

_POD_LINK = "pod0"
_SECONDS = 30.0
"""How long to wait at most for what comes."""
_SILENCE = 0.15
_KERNEL_LIMIT = 1.1
_MARKS = f"""
table inet lab {{
  chain prerouting {{
    type filter hook prerouting priority mangle
    ip6 daddr {PREFIX} tcp dport {MARKED_PORT} meta mark set {MARK}
  }}
  chain forward {{
    type filter hook forward priority filter
    DROP
  }}
}}
"""


class Job(msgspec.Struct, frozen=True):
    """What to try on which node."""

    setup: Setup
    probes: tuple[Probe, ...]
    config: dict[str, Any] = {}


class Worker:
    """The node's links, its translator, and the world around it."""

    def __init__(self, pins: Path) -> None:
        taps = [Tap(name, ethernet=not name.startswith("tun")) for name in LINKS]
        self.world = World(taps, Tap(_POD_LINK))
        self.instance = Instance(pins, "auto")
        self._opened = False
        self._port = 20000
        self._of_node_itself: set[int] = set()
        self._forward_drop: bool | None = None
        _ip(
            *(f"link set {name} up" for name in (*LINKS, _POD_LINK)),
            f"addr add fd64:1::1/64 dev {_POD_LINK}",
        )
        for key, value in (
            ("net/ipv6/conf/all/forwarding", 1),
            ("net/ipv4/icmp_ratelimit", 0),
            ("net/ipv4/icmp_msgs_per_sec", 100000),
            ("net/ipv6/icmp/ratelimit", 0),
            ("net/ipv4/ip_local_reserved_ports", "61001-65535"),
        ):
            _sysctl(key, value)

    def run(self, job: Job) -> Report:
        """Set the node up, then compare."""
        setup = job.setup
        self._set_up(setup)
        config = parse(json.dumps({"name": "lab", "prefix": str(PREFIX), **job.config}))
        refusal = self._reconcile(config)
        tries = CHOICES if any(len(route.hops) > 1 for route in setup.routes) else 1
        of_node = [tuple(self._of_node(probe) for _ in range(tries)) for probe in job.probes]
        if setup.cold:
            _ip("neigh flush all")
        self._forget_neighbours()
        compared = []
        for probe, first in zip(job.probes, of_node, strict=True):
            node = first
            stays = all(outcome.way is None for outcome in node)
            patience = _SILENCE if stays else _SECONDS
            pods = [self._of_pod(probe, patience) for _ in range(1 if stays else tries)]
            if stays and not pods[0].heard and node[0].heard != "EINVAL":
                # The kernel limits its errors about routes: one a second, after the first few.
                time.sleep(_KERNEL_LIMIT)
                pods = [self._of_pod(probe, _SILENCE if refusal else _SECONDS)]
            if tries > 1:
                node += self._until_seen(probe, node, pods)
            compared.append(Compared(probe, node, tuple(pods)))
        return Report(refusal, tuple(compared))

    def _until_seen(
        self, probe: Probe, node: Iterable[Outcome], pods: Iterable[Outcome]
    ) -> tuple[Outcome, ...]:
        """More connections of the node's, until it has gone every way that the pod went."""
        missing = {pod.way for pod in pods if pod.way} - {outcome.way for outcome in node}
        more: list[Outcome] = []
        while missing and len(more) < MORE_CHOICES:
            more.append(self._of_node(probe))
            missing.discard(more[-1].way)
        return tuple(more)

    def _set_up(self, setup: Setup) -> None:
        if setup.forward_drop != self._forward_drop:
            self._forward_drop = setup.forward_drop
            drop = "meta nfproto ipv4 drop" if setup.forward_drop else ""
            table = "table inet lab\ndelete table inet lab\n" + _MARKS.replace("DROP", drop)
            subprocess.run(["nft", "-f", "-"], input=table, text=True, check=True)
        _sysctl("net/ipv4/nexthop_compat_mode", setup.nexthop_compat_mode)
        _sysctl("net/ipv4/fib_multipath_hash_policy", setup.hash_policy)
        _ip(*clearing(), *commands(setup))

    def _forget_neighbours(self) -> None:
        """Set-ups follow each other faster than neighbours change on a real node: the programs
        remember unresolved ones for a few seconds.
        """
        if self._opened:
            self.instance._datapath.travel(5)

    def _reconcile(self, config: Config) -> str:
        try:
            if not self._opened:
                self.instance.open(config)
                self._opened = True
            self.instance.reconcile(config)
        except DataplaneError as error:
            return str(error)
        return ""

    def _of_node(self, probe: Probe) -> Outcome:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp:
            # Closing it resets the connection: nothing lingers.
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if probe.marked:
                tcp.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
            tcp.setblocking(False)
            failed = tcp.connect_ex((probe.destination, _port_of(probe)))
            if failed not in (0, errno.EINPROGRESS):
                return Outcome(heard=errno.errorcode[failed])
            _, port = tcp.getsockname()
            self._of_node_itself.add(port)

            def done() -> bool:
                return self._way(port) is not None and _is_connected(tcp)

            connected = self.world.run(done, _SECONDS)
            return Outcome(self._way(port), "connected" if connected else "")

    def _of_pod(self, probe: Probe, patience: float) -> Outcome:
        self._port += 1
        port, answers = self._port, len(self.world.answers)
        destination = pref64.embed(PREFIX, IPv4Address(probe.destination))
        packet = syn_of_pod(POD, destination, port, _port_of(probe))
        seen = len(self.world.syns)
        self.world.pod.send(_link_address(_POD_LINK) + mac_of(POD) + b"\x86\xdd" + packet)

        def heard() -> str:
            return next((a.kind for a in self.world.answers[answers:] if a.port == port), "")

        self.world.run(lambda: bool(heard()), patience)
        syns = [
            syn
            for syn in self.world.syns[seen:]
            if syn.destination == probe.destination and syn.port not in self._of_node_itself
        ]
        return Outcome(_way(syns[0]) if syns else None, heard())

    def _way(self, port: int) -> Way | None:
        syn = next((syn for syn in reversed(self.world.syns) if syn.port == port), None)
        return _way(syn) if syn else None


def _way(syn: Syn) -> Way:
    return Way(syn.link, syn.next_hop, syn.source)


def _port_of(probe: Probe) -> int:
    return MARKED_PORT if probe.marked else PORT


def _is_connected(tcp: socket.socket) -> bool:
    try:
        tcp.getpeername()
    except OSError:
        return False
    return True


def _link_address(link: str) -> bytes:
    return bytes.fromhex(Path(f"/sys/class/net/{link}/address").read_text().replace(":", ""))


def _ip(*lines: str) -> None:
    # What the kernel refuses is not there, for the node and for the pod alike.
    subprocess.run(
        ["ip", "-force", "-batch", "-"],
        input="".join(f"{line}\n" for line in lines),
        text=True,
        check=False,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _sysctl(key: str, value: object) -> None:
    Path("/proc/sys", key).write_text(str(value))


def serve(worker: Worker, lines: Iterable[str]) -> None:
    """Answer each line."""
    for line in lines:
        report = worker.run(msgspec.json.decode(line, type=Job))
        print(msgspec.json.encode(report).decode(), flush=True)


if __name__ == "__main__":
    serve(Worker(Path(sys.argv[1])), sys.stdin)
