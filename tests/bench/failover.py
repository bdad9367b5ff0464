"""`python -m tests.bench.failover`: how long a dead gateway's clients have no new connections.

Gateways are killed one at a time, in several ways. A client of the killed one tries a new
connection every 20 ms, each on a socket of its own. What is measured is the time from just before
the kill until the first of those that began when it was done is established. Clients of the other
gateways hold connections over the whole of it, and none may break: not by the kill, and not when
the gateway comes back.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import IPv6Address
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from tests.bench.nat64 import BUILD, machine
from tests.lab.flows import Flow
from tests.lab.node import Node
from tests.lab.site import SERVER, Member, Site, site
from tests.lab.topology import HTTP_PORT

PATIENCE = 20.0
TRANSPORTS = ("Tunnel", "Direct")
PAUSE, GIVE_UP = 0.02, 4.0
"""Seconds between two attempts, and until one is given up."""


def network_cut(one: Site, gateway: Member) -> None:
    """Both of the node's cables are pulled, at the other end."""
    one.link.ip(f"link set {gateway.name} down")
    one.internet.ip(f"link set {gateway.name} down")


def state_gone(_one: Site, gateway: Member) -> None:
    """The agent is killed, and its links go, with the programs on them."""
    gateway.agent.kill()
    gateway.node.ip("link del nat64-default")
    gateway.node.run("ip", "link", "del", "n64v-default", check=False)  # only a tunnel has one


def uplink_down(_one: Site, gateway: Member) -> None:
    """The link to the IPv4 internet goes down on the node."""
    gateway.node.ip("link set eth1 down")


def default_route_gone(_one: Site, gateway: Member) -> None:
    """The node has no IPv4 default route any more."""
    gateway.node.ip("route del default")


def _plugged_in(one: Site, gateway: Member) -> None:
    one.link.ip(f"link set {gateway.name} up")
    one.internet.ip(f"link set {gateway.name} up")


def _started(_one: Site, gateway: Member) -> None:
    gateway.agent.start()


def _uplink_up(_one: Site, gateway: Member) -> None:
    gateway.node.ip("link set eth1 up")
    _routed(_one, gateway)


def _routed(_one: Site, gateway: Member) -> None:
    gateway.node.run("ip", "route", "replace", "default", "via", "198.51.100.254")


Act = Callable[[Site, Member], None]
KILLS: dict[str, tuple[Act, Act]] = {
    "network cut": (network_cut, _plugged_in),
    "agent and kernel state gone": (state_gone, _started),
    "uplink down": (uplink_down, _uplink_up),
    "IPv4 default route gone": (default_route_gone, _routed),
}
"""How a gateway dies, and how it comes back."""


class Attempts:
    """A client that tries a new connection again and again."""

    def __init__(self, pod: Node, client: IPv6Address) -> None:
        self._process = pod.start(
            *(sys.executable, "-m", "tests.bench.failover", "--attempt", str(client)),
            stdout=subprocess.PIPE,
        )
        self.made_after(time.monotonic())

    def made_after(self, moment: float) -> float:
        """When the first connection was made that was begun after a moment; both monotonic."""
        assert self._process.stdout
        patience = threading.Timer(PATIENCE, self._process.kill)
        patience.start()
        try:
            for line in self._process.stdout:
                began, made = map(float, line.split())
                if began >= moment:
                    return made
        finally:
            patience.cancel()
        raise AssertionError(f"the client has no new connection after {PATIENCE:.0f} s")

    def end(self) -> None:
        """Let it be."""
        self._process.kill()
        self._process.wait()


def attempt(client: str) -> None:
    """Print, for each connection that is made, when it was begun and when it was there."""
    flying: dict[int, tuple[socket.socket, float]] = {}
    poll, following = select.epoll(), time.monotonic()
    while True:
        now = time.monotonic()
        if now >= following:
            following = max(following + PAUSE, now)
            sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            sock.bind((client, 0))
            if sock.connect_ex((str(SERVER), HTTP_PORT)) == errno.EINPROGRESS:
                flying[sock.fileno()] = (sock, now)
                poll.register(sock, select.EPOLLOUT)
        for fd, _ in poll.poll(max(0.0, following - time.monotonic())):
            sock, began = flying.pop(fd)
            if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                print(began, time.monotonic(), flush=True)
            sock.close()
        for fd, (sock, began) in list(flying.items()):
            if now - began > GIVE_UP:
                del flying[fd]
                sock.close()


