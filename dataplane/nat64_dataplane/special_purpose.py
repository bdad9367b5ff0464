"""IPv4 ranges with a special purpose, from IANA's registry (RFC 6890). Both programs use them.

The standard library's `is_global` changed between its releases; these lists don't.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

NEVER_FORWARDED = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local, and every cloud's metadata service
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
"""What no router forwards: no packet to or from these ranges may leave a node."""

FORWARDED_NOT_GLOBAL = tuple(
    IPv4Network(text)
    for text in (
        "10.0.0.0/8",
        "100.64.0.0/10",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
    )
)
"""Unicast, but not globally reachable: not for the well-known prefix (RFC 6052 section 3.1)."""

GLOBAL_EXCEPTIONS = tuple(IPv4Network(text) for text in ("192.0.0.9/32", "192.0.0.10/32"))
"""Anycast addresses within 192.0.0.0/24 that are global (RFC 7723, RFC 8155)."""


def is_global(address: IPv4Address) -> bool:
    """Whether an address is globally reachable."""
    if any(address in network for network in GLOBAL_EXCEPTIONS):
        return True
    return not any(address in network for network in (*NEVER_FORWARDED, *FORWARDED_NOT_GLOBAL))
