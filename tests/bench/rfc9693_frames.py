"""The tester of RFC 9693: UDP frames of very many connections at a given rate.

One pair of addresses, and bounded ranges of ports: all sources with one destination port, then all
with the next. Within those, the order is one that no cache likes (RFC 4814).

    rfc9693_frames.py DEVICE MAC SOURCE DESTINATION CONNECTIONS RATE     sent, and seconds it took
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from tests.bench.load import PAYLOAD, Messages

SOURCES, FIRST_SOURCE = 32_000, 1024
"""Of one client: ours gives him no more than half of an address's ports."""
FIRST_DESTINATION, DESTINATIONS = 10_000, 1000
"""Nobody listens on these ports."""
_STRIDE = 7919
"""Prime, and no divisor of SOURCES: so each round visits every port once."""
_BURST = 32


def ports(count: int) -> Iterator[tuple[int, int]]:
    """Source and destination port of each connection."""
    at = 0
    for number in range(count):
        at = (at + _STRIDE) % SOURCES
        yield FIRST_SOURCE + at, FIRST_DESTINATION + number // SOURCES


def frames(
    mac: bytes,
    source: IPv4Address | IPv6Address,
    destination: IPv4Address | IPv6Address,
    count: int,
) -> Iterator[bytes]:
    """One frame for each connection, with right checksums."""
    length = 8 + len(PAYLOAD)
    link = mac + bytes(6)
    if source.version == 6:
        head = b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, length, socket.IPPROTO_UDP, 64)
    else:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 0, 0x4000, 64, socket.IPPROTO_UDP, 0)
        check = _folded(_words(head) + _words(source.packed + destination.packed))
        head = b"\x08\x00" + head[:10] + struct.pack("!H", check ^ 0xFFFF)
    head = link + head + source.packed + destination.packed
    fixed = _words(source.packed + destination.packed) + socket.IPPROTO_UDP + 2 * length
    fixed += _words(PAYLOAD)
    for sport, dport in ports(count):
        check = _folded(fixed + sport + dport) ^ 0xFFFF
        yield head + struct.pack("!4H", sport, dport, length, check or 0xFFFF) + PAYLOAD


def _words(data: bytes) -> int:
    return sum(struct.unpack(f"!{len(data) // 2}H", data))


def _folded(total: int) -> int:
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def send(device: str, messages: Messages, rate: float) -> float:
    """Send each once, in bursts of 32. Returns the seconds that it took."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind((device, 0))
        start = time.monotonic()
        sent = 0
        while sent < messages.count:
            while time.monotonic() < start + sent / rate:
                pass
            sent += messages.send_from(sock, sent, min(_BURST, messages.count - sent))
        return time.monotonic() - start


def main(words: Sequence[str]) -> int:
    """Send, and print the two figures."""
    device, mac, source, destination, count, rate = words
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    gateway = bytes.fromhex(mac.replace(":", ""))
    data = bytearray().join(
        frames(gateway, ip_address(source), ip_address(destination), int(count))
    )
    messages = Messages(data, len(data) // int(count))
    print(messages.count, send(device, messages, float(rate)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
