"""Router Advertisements and Solicitations, byte by byte: against the RFCs' figures, and as scapy,
which shares no code with us, reads and writes them.
"""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet6 import (
    ICMPv6ND_RA,
    ICMPv6ND_RS,
    ICMPv6NDOptPREF64,
    ICMPv6NDOptRouteInfo,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    in6_chksum,
)

from nat64_dataplane.translator.advertise.message import (
    ALL_NODES,
    ALL_ROUTERS,
    Offer,
    advertisement,
    checksum,
    makes_default_router,
    pref64,
    refusal,
    route_information,
    scaled_lifetime,
)

ROUTER = IPv6Address("fe80::1")
HOST = IPv6Address("fe80::2")
NOBODY = IPv6Address("::")
MAC = bytes.fromhex("020000000001")
PREFIXES = [
    ("2001:db8::/32", 5, "20010db8" + "00" * 8),
    ("2001:db8:100::/40", 4, "20010db801" + "00" * 7),
    ("2001:db8:122::/48", 3, "20010db80122" + "00" * 6),
    ("2001:db8:122:300::/56", 2, "20010db8012203" + "00" * 5),
    ("2001:db8:122:344::/64", 1, "20010db801220344" + "00" * 4),
    ("2001:db8:122:344::/96", 0, "20010db801220344" + "00" * 4),
    ("64:ff9b::/96", 0, "0064ff9b" + "00" * 8),
]


@pytest.mark.parametrize(("prefix", "code", "bits"), PREFIXES)
def test_pref64_option_is_that_of_rfc8781(prefix: str, code: int, bits: str) -> None:
    # Type 38, length 2, 13 bits of lifetime in units of 8 s, 3 bits of length code, 96 bits.
    option = pref64(Offer(IPv6Network(prefix), 600, 1800))
    assert option.hex() == "2602" + f"{225 << 3 | code:04x}" + bits


@pytest.mark.parametrize(
    ("seconds", "scaled"),
    [(0, 0), (1, 1), (7, 1), (8, 1), (9, 2), (1800, 225), (65528, 8191), (65535, 8191)],
)
def test_lifetime_is_rounded_up_to_units_of_eight_seconds(seconds: int, scaled: int) -> None:
    assert scaled_lifetime(seconds) == scaled


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        # Type 24, length 2 or 3, prefix length, preference medium, lifetime, prefix.
        ("2001:db8::/32", "1802200000000708" + "20010db800000000"),
        ("2001:db8:122:344::/64", "1802400000000708" + "20010db801220344"),
        ("64:ff9b::/96", "1803600000000708" + "0064ff9b" + "00" * 12),
        ("2001:db8:122:344::/96", "1803600000000708" + "20010db801220344" + "00" * 8),
    ],
)
def test_route_information_option_is_that_of_rfc4191(prefix: str, expected: str) -> None:
    assert route_information(Offer(IPv6Network(prefix), 1800, 1800)).hex() == expected


def test_whole_advertisement_byte_by_byte() -> None:
    message = advertisement([Offer(IPv6Network("64:ff9b::/96"), 1800, 1800)], ROUTER, MAC)
    expected = (
        "8600ffff"  # type 134, code 0, checksum (below)
        "00000000"  # current hop limit, M, O and preference, router lifetime: all 0
        "0000000000000000"  # reachable time, retransmission timer
        "0101020000000001"  # source link-layer address
        "1803600000000708" + "0064ff9b" + "00" * 12 + "26020708" + "0064ff9b" + "00" * 8
    )
    assert message[:2] + b"\xff\xff" + message[4:] == bytes.fromhex(expected)


