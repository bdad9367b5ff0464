"""Packets whose sum the device has delivered (CHECKSUM_COMPLETE): the sum must stay right.

The kernel itself checks it after each run. Were it wrong, devices that sum, as many do, would make
the kernel log "hw csum failure" and sum every packet again. Test runs can carry a sum since Linux
6.11, and in late releases of the stable ones before it, Debian 12's 6.1 among them; elsewhere these
tests are skipped.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP, IPOption_SSRR
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    PadN,
)
from scapy.layers.sctp import SCTP
from scapy.packet import Packet, Raw

from nat64_dataplane.bpf.errors import BpfError
from nat64_dataplane.bpf.programs import SUMMED
from nat64_dataplane.translator.fragmentation import fragmentation_address
from tests.dataplane.machine import POD, POOL, SERVER, Machine, Out, at, machine
from tests.dataplane.test_program_icmp_errors import icmp4, icmp6

pytestmark = pytest.mark.root

OUT = IPv6(src=str(POD), dst=at(SERVER), hlim=63)


@pytest.fixture(scope="module")
def shared() -> Iterator[Machine]:
    with machine() as built:
        built.reset()
        try:
            built.from_pod(OUT / UDP(sport=1, dport=2), flags=SUMMED)
        except BpfError as error:
            if error.errno != errno.EINVAL:
                raise
            pytest.skip("this kernel's test runs know no summed packets: Linux 6.11 does")
        yield built


def out(nat: Machine, packet: Packet | bytes) -> Out:
    got = nat.from_pod(packet, flags=SUMMED)
    assert got.translated, got.counted
    return got


def back(nat: Machine, packet: Packet | bytes) -> Out:
    got = nat.from_internet(packet, flags=SUMMED)
    assert got.translated, got.counted
    return got


@pytest.mark.parametrize("size", [0, 1, 18, 1300])
def test_sum_stays_right_for_tcp_and_udp(nat: Machine, size: int) -> None:
    data = Raw(bytes(range(256)) * 6)[Raw].load[:size]
    for transport in (TCP(sport=4000, dport=80, flags="S"), UDP(sport=4000, dport=80)):
        sent = out(nat, OUT / transport / data).packet
        answer = transport.__class__(sport=80, dport=sent.sport) / data
        back(nat, IP(src=str(SERVER), dst=str(POOL)) / answer)


def test_sum_stays_right_for_echo(nat: Machine) -> None:
    sent = out(nat, OUT / ICMPv6EchoRequest(id=7, data=b"ping!")).packet
    back(nat, IP(src=str(SERVER), dst=str(POOL)) / ICMP(type=0, id=sent[ICMP].id) / b"pong!")


def test_sum_stays_right_when_headers_go(nat: Machine) -> None:
    option = IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\x07" * 12)])
    sent = out(nat, OUT / option / UDP(sport=4000, dport=80) / b"data").packet
    answer = IP(src=str(SERVER), dst=str(POOL), options=[IPOption_NOP()] * 8)
    back(nat, answer / UDP(sport=80, dport=sent.sport) / b"data")


def test_sum_stays_right_when_a_checksum_is_filled_in(nat: Machine) -> None:
    sent = out(nat, OUT / UDP(sport=4000, dport=80)).packet
    answer = UDP(sport=80, dport=sent.sport, chksum=0) / b"some data"
    back(nat, IP(src=str(SERVER), dst=str(POOL)) / answer)


def test_sum_stays_right_for_fragments(nat: Machine) -> None:
    first = IPv6ExtHdrFragment(nh=17, m=1, id=9) / UDP(sport=4000, dport=80) / Raw(b"\x05" * 64)
    sent = out(nat, OUT / first).packet
    out(nat, OUT / IPv6ExtHdrFragment(nh=17, offset=9, id=9) / Raw(b"\x06" * 33))
    answer = UDP(sport=80, dport=sent[UDP].sport) / Raw(b"\x05" * 64)
    back(nat, IP(src=str(SERVER), dst=str(POOL), id=3, flags="MF") / answer)
    rest = IP(src=str(SERVER), dst=str(POOL), id=3, frag=9, proto=17) / Raw(b"\x06" * 33)
    back(nat, rest)


@pytest.mark.parametrize("size", [0, 33, 900])
@pytest.mark.parametrize("transport", [TCP(sport=4000, dport=80, flags="S"), UDP(sport=4000)])
def test_sum_stays_right_for_errors(nat: Machine, transport: Packet, size: int) -> None:
    sent = out(nat, OUT / transport / bytes(size)).packet
    error = icmp4(3, 4, b"\0\0\x05\x78", bytes(sent))
    back(nat, IP(src="198.51.100.9", dst=str(POOL), proto=1) / error)
    answer = transport.__class__(sport=sent.dport, dport=sent.sport) / bytes(size)
    got = back(nat, IP(src=str(SERVER), dst=str(POOL)) / answer).packet
    out(nat, icmp6(str(POD), at(SERVER), 1, 4, bytes(4), bytes(got)))


def test_sum_stays_right_on_the_kernels_path(nat: Machine) -> None:
    sent = out(nat, OUT / UDP(sport=4000, dport=80)).packet
    last = IP(src=str(SERVER), dst=str(POOL), ttl=1) / UDP(sport=80, dport=sent.sport)
    assert "sent_kernel" in back(nat, last).counted
    assert "sent_kernel" in out(nat, OUT / UDP(sport=4000, dport=80) / bytes(1473)).counted


def test_sum_stays_right_of_what_the_kernel_is_to_fragment(nat: Machine) -> None:
    address = fragmentation_address(nat.interface)
    nat.node.ip(f"route replace {address}/32 dev nat64-t mtu lock 1252")
    try:
        sent = out(nat, OUT / UDP(sport=4000, dport=80)).packet
        long = UDP(sport=80, dport=sent.sport) / Raw(b"\x09" * 1401)
        got = nat.from_internet(IP(src=str(SERVER), dst=str(POOL)) / long, flags=SUMMED)
        assert "fragmented" in got.counted
    finally:
        nat.node.ip(f"route del {address}/32 dev nat64-t")


def test_sum_stays_right_of_errors_of_our_own(nat: Machine) -> None:
    got = nat.from_pod(OUT / SCTP() / b"data", flags=SUMMED)
    assert got.counted.get("icmp_errors_sent") == 1
    sent = out(nat, OUT / UDP(sport=4000, dport=80)).packet
    routed = IP(
        src=str(SERVER), dst=str(POOL), options=[IPOption_SSRR(pointer=4, routers=["192.0.2.7"])]
    )
    refused = nat.from_internet(routed / UDP(sport=80, dport=sent.sport), flags=SUMMED)
    assert refused.counted.get("icmp_errors_sent") == 1
