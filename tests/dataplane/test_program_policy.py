"""Who may reach whom: sources, destinations, the defaults of the design, and their change."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6

from tests.dataplane.machine import (
    OTHER,
    POD,
    POD2,
    POOL,
    PREFIXES,
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
    assert send(nat, SERVER, src="2001:db8:7:1::5").translated
    assert send(nat, SERVER, src=POD2).dropped == "source_denied"
    # listed is allowed, whichever way it comes
    assert send(nat, SERVER, ingress_ifindex=nat.uplink).translated


def test_without_a_list_strangers_behind_an_uplink_are_refused(nat: Machine) -> None:
    out = send(nat, SERVER, src="2001:db8:bad::1", ingress_ifindex=nat.uplink)
    assert out.dropped == "source_behind_uplink"
    assert send(nat, SERVER, ingress_ifindex=0).translated  # the node itself


def test_inbound_from_a_denied_address_is_dropped(nat: Machine) -> None:
    nat.reset(policy={"deniedDestinations": [f"{OTHER}/32"]})
    port = send(nat, SERVER).packet.sport
    out = nat.from_internet(IP(src=str(OTHER), dst=str(POOL)) / UDP(sport=1, dport=port))
    assert out.dropped == "destination_denied"


@pytest.mark.parametrize("source", ["0.0.0.1", "127.0.0.1", "224.0.0.1", "255.255.255.255"])
def test_inbound_from_an_impossible_address_is_dropped(nat: Machine, source: str) -> None:
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
