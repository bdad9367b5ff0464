"""The tester of RFC 9693 sends what its figures claim."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from tests.bench import rfc9693_frames as tester

PAIRS = (("192.0.2.32", "198.51.100.10"), ("fd64:1::1:0", "2001:db8:64::c633:640a"))


@pytest.mark.parametrize("pair", PAIRS)
def test_each_frame_has_right_checksums_and_ports_of_its_own(pair: tuple[str, str]) -> None:
    source, destination = map(ip_address, pair)
    seen = set()
    for data in tester.frames(bytes(6), source, destination, 500):
        frame = Ether(data)
        layer = IP if source.version == 4 else IPv6
        assert (frame[layer].src, frame[layer].dst) == pair
        rebuilt = Ether(data)
        del rebuilt[UDP].chksum
        if source.version == 4:
            del rebuilt[IP].chksum
        assert bytes(rebuilt) == data
        seen.add((frame[UDP].sport, frame[UDP].dport))
    assert len(seen) == 500


def test_connections_differ_and_stay_in_their_bounded_ranges() -> None:
    count = 2 * tester.SOURCES + 5
    ports = list(tester.ports(count))
    assert len(set(ports)) == count
    assert {sport for sport, _ in ports} == set(
        range(tester.FIRST_SOURCE, tester.FIRST_SOURCE + tester.SOURCES)
    )
    assert {dport for _, dport in ports} == {
        tester.FIRST_DESTINATION,
        tester.FIRST_DESTINATION + 1,
        tester.FIRST_DESTINATION + 2,
    }
