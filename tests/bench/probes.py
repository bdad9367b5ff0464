"""What 5,000 router nodes cost a gateway node: `python -m tests.bench.probes`.

Each router node probes each gateway node on its own, so a gateway answers routers / interval probes
a second. `BPF_PROG_TEST_RUN` gives each router's probe to the program that answers it, on a machine
that knows as many routers and as many pod ranges. The tunnel's and the kernel's part of the way are
not in the figure: they are those of any packet of this size.
"""

from __future__ import annotations

import json
import random
import sys
from ipaddress import IPv6Address, IPv6Network
from statistics import median, quantiles
from typing import Any

from scapy.layers.inet import UDP
from scapy.layers.inet6 import IPv6

from nat64_dataplane.members import RouterEntry, Routers, parse_routers, render
from nat64_dataplane.topology import PROBE_PORT, Role, Topology, probe_address
from nat64_dataplane.translator.datapath.abi_topology import NodeRole, ProbeState
from nat64_dataplane.translator.datapath.topology_maps import Standing
from tests.bench.nat64 import BUILD, machine
from tests.dataplane import machine as bench
from tests.dataplane.machine import PREFIX, REDIRECT, Machine

ROUTERS = 5000
INTERVAL = Topology(role=Role.ROUTER).probe_milliseconds / 1000
_SAMPLES = 20_000
_GATEWAY = IPv6Address("fd64:9::1")
_FIRST_ROUTER, _FIRST_RANGE = IPv6Address("fd64:9::1:0"), IPv6Address("fd65::")
_LINK = bytes.fromhex("020000000064020000000001") + b"\x86\xdd"

_STATE_AT = len(_LINK) + 40 + 8 + 5
"""Where an answer's state is: behind Ethernet, IPv6, UDP, magic and version."""


def members(count: int) -> Routers:
    """So many router nodes with a /64 for their pods each."""
    return Routers(
        routers=tuple(
            RouterEntry(
                node=f"ip-fd64-{number:05}.zone.compute.internal",
                address=_FIRST_ROUTER + number,
                pod_ranges=(IPv6Network((int(_FIRST_RANGE) + (number << 64), 64)),),
            )
            for number in range(count)
        )
    )


def question(router: IPv6Address, nonce: int) -> bytes:
    """A probe of a router, as a frame."""
    payload = b"n64p" + bytes((1, 0, 0, 0)) + nonce.to_bytes(8, "big")
    packet = IPv6(src=str(router), dst=str(probe_address(PREFIX)), hlim=64)
    return _LINK + bytes(packet / UDP(sport=40000, dport=PROBE_PORT) / payload)


def measure(count: int = ROUTERS, samples: int = _SAMPLES) -> dict[str, Any]:
    """Nanoseconds of one probe, and what all of them take of a CPU."""
    file = render(members(count))
    routers = parse_routers(file).routers
    with bench.machine() as tested:
        _prepare(tested, routers)
        draw = random.Random(count)
        times: list[int] = []
        verdicts: set[tuple[int, int]] = set()
        for nonce in range(samples):
            result = tested.datapath.program("nat64_egress").run(
                question(draw.choice(routers).address, nonce),
                ifindex=tested.interface,
                ingress_ifindex=tested.pod_link,
            )
            times.append(result.nanoseconds)
            verdicts.add((result.verdict, result.packet[_STATE_AT]))
        wanted = {(REDIRECT, ProbeState.SERVING)}
        assert verdicts == wanted, f"not every probe was answered: {verdicts}"
    rate = count / INTERVAL
    typical = median(times)
    return {
        "routers": count,
        "routers_json_bytes": len(file),
        "interval_seconds": INTERVAL,
        "probes_per_s": round(rate),
        "ns_per_probe_p50": typical,
        "ns_per_probe_p99": quantiles(times, n=100)[98],
        "share_of_one_cpu": round(typical * rate / 1e9, 5),
    }


def _prepare(tested: Machine, routers: tuple[RouterEntry, ...]) -> None:
    tested.reset(topology={"role": "Gateway"})
    maps = tested.datapath.topology
    maps.place_node(Standing(NodeRole.GATEWAY, _GATEWAY, tested.pod_link))
    maps.follow_peers({net: r.address for r in routers for net in r.pod_ranges})
    maps.say(ProbeState.SERVING)


def main() -> int:
    """Measure, print, write the JSON."""
    found = {"machine": machine(), "probes": measure()}
    BUILD.mkdir(parents=True, exist_ok=True)
    (BUILD / "probes.json").write_text(json.dumps(found, indent=2) + "\n")
    json.dump(found["probes"], sys.stdout, indent=1)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
