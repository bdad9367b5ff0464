"""What only our translator is asked: how it does with a million sessions, and per packet."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.subjects import Subject, subject
from tests.lab.node import wait_for

SESSIONS = (1_000, 100_000, 1_000_000)
KEYS = (
    "pps_at_sessions",
    "ns_per_packet",
    "bytes_per_session",
    "agent_rss_mib",
    "sweep_cpu_pct",
)

_SOURCE = "fd64:1:0:0:1::"
_SWEEP_WATCH_SECONDS = 20

Say = Callable[[str], None]


def measure(load: Path, runs: int, seconds: float, say: Say) -> dict[str, Any]:
    """All of them, on a translator of its own."""
    found: dict[str, Any] = {"pps_at_sessions": {}}
    with subject("ours", load) as ours:
        assert ours.translator
        # Sources of the spray need a way back, and no neighbour of their own.
        ours.forwarder.ip("route add fd64:1:0:0:1::/80 via fd64:1::10")
        empty = map_bytes(ours)
        for count in SESSIONS:
            _open(ours, load, count)
            sessions = ours.translator.metric("nat64_sessions")
            say(f"{sessions:.0f} sessions open")
            rates = [_rate(ours, load, count, seconds) for _ in range(runs)]
            found["pps_at_sessions"][str(count)] = {"median": median(rates), "runs": rates}
            say(f"pps_at_sessions {count} {median(rates):.0f}")
        found["sessions_reached"] = sessions
        found["bytes_per_session"] = round((map_bytes(ours) - empty) / sessions, 1)
        found["sweep_cpu_pct"] = round(_sweep_share(ours), 3)
        assert ours.translator.process
        found["agent_rss_mib"] = round(resident_mib(ours.translator.process.pid), 1)
    found["ns_per_packet"] = nanoseconds()
    return found


def map_bytes(one: Subject) -> int:
    """Kernel memory of every map of the translator, as the kernel accounts for it."""
    assert one.translator
    out = one.forwarder.run("bpftool", "map", "show")
    return sum(int(size) for size in re.findall(r"memlock (\d+)B", out))


def resident_mib(pid: int) -> float:
    """A process's resident memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found
    return int(found.group(1)) / 1024


def nanoseconds() -> dict[str, float]:
    """Time a packet spends in the program, by BPF_PROG_TEST_RUN."""
    return {}


def _spray(one: Subject, load: Path, seconds: float, flows: int, packets: int) -> None:
    mac = one.forwarder.run("cat", "/sys/class/net/client0/address").strip()
    words = ("spray", "eth0", mac, _SOURCE, one.host, f"{seconds:g}", str(flows), str(packets))
    one.client.run(load, *words, timeout=300)


def _open(one: Subject, load: Path, count: int) -> None:
    """Send until so many sessions are there: a packet may be lost while the table grows."""
    assert one.translator
    translator = one.translator

    def enough() -> bool:
        _spray(one, load, 60, count, count)
        return translator.metric("nat64_sessions") >= count

    wait_for(f"{count} sessions", enough, 180)


def _rate(one: Subject, load: Path, flows: int, seconds: float) -> float:
    assert one.translator

    def translated() -> float:
        assert one.translator
        return one.translator.metric("nat64_translated_packets_total", direction="6to4")

    before, start = translated(), time.monotonic()
    _spray(one, load, seconds, flows, 0)
    return (translated() - before) / (time.monotonic() - start)


def _sweep_share(one: Subject) -> float:
    """Per cent of one CPU that sweeps take."""
    assert one.translator
    before, start = one.translator.metric("nat64_sweep_seconds_total"), time.monotonic()
    time.sleep(_SWEEP_WATCH_SECONDS)
    spent = one.translator.metric("nat64_sweep_seconds_total") - before
    return spent / (time.monotonic() - start) * 100
