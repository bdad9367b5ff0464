"""Tagged frames at an uplink without tags (IEEE 802.1Q), and frames for other hosts."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from tests.lab.node import Node, wait_for
from tests.lab.topology import NODE_V4, POD, SERVER_V4, Line
from tests.lab.translator import Translator, translator

pytestmark = pytest.mark.root

PORT = 7777
MAPPING = {
    "protocol": "udp",
    "client": str(POD),
    "clientPort": PORT,
    "address": str(NODE_V4),
    "port": PORT,
}
STRANGER = "02:00:00:00:99:99"

# Sends each frame that is given as hex; prints what the far link receives until it is quiet, as
# `TAG TEXT` lines. The kernel shows a tag beside the frame (PACKET_AUXDATA).
_SEND = """
import socket, sys
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as link:
    link.bind((sys.argv[1], 0))
    link.send(bytes.fromhex(sys.argv[2]))
"""
_LISTEN = """
import socket, struct, sys
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as link:
    link.bind((sys.argv[1], 3))
    link.setsockopt(263, 8, 1)
    print("ready", flush=True)
    while True:
        frame, controls, _, sender = link.recvmsg(2048, 256)
        status, *_, tag, _ = struct.unpack("IIIHHHH", controls[0][2])
        if sender[2] != 4 and b"text:" in frame:
            text = frame[frame.index(b"text:") + 5:].decode()
            kind = frame[12:14].hex()
            print(kind, tag if status & 16 else "untagged", text, flush=True)
"""


@pytest.fixture
def nat64(lab: Line) -> Iterator[Translator]:
    with translator(lab.node, staticMappings=[MAPPING]) as running:
        yield running


class Listener:
    """What arrives at the pod's link."""

    def __init__(self, node: Node, link: str) -> None:
        self.process = node.start(sys.executable, "-c", _LISTEN, link, stdout=subprocess.PIPE)
        assert self.line() == "ready"

    def line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()


def datagram(text: str) -> bytes:
    """An IPv4 packet for the mapping, without a UDP checksum."""
    data = b"text:" + text.encode()
    udp = struct.pack("!HHHH", 999, PORT, 8 + len(data), 0) + data
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, socket.IPPROTO_UDP, 0)
    head += SERVER_V4.packed + IPv4Address(NODE_V4).packed
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    packet: bytes = head[:10] + (0xFFFF - total).to_bytes(2, "big") + head[12:] + udp
    return packet


def send(lab: Line, text: str, tags: bytes = b"", to: str = "") -> None:
    """Have the router send a frame with these tags to the node."""
    node = to or lab.node.run("cat", "/sys/class/net/eth0/address").strip()
    frame = bytes.fromhex(node.replace(":", "")) + b"\2\0\0\0\0\1" + tags + b"\x08\x00"
    lab.router.run(sys.executable, "-c", _SEND, "node0", (frame + datagram(text)).hex())


def test_frames_of_another_vlan_or_host_pass_untouched(lab: Line, nat64: Translator) -> None:
    """They are neither translated nor counted; what does come has no tag."""
    listener = Listener(lab.pod, "eth0")
    lab.node.ip("link set eth0 promisc on")  # so that a stranger's frames get so far
    before = nat64.metric("nat64_received_packets_total", direction="4to6")
    send(lab, "vlan 10", tags=b"\x81\x00\x00\x0a")
    send(lab, "service vlan 10", tags=b"\x88\xa8\x00\x0a")
    send(lab, "priority 5 of vlan 10", tags=b"\x81\x00\xa0\x0a")
    send(lab, "two tags", tags=b"\x81\x00\x00\x0a\x81\x00\x00\x0b")
    send(lab, "for a stranger", to=STRANGER)
    send(lab, "priority only", tags=b"\x81\x00\xa0\x00")
    assert listener.line() == "86dd untagged priority only"
    send(lab, "plain")
    assert listener.line() == "86dd untagged plain"
    wait_for(
        "two packets counted",
        lambda: nat64.metric("nat64_received_packets_total", direction="4to6") == before + 2,
    )
