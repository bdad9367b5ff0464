"""Zones keep their numbers: bindings and sessions are found by them."""

from __future__ import annotations

from ipaddress import IPv4Address

from nat64_dataplane.translator.datapath import abi, zone_table
from nat64_dataplane.translator.host_view import ANY_SOURCE, PoolRange

NODE, LAN, VPN, OTHER = (IPv4Address(f"192.0.2.{n}") for n in (1, 2, 3, 4))


def pool(*zones: tuple[IPv4Address, IPv4Address]) -> tuple[PoolRange, ...]:
    return tuple(PoolRange(address, 61001, 65535, zone) for zone, address in zones)


def test_a_zone_keeps_its_number_when_others_come_and_go() -> None:
    first = zone_table.number(pool((NODE, NODE), (LAN, LAN)), {})
    second = zone_table.number(pool((NODE, NODE), (VPN, VPN), (LAN, LAN)), first)
    assert {name: second[name] for name in first} == first
    assert len(set(second.values())) == 3
    third = zone_table.number(pool((NODE, NODE), (VPN, VPN)), second)
    assert third == {name: second[name] for name in (NODE, VPN)}


def test_the_first_zone_keeps_its_number_under_another_name() -> None:
    before = zone_table.number(pool((NODE, NODE), (LAN, LAN)), {})
    grown = zone_table.number(pool((ANY_SOURCE, OTHER), (ANY_SOURCE, NODE), (LAN, LAN)), before)
    assert grown == {ANY_SOURCE: before[NODE], LAN: before[LAN]}
    assert zone_table.number(pool((NODE, NODE), (LAN, LAN)), grown) == before


def test_a_zone_of_other_addresses_gets_a_number_of_its_own() -> None:
    before = zone_table.number(pool((NODE, NODE)), {})
    assert zone_table.number(pool((OTHER, OTHER)), before)[OTHER] != before[NODE]


def test_there_are_no_more_numbers_than_zones() -> None:
    many = pool(*((address, address) for address in map(IPv4Address, range(100, 140))))
    numbers = zone_table.number(many, {}).values()
    assert sorted(numbers) == list(range(abi.MAX_ZONES))
