"""What no prefix of any length may lead to: the node itself, and the cloud's metadata service."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv6Network

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6EchoRequest, IPv6
from scapy.packet import Packet

from tests.dataplane.machine import POD, POD2, POOL, PREFIXES, SERVER, Machine, at, machine

pytestmark = pytest.mark.root

WELL_KNOWN = "64:ff9b::/96"
TRANSPORTS = {
    "tcp": TCP(sport=4000, dport=80, flags="S"),
    "udp": UDP(sport=4000, dport=53),
    "icmp": ICMPv6EchoRequest(id=4000),
}
REFUSED = {
    str(POOL): "destination_local",
    "192.0.0.8": "destination_local",
    "169.254.169.254": "destination_special",
}


@pytest.fixture(scope="module")
def nat() -> Iterator[Machine]:
    with machine() as built:
        yield built


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("address", REFUSED)
@pytest.mark.parametrize("prefix", [*PREFIXES, WELL_KNOWN])
def test_node_and_metadata_are_unreachable_through_every_prefix(
    nat: Machine, prefix: str, address: str, transport: str
) -> None:
    nat.reset(prefix=prefix)
    target = at(address, IPv6Network(prefix))
    out = nat.from_pod(IPv6(src=str(POD), dst=target) / TRANSPORTS[transport])
    reason = REFUSED[address]
    if address == str(POOL) and transport != "icmp":
        # Other clients are there: what nobody holds is refused as such, and in silence.
        reason = "hairpin_without_binding"
        assert out.verdict == 2
    else:
        assert ICMPv6DestUnreach in out.packet
        assert (out.packet.src, out.packet[ICMPv6DestUnreach].code) == (target, 1)
    assert out.counted.get(f"dropped_{reason}") == 1
    assert "translated" not in out.counted
    assert not list(nat.datapath.bib()), "a refused packet takes no port"


@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_pool_address_leads_to_clients_only(nat: Machine, prefix: str, transport: str) -> None:
    """Where a port of the node's own address is held, its holder answers, never the node."""
    nat.reset(prefix=prefix, filtering="EndpointIndependent")
    network = IPv6Network(prefix)
    packet: Packet = IPv6(src=str(POD), dst=at(SERVER, network)) / TRANSPORTS[transport]
    port = nat.from_pod(packet).packet.sport
    there = packet.copy()
    there.src, there.dst = str(POD2), at(POOL, network)
    there[type(TRANSPORTS[transport])].dport = port
    del there[type(TRANSPORTS[transport])].chksum
    out = nat.from_pod(there)
    assert out.counted.get("hairpinned") == 1
    back = nat.from_internet(out.packet, ifindex=1, ingress_ifindex=1)
    assert back.translated
    assert (back.packet.src, back.packet.dst) == (at(POOL, network), str(POD))
