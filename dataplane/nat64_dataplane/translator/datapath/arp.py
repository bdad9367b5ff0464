"""ARP for pool addresses that the node claims: the addresses that the program answers for, and
announcements.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

from nat64_dataplane.bpf import Map, Program
from nat64_dataplane.translator.datapath import abi
from nat64_dataplane.translator.host_view import ArpAnswer

_BROADCAST = b"\xff" * 6
_ETHERNET_IPV4 = struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1)  # a request, as RFC 5227 wants it
_SHORTEST_FRAME = 60


def follow(maps: Mapping[str, Map], wanted: Iterable[ArpAnswer]) -> None:
    """Make the program answer for these addresses and no others. Raises BpfError."""
    table = maps["arp_answers"]
    entries = {abi.ARP_KEY.pack(a.address.packed, a.ifindex): a.mac for a in wanted}
    for key, _ in list(table.items()):
        if key not in entries:
            table.delete(key)
    for key, mac in entries.items():
        table.set(key, abi.ARP_ANSWER.pack(mac))


def announce(program: Program, answers: Iterable[ArpAnswer]) -> None:
    """Tell all neighbours where the addresses are now (RFC 5227 section 3). Raises BpfError."""
    for answer in answers:
        program.run(announcement(answer), ifindex=answer.ifindex)


def announcement(answer: ArpAnswer) -> bytes:
    """A gratuitous ARP request: sender and target are the address."""
    address = answer.address.packed
    ethernet = _BROADCAST + answer.mac + b"\x08\x06"
    frame = ethernet + _ETHERNET_IPV4 + answer.mac + address + bytes(6) + address
    return frame.ljust(_SHORTEST_FRAME, b"\0")
