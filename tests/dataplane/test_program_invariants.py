"""Random traffic of both sides on all CPUs, changes of config and sweeps leave nothing untrue."""

from __future__ import annotations

import functools
import os
import random
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6

from nat64_dataplane.config import Limits
from nat64_dataplane.translator.datapath import abi
from nat64_dataplane.translator.datapath.carry_over import Carrier
from nat64_dataplane.translator.datapath.datapath import Datapath
from nat64_dataplane.translator.host_view import PoolRange
from tests.dataplane.invariants import broken
from tests.dataplane.machine import OTHER, POD, POD2, POOL, SERVER, Machine, at, machine

pytestmark = pytest.mark.root

FIRST = 61000
PORTS = 24
FLAGS = ("S", "S", "S", "SA", "A", "A", "FA", "R", "RA")
REMOTES = [(address, port) for address in (SERVER, OTHER) for port in (80, 81)]
ROUNDS, PACKETS = 8, 300
# On other kernels one will do.
SEEDS = (0, *(pytest.param(seed, marks=pytest.mark.bulk) for seed in (1, 2)))
LOOPBACK = 1

STATIC = {
    "protocol": "udp",
    "client": str(POD2),
    "clientPort": 4003,
    "address": str(POOL),
    "port": FIRST + 1,
}
MAPPED = abi.bib6_key(POD2, 4003, abi.UDP, 0)
CONFIGS: list[dict[str, Any]] = [
    {},
    {"filtering": "AddressDependent"},
    {"filtering": "EndpointIndependent", "overloadTcpPorts": False},
    {"filtering": "EndpointIndependent", "staticMappings": [STATIC]},
    {"limits": {"sessions": 4096, "sessionsPerClient": 20, "portsPerClient": 8}},
    {"policy": {"deniedDestinations": [f"{OTHER}/32"]}},
]
POOLS = [(FIRST, PORTS), (FIRST, PORTS // 2), (FIRST + PORTS // 2, PORTS)]


@dataclass(frozen=True)
class Frame:
    """A packet as a program gets it."""

    program: str
    bytes: bytes
    ifindex: int
    ingress_ifindex: int


@pytest.fixture
def own() -> Iterator[Machine]:
    """A machine whose counters begin with the test."""
    with machine(Limits(sessions=4096)) as built:
        configure(built, random.Random(0))
        yield built


def frames(nat: Machine, dice: random.Random, number: int) -> list[Frame]:
    return [_frame(nat, dice) for _ in range(number)]


def _frame(nat: Machine, dice: random.Random) -> Frame:
    link, kind = bytes(12), dice.random()
    address, remote_port = dice.choice(REMOTES)
    if kind < 0.5:
        to, port = address, remote_port
        if dice.random() < 0.1:
            to, port = POOL, FIRST + dice.randrange(PORTS)
        mine = 4000 + dice.randrange(10)
        transport = dice.choice(
            (
                TCP(sport=mine, dport=port, flags=dice.choice(FLAGS)),
                TCP(sport=mine, dport=port, flags=dice.choice(FLAGS)),
                UDP(sport=mine, dport=port) / b"x",
                ICMPv6EchoRequest(id=mine),
            )
        )
        packet = IPv6(src=str(dice.choice((POD, POD2))), dst=at(str(to))) / transport
        return Frame(
            "nat64_egress", link + b"\x86\xdd" + bytes(packet), nat.interface, nat.pod_link
        )
    hairpin = dice.random() < 0.1
    if hairpin:
        address, remote_port = POOL, FIRST + dice.randrange(PORTS)
    port = FIRST + dice.randrange(PORTS)
    transport = dice.choice(
        (
            TCP(sport=remote_port, dport=port, flags=dice.choice(FLAGS)),
            TCP(sport=remote_port, dport=port, flags=dice.choice(FLAGS)),
            UDP(sport=remote_port, dport=port) / b"x",
            ICMP(type=0, id=port),
        )
    )
    link_index = LOOPBACK if hairpin else nat.uplink
    packet = IP(src=str(address), dst=str(POOL)) / transport
    return Frame("nat64_ingress", link + b"\x08\x00" + bytes(packet), link_index, link_index)


def configure(nat: Machine, dice: random.Random) -> None:
    first, count = dice.choice(POOLS)
    nat.configure((PoolRange(POOL, first, first + count - 1),), **dice.choice(CONFIGS))


def disturb(nat: Machine, dice: random.Random) -> None:
    """What the agent does beside the traffic, and time that passes."""
    kind = dice.random()
    if kind < 0.4:
        nat.datapath.travel(dice.choice((1, 3, 5, 60, 300)))
    elif kind < 0.8:
        nat.datapath.sweep()
    else:
        configure(nat, dice)


def play(datapath: Datapath, traffic: list[list[Frame]], beside: Callable[[], None]) -> None:
    """Each list in a process of its own, held to one CPU; `beside` again and again meanwhile."""
    cpus = sorted(os.sched_getaffinity(0))
    workers = []
    for place, frames_ in enumerate(traffic):
        if worker := os.fork():
            workers.append(worker)
            continue
        try:
            os.sched_setaffinity(0, {cpus[place % len(cpus)]})
            for one in frames_:
                datapath.program(one.program).run(
                    one.bytes, ifindex=one.ifindex, ingress_ifindex=one.ingress_ifindex
                )
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    while workers:
        beside()
        worker, status = os.waitpid(workers[0], os.WNOHANG)
        if worker:
            workers.remove(worker)
            assert status == 0


def some(pool: list[Frame], dice: random.Random) -> list[list[Frame]]:
    """Of four lists, two are the same each, for different CPUs: they meet."""
    one, two = ([dice.choice(pool) for _ in range(PACKETS)] for _ in range(2))
    return [one, one, two, two]


def check(nat: Machine, *where: object) -> None:
    if wrong := broken(nat.datapath, MAPPED):
        pytest.fail("\n".join([f"{len(wrong)} things are wrong at {where}:", *wrong[:20]]))


@pytest.mark.parametrize("seed", SEEDS)
def test_random_traffic_on_several_cpus_leaves_all_tables_in_agreement(
    own: Machine, seed: int
) -> None:
    dice = random.Random(seed)
    pool = frames(own, dice, 2000)
    for round_ in range(ROUNDS):
        play(own.datapath, some(pool, dice), lambda: disturb(own, dice))
        check(own, seed, round_)
        configure(own, dice)
        check(own, seed, round_, "configured")
        own.datapath.travel(10)
        own.datapath.sweep()
        check(own, seed, round_, "swept")
    balance = own.balance()
    assert all(received == became for received, became in balance.values()), balance
    own.datapath.travel(100_000)
    own.datapath.sweep()
    own.datapath.sweep()
    check(own, seed, "end")
    assert not list(own.datapath.sessions())
    assert not [entry for entry in own.datapath.bib() if not entry.static]


@pytest.mark.parametrize("seed", SEEDS)
def test_maps_of_another_size_take_over_in_the_middle_of_traffic(root: Path, seed: int) -> None:
    dice = random.Random(seed)
    with machine(Limits(sessions=4096), root) as nat:
        nat.configure((PoolRange(POOL, FIRST, FIRST + PORTS - 1),), filtering="AddressDependent")
        pool = frames(nat, dice, 2000)
        old = nat.datapath
        for round_ in range(ROUNDS // 2):
            play(old, some(pool, dice), lambda: None)
            limits = Limits(sessions=4096 + 1024 * (round_ + 1))
            assert old.directory
            with Datapath.open(root, "t", limits) as new:
                new.map("control").set(bytes(4), old.map("control").get(bytes(4)) or b"")
                carrier = Carrier(old.directory, new)
                play(old, some(pool, dice), once(functools.partial(carry_all, carrier)))
                counted = old.session_count(), new.session_count()
                nat.datapath = new
                nat.configure(nat.pool, filtering="AddressDependent")
                play(new, some(pool, dice), once(carrier.copy_rest))
                check(nat, seed, round_, counted)
                new.prune()
                old.close()
                old = nat.datapath = Datapath.open(root, "t", limits)
            check(nat, seed, round_, "opened again")
            assert len(list(nat.datapath.sessions())) >= counted[1] // 2
        old.close()


def carry_all(carrier: Carrier) -> None:
    assert carrier.copy_all() == ""


def once(call: Callable[[], object]) -> Callable[[], None]:
    """Call it the first time only."""
    left = [call]

    def beside() -> None:
        if left:
            left.pop()()

    return beside
