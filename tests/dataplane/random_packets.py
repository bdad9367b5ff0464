"""Random packets of every kind that a translator may meet, built byte by byte."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from random import Random

from tests.dataplane.reference.headers import (
    DESTINATION,
    FRAGMENT,
    HOP_BY_HOP,
    ICMP,
    ICMPV6,
    ROUTING,
    TCP,
    UDP,
    checksum,
    embed,
    pseudo4,
    pseudo6,
)
from tests.dataplane.reference.stateless import Public

CLIENTS = [IPv6Address("fd64:1::10"), IPv6Address("fd64:1::11")]
STRANGERS = [IPv6Address(text) for text in ("fd64:2::1", "fe80::1", "::1", "::", "ff02::1")]
REMOTES = [IPv4Address(text) for text in ("203.0.113.10", "198.51.100.7", "8.8.8.8", "1.0.0.255")]
ROUTER = IPv6Address("fd64:9::9")
OUT_OF_BOUNDS = [
    IPv4Address(text)
    for text in (
        "127.0.0.1",
        "169.254.169.254",
        "224.0.0.1",
        "0.0.0.1",
        "255.255.255.255",
        "192.0.0.8",
        "198.18.0.1",
    )
]
PORTS = [1, 53, 80, 4000, 4001, 65535]
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
_FLAGS = [SYN, SYN, SYN, ACK, PSH | ACK, FIN | ACK, RST, SYN | ACK, SYN | FIN, SYN | RST, 0]

Binding = tuple[int, Public]


@dataclass
class Sent:
    """One packet, perhaps in several fragments, and how it is sent."""

    packets: list[bytes]
    segment: int = 0
    """Into how large payloads devices would cut it."""
    behind_uplink: bool = False


def payload(rng: Random) -> bytes:
    """Short and arbitrary, or long and dull, or at the length where DF and fragmenting change."""
    if rng.random() < 0.06:
        return b"\x3c" * rng.choice([1220, 1221, 1232, 1233])
    if rng.random() < 0.5:
        return rng.randbytes(rng.randint(0, 64))
    return b"\xa5" * rng.randint(0, 1400)


def transport(
    rng: Random,
    protocol: int,
    source: int,
    destination: int,
    body: bytes,
    pseudo: Callable[[int], bytes],
) -> bytes:
    """A TCP, UDP or ICMP message; now and then its checksum is wrong."""
    if protocol == TCP:
        words = rng.choice([5, 5, 8, 15])
        data = struct.pack(
            "!HHIIBBHHH", source, destination, 1, 2, words << 4, rng.choice(_FLAGS), 99, 0, 0
        )
        data, at = data + b"\x01" * (words * 4 - 20), 16
    elif protocol == UDP:
        data, at = struct.pack("!HHHH", source, destination, 8 + len(body), 0), 6
    else:
        data, at = struct.pack("!BBHHH", destination, 0, 0, source, 7), 2
    data += body
    wrong = rng.choice([0, 0, 0, 77])
    value = (checksum(pseudo(len(data)) + data) + wrong) % 0xFFFF
    return data[:at] + struct.pack("!H", value or 0xFFFF) + data[at + 2 :]


def from_client(rng: Random, prefix: IPv6Network, bindings: list[Binding]) -> Sent:
    """What a client sends towards IPv4: to a server, to another client, or out of bounds."""
    protocol = rng.choice([TCP, UDP, ICMPV6])
    client = rng.choice(CLIENTS) if rng.random() < 0.95 else rng.choice(STRANGERS)
    port, other = rng.choice(PORTS), rng.choice(PORTS)
    remote = rng.choice(REMOTES) if rng.random() < 0.9 else rng.choice(OUT_OF_BOUNDS)
    ours = [binding for binding in bindings if binding[0] == protocol]
    if ours and rng.random() < 0.2:
        _, (remote, other) = rng.choice(ours)
        other = min(other + (rng.random() < 0.1), 65535)  # or its neighbour, which is nobody's
    destination = _with_suffix(rng, prefix, embed(prefix, remote))
    if rng.random() < 0.02:
        destination = IPv6Address("fd64:5::5")
    elif rng.random() < 0.02:
        client = embed(prefix, remote)
    if protocol == ICMPV6:
        other = rng.choice([128, 128, 128, 129, 130, 135])
    body = payload(rng)
    segment = rng.randint(100, 1440) if protocol != ICMPV6 and rng.random() < 0.1 else 0
    if segment:
        body = b"\x5a" * rng.randint(segment + 1, 2800)
    data = transport(
        rng,
        protocol,
        port,
        other,
        body,
        lambda length: pseudo6(client, destination, length, protocol),
    )
    behind_uplink = rng.random() < 0.03
    if rng.random() < 0.02:
        protocol = rng.choice([ICMP, 50, 132])
    if rng.random() < 0.02:
        data = data[: rng.randint(0, len(data))]

    def packet(following: int, rest: bytes) -> bytes:
        head = struct.pack(
            "!IHBB",
            6 << 28 | rng.randint(0, 2**28 - 1),
            len(rest),
            following,
            rng.randint(0, 255),
        )
        return head + client.packed + destination.packed + rest

    if not segment and rng.random() < 0.15:
        identification = rng.randbytes(4)
        pieces = [
            packet(
                FRAGMENT,
                struct.pack("!BBH", protocol, 0, offset | more) + identification + piece,
            )
            for offset, more, piece in _pieces(rng, data)
        ]
        return Sent(pieces, 0, behind_uplink)
    # The kernel's test runs give segments no type, and then it won't take headers out of them.
    following, extensions = (protocol, b"") if segment else _extensions(rng, protocol)
    whole = packet(following, extensions + data)
    if rng.random() < 0.02:
        whole = whole[: rng.randint(40, len(whole))]
    return Sent([whole], segment, behind_uplink)


def to_pool(rng: Random, bindings: list[Binding]) -> Sent:
    """What anybody sends to one of our mappings, or beside it."""
    protocol, (address, port) = rng.choice(bindings)
    source = rng.choice(REMOTES) if rng.random() < 0.95 else rng.choice([*OUT_OF_BOUNDS, address])
    kind = rng.choice([0, 8]) if protocol == ICMP else 0
    port = min(port + (rng.random() < 0.05), 65535)
    first, second = (port, kind) if protocol == ICMP else (rng.choice(PORTS), port)
    body = payload(rng)
    segment = rng.randint(100, 1440) if protocol != ICMP and rng.random() < 0.1 else 0
    if segment:
        body = b"\x5a" * rng.randint(segment + 1, 2800)
    data = transport(
        rng,
        protocol,
        first,
        second,
        body,
        lambda length: b"" if protocol == ICMP else pseudo4(source, address, length, protocol),
    )
    if protocol == UDP and rng.randint(0, 3) == 0:
        data = data[:6] + b"\0\0" + data[8:]
    if rng.random() < 0.02:
        protocol = rng.choice([ICMPV6, 47, 132])
    if rng.random() < 0.02:
        data = data[: rng.randint(0, len(data))]
    if not segment and rng.random() < 0.15:
        identification = rng.randrange(2**16)
        return Sent(
            [
                ipv4(
                    rng,
                    protocol,
                    source,
                    address,
                    piece,
                    options=_options(rng) if rng.random() < 0.3 else b"",
                    field=offset >> 3 | (0x2000 if more else 0),
                    identification=identification,
                )
                for offset, more, piece in _pieces(rng, data)
            ]
        )
    options = b"" if segment else _options(rng)
    packet = ipv4(
        rng, protocol, source, address, data, options=options, field=rng.choice([0, 0x4000])
    )
    if rng.random() < 0.02:
        packet = packet[: rng.randint(20, len(packet))]
    elif rng.random() < 0.02:
        packet = packet[:10] + rng.randbytes(2) + packet[12:]
    elif rng.random() < 0.2 and not segment:
        packet += bytes(rng.randint(1, 26))  # what Ethernet adds to short frames
    return Sent([packet], segment)


def ipv4(
    rng: Random,
    protocol: int,
    source: IPv4Address,
    destination: IPv4Address,
    data: bytes,
    *,
    options: bytes = b"",
    field: int = 0x4000,
    identification: int | None = None,
) -> bytes:
    """An IPv4 packet; `field` is that of flags and fragment offset."""
    raw = struct.pack(
        "!BBHHHBBH4s4s",
        0x45 + len(options) // 4,
        rng.randint(0, 255),
        20 + len(options) + len(data),
        rng.randrange(2**16) if identification is None else identification,
        field,
        rng.randint(0, 255),
        protocol,
        0,
        source.packed,
        destination.packed,
    )
    value = checksum(raw + options)
    return raw[:10] + struct.pack("!H", value) + raw[12:] + options + data


def error_in(rng: Random, about: bytes, pool: IPv4Address) -> bytes:
    """An ICMPv4 error about a packet that went out: cut anywhere, perhaps with extensions."""
    kind = rng.choice([3] * 9 + [11] * 4 + [12] * 3 + [4, 5])
    inner = about[: rng.randint(24, max(28, len(about)))]
    mtu = rng.choice([0, 0, 68, 576, 1260, 1280, 1400, 1480, 1500, 9000, rng.randrange(2**16)])
    rest = bytearray(4)
    if kind == 3:
        rest[2:] = mtu.to_bytes(2, "big")
    elif kind == 12:
        rest[0] = rng.randint(0, 21) if rng.random() < 0.9 else rng.randrange(256)
    inner, rest[1] = _extended(rng, inner, 4)
    codes = {3: range(16), 11: range(2), 12: range(3)}.get(kind, range(18))
    message = bytes((kind, rng.choice(codes), 0, 0)) + rest + inner
    message = _summed(rng, b"", message)
    source = rng.choice(REMOTES if rng.random() < 0.9 else OUT_OF_BOUNDS)
    options = _options(rng) if rng.random() < 0.3 else b""
    return ipv4(rng, ICMP, source, pool, message, options=options)


def error_out(rng: Random, about: bytes) -> bytes:
    """An ICMPv6 error about a packet that went to a client: cut anywhere, perhaps extended."""
    kind = rng.choice([1] * 6 + [2] * 4 + [3] * 4 + [4] * 4 + [5])
    inner = about[: rng.randint(44, max(48, min(len(about), 1232)))]
    if rng.random() < 0.05:
        inner = inner[:24] + CLIENTS[0].packed[:15] + b"\x77" + inner[40:]
    if rng.random() < 0.05:
        inner = ROUTER.packed.join((inner[:8], inner[24:]))
    value = {2: rng.randint(1200, 9000), 4: rng.randint(0, 41)}.get(kind, 0)
    if rng.random() < 0.1:
        value = rng.randrange(2**32)
    rest = bytearray(value.to_bytes(4, "big"))
    if kind in (1, 3):
        inner, rest[0] = _extended(rng, inner, 8)
    source = rng.choice([ROUTER, IPv6Address(about[24:40])])
    destination = IPv6Address(about[8:24])
    codes = {1: range(6), 2: [0, 0, 0, 1], 3: range(2), 4: [0, 0, 1, 2]}.get(kind, range(6))
    message = bytes((kind, rng.choice(codes), 0, 0)) + rest + inner
    message = _summed(rng, pseudo6(source, destination, len(message), ICMPV6), message)
    following, extensions = _extensions(rng, ICMPV6) if rng.random() < 0.3 else (ICMPV6, b"")
    length = len(extensions) + len(message)
    return (
        struct.pack("!IHBB", 6 << 28, length, following, rng.randint(0, 255))
        + source.packed
        + destination.packed
        + extensions
        + message
    )


def _extended(rng: Random, inner: bytes, unit: int) -> tuple[bytes, int]:
    """RFC 4884: the quoted part, padded and followed by extensions, and the length field."""
    if rng.random() < 0.6:
        return inner, rng.choice([0, 0, rng.randrange(256)])
    length = max(128, -(-len(inner) // unit) * unit)
    if length // unit > 255:
        return inner, 0
    extensions = b"\x20\0\0\0" + rng.randbytes(rng.choice([4, 8, 60, 300]))
    return inner.ljust(length, b"\0") + extensions, length // unit


def _summed(rng: Random, pseudo: bytes, message: bytes) -> bytes:
    value = (checksum(pseudo + message) + rng.choice([0, 0, 0, 55])) % 0xFFFF
    return message[:2] + struct.pack("!H", value) + message[4:]


def _with_suffix(rng: Random, prefix: IPv6Network, address: IPv6Address) -> IPv6Address:
    """Sometimes with bits set behind the IPv4 address and in octet 8, which must not matter."""
    used = prefix.prefixlen // 8
    if used == 12 or rng.random() < 0.8:
        return address
    octets = bytearray(address.packed)
    free = [at for at in range(used, 16) if at != 8][4:]
    for at in (8, *free):
        octets[at] = rng.randrange(256)
    return IPv6Address(bytes(octets))


def _extensions(rng: Random, protocol: int) -> tuple[int, bytes]:
    """Extension headers, often none, and the first Next Header value."""
    following, extensions = protocol, b""
    kinds = rng.choices([HOP_BY_HOP, ROUTING, DESTINATION], k=rng.choice([0] * 9 + [1, 2, 3, 8]))
    if rng.random() < 0.1:
        kinds.insert(rng.choice([0, 0, len(kinds)]), FRAGMENT)
    for kind in kinds:
        if kind == FRAGMENT:
            header = struct.pack("!BBHI", following, 0, 0, rng.randrange(2**32))
        else:
            words = rng.choice([0, 1, 2, 3, 3, 20])
            segments_left = kind == ROUTING and rng.random() < 0.1
            header = bytes((following, words, 0, segments_left)) + bytes(words * 8 + 4)
        extensions = header + extensions
        following = kind
    return following, extensions


def _options(rng: Random) -> bytes:
    """IPv4 options, often none: a source route, done or not, among them."""
    route = bytes((rng.choice([131, 137]), 7, rng.choice([4, 8])))
    return rng.choice(
        [
            b"",
            b"",
            b"",
            b"\x01" * 4,
            b"\x01" * 40,
            route + REMOTES[0].packed + b"\0",
            b"\x07\x0b\x04" + bytes(8) + b"\x01",
            b"\x01" + route + REMOTES[1].packed,
        ]
    )


def _pieces(rng: Random, data: bytes) -> list[tuple[int, bool, bytes]]:
    """Fragments in the order of sending: offset in bytes, more to come, content."""
    step = rng.choice([8, 16, 64, 512, 1280])
    step = max(step, -(-len(data) // 12 // 8) * 8)
    cut = [
        (at, at + step < len(data), data[at : at + step]) for at in range(0, len(data) or 1, step)
    ]
    if rng.random() < 0.4:
        rng.shuffle(cut)
    return cut
