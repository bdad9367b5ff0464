"""Router Advertisements as a host's link sees them, and solicitations of every kind.

`python -m tests.lab.ndisc listen LINK` prints `ready`, then a JSON line for each advertisement.
`python -m tests.lab.ndisc solicit LINK KIND COUNT PAUSE` sends solicitations.
"""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from scapy.layers.inet6 import (
    ICMPv6ND_RA,
    ICMPv6ND_RS,
    ICMPv6NDOptPREF64,
    ICMPv6NDOptRouteInfo,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    in6_chksum,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from tests.lab.node import Node

_ALL = 3  # ETH_P_ALL
_SO_TIMESTAMPNS = 35
_SOURCE = "fe80::aaaa"


class Listener:
    """Collects what arrives on a node's link, for as long as the node is there."""

    def __init__(self, node: Node, link: str) -> None:
        self.heard: list[dict[str, Any]] = []
        self._process = node.start(
            *(sys.executable, "-m", "tests.lab.ndisc", "listen", link), stdout=subprocess.PIPE
        )
        assert self._process.stdout
        assert self._process.stdout.readline() == "ready\n"
        threading.Thread(target=self._collect, daemon=True).start()

    def _collect(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self.heard.append(json.loads(line))

    @property
    def lifetimes(self) -> list[int]:
        """Of the route in each advertisement so far, in seconds."""
        return [each["routes"][0]["lifetime"] for each in list(self.heard)]


def listen(link: str) -> None:
    """Print each advertisement. `at` is when the kernel got it."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL)) as tap:
        tap.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        tap.bind((link, _ALL))
        print("ready", flush=True)
        while True:
            frame, extra, _, address = tap.recvmsg(65536, 128)
            packet = Ether(frame)
            if address[2] == socket.PACKET_OUTGOING or ICMPv6ND_RA not in packet:
                continue
            seconds, nanoseconds = struct.unpack("=qq", extra[0][2])
            found = {"at": seconds + nanoseconds / 1e9, **_described(packet)}
            print(json.dumps(found), flush=True)


def _described(packet: Packet) -> dict[str, Any]:
    again = packet.copy()
    del again[ICMPv6ND_RA].cksum
    routes = packet.iterpayloads()
    return {
        "source": packet[IPv6].src,
        "destination": packet[IPv6].dst,
        "hop_limit": packet[IPv6].hlim,
        "checksum": bytes(again) == bytes(packet),
        "router_lifetime": packet[ICMPv6ND_RA].routerlifetime,
        "routes": [
            {"prefix": f"{each.prefix}/{each.plen}", "lifetime": each.rtlifetime}
            for each in routes
            if isinstance(each, ICMPv6NDOptRouteInfo)
        ],
        "pref64": [
            {"prefix": each.prefix, "code": each.plc, "lifetime": 8 * each.scaledlifetime}
            for each in packet.iterpayloads()
            if isinstance(each, ICMPv6NDOptPREF64)
        ],
    }


def solicitation(kind: str) -> Packet:
    """A solicitation that is `valid`, or what is wrong with it, as the metric calls it."""
    ip = IPv6(src=_SOURCE, dst="ff02::2", hlim=254 if kind == "hop_limit" else 255)
    address = ICMPv6NDOptSrcLLAddr(lladdr="02:00:00:00:aa:aa")
    match kind:
        case "checksum":
            return ip / ICMPv6ND_RS(cksum=0xBAD) / address
        case "code":
            return ip / ICMPv6ND_RS(code=1) / address
        case "option_length":
            return ip / ICMPv6ND_RS() / Raw(bytes([1, 0]) + bytes(6))
        case "link_layer_address":
            ip.src = "::"
            return ip / ICMPv6ND_RS() / address
        case "length":
            ip.nh = 58
            short = bytes(ip / ICMPv6ND_RS())[40:44]
            return ip / Raw(_with_checksum(ip, short))
    return ip / ICMPv6ND_RS() / address


def _with_checksum(ip: Packet, message: bytes) -> bytes:
    blank = message[:2] + bytes(2) + message[4:]
    return blank[:2] + int(in6_chksum(58, ip, blank)).to_bytes(2, "big") + blank[4:]


def solicit(link: str, kind: str, count: int, pause: float) -> None:
    """Send them."""
    frame = bytes(Ether(src="02:00:00:00:aa:aa", dst="33:33:00:00:00:02") / solicitation(kind))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as tap:
        tap.bind((link, 0))
        for _ in range(count):
            tap.send(frame)
            time.sleep(pause)


def main(words: Sequence[str]) -> None:
    """Listen or solicit."""
    if words[0] == "listen":
        listen(words[1])
    link, kind, count, pause = words[1:]
    solicit(link, kind, int(count), float(pause))


if __name__ == "__main__":
    main(sys.argv[1:])
