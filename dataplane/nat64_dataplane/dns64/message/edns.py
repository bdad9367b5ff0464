"""OPT records (RFC 6891) and the extended DNS errors in them (RFC 8914)."""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from nat64_dataplane.dns64.message.malformed import Malformed

EDE_OPTION = 15

_PAIR = Struct("!HH")


class Edns(NamedTuple):
    """An OPT record (RFC 6891)."""

    size: int
    version: int
    do: bool
    rcode: int
    """The upper eight bits of the extended RCODE, already shifted."""
    options: bytes


def extended_errors(options: bytes) -> list[tuple[int, str]]:
    """Return code and text of each extended DNS error in an OPT record's data (RFC 8914)."""
    found, at = [], 0
    while at + 4 <= len(options):
        code, length = _PAIR.unpack_from(options, at)
        value = options[at + 4 : at + 4 + length]
        if code == EDE_OPTION and len(value) >= 2:
            text = value[2:].rstrip(b"\0").decode("utf-8", "replace")
            found.append((int.from_bytes(value[:2], "big"), text))
        at += 4 + length
    return found


def parse_opt(size: int, ttl: int, options: bytes) -> Edns:
    """Read an OPT record: its class, TTL and data. Raises Malformed."""
    at = 0
    while at < len(options):
        if at + 4 > len(options):
            raise Malformed("an EDNS option that runs past the end")
        at += 4 + _PAIR.unpack_from(options, at)[1]
    if at != len(options):
        raise Malformed("an EDNS option that runs past the end")
    return Edns(size, ttl >> 16 & 0xFF, bool(ttl & 0x8000), ttl >> 24 << 4, options)


def may_have_opt(message: bytes) -> bool:
    """A quick look: whether there is an additional record, and what an OPT record begins with."""
    return message[10:12] != b"\0\0" and b"\0\0\x29" in message


def parse_opt_leniently(size: int, ttl: int, options: bytes) -> Edns:
    """Read a server's OPT record, without its options where those can't be read."""
    try:
        return parse_opt(size, ttl, options)
    except Malformed:
        return parse_opt(size, ttl, b"")
