"""The CLAT's programs on the bench, and random packets for them."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from random import Random

from nat64_dataplane.clat.programs import Programs, Slot
from tests.dataplane import random_packets
from tests.dataplane.reference.clat import HERE
from tests.dataplane.reference.headers import (
    FRAGMENT,
    ICMP,
    ICMPV6,
    TCP,
    UDP,
    checksum,
    embed,
    pseudo4,
    pseudo6,
)

PREFIX = IPv6Network("64:ff9b:1:c1a7::/96")
POD = IPv6Address("fd64:1::10")
SHOT, NEXT = 2, -1
_LINK = bytes.fromhex("020000000064020000000001")


@dataclass
class Out:
    """What became of one packet."""

    end: str
    """`translated`, `passed`, or the reason to drop."""
    packet: bytes
    """From the IP header on."""
    kind: int
    """Its Ethernet type."""
    counted: dict[str, int]


class Bench:
    """Programs without hooks; slot 0 is a pod's here."""

    def __init__(self) -> None:
        self.programs = Programs.load()
        self.programs.write(0, Slot(POD, PREFIX))

    def out(self, packet: bytes, *, kind: int = 0x0800, gso_size: int = 0) -> Out:
        """An IPv4 packet, from its IP header on, leaves the pod."""
        return self._run("egress", packet, kind, gso_size)

    def in_(self, packet: bytes, *, kind: int = 0x86DD, gso_size: int = 0) -> Out:
        """An IPv6 packet, from its IP header on, comes to the pod."""
        return self._run("ingress", packet, kind, gso_size)

    def _run(self, which: str, packet: bytes, kind: int, gso_size: int) -> Out:
        before = self.programs.counters()
        program = self.programs.egress if which == "egress" else self.programs.ingress
        result = program.run(_LINK + kind.to_bytes(2, "big") + packet, gso_size=gso_size)
        after = self.programs.counters()
        counted = {
            name.rpartition("_")[0]: after[name] - before[name]
            for name in after
            if after[name] != before[name]
        }
        ends = [name for name in counted if name == "translated" or name.startswith("dropped_")]
        assert counted.get("received", 0) == len(ends) <= 1, counted
        assert result.verdict == (SHOT if ends and ends != ["translated"] else NEXT)
        return Out(
            ends[0].removeprefix("dropped_") if ends else "passed",
            result.packet[14:],
            int.from_bytes(result.packet[12:14], "big"),
            counted,
        )

    def close(self) -> None:
        """Let the kernel have everything back."""
        self.programs.close()


def from_pod(rng: Random) -> bytes:
    """What the pod's kernel may send as IPv4, and what it never should."""
    protocol = rng.choice([TCP, UDP, ICMP])
    source = HERE if rng.random() < 0.97 else IPv4Address("10.0.0.1")
    remote = rng.choice(
        random_packets.REMOTES if rng.random() < 0.93 else random_packets.OUT_OF_BOUNDS
    )
    first, second = rng.choice(random_packets.PORTS), rng.choice(random_packets.PORTS)
    if protocol == ICMP:
        second = rng.choice([0, 8, 8, 13])
    data = random_packets.transport(
        rng,
        protocol,
        first,
        second,
        random_packets.payload(rng),
        lambda length: b"" if protocol == ICMP else pseudo4(source, remote, length, protocol),
    )
    if protocol == UDP and rng.random() < 0.2:
        data = data[:6] + b"\0\0" + data[8:]
    if rng.random() < 0.02:
        protocol = rng.choice([ICMPV6, 47, 132])
    if rng.random() < 0.03:
        data = data[: rng.randint(0, len(data))]
    options, field, identification = random_packets._options(rng), rng.choice([0, 0x4000]), None
    if rng.random() < 0.15:
        offset, more, data = rng.choice(random_packets._pieces(rng, data))
        field, identification = offset >> 3 | (0x2000 if more else 0), rng.randrange(2**16)
    packet = random_packets.ipv4(
        rng,
        protocol,
        source,
        remote,
        data,
        options=options,
        field=field,
        identification=identification,
    )
    if rng.random() < 0.02:
        packet = packet[: rng.randint(20, len(packet))]  # test runs take no less
    elif rng.random() < 0.02:
        packet = packet[:10] + rng.randbytes(2) + packet[12:]
    elif rng.random() < 0.01:
        packet = rng.randbytes(1) + packet[1:]
    return packet


def to_pod(rng: Random) -> bytes:
    """What may come to a pod: from the prefix, from elsewhere, for it and for others."""
    protocol = rng.choice([TCP, UDP, ICMPV6])
    remote = rng.choice(
        random_packets.REMOTES if rng.random() < 0.95 else random_packets.OUT_OF_BOUNDS
    )
    source = embed(PREFIX, remote) if rng.random() < 0.95 else random_packets.ROUTER
    pod = POD if rng.random() < 0.97 else IPv6Address("fd64:1::11")
    first, second = rng.choice(random_packets.PORTS), rng.choice(random_packets.PORTS)
    if protocol == ICMPV6:
        second = rng.choice([128, 129, 129, 135])
    data = random_packets.transport(
        rng,
        protocol,
        first,
        second,
        random_packets.payload(rng),
        lambda length: pseudo6(source, pod, length, protocol),
    )
    if rng.random() < 0.02:
        protocol = rng.choice([ICMP, 50, 132])
    if rng.random() < 0.03:
        data = data[: rng.randint(0, len(data))]
    following, extensions = random_packets._extensions(rng, protocol)
    if rng.random() < 0.15:
        offset, more, data = rng.choice(random_packets._pieces(rng, data))
        extensions = struct.pack("!BBH", protocol, 0, offset | more) + rng.randbytes(4)
        following = FRAGMENT
    packet = ipv6(rng, following, source, pod, extensions + data)
    if rng.random() < 0.02:
        packet = packet[: rng.randint(40, len(packet))]  # test runs take no less
    elif rng.random() < 0.1:
        packet += bytes(rng.randint(1, 26))  # what Ethernet adds to short frames
    return packet


def ipv6(
    rng: Random, following: int, source: IPv6Address, destination: IPv6Address, rest: bytes
) -> bytes:
    """An IPv6 packet with random traffic class, flow label and hop limit."""
    first = 6 << 28 | rng.randrange(2**28)
    head = struct.pack("!IHBB", first, len(rest), following, rng.randrange(256))
    return head + source.packed + destination.packed + rest


def error_from_pod(rng: Random, about: bytes) -> bytes:
    """What the pod's kernel may say about a packet that came in, and more."""
    if rng.random() < 0.05:
        about = about[:16] + IPv4Address("192.0.0.3").packed + about[20:]
    error = random_packets.error_in(rng, about, IPv4Address(about[12:16]))
    return redirected(error, HERE, IPv4Address(error[16:20]))


def error_to_pod(rng: Random, about: bytes) -> bytes:
    """What a router or a remote end says about a packet that the pod has sent."""
    return random_packets.error_out(rng, about)


def redirected(packet: bytes, source: IPv4Address, destination: IPv4Address) -> bytes:
    """The packet with other addresses, and the header checksum that fits."""
    size = (packet[0] & 15) * 4
    head = packet[:10] + b"\0\0" + source.packed + destination.packed + packet[20:size]
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + packet[size:]
