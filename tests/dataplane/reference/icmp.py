"""ICMP errors: the tables of RFC 7915 sections 4.2 and 5.2, and RFC 4884's extensions."""

from __future__ import annotations

ERRORS_TO_IPV6 = {(3, code): (1, 0) for code in (0, 1, 5, 6, 7, 8, 11, 12)}
ERRORS_TO_IPV6 |= {(3, code): (1, 1) for code in (9, 10, 13, 15)}
ERRORS_TO_IPV6 |= {(3, 2): (4, 1), (3, 3): (1, 4), (3, 4): (2, 0), (11, 0): (3, 0), (11, 1): (3, 1)}
ERRORS_TO_IPV6 |= {(12, 0): (4, 0), (12, 2): (4, 0)}
ERRORS_TO_IPV4 = {(1, 0): (3, 1), (1, 1): (3, 10), (1, 2): (3, 1), (1, 3): (3, 1), (1, 4): (3, 3)}
ERRORS_TO_IPV4 |= {
    (2, 0): (3, 4),
    (3, 0): (11, 0),
    (3, 1): (11, 1),
    (4, 0): (12, 0),
    (4, 1): (3, 2),
}
POINTERS_TO_IPV6 = {0: 0, 1: 1, 2: 4, 3: 4, 8: 7, 9: 6}
POINTERS_TO_IPV6 |= dict.fromkeys(range(12, 16), 8) | dict.fromkeys(range(16, 20), 24)
POINTERS_TO_IPV4 = {0: 0, 1: 1, 4: 2, 5: 2, 6: 9, 7: 8}
POINTERS_TO_IPV4 |= dict.fromkeys(range(8, 24), 12) | dict.fromkeys(range(24, 40), 16)
PLATEAUS = (65535, 32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68)

SHORTEST_EXTENDED = 128
MOST_IPV4, MOST_IPV6 = 576 - 28, 1280 - 48
"""What an error may quote, extensions included (RFC 1812, RFC 4443)."""
MOST_EXTENSIONS = 512
"""Bytes of extensions that the translator keeps; none are known to be longer."""


def split(body: bytes, units: int, unit: int) -> tuple[bytes, bytes]:
    """What is quoted, and the extensions (RFC 4884): `units` is the length field."""
    length = units * unit
    if SHORTEST_EXTENDED <= length < len(body):
        return body[:length], body[length:]
    return body, b""


def join(quoted: bytes, extensions: bytes, unit: int, most: int) -> tuple[int, bytes]:
    """The length field and the body; without extensions where there is no room for them."""
    length = max(SHORTEST_EXTENDED, -(-len(quoted) // unit) * unit)
    if 0 < len(extensions) <= MOST_EXTENSIONS and length + len(extensions) <= most:
        return length // unit, quoted.ljust(length, b"\0") + extensions
    return 0, quoted[:most]
