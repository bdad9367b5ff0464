"""Checksums of TCP and UDP at the edges of their arithmetic: 0 and 0xffff, and sums that cancel."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv6Address

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet

from tests.dataplane.machine import POD, POOL, PREFIX, SERVER, Machine, at, machine, right_checksums

pytestmark = pytest.mark.root

TRANSPORTS = pytest.mark.parametrize(
    "transport",
    [UDP(sport=4000, dport=53), TCP(sport=4000, dport=80, flags="S")],
    ids=["udp", "tcp"],
)


def _words(packed: bytes) -> int:
    return sum(int.from_bytes(packed[at : at + 2], "big") for at in range(0, len(packed), 2))


def _neutral() -> IPv6Address:
    """A pod whose address and the prefix add up to the pool address: addresses change no sum."""
    head = IPv6Address("fd64:1::").packed[:14]
    last = (_words(POOL.packed) - _words(head) - _words(PREFIX.network_address.packed)) % 0xFFFF
    return IPv6Address(head + last.to_bytes(2, "big"))


NEUTRAL = _neutral()


@pytest.fixture(scope="module")
def shared() -> Iterator[Machine]:
    with machine() as built:
        built.node.ip(f"neigh add {NEUTRAL} lladdr 02:00:00:00:01:10 dev pod0 nud permanent")
        built.reset()
        yield built


def _checksum(packet: Packet) -> int:
    layer = packet[UDP] if UDP in packet else packet[TCP]
    return int(layer.chksum)


@TRANSPORTS
@pytest.mark.parametrize("pod", [POD, NEUTRAL], ids=["pod", "neutral"])
def test_a_sum_of_zero_is_written_as_its_transport_wants_it(
    nat: Machine, transport: Packet, pod: IPv6Address
) -> None:
    zero = 0xFFFF if UDP in transport else 0
    out = IPv6(src=str(pod), dst=at(SERVER)) / transport
    first = nat.from_pod(out / bytes(2)).packet
    completing = _checksum(first).to_bytes(2, "big")
    sent = nat.from_pod(out / completing).packet
    assert _checksum(sent) == zero
    assert right_checksums(sent)

    answer = transport.copy()
    answer.sport, answer.dport = transport.dport, first.sport
    if TCP in answer:
        answer[TCP].flags = "SA"
    back = IP(src=str(SERVER), dst=str(POOL)) / answer
    first = nat.from_internet(back / bytes(2)).packet
    completing = _checksum(first).to_bytes(2, "big")
    got = nat.from_internet(back / completing).packet
    assert _checksum(got) == zero
    assert right_checksums(got)


@TRANSPORTS
def test_addresses_that_cancel_leave_the_port_to_be_counted(
    nat: Machine, transport: Packet
) -> None:
    for payload in (b"", b"\xff\xff", b"four", bytes(1000)):
        packet = IPv6(src=str(NEUTRAL), dst=at(SERVER)) / transport / payload
        sent = nat.from_pod(packet)
        assert sent.translated
        assert right_checksums(sent.packet)


@TRANSPORTS
def test_a_wrong_checksum_stays_wrong(nat: Machine, transport: Packet) -> None:
    for pod in (POD, NEUTRAL):
        for wrong in (1, 0x1234, 0xFFFE, 0xFFFF):
            bad = transport.copy()
            bad.chksum = wrong
            sent = nat.from_pod(IPv6(src=str(pod), dst=at(SERVER)) / bad / b"not its sum").packet
            assert not right_checksums(sent), (pod, hex(wrong))
