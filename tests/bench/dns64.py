"""`python -m tests.bench.dns64`: the sidecar against CoreDNS and Unbound, a core to each.

One run on one machine: the server on one core, dnsperf and the authoritative upstream on another,
subjects in alternating order, a new process for every run, medians and ratios of runs that belong
together. Figures of different machines, or of one machine at different hours, don't compare.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.bench import report
from tests.bench.dns64_subjects import LOAD_CPU, SUBJECTS, ZONE, Process, upstream
from tests.cluster import binaries

OURS = "ours"
ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "bench"
SMALL, LARGE = 1_000, 100_000
OFFERED = 10_000
"""Queries a second at which latencies are taken: none of the subjects is near its limit."""

_COUNT = re.compile(r"Queries (sent|completed|lost):\s+(\d+)")
_RATE = re.compile(r"Queries per second:\s+([\d.]+)")
_LATENCY = re.compile(r"^> NOERROR \S+ \S+ ([\d.]+)", re.MULTILINE)


class Load:
    """What dnsperf saw."""

    def __init__(self, text: str) -> None:
        counts = {name: int(number) for name, number in _COUNT.findall(text)}
        rate = _RATE.search(text)
        if rate is None or not counts.get("completed"):
            raise RuntimeError(f"dnsperf has no result:\n{text[-2000:]}")
        self.qps = float(rate[1])
        self.completed = counts["completed"]
        self.loss = counts["lost"] / counts["sent"]
        self.latencies = sorted(float(number) * 1e6 for number in _LATENCY.findall(text))

    def percentile(self, share: float) -> float:
        """Microseconds within which this share of the responses came."""
        return self.latencies[min(int(len(self.latencies) * share), len(self.latencies) - 1)]


def dnsperf(subject: Process, names: Path, *options: str) -> Load:
    """Load one server over UDP from the load's core."""
    command = ["taskset", "-c", str(LOAD_CPU), "dnsperf", "-s", "::1", "-p", str(subject.port)]
    command += ["-d", str(names), "-T", "1", "-t", "2", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return Load(done.stdout)


def write_names(path: Path, names: Iterable[str]) -> Path:
    """Write dnsperf's input: AAAA for each name."""
    path.write_text("".join(f"{name}.{ZONE} AAAA\n" for name in names))
    return path


def measure(subject: Process, directory: Path, seconds: float, run: int) -> dict[str, float]:
    """All figures of one process: first its memory with 100,000 names and hardly more."""
    small = write_names(directory / "small", (f"s{n}" for n in range(SMALL)))
    large = write_names(directory / "large", (f"l{n:06}" for n in range(LARGE)))
    length = ("-l", f"{seconds:g}")
    found = {"start_ms": subject.start_ms}
    dnsperf(subject, large, "-n", "1", "-q", "100")
    found["rss_mib"] = subject.rss_mib()
    found["cached_100k_qps"] = dnsperf(subject, large, "-q", "200", *length).qps
    dnsperf(subject, small, "-n", "2", "-q", "50")
    before = subject.cpu_seconds()
    cached = dnsperf(subject, small, "-q", "200", *length)
    spent = subject.cpu_seconds() - before
    found["cached_qps"] = cached.qps
    found["cached_loss"] = cached.loss
    found["cpu_us_per_query"] = spent / cached.completed * 1e6
    paced = dnsperf(subject, small, "-q", "200", "-Q", str(OFFERED), "-v", *length)
    found["cached_p50_us"] = paced.percentile(0.50)
    found["cached_p99_us"] = paced.percentile(0.99)
    unique = write_names(
        directory / "unique", (f"u{run}-{subject.name}-{n}" for n in range(int(40_000 * seconds)))
    )
    before = subject.cpu_seconds()
    missed = dnsperf(subject, unique, "-n", "1", "-q", "100", *length)
    found["miss_qps"] = missed.qps
    found["miss_cpu_us_per_query"] = (subject.cpu_seconds() - before) / missed.completed * 1e6
    found["miss_loss"] = missed.loss
    return found


def compare(names: Sequence[str], runs: int, seconds: float) -> report.Runs:
    """Measure every subject `runs` times, each time starting with another one."""
    values: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        with upstream(directory) as authority:
            for run in range(runs):
                turn = run % len(names)
                for name in [*names[turn:], *names[:turn]]:
                    with SUBJECTS[name](directory, authority.port) as subject:
                        found = measure(subject, directory, seconds, run)
                    for metric, value in found.items():
                        values.setdefault(metric, {n: [] for n in names})[name].append(value)
                    line = "  ".join(f"{key} {report.number(v)}" for key, v in found.items())
                    print(f"run {run + 1}/{runs}  {name:8} {line}", file=sys.stderr, flush=True)
    return values


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*: (.*)$", cpuinfo, re.MULTILINE)
    unbound = subprocess.run(
        ["/usr/sbin/unbound", "-V"], capture_output=True, text=True, check=True
    )
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "cpu": model[1] if model else platform.machine(),
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "coredns": binaries.path_of("coredns").parent.name,
        "unbound": unbound.stdout.split("\n")[0],
        "commit": commit.stdout.strip(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "load_average_at_start": os.getloadavg()[0],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.dns64", description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="per measurement")
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--out", type=Path, default=BUILD / "dns64.json")
    options = parser.parse_args(arguments)
    packages = Path(__file__).with_name("dns64-apt.txt")
    subprocess.run([ROOT / "scripts" / "apt-install", packages], check=True)
    about = machine()
    runs = compare(options.subjects, options.runs, options.seconds)
    found = {
        "machine": about,
        "results": report.results(runs),
        "ratios": report.ratios(runs, OURS),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=2) + "\n")
    print(report.table(runs, OURS))
    print(f"written: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
