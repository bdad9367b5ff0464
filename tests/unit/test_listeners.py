"""Sockets of the node in the pool, as /proc/net lists them."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from nat64_dataplane.translator.host_view import PoolRange
from nat64_dataplane.translator.node.listeners import Listener, listeners, warnings

ANY = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}
LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::ffff:127.0.0.1"}


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize(
    ("names", "address"), [(ANY, None), (LOOPBACK, IPv4Address("127.0.0.1"))], ids=["any", "one"]
)
def test_sockets_are_found(
    family: int, kind: int, names: dict[int, str], address: IPv4Address | None
) -> None:
    protocol = "tcp" if kind == socket.SOCK_STREAM else "udp"
    with socket.socket(family, kind) as own:
        if family == socket.AF_INET6:
            own.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        own.bind((names[family], 0))
        port = own.getsockname()[1]
        if kind == socket.SOCK_STREAM:
            assert Listener(protocol, port, address) not in set(listeners())
            own.listen()
        assert Listener(protocol, port, address) in set(listeners())


def test_a_warning_names_those_in_the_pool_and_on_its_addresses(tmp_path: Path) -> None:
    head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"
    rows = (
        "   0: 00000000:EE49 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0",
        "   1: 010200C0:EE4A 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0",
        "   2: 0100007F:EE4B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0",
        "   3: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0",
        "   4: 010200C0:EE4C 0A7100CB:0050 01 00000000:00000000 00:00000000 00000000     0",
    )
    (tmp_path / "tcp").write_text(head + "\n".join(rows) + "\n")
    pool = (PoolRange(IPv4Address("192.0.2.1"), 61000, 61010),)
    [warning] = warnings(pool, tmp_path)
    assert warning.reason == "ListenersInPool"
    assert "(tcp port 61001; tcp port 61002)" in warning.message
    assert not list(warnings((PoolRange(IPv4Address("192.0.2.1"), 1024, 2048),), tmp_path))
