"""Sessions that are taken along to other maps, while packets use both the old and the new ones."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6

from nat64_dataplane.bpf.maps import possible_cpus
from nat64_dataplane.config import Limits
from nat64_dataplane.translator.datapath import abi, counters
from nat64_dataplane.translator.datapath.abi_topology import (
    AFFINITY,
    STEERING_PLACES,
    GatewayState,
    NodeRole,
    ProbeState,
)
from nat64_dataplane.translator.datapath.carry_over import Carrier
from nat64_dataplane.translator.datapath.datapath import Datapath
from nat64_dataplane.translator.datapath.topology_maps import Gateway, Standing
from tests.dataplane.invariants import broken
from tests.dataplane.machine import POD, POOL, SERVER, Machine, Out, at, machine

pytestmark = pytest.mark.root


@pytest.fixture
def moving(root: Path) -> Iterator[Machine]:
    with machine(Limits(sessions=1024), root) as nat:
        nat.configure()
        yield nat


def six(nat: Machine, port: int, flags: str) -> Out:
    return nat.from_pod(IPv6(src=str(POD), dst=at(SERVER)) / TCP(sport=port, dport=80, flags=flags))


def four(nat: Machine, port: int, flags: str) -> Out:
    segment = TCP(sport=80, dport=port, flags=flags)
    return nat.from_internet(IP(src=str(SERVER), dst=str(POOL)) / segment)


def states(nat: Machine) -> dict[int, str]:
    return {session.client_port: session.state for session in nat.datapath.sessions()}


def test_later_state_wins_and_all_that_is_added_is_counted(moving: Machine, root: Path) -> None:
    nat, old = moving, moving.datapath
    assert old.directory
    ports = {port: six(nat, port, "S").packet.sport for port in range(4000, 4006)}
    for port in (4001, 4002, 4003, 4004):
        assert four(nat, ports[port], "SA").translated
    with Datapath.open(root, "t", Limits(sessions=2048)) as new:
        carrier = Carrier(old.directory, new)
        assert carrier.copy_all() == ""
        # meanwhile, under the old programs:
        nat.datapath.travel(1)
        new.travel(1)
        four(nat, ports[4000], "SA")  # an answer
        for port in (4002, 4003):
            six(nat, port, "FA")  # one end, then both
        four(nat, ports[4003], "FA")
        ports[5000] = six(nat, 5000, "S").packet.sport  # a new connection
        four(nat, ports[5000], "SA")
        nat.datapath = new
        nat.configure()
        # under the new ones, before the rest has come:
        six(nat, 4004, "FA")
        four(nat, ports[4004], "FA")
        carrier.copy_rest()
        assert states(nat) == {
            4000: "ESTABLISHED",
            4001: "ESTABLISHED",
            4002: "V6_FIN",
            4003: "BOTH_FIN",
            4004: "BOTH_FIN",
            4005: "V6_INIT",
            5000: "ESTABLISHED",
        }
        assert broken(new) == []
        assert new.session_count() == 7
        assert six(nat, 5000, "A").packet.sport == ports[5000]
        client = abi.CLIENT.unpack(new.map("clients").get(POD.packed) or b"")
        assert (client[0] & 0xFFFFFFFF, client[0] >> 32, client[4]) == (5, 7, 2)
        old.close()
        nat.datapath = Datapath.open(root, "t", Limits(sessions=2048))


def test_client_port_with_a_new_mapping_keeps_that_one(moving: Machine, root: Path) -> None:
    """A client that the new programs heard of before its old binding came along has one mapping."""
    nat, old = moving, moving.datapath
    assert old.directory
    with Datapath.open(root, "t", Limits(sessions=2048)) as new:
        carrier = Carrier(old.directory, new)
        assert carrier.copy_all() == ""
        nat.datapath.travel(1)
        new.travel(1)
        clients = range(5000, 5008)
        before = {port: six(nat, port, "S").packet.sport for port in clients}
        nat.datapath = new
        nat.configure()
        after = {port: six(nat, port, "S").packet.sport for port in clients}
        assert before != after
        carrier.copy_rest()
        assert broken(new) == []
        assert {port: six(nat, port, "S").packet.sport for port in clients} == after
        old.close()
        nat.datapath = Datapath.open(root, "t", Limits(sessions=2048))


def test_closed_connections_that_came_along_give_their_ports_back(
    moving: Machine, root: Path
) -> None:
    nat, old = moving, moving.datapath
    assert old.directory
    one = (type(nat.pool[0])(POOL, 61000, 61000),)
    nat.configure(one, overloadTcpPorts=False)
    six(nat, 4000, "S")
    for flags in ("SA", "FA"):
        four(nat, 61000, flags)
    six(nat, 4000, "FA")
    with Datapath.open(root, "t", Limits(sessions=2048)) as new:
        assert Carrier(old.directory, new).copy_all() == ""
        nat.datapath = new
        nat.configure(one, overloadTcpPorts=False)
        assert six(nat, 5000, "S").counted.get("dropped_ports_exhausted")
        nat.datapath.travel(5)
        assert six(nat, 5000, "S").packet.sport == 61000
        assert broken(new) == []
        old.close()
        nat.datapath = Datapath.open(root, "t", Limits(sessions=2048))


def test_counters_of_an_older_version_go_on() -> None:
    """An older version has fewer names, those of later ones come behind them in each direction."""
    older = counters.NAMES[: counters.NAMES.index("steered")]
    value = b"".join(
        abi.PORT_WORD.pack(1000 * cpu + number)
        for cpu in range(possible_cpus())
        for number in range(2 * len(older))
    )
    extra = sum(1000 * cpu for cpu in range(possible_cpus()))
    wanted = {f"{name}_{way}": 0 for way in counters.DIRECTIONS for name in counters.NAMES[1:]}
    for number, name in enumerate(f"{name}_{w}" for w in counters.DIRECTIONS for name in older):
        wanted[name] = possible_cpus() * number + extra
    del wanted["none_6to4"], wanted["none_4to6"]
    assert counters.read(value) == wanted
    assert counters.read(counters.written(wanted)) == wanted


def test_a_client_keeps_its_gateway_node_and_this_one_goes_on_serving(
    moving: Machine, root: Path
) -> None:
    old = moving.datapath
    assert old.directory
    gateways = {5: Gateway(IPv6Address("fd00::5"), GatewayState.HEALTHY)}
    standing = Standing(NodeRole.ROUTER, IPv6Address("fd00::1"), 7, 9)
    old.topology.place_node(standing)
    old.topology.follow_peers({IPv6Network("fd00::5/128"): IPv6Address("fd00::5")})
    old.topology.steer(gateways, [5] * STEERING_PLACES)
    old.topology.say(ProbeState.SERVING)
    affinity = AFFINITY.pack(zlib.crc32(IPv6Address("fd00::5").packed), old.now(), 5)
    old.map("affinities").set(POD.packed, affinity)
    with Datapath.open(root, "t", Limits(sessions=2048)) as new:
        assert Carrier(old.directory, new).copy_all() == ""
        assert new.topology.standing() == standing
        assert new.topology.steering() == old.topology.steering()
        assert new.topology.peers() == old.topology.peers()
        assert new.topology.said() is ProbeState.SERVING
        assert new.topology.choice(POD, 7440).kept
