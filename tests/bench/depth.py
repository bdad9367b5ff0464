"""What only our translator is asked: how it does with a million sessions, and per packet."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6

from tests.bench import sustained, sweep_stall
from tests.bench.load import SPRAY_SOURCE
from tests.bench.subjects import Subject, subject
from tests.dataplane.machine import POD, POOL, SERVER, at, machine
from tests.lab.node import wait_for

LIMIT = 1_048_576
SESSIONS = (1_000, 100_000, 1_000_000)
KEYS = (
    "pps_at_sessions",
    "ns_per_packet",
    "bytes_per_session",
    "agent_rss_mib",
    "sweep_cpu_pct",
    "sweep_rtt_p999_us",
    "sweep_longest_stall_us",
    "sustained_connections_refused",
)

_SWEEP_WATCH_SECONDS = 20
_TIMED_RUNS = 5000

Say = Callable[[str], None]


def measure(runs: int, seconds: float, say: Say) -> dict[str, Any]:
    """All of them, on a translator of its own."""
    found: dict[str, Any] = {"pps_at_sessions": {}}
    with subject("ours", LIMIT) as ours:
        assert ours.translator
        # Sources of the spray need a way back, and no neighbour of their own.
        ours.forwarder.ip(f"route add {SPRAY_SOURCE}/80 via fd64:1::10")
        for count in SESSIONS:
            _open(ours, count)
            sessions = ours.translator.metric("nat64_sessions")
            say(f"{sessions:.0f} sessions open")
            rates = [_rate(ours, count, seconds) for _ in range(runs)]
            found["pps_at_sessions"][str(count)] = {"median": median(rates), "runs": rates}
            say(f"pps_at_sessions {count} {median(rates):.0f}")
        found["sessions_reached"] = sessions
        found["bytes_per_session"] = round(map_bytes(ours) / sessions, 1)
        found["sweep_cpu_pct"] = round(_sweep_share(ours), 3)
        found["sweep_rtt_p999_us"] = _rounds_while_sweeping(ours)
        say(f"sweep_rtt_p999_us {found['sweep_rtt_p999_us']}")
        assert ours.translator.process
        found["agent_rss_mib"] = round(resident_mib(ours.translator.process.pid), 1)
    found["ns_per_packet"] = nanoseconds()
    found["sweep_longest_stall_us"] = sweep_stall.measure(runs)
    say(f"sweep_longest_stall_us {found['sweep_longest_stall_us']}")
    found["sustained_connections_refused"] = sustained.measure()
    say(f"sustained_connections_refused {found['sustained_connections_refused']}")
    return found


def map_bytes(one: Subject) -> int:
    """Kernel memory of every map of the translator, as the kernel accounts for it: elements and
    buckets, without what the allocator rounds up to.
    """
    assert one.translator
    maps = json.loads(one.forwarder.run("bpftool", "-f", "-j", "map", "show"))
    mine = f"/{one.translator.name}/"
    return sum(m["bytes_memlock"] for m in maps if any(mine in p for p in m.get("pinned", ())))


def resident_mib(pid: int) -> float:
    """A process's resident memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found
    return int(found.group(1)) / 1024


def nanoseconds() -> dict[str, float]:
    """Time a 64-byte datagram of a known session spends in the program, by BPF_PROG_TEST_RUN.

    Each run is a call of its own, as a translated packet can't be translated again, so the
    clock's own cost of some 20 ns is in it.
    """
    out = IPv6(src=str(POD), dst=at(SERVER)) / UDP(sport=4000, dport=9) / bytes(64)
    with machine() as tested:
        tested.reset()
        port = tested.from_pod(out).packet[UDP].sport
        back = IP(src=str(SERVER), dst=str(POOL)) / UDP(sport=9, dport=port) / bytes(64)
        link = bytes.fromhex("020000000064020000000001")
        ways = {
            "6to4": ("nat64_egress", link + b"\x86\xdd" + bytes(out), tested.interface),
            "4to6": ("nat64_ingress", link + b"\x08\x00" + bytes(back), tested.uplink),
        }
        return {
            name: median(
                tested.datapath.program(program).run(frame, ifindex=index).nanoseconds
                for _ in range(_TIMED_RUNS)
            )
            for name, (program, frame, index) in ways.items()
        }


def _spray(one: Subject, seconds: float, flows: int, packets: int) -> None:
    mac = one.forwarder.run("cat", "/sys/class/net/client0/address").strip()
    one.load("spray", "eth0", mac, one.host, seconds, flows, packets, timeout=300)


def _open(one: Subject, count: int) -> None:
    """Send until so many sessions are there: a packet may be lost while the table grows."""
    assert one.translator
    translator = one.translator

    def enough() -> bool:
        _spray(one, 60, count, count)
        return translator.metric("nat64_sessions") >= count

    wait_for(f"{count} sessions", enough, 180)


def _rate(one: Subject, flows: int, seconds: float) -> float:
    assert one.translator

    def translated() -> float:
        assert one.translator
        return one.translator.metric("nat64_translated_packets_total", direction="6to4")

    before = translated()
    _spray(one, seconds, flows, 0)
    return (translated() - before) / seconds


def _rounds_while_sweeping(one: Subject) -> dict[str, float]:
    """The 99.9th percentile of round trips in each second or so, over two sweeps and what is
    between them.
    """
    assert one.translator
    until = one.translator.metric("nat64_sweeps_total") + 2
    found: list[float] = []
    while not found or one.translator.metric("nat64_sweeps_total") < until:
        found.append(one.load("rounds", one.host, 20_000)[2])
    return {"median": median(found), "most": max(found)}


def _sweep_share(one: Subject) -> float:
    """Per cent of one CPU that sweeps take."""
    assert one.translator
    before, start = one.translator.metric("nat64_sweep_seconds_total"), time.monotonic()
    time.sleep(_SWEEP_WATCH_SECONDS)
    spent = one.translator.metric("nat64_sweep_seconds_total") - before
    return spent / (time.monotonic() - start) * 100
