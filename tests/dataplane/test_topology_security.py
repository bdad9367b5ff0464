"""Topology Gateway: what nodes and pods that lie about themselves achieve. Transport Tunnel."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from ipaddress import IPv6Address

import pytest

from nat64_dataplane.topology import tunnel_interface, tunnel_vni
from tests.dataplane.test_site_offload import DISCARD, PORT, SEND, offloaded, send, until_offloaded
from tests.lab.node import Node, wait_for
from tests.lab.site import SERVER, Member, Site, site

pytestmark = pytest.mark.root

_SEND_AS = """
import socket, sys
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IPV6, 75, 1)  # IPV6_TRANSPARENT: any source
s.bind((sys.argv[1], 0))
s.sendto(b"?", (sys.argv[2], 53))
"""

_FORGE = """
import struct, sys
from scapy.layers.inet import UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.sendrecv import sendp
mac, source, target, vni, inner_source, inner_target = sys.argv[1:]
# scapy would ask for the target's MAC, and write an invalid source where it has no route
link = Ether(src="02:00:00:00:00:64", dst="02:00:00:00:01:64")
inner = link / IPv6(src=inner_source, dst=inner_target) / UDP(sport=53, dport=5353) / b"forged"
outer = IPv6(src=source, dst=target) / UDP(sport=4444, dport=8464)
vxlan = struct.pack(">II", 8 << 24, int(vni) << 8)
sendp(Ether(dst=mac) / outer / (vxlan + bytes(inner)), iface="eth0", verbose=False)
"""

VNI = str(tunnel_vni("default"))
TUNNEL = tunnel_interface("default")


@pytest.fixture(scope="module")
def one() -> Iterator[Site]:
    with site(gateways=1, routers=2) as built:
        yield built


def dropped(member: Member, reason: str) -> float:
    return member.agent.metric("nat64_dropped_packets_total", reason=reason)


def forge(pod: Node, node: Member, *fields: object) -> None:
    """Send a tunnel packet from a pod: outer source, outer target, VNI, inner source and target."""
    mac = node.node.run("cat", "/sys/class/net/pod0/address").strip()
    pod.run(sys.executable, "-c", _FORGE, mac, *map(str, fields))


def test_source_of_another_nodes_pod_is_refused(one: Site) -> None:
    """A node that was taken over can't speak for the pods of others."""
    (gateway,), (first, second) = one.gateways, one.routers
    before = dropped(gateway, "tunnel_source_of_another")
    for source in (second.clients[0], second.address):
        first.node.run(sys.executable, "-c", _SEND_AS, str(source), str(SERVER))
    wait_for("the refusal", lambda: dropped(gateway, "tunnel_source_of_another") == before + 2)


def test_pods_reply_is_not_told_to_the_node_that_asked_in_its_name(one: Site) -> None:
    """Replies go to the node whose range the client is in, whoever has sent the question."""
    first, second = one.routers
    before = dropped(first, "tunnel_not_member")
    assert one.seen_as(second, second.clients[1])
    assert dropped(first, "tunnel_not_member") == before


def test_node_that_is_no_member_is_refused(one: Site) -> None:
    (gateway,), (first, second) = one.gateways, one.routers
    before = dropped(gateway, "tunnel_not_member")
    one.tell(routers=[first])
    try:
        wait_for(
            "the refusal",
            lambda: (
                one.seen_as(second, second.clients[0], check=False) == ""
                and dropped(gateway, "tunnel_not_member") > before
            ),
        )
        assert one.seen_as(first, first.clients[0])
    finally:
        one.tell()
    one.wait_healthy()
    assert wait_for("the member", lambda: one.seen_as(second, second.clients[0], check=False))


def test_router_node_reaches_ipv4_only(one: Site) -> None:
    """The tunnel is no way to the pods, or to other hosts, behind a gateway node."""
    (gateway,), (first, second) = one.gateways, one.routers
    before = dropped(gateway, "tunnel_destination")
    mac = gateway.node.run("cat", "/sys/class/net/eth0/address").strip()
    for target in (second.clients[0], gateway.address):
        fields = (first.address, gateway.address, VNI, first.clients[0], target)
        first.node.run(sys.executable, "-c", _FORGE, mac, *map(str, fields))
    wait_for("the refusal", lambda: dropped(gateway, "tunnel_destination") == before + 2)


def test_pods_own_tunnel_packets_die_on_its_node(one: Site) -> None:
    (gateway,), (first, second) = one.gateways, one.routers
    assert first.pod
    before = dropped(first, "tunnel_not_member")
    reply = (SERVER, first.clients[1])
    forge(first.pod, first, first.clients[0], first.address, VNI, *reply)
    wait_for("the refusal", lambda: dropped(first, "tunnel_not_member") == before + 1)
    # to the other nodes it isn't even forwarded
    seen = [dropped(member, "tunnel_not_member") for member in (gateway, second)]
    forge(first.pod, first, first.clients[0], gateway.address, VNI, first.clients[0], SERVER)
    forge(first.pod, first, first.clients[0], second.address, VNI, SERVER, second.clients[0])
    forge(first.pod, first, first.clients[0], first.address, VNI, *reply)  # comes after them
    wait_for("the refusal", lambda: dropped(first, "tunnel_not_member") == before + 2)
    assert [dropped(member, "tunnel_not_member") for member in (gateway, second)] == seen


