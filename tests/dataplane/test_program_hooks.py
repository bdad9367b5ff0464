"""The programs at hooks of a quiet namespace: packets longer than a test run takes."""

from __future__ import annotations

import dataclasses
import fcntl
import functools
import os
import socket
import struct
from collections.abc import Iterator

import pytest
from pyroute2 import IPRoute
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6

from nat64_dataplane.translator.host_view import Uplink
from nat64_dataplane.translator.node.tc_hooks import Clsact, Direction, Hook, Program
from tests.dataplane.machine import POD, POOL, PREFIX, SERVER, Machine, at, machine
from tests.lab.node import wait_for

pytestmark = pytest.mark.root

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 1, 0x1000
_UDP_SEGMENT = 103


@pytest.fixture
def nat() -> Iterator[Machine]:
    with machine() as built:
        built.reset()
        yield built


def attach(nat: Machine, link: int, direction: Direction, program: Program) -> None:
    with IPRoute() as ipr:
        Clsact(lambda: ipr, "t").attach(Hook(link, direction), nat.datapath.program_fd(program))


def moved(nat: Machine, before: dict[str, int], direction: str) -> dict[str, int]:
    """The counters of one direction that have moved since `before`."""
    after = nat.datapath.counters()
    return {
        name.removesuffix(f"_{direction}"): after[name] - before[name]
        for name in after
        if name.endswith(direction) and after[name] != before[name]
    }


def test_no_room_for_an_ethernet_header_is_a_drop(nat: Machine) -> None:
    """The kernel gives no more room in front of packets of 16 KiB."""
    fd = os.open("/dev/net/tun", os.O_RDWR)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH", b"tun0", _IFF_TUN | _IFF_NO_PI))
        nat.node.ip("link set tun0 up mtu 65535")
        tun = socket.if_nametoindex("tun0")
        uplinks = (Uplink(tun, 65535, "tun0", ethernet=False),)
        nat.datapath.apply(nat.config, dataclasses.replace(nat.host, uplinks=uplinks))
        attach(nat, tun, "ingress", "nat64_ingress")
        port = nat.from_pod(
            IPv6(src=str(POD), dst=at(SERVER)) / UDP(sport=4000, dport=53)
        ).packet.sport
        packet = IP(src=str(SERVER), dst=str(POOL), flags="DF") / UDP(sport=53, dport=port)
        for size, outcome in ((1000, "translated"), (16040, "dropped_internal")):
            before = nat.datapath.counters()
            os.write(fd, bytes(packet / bytes(size - 28)))
            counted = wait_for("count", functools.partial(moved, nat, before, "4to6"))
            assert counted.pop("received") == counted.pop(outcome) == 1
            assert not counted.keys() - {"sent_fast", "sent_kernel"}
    finally:
        os.close(fd)


def test_train_too_long_for_ipv4_is_refused(nat: Machine) -> None:
    """IPv6 doesn't count its header in a packet's length, so its longest UDP train has 20 more."""
    nat.node.ip(
        "neigh replace fe80::64 lladdr 02:00:00:00:00:64 dev nat64-t nud permanent",
        f"route add {PREFIX} via fe80::64 dev nat64-t",
    )
    attach(nat, nat.interface, "egress", "nat64_egress")
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, 1400)
        client.connect((at(SERVER), 53))
        for size, outcome in ((65507, "translated"), (65508, "dropped_too_big")):
            before = nat.datapath.counters()
            client.send(bytes(size))
            assert moved(nat, before, "6to4")[outcome] == 1
