"""How long a sweep of full tables holds back a packet that its CPU has to receive.

A packet to oneself is received by the CPU that does the sweep (receive packet steering on lo), and
timed by another one. Whatever else the machine does lengthens the longest round trip too, so the
same is measured right after it, for as long and with that CPU as busy: it reads the tables as a
sweep does, and runs no program. The least of several runs is the one that the machine disturbed
least. Run in a network namespace: `python -m tests.bench.sweep_stall SESSIONS` prints the longest
round trip of each, in microseconds: of a sweep of sessions that live on, of one that removes all
of them, and of neither.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address
from multiprocessing.synchronize import Event
from pathlib import Path
from statistics import median
from typing import Any

from nat64_dataplane.config import Limits
from nat64_dataplane.translator.datapath import abi
from nat64_dataplane.translator.datapath.datapath import Datapath
from tests.lab.node import ROOT, Lab

SIZES = (262_144, 1_000_000)
_RPS = Path("/sys/class/net/lo/queues/rx-0/rps_cpus")
_CLIENT = IPv6Address("2001:db8::10").packed
_FIRST = int(IPv4Address("198.18.0.0"))
_HOUR = 3600
_REST = 0.0001
"""Seconds between two packets: the kernel stops a real-time process that never rests."""
Work = Callable[[Datapath, float], None]
_BATCH = 4096


def measure(runs: int) -> dict[str, Any]:
    """For each size the longest stalls of several sweeps, in microseconds.

    Of sweeps of sessions that live on, of sweeps that remove all of them (`removing`), and of the
    same time without a sweep (`busy`).
    """
    found: dict[str, Any] = {}
    with Lab() as lab:
        node = lab.node("sweep")
        node.ip("link set lo up")
        for size in SIZES:
            words = [
                node.run(sys.executable, "-m", "tests.bench.sweep_stall", str(size), cwd=ROOT)
                for _ in range(runs)
            ]
            swept, removing, busy = zip(*(map(float, each.split()) for each in words), strict=True)
            found[str(size)] = _summary(swept) | {
                "removing": _summary(removing),
                "busy": _summary(busy),
            }
    return found


def _summary(runs: Sequence[float]) -> dict[str, Any]:
    return {"median": median(runs), "least": min(runs), "runs": list(runs)}


def fill(datapath: Datapath, count: int) -> None:
    """As many bindings as sessions, one of each for a port and a remote address.

    Each binding has a way to it from the IPv6 side. All end in an hour.
    """
    now = datapath.now()
    session = abi.SESSION.pack(
        _CLIENT, b"\x10\0", abi.SessionFlag.CONFIRMED, 0, 1, now + _HOUR, 0, 0, now
    )
    for start in range(0, count, _BATCH):
        numbers = range(start, min(start + _BATCH, count))
        names = [_name(n) for n in numbers]
        clients = [_CLIENT[:12] + a for a, _ in names]
        entries = {
            "sessions": [(abi.SESSION_KEY.pack(a, a, p, p, abi.UDP), session) for a, p in names],
            "bib4": [
                (
                    abi.BIB4_KEY.pack(a, p, abi.UDP),
                    abi.BIB4.pack(client, p, 0, 0, 1, now + _HOUR, 1, now, 0),
                )
                for client, (a, p) in zip(clients, names, strict=True)
            ],
            "bib6": [
                (abi.BIB6_KEY.pack(client, p, abi.UDP, 0), abi.bib6(a, p))
                for client, (a, p) in zip(clients, names, strict=True)
            ],
        }
        for name, pairs in entries.items():
            keys, values = zip(*pairs, strict=True)
            datapath.map(name).set_batch(b"".join(keys), b"".join(values))


def _name(number: int) -> tuple[bytes, bytes]:
    """An address and a port of their own for each number."""
    return struct.pack(">I", _FIRST + (number >> 16)), struct.pack(">H", number & 0xFFFF)


def _sweep(datapath: Datapath, _seconds: float) -> None:
    datapath.sweep()


def _read(datapath: Datapath, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name in ("bib4", "sessions"):
            for _ in datapath.map(name).batches():
                if time.monotonic() > end:
                    return


def _on(
    cpu: int, work: Work, datapath: Datapath, seconds: float, begun: Event, ended: Event
) -> None:
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    os.sched_setaffinity(0, {cpu})
    begun.set()
    work(datapath, seconds)
    ended.set()


def _beside(work: Work, cpu: int, datapath: Datapath, seconds: float) -> tuple[float, float]:
    """The longest round trip while another process does `work` on `cpu`, and how long it did."""
    context = multiprocessing.get_context("fork")
    begun, ended = context.Event(), context.Event()
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.bind(("::1", 0))
        arguments = (cpu, work, datapath, seconds, begun, ended)
        process = context.Process(target=_on, args=arguments)
        process.start()
        begun.wait()
        start = time.monotonic()
        longest = _longest(sock, ended.is_set)
        took = time.monotonic() - start
        process.join()
    return longest, took


def _longest(sock: socket.socket, until: Any) -> float:
    longest = 0
    while not until():
        time.sleep(_REST)
        start = time.perf_counter_ns()
        sock.sendto(b".", sock.getsockname())
        sock.recv(1)
        longest = max(longest, time.perf_counter_ns() - start)
    return longest / 1000


def main(count: int) -> int:
    """Print the three figures."""
    mine, other = sorted(os.sched_getaffinity(0))[:2]
    _RPS.write_text(f"{1 << other:x}")
    with Datapath.open(None, "stall", Limits(sessions=max(count, 1024))) as datapath:
        fill(datapath, count)
        os.sched_setaffinity(0, {mine})
        # No other process may hold up the one that waits for the packet.
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        swept, took = _beside(_sweep, other, datapath, 0)
        busy, _ = _beside(_read, other, datapath, took)
        datapath.travel(2 * _HOUR)
        removing, _ = _beside(_sweep, other, datapath, 0)
        assert datapath.map("sessions").first_key() is None
    print(f"{swept:.0f} {removing:.0f} {busy:.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
