"""`python -m tests.bench.rfc9693`: the three measurements that RFC 9693 has for stateful NATs.

Maximum connection establishment rate, connection tear-down rate and capacity of the connection
tracking table. What a software tester on one machine can't do as the RFC says:

- The tester shares the two CPUs with the gateway, so rates are those of the whole machine. It sends
  at most as fast as `tester_rate`, which the results have, too.
- Whether connections are there is asked of the gateway, which counts its table; the
  responder sends no frames back. That all frames came through is counted at the responder.
- Tear-down needs a command that empties the table. conntrack has one. Ours is a change of the pool,
  after which no connection has its port any more; the second in which the agent reads its file is
  in the time. Tayga keeps its map of addresses, and only conntrack's table is emptied.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench import rfc9693_frames
from tests.bench.nat64 import machine
from tests.bench.publish import BUILD
from tests.bench.subjects import PREFIX, Subject, subject
from tests.lab.node import wait_for

NAMES = ("ours", "nat44", "tayga")
CONNECTIONS = 200_000
"""For the rates: fewer than any table has room for by default."""
FASTEST, PRECISION = 1_000_000, 0.02
"""Frames a second at which the search begins, and how far apart its last two rates are."""
BEYOND = 1.2
"""So many times the limit are tried for the capacity."""
TESTER = (sys.executable, "-m", rfc9693_frames.__name__)
_GONE_SECONDS = 120

Say = Callable[[str], None]


class Gateway:
    """A subject, its table and the tester beside it."""

    def __init__(self, built: Subject) -> None:
        self.built = built
        self.fastest = 0.0
        """Frames a second that the tester has reached."""
        self._generation = 0
        if not built.translator:  # ours is 300 s
            built.forwarder.sysctl(net__netfilter__nf_conntrack_udp_timeout=300)
        first = rfc9693_frames.FIRST_DESTINATION
        self.built.server.run(
            "nft",
            "-f",
            "-",
            input="table inet tester {\ncounter seen { }\nchain c {\n"
            "type filter hook prerouting priority -400;\n"
            f"udp dport {first}-{first + rfc9693_frames.DESTINATIONS - 1} counter name seen drop"
            "\n}\n}\n",
        )

    def limit(self) -> int:
        """Entries that its table may have."""
        if self.built.translator:
            return self.built.sessions
        return self._sysctl("nf_conntrack_max")

    def connections(self) -> int:
        """Entries that its table has."""
        if self.built.translator:
            return int(self.built.translator.metric("nat64_sessions"))
        return self._sysctl("nf_conntrack_count")

    def _sysctl(self, name: str) -> int:
        return int(self.built.forwarder.run("cat", f"/proc/sys/net/netfilter/{name}"))

    def phase1(self, count: int, rate: float) -> tuple[int, int]:
        """Open so many connections. Returns how many frames came through, and how many entries."""
        before, there = self._seen(), self.connections()
        mac = self.built.forwarder.run("cat", "/sys/class/net/client0/address").strip()
        words = ("eth0", mac, self.built.sources[0], self.built.host, count, rate)
        out = self.built.client.run(*TESTER, *map(str, words), timeout=300)
        sent, seconds = map(float, out.split())
        assert sent == count
        self.fastest = max(self.fastest, sent / seconds)
        return self._seen() - before, self.connections() - there

    def _seen(self) -> int:
        found = json.loads(
            self.built.server.run("nft", "-j", "list", "counter", "inet", "tester", "seen")
        )
        packets: int = found["nftables"][-1]["counter"]["packets"]
        return packets

    def empty(self) -> float:
        """Empty the table. Returns the seconds that it took."""
        start = time.monotonic()
        if translator := self.built.translator:
            self._generation += 1
            address = f"198.51.100.{64 + self._generation % 2}/32"
            translator.configure(
                prefix=PREFIX,
                pools=[{"addresses": address, "ports": "1024-65535"}],
                limits={"sessions": self.built.sessions, "sessionsPerClient": 0},
            )
        else:
            self.built.forwarder.run("conntrack", "-F")
        wait_for("empty table", lambda: self.connections() < 100, _GONE_SECONDS)
        return time.monotonic() - start


def establishment_rate(gateway: Gateway, count: int) -> float:
    """The highest rate at which every frame comes through and every connection is there."""
    low, high = 0.0, float(FASTEST)
    rate = high
    while high - low > PRECISION * high:
        gateway.empty()
        seen, there = gateway.phase1(count, rate)
        if seen == count and there >= count:
            low = min(rate, gateway.fastest)
            if low < rate:  # the tester is no faster
                return low
        else:
            high = rate
        rate = (low + high) / 2
    return low


def teardown_rate(gateway: Gateway, count: int) -> float:
    """Connections a second."""
    gateway.empty()
    _, there = gateway.phase1(count, FASTEST)
    return there / gateway.empty()


def capacity(gateway: Gateway, rate: float) -> int:
    """How many of more connections than the table has room for are there in the end."""
    gateway.empty()
    _, there = gateway.phase1(int(gateway.limit() * BEYOND), rate)
    return there


def measure(name: str, runs: int, count: int, say: Say) -> dict[str, Any]:
    """The three of one gateway: all runs, their median, least and most."""
    found: dict[str, list[float]] = {}
    with subject(name) as built:
        gateway = Gateway(built)
        for run in range(runs):
            rate = establishment_rate(gateway, count)
            values = {
                "establishment_per_s": rate,
                "teardown_per_s": teardown_rate(gateway, count),
                "capacity": capacity(gateway, max(rate / 2, 1000)),
            }
            for metric, value in values.items():
                found.setdefault(metric, []).append(value)
                say(f"run {run + 1}/{runs}  {name:6} {metric:20} {value:12.0f}")
        result: dict[str, Any] = {
            metric: {
                "median": median(values),
                "least": min(values),
                "most": max(values),
                "runs": values,
            }
            for metric, values in found.items()
        }
        return result | {"limit": gateway.limit(), "tester_rate": round(gateway.fastest)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.rfc9693", description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    parser.add_argument("--subjects", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--out", type=Path, default=BUILD / "rfc9693.json")
    options = parser.parse_args(arguments)
    if os.geteuid():
        parser.error("needs root: it makes network namespaces")
    found = {
        "machine": machine(),
        "parameters": {
            "connections": options.connections,
            "frame_bytes": "64 of payload; UDP",
            "source_ports": f"{rfc9693_frames.FIRST_SOURCE} and the next {rfc9693_frames.SOURCES}",
            "destination_ports": f"from {rfc9693_frames.FIRST_DESTINATION}",
            "addresses": "one pair",
        },
        "results": {
            name: measure(name, options.runs, options.connections, _say)
            for name in options.subjects
        },
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=2) + "\n")
    print(f"written: {options.out}")
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
