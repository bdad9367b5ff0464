"""What each packet of a connection costs in the programs: `python -m tests.bench.packets`.

`BPF_PROG_TEST_RUN` takes the time of each packet alone, as a translated packet can't be translated
again. So the cost of the clock, some 20 ns, is in every figure. A figure is what the fastest
fiftieth of many runs stays below: whatever else runs on the machine only adds to the others.
Compare two versions in turns, on one machine.
"""

from __future__ import annotations

import functools
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from statistics import quantiles
from typing import NamedTuple

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet

from tests.dataplane import clat_bench
from tests.dataplane.machine import NEXT, POD, POOL, REDIRECT, SERVER, Machine, at, machine
from tests.dataplane.reference.clat import HERE
from tests.dataplane.reference.headers import embed

CONNECTIONS, BATCH = 4000, 1000
_NO_LIMITS = {"portsPerClient": 0, "newSessionsPerSecondPerClient": 0}
_FIRST_PORT, _SERVER_PORT = 2000, 443
_LINK, _LINK_HEADER = bytes.fromhex("020000000064020000000001"), 14
_POD_LINK = bytes.fromhex("020000000101020000000110")
_SYN_OPTIONS = [("MSS", 1440), ("SAckOK", b""), ("Timestamp", (1, 0)), ("NOP", None), ("WScale", 7)]
_OPTIONS = [("NOP", None), ("NOP", None), ("Timestamp", (1, 1))]


class _Step(NamedTuple):
    """A packet of a connection."""

    name: str
    from_client: bool
    flags: str
    """Of TCP; empty for UDP."""
    size: int = 0
    """Bytes that it carries."""
    offloaded: bool = False
    """Whether it is like the packet before it, and is translated where it comes in."""


_OPEN = (
    _Step("SYN", True, "S"),
    _Step("SYN-ACK", False, "SA"),
    _Step("ACK", True, "A"),
)
_FINISHED = (
    *_OPEN,
    _Step("TCP up", True, "PA", 64),
    _Step("TCP up, offloaded", True, "PA", 64, offloaded=True),
    _Step("TCP down", False, "PA", 64),
    _Step("FIN up", True, "FA"),
    _Step("FIN down", False, "FA"),
    _Step("last ACK", True, "A"),
)
_RESET = (*_OPEN, _Step("RST", True, "RA"))
_DATAGRAMS = (
    _Step("UDP first", True, "", 64),
    _Step("UDP first answer", False, "", 64),
    _Step("UDP up", True, "", 64),
    _Step("UDP up, offloaded", True, "", 64, offloaded=True),
    _Step("UDP down", False, "", 64),
)


def measure(connections: int = CONNECTIONS) -> dict[str, float]:
    """Nanoseconds by kind of packet, and the sums of those of a connection that ends by FIN and of
    one that ends by RST. The pod has a link of its own, as with most CNIs.
    """
    times: dict[str, list[int]] = defaultdict(list)
    with machine() as tested:
        for steps in (_FINISHED, _RESET, _DATAGRAMS):
            for index in range(connections):
                if index % BATCH == 0:
                    tested.reset(limits=_NO_LIMITS)
                    tested.datapath.follow_pod_links(frozenset({tested.pod_link}))
                for name, taken in _connect(tested, steps, _FIRST_PORT + index):
                    times[name].append(taken)
    found = {name: quantiles(taken, n=50)[0] for name, taken in times.items()}
    found["finished connection"] = sum(found[s.name] for s in _FINISHED if not s.offloaded)
    found["reset connection"] = sum(found[step.name] for step in _RESET)
    return found | _in_clat(connections)


def _in_clat(runs: int) -> dict[str, float]:
    """The same of the CLAT's programs. A pod's own packets cost more than these: Linux makes room
    in front of each UDP packet, and copies the head of each TCP segment that it may send again.
    """
    bench = clat_bench.Bench()
    inside = {"src": str(HERE), "dst": str(SERVER)}
    outside = {"src": str(embed(clat_bench.PREFIX, SERVER)), "dst": str(clat_bench.POD)}
    found = {}
    for name, transport in (("TCP", TCP(flags="PA", options=_OPTIONS)), ("UDP", UDP())):
        for way, program, ip in (
            ("out", bench.programs.egress, IP(**inside)),
            ("in", bench.programs.ingress, IPv6(**outside)),
        ):
            kind = b"\x08\x00" if way == "out" else b"\x86\xdd"
            frame = _LINK + kind + bytes(ip / transport / bytes(64))
            results = [program.run(frame) for _ in range(runs)]
            assert all(result.packet[12:14] != kind for result in results)
            taken = [result.nanoseconds for result in results]
            found[f"CLAT {name} {way}"] = quantiles(taken, n=50)[0]
    bench.close()
    return found


def _connect(
    tested: Machine, steps: tuple[_Step, ...], client_port: int
) -> Iterator[tuple[str, int]]:
    """The steps' names, and the nanoseconds that the program takes."""
    pool_port = 0
    for step in steps:
        template, offset = _template(step)
        ports = (client_port, _SERVER_PORT) if step.from_client else (_SERVER_PORT, pool_port)
        packed = b"".join(port.to_bytes(2, "big") for port in ports)
        program, ifindex, link = _place(tested, step)
        result = tested.datapath.program(program).run(
            template[:offset] + packed + template[offset + len(packed) :],
            ifindex=ifindex,
            ingress_ifindex=link,
        )
        if step.offloaded and result.verdict == NEXT:
            continue  # a new second has begun, or it ran on another CPU
        assert result.verdict == REDIRECT, step
        if not pool_port:
            at_port = _LINK_HEADER + len(IP())
            pool_port = int.from_bytes(result.packet[at_port : at_port + 2], "big")
        yield step.name, result.nanoseconds


def _place(tested: Machine, step: _Step) -> tuple[str, int, int]:
    """The program, its link, and the link that the packet came in on."""
    if step.offloaded:
        return "nat64_offload", tested.pod_link, tested.pod_link
    if step.from_client:
        return "nat64_egress", tested.interface, tested.pod_link
    return "nat64_ingress", tested.uplink, tested.uplink


@functools.cache
def _template(step: _Step) -> tuple[bytes, int]:
    """A frame without ports, and where they are. The programs don't check its transport checksum,
    they update it.
    """
    ip: Packet = IP(src=str(SERVER), dst=str(POOL))
    if step.from_client:
        ip = IPv6(src=str(POD), dst=at(SERVER))
    options = _SYN_OPTIONS if "S" in step.flags else _OPTIONS
    transport = TCP(flags=step.flags, seq=1, ack=1, options=options) if step.flags else UDP()
    kind = b"\x86\xdd" if step.from_client else b"\x08\x00"
    frame = (
        (_POD_LINK if step.offloaded else _LINK) + kind + bytes(ip / transport / bytes(step.size))
    )
    return frame, _LINK_HEADER + len(ip)


if __name__ == "__main__":
    json.dump(measure(), sys.stdout, indent=1)
    print()