def test_pod_is_no_member_by_a_forged_source(one: Site) -> None:
    """IPv6 has no reverse-path filter, and the outer source is all that the tunnel goes by."""
    (gateway,), (first, _) = one.gateways, one.routers
    assert first.pod
    for inner in (SERVER, gateway.address):
        forge(first.pod, first, gateway.address, first.address, VNI, inner, first.clients[1])
    wait_for("both", lambda: "counter packets 2 " in first.node.run("nft", "list", "ruleset"))
    arrived = first.pod.run("sh", "-c", "grep -w Udp6NoPorts /proc/net/snmp6")
    assert arrived.split()[1] == "0"


def open_connections(pod: Node | None) -> str:
    """Those of which something may still be sent. Of a closed one, the kernel sends the end."""
    assert pod
    return pod.run("ss", "-Htn", "state", "connected", "exclude", "time-wait")


@pytest.mark.parametrize("source", ["fd64:2::10", "fe80::1", str(SERVER), "::1"])
def test_pod_with_a_forged_source_is_not_steered(one: Site, source: str) -> None:
    first = one.routers[0]
    assert first.pod
    mac = first.node.run("cat", "/sys/class/net/pod0/address").strip()
    wait_for("the end of earlier connections", lambda: not open_connections(first.pod))
    steered = first.agent.metric("nat64_steered_packets_total")
    program = (
        "import sys; from scapy.all import Ether, IPv6, UDP, sendp; "
        "sendp(Ether(dst=sys.argv[1]) / IPv6(src=sys.argv[2], dst=sys.argv[3]) / UDP(dport=53), "
        "iface='eth0', verbose=False)"
    )
    first.pod.run(sys.executable, "-c", program, mac, source, str(SERVER))
    first.pod.run(sys.executable, "-c", program, mac, str(first.clients[0]), str(SERVER))
    wait_for("the honest one", lambda: first.agent.metric("nat64_steered_packets_total") > steered)
    assert first.agent.metric("nat64_steered_packets_total") == steered + 1


def test_tunnel_packet_of_another_gateway_is_refused(one: Site) -> None:
    """With another VNI: two gateways share nodes, not clients."""
    (gateway,), (first, _) = one.gateways, one.routers
    before = dropped(first, "tunnel_not_member")
    mac = first.node.run("cat", "/sys/class/net/eth0/address").strip()
    fields = (gateway.address, first.address, str(int(VNI) ^ 1), SERVER, first.clients[0])
    gateway.node.run(sys.executable, "-c", _FORGE, mac, *map(str, fields))
    wait_for("the refusal", lambda: dropped(first, "tunnel_not_member") == before + 1)


def test_gateway_node_speaks_for_ipv4_and_for_itself_only(one: Site) -> None:
    (gateway,), (first, _) = one.gateways, one.routers
    before = dropped(first, "tunnel_source")
    mac = first.node.run("cat", "/sys/class/net/eth0/address").strip()

    def send(inner: IPv6Address | str) -> None:
        fields = (gateway.address, first.address, VNI, inner, first.clients[0])
        gateway.node.run(sys.executable, "-c", _FORGE, mac, *map(str, fields))

    send("fd64:2::10")
    wait_for("the refusal", lambda: dropped(first, "tunnel_source") == before + 1)
    returned = first.agent.metric("nat64_returned_packets_total")
    send(SERVER)
    send(gateway.address)
    wait_for("both", lambda: first.agent.metric("nat64_returned_packets_total") >= returned + 2)
    assert dropped(first, "tunnel_source") == before + 1


def test_a_router_node_has_no_part_in_a_known_flow_of_another(one: Site) -> None:
    (gateway,), (first, second) = one.gateways, one.routers
    until_offloaded(one, first)
    before = dropped(gateway, "tunnel_source_of_another")
    fields = (first.clients[0], PORT, SERVER, DISCARD, 50)
    second.node.run(sys.executable, "-c", SEND, *map(str, fields))
    wait_for("all", lambda: dropped(gateway, "tunnel_source_of_another") == before + 50)


def test_flow_offload_stays_off_where_others_look_at_what_leaves_the_tunnel(one: Site) -> None:
    (gateway,), (router, _) = one.gateways, one.routers
    until_offloaded(one, router)
    chain = f"type filter hook ingress device {TUNNEL} priority 0;"
    gateway.node.run("nft", "-f", "-", input=f"table netdev t {{ chain c {{ {chain} }}; }}\n")

    def off() -> bool:
        before = offloaded(gateway)
        send(router, SEND, DISCARD, 100)
        return offloaded(gateway) == before

    wait_for("its end", off)
    assert off()
    assert f"no flow offload where programs of others are: {TUNNEL}" in gateway.agent.log()
    gateway.node.run("nft", "delete", "table", "netdev", "t")
    until_offloaded(one, router)
