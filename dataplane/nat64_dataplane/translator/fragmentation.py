"""How IPv4 packets that are too long for IPv6 get to the kernel's own fragmentation.

The program sends them to an address that only it uses. The node routes that address back to the
translator's link, with an MTU whose fragments fit IPv6 after translation (RFC 7915 section 4).
"""

from __future__ import annotations

from ipaddress import IPv4Address

from nat64_dataplane.config import Config

_FRAGMENTER_BASE = int(IPv4Address("240.64.0.0"))
_IPV6_AND_FRAGMENT_HEADER, _IPV4_HEADER = 48, 20


def fragmentation_address(interface_index: int) -> IPv4Address:
    """The address for the translator's link with this index. Never seen on a wire."""
    return IPv4Address(_FRAGMENTER_BASE + interface_index)


def fragmentation_mtu(config: Config) -> int:
    """The MTU of its route in bytes: IPv4 fragments that become IPv6 ones of lowestIPv6MTU."""
    return config.lowest_ipv6_mtu - _IPV6_AND_FRAGMENT_HEADER + _IPV4_HEADER
