"""Router Advertisements and Solicitations as bytes (RFC 4861, RFC 4191, RFC 8781). Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from ipaddress import IPv6Address, IPv6Network
from typing import NamedTuple

ROUTER_SOLICITATION, ROUTER_ADVERTISEMENT = 133, 134
ALL_NODES, ALL_ROUTERS = IPv6Address("ff02::1"), IPv6Address("ff02::2")
HOP_LIMIT = 255
"""Of every message of neighbour discovery: one that a router has forwarded has less."""
LONGEST_PREF64_LIFETIME = 65528
"""Seconds: 13 bits in units of 8 (RFC 8781 section 4.1)."""
REFUSALS = (
    "hop_limit",
    "checksum",
    "code",
    "length",
    "option_length",
    "link_layer_address",
)
"""Why a solicitation is dropped, in the order of RFC 4861 section 6.1.1."""

_SOURCE_LINK_LAYER_ADDRESS, _ROUTE_INFORMATION, _PREF64 = 1, 24, 38
_LENGTH_CODES = {96: 0, 64: 1, 56: 2, 48: 3, 40: 4, 32: 5}
# Type, code, checksum; then current hop limit, flags, router lifetime, reachable time and
# retransmission timer. Zero says of each that this router has nothing to say about it.
_ADVERTISEMENT = struct.Struct("!BBH BBHII")
_ROUTE = struct.Struct("!BBBBI")
_PREF64_OPTION = struct.Struct("!BBH12s")
_PSEUDO_HEADER = struct.Struct("!16s16sI3xB")
_SOLICITATION_BYTES = 8
_ICMPV6 = 58


class Offer(NamedTuple):
    """What hosts are told about one prefix. Lifetimes in seconds; 0 withdraws."""

    prefix: IPv6Network
    route_lifetime: int
    prefix_lifetime: int

    @classmethod
    def withdrawing(cls, prefix: IPv6Network) -> Offer:
        """That the prefix and the route to it are no more."""
        return cls(prefix, 0, 0)


def advertisement(
    offers: Iterable[Offer], source: IPv6Address, mac: bytes = b"", to: IPv6Address = ALL_NODES
) -> bytes:
    """An ICMPv6 message from `source`, checksum included. Its router lifetime is 0: it makes nobody
    a default router. `mac`, where there is one, spares the hosts a neighbour solicitation.
    """
    options = b"".join(route_information(offer) + pref64(offer) for offer in offers)
    if len(mac) == 6:
        options = struct.pack("!BB6s", _SOURCE_LINK_LAYER_ADDRESS, 1, mac) + options
    message = _ADVERTISEMENT.pack(ROUTER_ADVERTISEMENT, 0, 0, 0, 0, 0, 0, 0) + options
    return message[:2] + checksum(message, source, to).to_bytes(2, "big") + message[4:]


def route_information(offer: Offer) -> bytes:
    """The option of RFC 4191 section 2.3, of medium preference."""
    network = offer.prefix
    octets = 8 if network.prefixlen <= 64 else 16
    return (
        _ROUTE.pack(_ROUTE_INFORMATION, 1 + octets // 8, network.prefixlen, 0, offer.route_lifetime)
        + network.network_address.packed[:octets]
    )


def pref64(offer: Offer) -> bytes:
    """The option of RFC 8781 section 4."""
    scaled = scaled_lifetime(offer.prefix_lifetime)
    code = _LENGTH_CODES[offer.prefix.prefixlen]
    return _PREF64_OPTION.pack(
        _PREF64, 2, scaled << 3 | code, offer.prefix.network_address.packed[:12]
    )


def scaled_lifetime(seconds: int) -> int:
    """In units of 8 seconds, rounded up, so that none but 0 becomes 0 (RFC 8781 section 4.1)."""
    return (min(seconds, LONGEST_PREF64_LIFETIME) + 7) // 8


def checksum(message: bytes, source: IPv6Address, destination: IPv6Address) -> int:
    """The ICMPv6 checksum of RFC 4443 section 2.3; 0 of a message that holds the right one."""
    data = _PSEUDO_HEADER.pack(source.packed, destination.packed, len(message), _ICMPV6) + message
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def refusal(data: bytes, source: IPv6Address, destination: IPv6Address, hop_limit: int) -> str:
    """Why a Router Solicitation is none, of `REFUSALS`; empty where it is valid (RFC 4861 section
    6.1.1).
    """
    if hop_limit != HOP_LIMIT:
        return "hop_limit"
    if checksum(data, source, destination):
        return "checksum"
    if len(data) < _SOLICITATION_BYTES:
        return "length"
    if data[1]:
        return "code"
    kinds = _option_kinds(data[_SOLICITATION_BYTES:])
    if kinds is None:
        return "option_length"
    if source.is_unspecified and _SOURCE_LINK_LAYER_ADDRESS in kinds:
        return "link_layer_address"
    return ""


def makes_default_router(
    data: bytes, source: IPv6Address, destination: IPv6Address, hop_limit: int
) -> bool:
    """Whether this is a Router Advertisement by which its source is a default router."""
    return (
        data[:1] == bytes([ROUTER_ADVERTISEMENT])
        and len(data) >= _ADVERTISEMENT.size
        and hop_limit == HOP_LIMIT
        and not checksum(data, source, destination)
        and data[6:8] != b"\0\0"
    )


def _option_kinds(data: bytes) -> set[int] | None:
    """The types of the options; None where one has no length, or more than there is."""
    kinds = set()
    while data:
        length = data[1] * 8 if len(data) > 1 else 0
        if not 0 < length <= len(data):
            return None
        kinds.add(data[0])
        data = data[length:]
    return kinds
