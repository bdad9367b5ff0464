"""The lab's taps themselves: what they give, and what they leave out."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest
from scapy.layers.inet import UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6
from scapy.layers.l2 import Ether

from tests.dataplane.machine import POD, SERVER, at, machine
from tests.lab.taps import Tap, unasked

pytestmark = pytest.mark.root


@pytest.fixture
def tap() -> Iterator[Tap]:
    """A tap on in0, whose other end is pod0."""
    with machine(), contextlib.closing(Tap("in0", "pod0")) as one:
        yield one


def send(frame: bytes, count: int = 1) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.bind(("pod0", 0))
        for _ in range(count):
            out.send(frame)


def test_what_a_kernel_says_unasked_is_left_out_and_nothing_else_is(tap: Tap) -> None:
    head = Ether(src="02:00:00:00:01:01", dst="02:00:00:00:01:10")
    ip = IPv6(src=at(SERVER), dst=str(POD))
    wanted = [bytes(head / ip / rest) for rest in (UDP() / b"x", ICMPv6DestUnreach() / ip / UDP())]
    for frame in (*unasked(), wanted[0], *unasked(), wanted[1]):
        send(bytes(frame))
    assert tap.settled() == wanted
    assert tap.settled() == []


def test_a_tap_that_nobody_has_emptied_is_emptied(tap: Tap) -> None:
    frame = bytes(Ether(dst="02:00:00:00:01:10") / IPv6(src=at(SERVER), dst=str(POD)) / UDP())
    send(frame, 2000)
    assert frame in tap.settled()
    assert tap.settled() == []
