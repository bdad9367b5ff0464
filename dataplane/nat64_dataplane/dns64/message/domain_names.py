"""Names in wire format: from and to text, their zones, and the reverse names of addresses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address

import dns.name

IP6_ARPA = b"\x03ip6\x04arpa\0"


def from_text(text: str) -> bytes:
    """Return a name's wire format in lower case. Raises dns.exception.DNSException."""
    wire = dns.name.from_text(text).to_wire()
    assert wire is not None, "only writing to a file returns nothing"
    return wire.lower()


def to_text(name: bytes) -> str:
    """Return a name as people write it, with the final dot."""
    return dns.name.from_wire(name, 0)[0].to_text()


def ancestors(name: bytes) -> Iterator[bytes]:
    """Give the name itself, then each zone above it, the root last."""
    at = 0
    while True:
        yield name[at:] if at else name
        if not name[at]:
            return
        at += name[at] + 1


class Zones:
    """A set of zones that knows whether a name is at or below any of them."""

    def __init__(self, zones: Iterable[str]) -> None:
        self._zones = frozenset(from_text(zone) for zone in zones)

    def __bool__(self) -> bool:
        return bool(self._zones)

    def __contains__(self, name: bytes) -> bool:
        if not self._zones:
            return False
        return b"\0" in self._zones or any(zone in self._zones for zone in ancestors(name))


def reverse_ipv4(address: IPv4Address) -> bytes:
    """Return the name under in-addr.arpa that stands for `address`."""
    return from_text(address.reverse_pointer + ".")


def from_reverse_ipv6(name: bytes) -> IPv6Address | None:
    """Return the address that a full name under ip6.arpa stands for, else None."""
    # 32 labels of one hex digit each, then ip6.arpa
    if len(name) != 64 + len(IP6_ARPA) or not name.endswith(IP6_ARPA):
        return None
    digits = name[1:64:2]
    if name[0:64:2] != b"\x01" * 32 or digits.strip(b"0123456789abcdef"):
        return None
    return IPv6Address(int(digits[::-1], 16))


def expand_name(wire: bytes, at: int) -> bytes:
    """Return the name at `at`, which has been skipped before, without compression."""
    parts: list[bytes] = []
    while length := wire[at]:
        if length >= 192:
            at = (length & 63) << 8 | wire[at + 1]
        else:
            parts.append(wire[at : at + length + 1])
            at += length + 1
    return b"".join(parts) + b"\0"
