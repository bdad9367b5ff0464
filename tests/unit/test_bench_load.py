"""The benchmark's load does what its figures claim."""

from __future__ import annotations

import socket
import threading
import time
from ipaddress import IPv6Address

from scapy.layers.inet import UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from tests.bench import load

HOST = IPv6Address("2001:db8:64::c633:640a")
SIZE = 126


def sprayed(flows: int) -> bytearray:
    """The frames of one round."""
    return bytearray().join(load.frames(bytes(6), HOST, flows))


def test_each_flow_gets_a_frame_with_a_right_checksum() -> None:
    data, seen = sprayed(1000), set()
    assert len(data) == 1000 * SIZE
    for at in range(0, len(data), SIZE):
        frame = Ether(bytes(data[at : at + SIZE]))
        said = frame[UDP].chksum
        del frame[UDP].chksum
        assert Ether(bytes(frame))[UDP].chksum == said
        assert frame[IPv6].dst == str(HOST)
        seen.add((frame[IPv6].src, frame[UDP].sport))
    assert len(seen) == 1000


def test_messages_are_sent_one_after_the_other_round_and_round() -> None:
    data = sprayed(300)  # more than one batch
    messages = load.Messages(data, SIZE)
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    received: list[bytes] = []

    def receive() -> None:
        while frame := there.recv(2000):
            received.append(frame)

    with here, there:
        reader = threading.Thread(target=receive)
        reader.start()
        sent = messages.send(here, time.monotonic() + 60, 600)
        here.send(b"")
        reader.join()
    assert sent == 600
    assert b"".join(received) == bytes(data + data)
