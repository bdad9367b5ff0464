"""`python -m tests.bench.nat64`: the translator against forwarding, conntrack, NAT44 and Tayga.

One run on one machine, subjects in alternating order, medians, and ratios of runs that belong
together: figures of different machines, or of one machine at different hours, don't compare.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tests.bench import depth, report
from tests.bench.subjects import SETUPS, Subject, subject
from tests.lab.node import ROOT, Node

OURS = "ours"
ROUNDS = 20_000
BUILD = ROOT / "build" / "bench"

Measure = Callable[[Subject, float], dict[str, float]]


def _streams(direction: str, count: int) -> Measure:
    def measure(one: Subject, seconds: float) -> dict[str, float]:
        [rate] = one.load("streams", one.host, seconds, direction, count)
        return {f"tcp_{direction}_{count}_gbps": rate}

    return measure


def _datagrams(direction: str) -> Measure:
    mode = {"up": "flood", "down": "call"}[direction]

    def measure(one: Subject, seconds: float) -> dict[str, float]:
        receiver = one.server if direction == "up" else one.client
        before = _received(receiver)
        one.load(mode, one.host, seconds)
        return {f"udp64_{direction}_pps": (_received(receiver) - before) / seconds}

    return measure


def _received(node: Node) -> int:
    return int(node.run("cat", "/sys/class/net/eth0/statistics/rx_packets"))


def _connections(one: Subject, seconds: float) -> dict[str, float]:
    [rate] = one.load("connections", one.host, seconds, one.sources[0], len(one.sources))
    return {"new_flows_per_s": rate}


def _connections_from(clients: int) -> Measure:
    def measure(one: Subject, seconds: float) -> dict[str, float]:
        if not one.crowd:
            return {}
        [rate] = one.load("connections", one.host, seconds, one.crowd, clients)
        return {f"new_flows_per_s_from_{clients}": rate}

    return measure


def _rounds(one: Subject, _seconds: float) -> dict[str, float]:
    p50, p99, p999 = one.load("rounds", one.host, ROUNDS)
    return {"rtt_p50_us": p50, "rtt_p99_us": p99, "rtt_p999_us": p999}


def _rounds_under_load(one: Subject, _seconds: float) -> dict[str, float]:
    """Beside one stream that sends as much as it can, and shares both CPUs."""
    with one.loaded("streams", one.host, 60, "up", 1):
        p50, p99, p999 = one.load("rounds", one.host, ROUNDS)
    return {"loaded_rtt_p50_us": p50, "loaded_rtt_p99_us": p99, "loaded_rtt_p999_us": p999}


MEASURES_OF_ONE_CLIENT: tuple[Measure, ...] = (
    _streams("up", 1),
    _streams("down", 1),
    _streams("up", 8),
    _streams("down", 8),
    _datagrams("up"),
    _datagrams("down"),
    _connections,
    _rounds,
    _rounds_under_load,
)
MEASURES = (*MEASURES_OF_ONE_CLIENT, *map(_connections_from, (1, 100, 10_000)))


def compare(
    names: Sequence[str],
    runs: int,
    seconds: float,
    build: Callable[[str], AbstractContextManager[Subject]] = subject,
    measures: Sequence[Measure] = MEASURES,
) -> report.Runs:
    """Measure every subject `runs` times, each time starting with another one."""
    values: dict[str, dict[str, list[float]]] = {}
    with contextlib.ExitStack() as stack:
        subjects = [stack.enter_context(build(name)) for name in names]
        for run in range(runs):
            turn = run % len(subjects)
            for measure in measures:
                for one in subjects[turn:] + subjects[:turn]:
                    for metric, value in measure(one, seconds).items():
                        values.setdefault(metric, {}).setdefault(one.name, []).append(value)
                        _say(f"run {run + 1}/{runs}  {metric:16} {one.name:20} {value:12.2f}")
    return values


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "cpu": model,
        "cpus": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": _versions(),
        "commit": _output("git", "-C", str(ROOT), "describe", "--always", "--dirty"),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "load_average_at_start": os.getloadavg()[0],
    }


def _versions() -> dict[str, str]:
    wanted = ("${Package} ${Version}\\n", "clang", "iproute2", "libbpf1", "nftables", "tayga")
    lines = _output("dpkg-query", "-W", "-f", *wanted).splitlines()
    return dict(line.split(" ") for line in lines)


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.nat64", description=__doc__)
    parser.add_argument("--runs", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=1.0, help="per measurement")
    parser.add_argument("--subjects", nargs="+", choices=SETUPS, default=list(SETUPS))
    parser.add_argument("--out", type=Path, default=BUILD / "nat64.json")
    parser.add_argument("--no-depth", action="store_true", help="skip the million sessions")
    options = parser.parse_args(arguments)
    if os.geteuid():
        parser.error("needs root: it makes network namespaces")
    about = machine()
    runs = compare(options.subjects, options.runs, options.seconds)
    compared = report.ratios(runs, OURS)
    found: dict[str, Any] = {
        "machine": about,
        "results": report.results(runs),
        "ratios": compared,
    }
    if not options.no_depth:
        found |= depth.measure(options.runs, options.seconds, _say)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=2) + "\n")
    print(report.table(runs, OURS))
    for key in depth.KEYS:
        if key in found:
            print(f"{key}: {found[key]}")
    print(f"written: {options.out}")
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