@given(
    prefix=st.sampled_from([IPv6Network(prefix) for prefix, _, _ in PREFIXES]),
    lifetime=st.integers(0, 65528),
    mac=st.sampled_from([MAC, b""]),
)
def test_scapy_reads_what_was_meant(prefix: IPv6Network, lifetime: int, mac: bytes) -> None:
    message = advertisement([Offer(prefix, lifetime, lifetime)], ROUTER, mac)
    packet = IPv6(src=str(ROUTER), dst=str(ALL_NODES), hlim=255, nh=58) / message
    read = IPv6(bytes(packet))
    assert in6_chksum(58, read, message) == 0
    router = read[ICMPv6ND_RA]
    assert (router.code, router.chlim, router.M, router.O, router.H, router.prf) == (0,) * 6
    assert (router.routerlifetime, router.reachabletime, router.retranstimer) == (0, 0, 0)
    route = read[ICMPv6NDOptRouteInfo]
    assert IPv6Network((route.prefix, route.plen)) == prefix
    assert (route.prf, route.rtlifetime) == (0, lifetime)
    option = read[ICMPv6NDOptPREF64]
    assert (
        option.plc == dict(zip((96, 64, 56, 48, 40, 32), range(6), strict=True))[prefix.prefixlen]
    )
    assert option.scaledlifetime == -(-lifetime // 8)
    assert IPv6Address(option.prefix) == prefix.network_address
    assert (ICMPv6NDOptSrcLLAddr in read) == bool(mac)


def test_several_prefixes_share_one_advertisement() -> None:
    old, new = IPv6Network("64:ff9b:1::/96"), IPv6Network("64:ff9b::/96")
    message = advertisement([Offer(new, 1800, 1800), Offer.withdrawing(old)], ROUTER)
    read = IPv6(bytes(IPv6(src=str(ROUTER), dst=str(ALL_NODES), nh=58) / message))
    routes = [read[ICMPv6NDOptRouteInfo:at] for at in (1, 2)]
    assert [(route.prefix, route.rtlifetime) for route in routes] == [
        ("64:ff9b::", 1800),
        ("64:ff9b:1::", 0),
    ]
    assert [read[ICMPv6NDOptPREF64:at].scaledlifetime for at in (1, 2)] == [225, 0]


def solicitation(
    options: bytes = b"", source: IPv6Address = HOST, code: int = 0, cut: int | None = None
) -> bytes:
    message = (bytes([133, code]) + bytes(6) + options)[:cut]
    total = checksum(message[:2] + b"\0\0" + message[4:], source, ALL_ROUTERS)
    return message[:2] + total.to_bytes(2, "big") + message[4:]


LINK_LAYER = bytes([1, 1]) + MAC


@pytest.mark.parametrize("source", [HOST, NOBODY])
def test_solicitation_that_scapy_makes_is_valid(source: IPv6Address) -> None:
    packet = IPv6(src=str(source), dst=str(ALL_ROUTERS), hlim=255) / ICMPv6ND_RS()
    if source == HOST:
        packet /= ICMPv6NDOptSrcLLAddr(lladdr="02:00:00:00:00:02")
    assert refusal(bytes(packet)[40:], source, ALL_ROUTERS, 255) == ""


@pytest.mark.parametrize(
    ("message", "source", "hop_limit", "why"),
    [
        (solicitation(LINK_LAYER), HOST, 255, ""),
        (solicitation(bytes([200, 2]) + bytes(14)), HOST, 255, ""),  # an unknown option is ignored
        (solicitation(source=NOBODY), NOBODY, 255, ""),
        (solicitation(), HOST, 254, "hop_limit"),
        (solicitation(), HOST, 64, "hop_limit"),
        (solicitation()[:7] + b"\x01", HOST, 255, "checksum"),
        (solicitation(), ROUTER, 255, "checksum"),  # of another source
        (solicitation(cut=7), HOST, 255, "length"),
        (solicitation(cut=4), HOST, 255, "length"),
        (solicitation(code=1), HOST, 255, "code"),
        (solicitation(bytes([1, 0]) + MAC), HOST, 255, "option_length"),
        (solicitation(bytes([1, 2]) + MAC), HOST, 255, "option_length"),
        (solicitation(b"\x01"), HOST, 255, "option_length"),
        (solicitation(LINK_LAYER, NOBODY), NOBODY, 255, "link_layer_address"),
    ],
)
def test_solicitation_is_checked_as_rfc4861_section_6_1_1_asks(
    message: bytes, source: IPv6Address, hop_limit: int, why: str
) -> None:
    assert refusal(message, source, ALL_ROUTERS, hop_limit) == why


@pytest.mark.parametrize(
    ("lifetime", "hop_limit", "is_one"), [(1, 255, 1), (0, 255, 0), (1, 64, 0)]
)
def test_a_default_router_is_known_by_its_lifetime(
    lifetime: int, hop_limit: int, is_one: int
) -> None:
    packet = IPv6(src=str(ROUTER), dst=str(ALL_NODES), hlim=255) / ICMPv6ND_RA(
        routerlifetime=lifetime
    )
    data = bytes(packet)[40:]
    assert makes_default_router(data, ROUTER, ALL_NODES, hop_limit) == bool(is_one)
    assert not makes_default_router(data[:-1], ROUTER, ALL_NODES, hop_limit)
    assert not makes_default_router(data, HOST, ALL_NODES, hop_limit), "of another checksum"


@given(st.binary(max_size=200), st.sampled_from([HOST, NOBODY]))
def test_no_bytes_upset_the_check(data: bytes, source: IPv6Address) -> None:
    refusal(data, source, ALL_ROUTERS, 255)
    makes_default_router(data, source, ALL_NODES, 255)
    refusal(solicitation(data, source), source, ALL_ROUTERS, 255)