@contextlib.contextmanager
def held(one: Site, router: Member, others: Sequence[IPv6Address]) -> Iterator[list[Flow]]:
    """Connections of these clients, over the whole block; none may break."""
    assert router.pod
    flows = [Flow(router.pod, "tcp", str(SERVER), source=str(client)) for client in others]
    yield flows
    for flow in flows:
        flow.moves()
        seen = flow.end()
        assert not seen["error"], seen


def measure(kind: str, kills: int, transport: str) -> list[float]:
    """Seconds of each kill. A new set of nodes for each three: a gateway that fails twice in a row
    is held back longer on purpose.
    """
    kill, revive = KILLS[kind]
    took: list[float] = []
    while len(took) < kills:
        with site(3, 1, topology={"transport": transport}) as one:
            [router] = one.routers
            assert router.pod
            for gateway in one.gateways[: kills - len(took)]:
                # What a client has is kept while its gateway lives, so this finds one for it.
                clients = one.clients_by_gateway(router)
                others = [c for name, own in clients.items() if name != gateway.name for c in own]
                client = clients[gateway.name][0]
                with held(one, router, others[:4]):
                    attempts = Attempts(router.pod, client)
                    began = time.monotonic()
                    kill(one, gateway)
                    # One that began during the kill may have been made by the dying gateway.
                    took.append(attempts.made_after(time.monotonic()) - began)
                    _say(f"{transport} {kind}: {took[-1]:.3f} s")
                    revive(one, gateway)
                    one.wait_healthy()
                    attempts.end()
    return took


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Figures of one kind, in seconds."""
    return {
        "kills": len(values),
        "median": round(median(values), 3),
        "p90": round(quantiles(values, n=10)[8], 3) if len(values) > 1 else round(values[0], 3),
        "worst": round(max(values), 3),
        "runs": [round(value, 3) for value in values],
    }


def figures(values: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, Any]:
    """Those of all kills, of each transport, and of each kind of kill with it."""
    by_transport = {
        transport: {
            "all": summary([each for of_kind in kinds.values() for each in of_kind]),
            "by_kind": {kind: summary(of_kind) for kind, of_kind in kinds.items()},
        }
        for transport, kinds in values.items()
    }
    runs = [each for one in by_transport.values() for each in one["all"]["runs"]]
    return {"all": summary(runs), "by_transport": by_transport}


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill, print, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.failover", description=__doc__)
    parser.add_argument("--kills", type=int, default=3, help="of each kind and transport")
    parser.add_argument(
        "--transport", choices=TRANSPORTS, action="append", help="again for another; default: both"
    )
    parser.add_argument("--out", type=Path, default=BUILD / "failover.json")
    parser.add_argument("--attempt", metavar="ADDRESS", help="be a client; the rest calls this")
    options = parser.parse_args(arguments)
    if options.attempt:
        attempt(options.attempt)
    if os.geteuid():
        parser.error("needs root: it makes network namespaces")
    found: dict[str, Any] = {"machine": machine()}
    values: dict[str, dict[str, list[float]]] = {}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for transport in options.transport or TRANSPORTS:
        for kind in KILLS:
            of_kind = measure(kind, options.kills, transport)
            values.setdefault(transport, {})[kind] = of_kind
            # after each kind: what was measured isn't lost when the run is ended
            options.out.write_text(json.dumps(found | figures(values), indent=2) + "\n")
            _show(f"{transport}, {kind}", summary(of_kind))
    _show("all", figures(values)["all"])
    print(f"written: {options.out}")
    return 0


def _show(what: str, figures: dict[str, Any]) -> None:
    print(
        f"{what:38} {figures['kills']:3} kills  median {figures['median']:.3f} s  "
        f"worst {figures['worst']:.3f} s",
        flush=True,
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
