"""IPv4 addresses inside IPv6 ones (RFC 6052): the one place in Python that knows the layout."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network

LENGTHS = (32, 40, 48, 56, 64, 96)
"""The prefix lengths of RFC 6052 section 2.2; there are no others."""

WELL_KNOWN = IPv6Network("64:ff9b::/96")
"""RFC 6052 section 2.1. It must not stand for non-global IPv4 addresses (section 3.1)."""

LOCAL_USE = IPv6Network("64:ff9b:1::/48")
"""RFC 8215: prefixes within it may stand for any IPv4 address."""


def check(prefix: IPv6Network) -> None:
    """Raise ValueError where `prefix` can't be a Pref64 (RFC 6052 section 2.2)."""
    if prefix.prefixlen not in LENGTHS:
        allowed = ", ".join(f"/{length}" for length in LENGTHS)
        raise ValueError(f"prefix {prefix} has length /{prefix.prefixlen}: allowed are {allowed}")
    if int(prefix.network_address) >> 56 & 0xFF:
        raise ValueError(f"prefix {prefix} has bits 64 to 71 set: they must be zero")
    if prefix.is_multicast or prefix.is_link_local or prefix.is_loopback or prefix.is_unspecified:
        raise ValueError(f"prefix {prefix} is not unicast: it can't be routed to a translator")


def embed(prefix: IPv6Network, address: IPv4Address) -> IPv6Address:
    """Return the IPv6 address that stands for `address` under `prefix`, suffix zero.

    >>> embed(IPv6Network("2001:db8:122:344::/64"), IPv4Address("192.0.2.33"))
    IPv6Address('2001:db8:122:344:c0:2:2100:0')
    """
    length = prefix.prefixlen
    if length == 96:
        return IPv6Address(int(prefix.network_address) | int(address))
    # 128 bits with the address right behind the prefix; what falls on the u-octet (bits 64-71)
    # and after it moves eight bits down.
    value = int(address) << (96 - length)
    high, low = value >> 64, value & (1 << 64) - 1
    return IPv6Address(int(prefix.network_address) | high << 64 | low >> 8)


def extract(prefix: IPv6Network, address: IPv6Address) -> IPv4Address:
    """Return the IPv4 address in `address`; suffix and u-octet are ignored (section 2.2).

    Raises ValueError where `address` isn't under `prefix`.
    """
    if address not in prefix:
        raise ValueError(f"{address} isn't under {prefix}")
    length, value = prefix.prefixlen, int(address)
    if length == 96:
        return IPv4Address(value & 0xFFFFFFFF)
    high, low = value >> 64, value << 8 & (1 << 64) - 1
    return IPv4Address((high << 64 | low) >> (96 - length) & 0xFFFFFFFF)
