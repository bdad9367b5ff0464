"""Frames without a link header, on a real device: the program at the hook of a TUN device.

Test runs always begin with an Ethernet header, so here the packets are written to the device and
what comes of them is caught where it arrives.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import time
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyroute2 import IPRoute
from scapy.layers.inet import IP, UDP, fragment

from nat64_dataplane.translator.host_view import Uplink
from nat64_dataplane.translator.node.tc_hooks import Clsact, Hook
from tests.dataplane import random_packets
from tests.dataplane import test_program_fuzz as fuzz
from tests.dataplane import test_program_property as prediction
from tests.dataplane.machine import NEXT, PEERS, POOL, REDIRECT, SERVER, SHOT, Machine, Out, machine
from tests.dataplane.reference.headers import Header6
from tests.lab.node import wait_for
from tests.lab.taps import Tap, chatter

pytestmark = pytest.mark.root

_TUNSETIFF, _IFF_TUN = 0x400454CA, 1
_ETH_P_IP, _ETH_P_IPV6 = 0x0800, 0x86DD
_MOVED = ("translated", "icmp_errors_sent", "fragmented")

COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}
SEEDED = st.randoms(use_true_random=True)


class Tun:
    """An uplink of raw IP packets, in the namespace that we are in."""

    def __init__(self, nat: Machine) -> None:
        self.nat = nat
        self._fd = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(self._fd, _TUNSETIFF, struct.pack("16sH", b"tun0", _IFF_TUN))
        # With another address than the config's, nat64-t leaves what it gets where we catch it.
        nat.node.sysctl(net__ipv6__conf__tun0__disable_ipv6=1)
        nat.node.ip(
            "link set tun0 up mtu 1500",
            "link set nat64-t address 02:00:00:00:00:65",
            # A client without a neighbour entry gets a solicitation in place of its packet.
            *(
                f"neigh replace {client} lladdr 02:00:00:00:01:10 dev pod0 nud permanent"
                for client in random_packets.STRANGERS
                if not client.is_multicast and not client.is_unspecified and not client.is_loopback
            ),
        )
        self.ifindex = socket.if_nametoindex("tun0")
        nat.uplinks = (*nat.uplinks, Uplink(self.ifindex, 1500, "tun0", ethernet=False))
        with IPRoute() as ipr:
            hook = Hook(self.ifindex, "ingress")
            Clsact(lambda: ipr, "t").attach(hook, nat.datapath.program_fd("nat64_ingress"))
        self._taps = {name: Tap(name, PEERS[name]) for name in ("in0", "nat64-t")}

    def write(self, packet: bytes, protocol: int = _ETH_P_IP) -> None:
        """Let a packet come in, as whatever protocol it may be."""
        os.write(self._fd, struct.pack("!HH", 0, protocol) + packet)

    def __call__(self, packet: bytes) -> Out:
        """Let it come in, and catch what comes of it."""
        self.empty()
        before = self.nat.datapath.counters()
        self.write(packet)  # the program has run when this returns
        counted = self._moved(before)
        moved = any(name in counted for name in _MOVED)
        came = {name: tap.settled() for name, tap in self._taps.items()}
        frame = bytes(14) + packet
        if moved:
            (frame,) = came.pop("in0" if "sent_fast" in counted else "nat64-t")
        assert not any(came.values()), (counted, came)
        verdict = NEXT if "passed" in counted else REDIRECT if moved else SHOT
        return Out(verdict, frame, counted)

    def arrived(self, link: str, count: int) -> list[bytes]:
        """That many IPv6 packets that have come to a link, without their link headers."""
        return [wait_for("packet", self._taps[link].next)[14:] for _ in range(count)]

    def empty(self) -> None:
        """Forget what has arrived."""
        for tap in self._taps.values():
            tap.settled()

    def close(self) -> None:
        """Let the device go."""
        for tap in self._taps.values():
            tap.close()
        os.close(self._fd)

    def _moved(self, before: dict[str, int]) -> dict[str, int]:
        after = self.nat.datapath.counters()
        return {
            name.rpartition("_")[0]: after[name] - before[name]
            for name in after
            if after[name] != before[name]
        }


@pytest.fixture(scope="module")
def tun() -> Iterator[Tun]:
    with machine() as built:
        raw = Tun(built)
        yield raw
        raw.close()


@settings(max_examples=20, **COMMON)  # type: ignore[arg-type]
@given(rng=SEEDED)
def test_raw_packets_become_what_the_reference_predicts(tun: Tun, rng: Random) -> None:
    prediction.play(prediction.World(tun.nat, tun), rng, 50)


@settings(max_examples=5, **COMMON)  # type: ignore[arg-type]
@given(rng=SEEDED)
def test_what_kernels_say_unasked_is_not_taken_for_a_packet(tun: Tun, rng: Random) -> None:
    with chatter("n64p-t", "pod0") as sent:
        prediction.play(prediction.World(tun.nat, tun), rng, 50)
    assert all(sent.values())


def test_raw_fragments_before_their_first_one_come_round_behind_it(tun: Tun) -> None:
    nat = tun.nat
    nat.reset()
    port = fuzz.opened(nat)
    tun.empty()
    data = bytes(i % 251 for i in range(600))
    whole = IP(src=str(SERVER), dst=str(POOL), id=77) / UDP(sport=53, dport=port) / data
    first, *later = (bytes(piece) for piece in fragment(whole, 208))
    assert len(later) == 2
    before = nat.datapath.counters()
    for packet in (*later, first):
        tun.write(packet)
    wait_for(
        "three fragments",
        lambda: nat.datapath.counters()["translated_4to6"] == before["translated_4to6"] + 3,
    )
    pieces = [(Header6.read(packet, whole=True), packet) for packet in tun.arrived("in0", 3)]
    assert {head.fragment_id for head, _ in pieces} == {77}
    pieces.sort(key=lambda piece: piece[0].offset)
    assert b"".join(head.payload(packet) for head, packet in pieces)[8:] == data
    assert nat.datapath.counters()["held_4to6"] - before["held_4to6"] == 3


@settings(max_examples=20, **COMMON)  # type: ignore[arg-type]
@given(rng=SEEDED)
def test_bent_and_arbitrary_raw_frames_do_no_harm(tun: Tun, rng: Random) -> None:
    nat = tun.nat
    fuzz.configure(nat, rng)
    port = fuzz.opened(nat)
    known = fuzz.seeds(port, nat.config.prefix)
    before, sent = nat.datapath.counters(), 0
    for _ in range(100):
        if rng.random() < 0.7:
            packet = fuzz.bend(rng, rng.choice(known))
        else:
            packet = fuzz.arbitrary(rng, port, nat.config.prefix)
        protocol = rng.choice([_ETH_P_IP] * 8 + [_ETH_P_IPV6, rng.randrange(2**16)])
        tun.write(packet, protocol)
        sent += protocol == _ETH_P_IP

    def ends() -> int:
        """Packets that have come to one, or wait for their first fragment."""
        after = nat.datapath.counters()
        return sum(
            after[f"{name}_4to6"] - before[f"{name}_4to6"]
            for name in ("received", "held", "fragmented")
        )

    wait_for("every packet to be counted", lambda: ends() >= sent)
    time.sleep(0.05)
    for came, went in nat.balance().values():
        assert came == went
    fuzz.tables_agree(nat)
    fuzz.nothing_is_left(nat)
