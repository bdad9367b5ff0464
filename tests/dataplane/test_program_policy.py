"""Who may reach whom: sources, destinations, the defaults of the design, and their change."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Address

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6

from nat64_dataplane.translator.fragmentation import fragmentation_address
from tests.dataplane.machine import (
    OTHER,
    POD,
    POD2,
    POOL,
    PREFIXES,
    REDIRECT,
    SERVER,
    Machine,
    Out,
    at,
    right_checksums,
)
from tests.dataplane.test_program_icmp_errors import parts6

pytestmark = pytest.mark.root

WELL_KNOWN = "64:ff9b::/96"


def send(nat: Machine, to: object, src: object = POD, **run: int) -> Out:
    prefix = nat.config.prefix
    return nat.from_pod(
        IPv6(src=str(src), dst=at(str(to), prefix)) / UDP(sport=4000, dport=53), **run
    )


@pytest.mark.parametrize("prefix", [WELL_KNOWN, "64:ff9b:1::/96", "2001:db8:64::/96"])
@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("0.0.0.0", "special"),
        ("127.0.0.1", "special"),
        ("169.254.169.254", "special"),
        ("224.0.0.1", "special"),
        ("240.0.0.1", "special"),
        ("255.255.255.255", "special"),
        (str(POOL), "hairpin_without_binding"),
    ],
)
def test_never_reachable_through_any_prefix(
    nat: Machine, prefix: str, address: str, reason: str
) -> None:
    nat.reset(prefix=prefix)
    out = send(nat, address)
    wanted = f"dropped_destination_{reason}" if reason == "special" else f"dropped_{reason}"
    assert out.counted.get(wanted) == 1
    assert not list(nat.datapath.sessions())


NOT_GLOBAL = [
    "10.1.2.3",
    "100.64.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.2.77",
    "192.168.1.1",
    "198.19.0.1",
    "198.51.100.1",
    "203.0.113.10",
]


@pytest.mark.parametrize("address", NOT_GLOBAL)
def test_well_known_prefix_does_not_stand_for_non_global_addresses(
    nat: Machine, address: str
) -> None:
    nat.reset(prefix=WELL_KNOWN)
    assert send(nat, address).counted.get("dropped_destination_not_global")
    nat.configure(prefix=WELL_KNOWN, policy={"allowNonGlobal": True})
    assert send(nat, address).translated
    nat.configure(prefix=WELL_KNOWN, policy={"allowedDestinations": [f"{address}/32"]})
    assert send(nat, address).translated
    nat.configure(prefix="64:ff9b:1::/96")
    assert send(nat, address).translated


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "192.0.0.9", "192.0.1.1", "198.20.0.1", "172.32.0.1"]
)
def test_well_known_prefix_stands_for_global_addresses(nat: Machine, address: str) -> None:
    nat.reset(prefix=WELL_KNOWN)
    assert send(nat, address).translated


def test_refusal_is_announced_as_prohibited(nat: Machine) -> None:
    out = send(nat, "169.254.169.254")
    assert (out.packet.payload.type, out.packet.payload.code) == (1, 1)
    assert right_checksums(out.packet)
    assert out.counted.get("icmp_errors_sent") == 1


@pytest.mark.bulk
def test_refusals_announced_are_limited(nat: Machine) -> None:
    packet = IPv6(src=str(POD), dst=at("127.0.0.1")) / UDP(sport=4000, dport=53)
    frame = bytes(12) + b"\x86\xdd" + bytes(packet)
    before = nat.datapath.counters()
    for _ in range(5000):
        nat.datapath.program("nat64_egress").run(frame, ifindex=nat.interface)
    after = nat.datapath.counters()
    moved = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    assert moved["dropped_destination_special_6to4"] == 5000
    assert moved["icmp_errors_suppressed_6to4"] + moved["icmp_errors_sent_6to4"] == 5000
    assert moved["icmp_errors_suppressed_6to4"] > 0
    nat.datapath.travel(1)  # the next second has errors to spend again


def test_special_ranges_are_lifted_one_range_at_a_time(nat: Machine) -> None:
    nat.reset(policy={"allowedDestinations": ["0.0.0.0/0", "169.254.20.0/24"]})
    assert send(nat, "169.254.20.10").translated
    assert send(nat, "169.254.169.254").counted.get("dropped_destination_special")
    assert send(nat, "127.0.0.1").counted.get("dropped_destination_special")


def test_the_nodes_own_addresses_are_local(nat: Machine) -> None:
    assert send(nat, "192.0.0.8").counted.get("dropped_destination_local")
    # no binding can be named by a ping, so this is not a hairpin
    ping = nat.from_pod(IPv6(src=str(POD), dst=at(POOL)) / ICMPv6EchoRequest(id=5))
    assert ping.counted.get("dropped_destination_local")
    assert parts6(ping)[:2] == (1, 1)


def test_own_address_is_lifted_only_by_its_own_range(nat: Machine) -> None:
    nat.reset(policy={"allowedDestinations": ["192.0.2.0/24"]})
    assert send(nat, POOL).counted.get("dropped_hairpin_without_binding")
    nat.configure(policy={"allowedDestinations": [f"{POOL}/32"]})
    out = send(nat, POOL)
    assert out.translated
    assert "sent_kernel" in out.counted


def test_denied_wins_over_allowed(nat: Machine) -> None:
    nat.reset(
        policy={
            "allowedDestinations": ["203.0.113.10/32"],
            "deniedDestinations": ["203.0.113.0/24"],
        }
    )
    assert send(nat, SERVER).counted.get("dropped_destination_denied")
    assert send(nat, "198.51.100.1").translated


def test_source_within_the_prefix_is_dropped(nat: Machine) -> None:
    assert send(nat, SERVER, src=at(OTHER)).dropped == "source_in_prefix"


def test_listed_sources_only(nat: Machine) -> None:
    nat.reset(policy={"allowedSources": ["fd64:1::10/128", "2001:db8:7::/48"]})
    assert send(nat, SERVER).translated
    with nat.routed("2001:db8:7::/48 dev up0"):
        assert send(nat, SERVER, src="2001:db8:7:1::5").translated
    assert send(nat, SERVER, src=POD2).dropped == "source_denied"
    # listed is allowed, whichever way it comes
    assert send(nat, SERVER, ingress_ifindex=nat.uplink).translated


def test_without_a_list_strangers_behind_an_uplink_are_refused(nat: Machine) -> None:
    out = send(nat, SERVER, src="2001:db8:bad::1", ingress_ifindex=nat.uplink)
    assert out.dropped == "source_behind_uplink"
    assert send(nat, SERVER, ingress_ifindex=0).translated  # the node itself


def test_inbound_from_a_denied_address_is_dropped(nat: Machine) -> None:
    nat.reset(policy={"deniedDestinations": [f"{OTHER}/32"]}, filtering="EndpointIndependent")
    port = send(nat, SERVER).packet.sport
    out = nat.from_internet(IP(src=str(OTHER), dst=str(POOL)) / UDP(sport=1, dport=port))
    assert out.dropped == "destination_denied"


@pytest.mark.parametrize("source", ["0.0.0.1", "127.0.0.1", "224.0.0.1", "255.255.255.255"])
def test_inbound_from_an_impossible_address_is_dropped(nat: Machine, source: str) -> None:
    nat.reset(filtering="EndpointIndependent")
    port = send(nat, SERVER).packet.sport
    out = nat.from_internet(IP(src=source, dst=str(POOL)) / UDP(sport=1, dport=port))
    assert out.dropped == "source_illegal"


@pytest.mark.parametrize("source", ["::", "::1", "ff02::1", "fe80::1", "febf::1"])
def test_impossible_ipv6_sources_are_dropped(nat: Machine, source: str) -> None:
    assert send(nat, SERVER, src=source).dropped == "source_illegal"


def test_new_policy_stops_sessions_that_it_forbids_and_no_others(nat: Machine) -> None:
    port = send(nat, SERVER).packet.sport
    other = send(nat, OTHER).packet.sport
    assert port == other
    nat.configure(policy={"deniedDestinations": [f"{SERVER}/32"]})
    assert send(nat, SERVER).counted.get("dropped_destination_denied")
    reply = IP(src=str(SERVER), dst=str(POOL)) / UDP(sport=53, dport=port)
    assert nat.from_internet(reply).dropped == "destination_denied"
    assert send(nat, OTHER).packet.sport == port
    nat.configure()
    assert send(nat, SERVER).packet.sport == port


def test_denied_ping_takes_no_identifier(nat: Machine) -> None:
    out = nat.from_pod(IPv6(src=str(POD), dst=at("127.0.0.1")) / ICMPv6EchoRequest(id=5))
    assert out.counted.get("dropped_destination_special")
    assert not list(nat.datapath.bib())


@pytest.mark.parametrize("prefix", PREFIXES)
def test_every_prefix_length_of_rfc6052(nat: Machine, prefix: str) -> None:
    nat.reset(prefix=prefix)
    for address in ("203.0.113.33", "198.51.100.255", "1.2.3.4", "223.254.253.252"):
        out = nat.from_pod(
            IPv6(src=str(POD), dst=at(address, nat.config.prefix))
            / TCP(sport=4000, dport=80, flags="S")
        )
        assert out.translated
        assert out.packet.dst == address
        assert right_checksums(out.packet)
        back = nat.from_internet(
            IP(src=address, dst=str(POOL)) / TCP(sport=80, dport=out.packet.sport, flags="SA")
        )
        assert back.packet.src == at(address, nat.config.prefix)
        assert right_checksums(back.packet)


@pytest.mark.parametrize("prefix", ["2001:db8::/32", "2001:db8:122:344::/64"])
def test_suffix_and_u_octet_are_ignored(nat: Machine, prefix: str) -> None:
    nat.reset(prefix=prefix)
    plain = at(SERVER, nat.config.prefix)
    dirty = int(IPv6Address(plain)) | 0x5A | 0xA5 << 56
    out = nat.from_pod(IPv6(src=str(POD), dst=str(IPv6Address(dirty))) / UDP(sport=1, dport=2))
    assert out.packet.dst == str(SERVER)
    assert right_checksums(out.packet)


def test_nothing_is_translated_without_a_config(shared: Machine) -> None:
    fresh = Machine()
    try:
        out = send(fresh, SERVER)
        assert out.dropped == "not_configured"
        packet = IP(src=str(SERVER), dst=str(POOL)) / UDP(sport=53, dport=61500)
        assert fresh.from_internet(packet).verdict == -1
    finally:
        fresh.close()


OUTSIDE_HOST = "2001:db8:1::66"
"""Behind the uplink: nothing of the cluster."""


def test_source_that_is_the_nodes_own_is_never_believed(nat: Machine) -> None:
    nat.reset()
    out = send(nat, SERVER, src="fd64:1::1")
    assert out.dropped == "source_without_route"
    assert not list(nat.datapath.sessions())
    nat.configure(policy={"allowedSources": ["::/0"]})
    assert send(nat, SERVER, src="fd64:1::1").dropped == "source_without_route"
    # The node itself may use its own address: what it sends has come in on no link.
    assert send(nat, SERVER, src="fd64:1::1", ingress_ifindex=0).translated


def test_source_that_the_node_has_no_route_to_is_refused(nat: Machine) -> None:
    nat.reset()
    assert send(nat, SERVER, src="fd66::1").dropped == "source_without_route"
    assert not list(nat.datapath.bib())


def test_source_that_is_reached_by_an_uplink_must_be_allowed(nat: Machine) -> None:
    with nat.routed(f"{OUTSIDE_HOST}/128 dev up0"):
        nat.reset()
        assert send(nat, SERVER, src=OUTSIDE_HOST).dropped == "source_behind_uplink"
        nat.configure(policy={"allowedSources": ["2001:db8:1::/48"]})
        assert send(nat, SERVER, src=OUTSIDE_HOST, ingress_ifindex=nat.uplink).translated


def test_source_must_belong_to_the_pods_link_that_it_came_from(nat: Machine) -> None:
    other = nat.far_link
    with nat.routed(f"{POD2}/128 dev pod0"):
        nat.reset()
        # On a bridge, or where the CNI routes to a link of its own, nothing can be said.
        assert send(nat, SERVER, src=POD2, ingress_ifindex=other).translated
        nat.datapath.follow_pod_links(frozenset({nat.pod_link, other}))
        try:
            nat.reset()
            assert send(nat, SERVER, src=POD2, ingress_ifindex=other).dropped == "source_wrong_link"
            assert send(nat, SERVER, src=POD2, ingress_ifindex=nat.pod_link).translated
            nat.datapath.follow_pod_links(frozenset({nat.pod_link}))
            nat.reset(policy={"allowedSources": ["fd64:1::/64"]})
            assert send(nat, SERVER, src=POD2, ingress_ifindex=other).dropped == "source_wrong_link"
        finally:
            nat.datapath.follow_pod_links(frozenset())


def test_only_pods_are_believed_where_their_ranges_are_known(nat: Machine) -> None:
    nat.reset(policy={"podRanges": ["fd64:1::10/128"]})
    assert send(nat, SERVER).translated
    assert send(nat, SERVER, src=POD2).dropped == "source_not_a_pod"
    nat.configure(policy={"podRanges": ["fd64:1::10/128"], "allowedSources": ["fd64:1::11/128"]})
    assert send(nat, SERVER, src=POD2).translated
    assert send(nat, SERVER).dropped == "source_denied"
    # An allowed range within that of the pods, and the other way round: both count.
    nat.configure(policy={"podRanges": ["fd64:1::10/128"], "allowedSources": ["fd64:1::/64"]})
    assert send(nat, SERVER).translated


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_session_of_a_pod_takes_nothing_from_an_uplink(nat: Machine, protocol: str) -> None:
    nat.reset()
    head = IPv6(src=str(POD), dst=at(SERVER))
    first = head / (TCP(sport=4000, dport=80, flags="S") if protocol == "tcp" else UDP(sport=4000))
    opened = nat.from_pod(first)
    assert opened.translated
    if protocol == "tcp":
        answer = IP(src=str(SERVER), dst=opened.packet.src) / TCP(
            sport=80, dport=opened.packet[TCP].sport, flags="SA"
        )
        assert nat.from_internet(answer).translated
        packets = [head / TCP(sport=4000, dport=80, flags=flags) for flags in ("A", "PA", "R")]
    else:
        packets = [head / UDP(sport=4000)]
    for packet in packets:
        assert nat.from_pod(packets[0]).translated  # noted as steady, too
        out = nat.from_pod(packet, ingress_ifindex=nat.uplink)
        assert out.dropped == "source_behind_uplink"
    assert nat.from_pod(packets[0]).translated


def test_link_with_an_ipv6_way_out_only_is_outside(nat: Machine) -> None:
    nat.outside = (nat.far_link,)
    try:
        nat.reset()
        assert send(nat, SERVER, ingress_ifindex=nat.far_link).dropped == "source_behind_uplink"
        nat.outside = (*range(9000, 9010), nat.far_link)  # more than the config holds
        nat.reset()
        assert send(nat, SERVER, ingress_ifindex=nat.far_link).dropped == "source_behind_uplink"
    finally:
        nat.outside = ()


def test_ranges_of_the_local_table_are_the_nodes(nat: Machine) -> None:
    nat.local = frozenset({IPv4Network("203.0.113.10/32"), IPv4Network("203.0.113.64/28")})
    try:
        nat.reset()
        for address in ("203.0.113.10", "203.0.113.64", "203.0.113.79"):
            assert "dropped_destination_local" in send(nat, address).counted
        nat.configure(policy={"allowedDestinations": ["203.0.113.64/28"]})
        assert send(nat, "203.0.113.70").translated
        assert "dropped_destination_local" in send(nat, "203.0.113.10").counted
    finally:
        nat.local = frozenset()


@pytest.mark.parametrize("kind", ["local", "broadcast"])
def test_what_the_kernel_keeps_for_itself_is_refused_before_the_agent_knows(
    nat: Machine, kind: str
) -> None:
    with nat.routed(f"{kind} 198.51.100.77/32 dev up0 table local"):
        nat.reset()
        out = send(nat, "198.51.100.77")
        assert out.verdict == REDIRECT, "the pod is told"
        assert "dropped_destination_without_route" in out.counted
        assert (out.packet.payload.type, out.packet.payload.code) == (1, 0)
        assert not list(nat.datapath.bib())
        nat.configure(policy={"allowedDestinations": ["198.51.100.77/32"]})
        assert send(nat, "198.51.100.77").translated


def test_denied_pool_address_is_not_hairpinned(nat: Machine) -> None:
    nat.reset()
    bound = send(nat, SERVER).packet[UDP].sport
    to_it = IPv6(src=str(POD2), dst=at(POOL)) / UDP(sport=5000, dport=bound)
    assert nat.from_pod(to_it).counted.get("hairpinned")
    nat.configure(policy={"deniedDestinations": [f"{POOL}/32"]})
    assert "dropped_destination_denied" in nat.from_pod(to_it).counted


def test_segments_of_strangers_pass_the_nodes_filters_as_their_syn_does(nat: Machine) -> None:
    nat.reset(filtering="EndpointIndependent")
    opened = nat.from_pod(IPv6(src=str(POD), dst=at(SERVER)) / TCP(sport=4000, flags="S"))
    stranger = IP(src=str(OTHER), dst=str(POOL)) / TCP(
        sport=999, dport=opened.packet[TCP].sport, flags="A"
    )
    out = nat.from_internet(stranger)
    assert out.translated
    assert "sent_kernel" in out.counted
    assert "sent_fast" not in out.counted


def test_fragmenter_takes_what_the_program_sent_and_nothing_else(nat: Machine) -> None:
    nat.reset()
    address = str(fragmentation_address(nat.interface))
    packet = IP(src=str(SERVER), dst=address, id=1, flags="MF") / (b"x" * 64)
    for ifindex in (nat.uplink, nat.pod_link, 0):
        out = nat.from_pod(packet, ingress_ifindex=ifindex)
        assert out.dropped == "fragmenter_foreign", ifindex
