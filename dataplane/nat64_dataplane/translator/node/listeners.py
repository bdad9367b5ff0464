"""The node's own sockets that listen on ports of the pool, read from /proc/net.

A port that has a socket when it is claimed isn't claimed, so clients do without these ports. A
socket that is opened later gets all packets but those of sessions that are there already.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import NamedTuple

from nat64_dataplane.translator.host_view import PoolRange
from nat64_dataplane.translator.node_warning import NodeWarning, warn

PROC_NET = Path("/proc/net")
_FILES = {"tcp": "tcp", "tcp6": "tcp", "udp": "udp", "udp6": "udp"}
_LISTEN, _UNCONNECTED = "0A", "07"
_MAPPED = "0000000000000000FFFF0000"
_ANY = ("0" * 8, "0" * 32)


class Listener(NamedTuple):
    """A socket that takes packets from anybody."""

    protocol: str
    port: int
    address: IPv4Address | None
    """None: on every address."""


def warnings(pool: Iterable[PoolRange], net: Path = PROC_NET) -> Iterator[NodeWarning]:
    """A warning that names the sockets in the pool. Raises nothing: no file, no warning."""
    ranges = sorted(pool)
    if found := sorted(
        {
            f"{one.protocol} port {one.port}"
            for one in listeners(net)
            if any(_is_in(one, each) for each in ranges)
        }
    ):
        yield warn("ListenersInPool", *found)


def listeners(net: Path = PROC_NET) -> Iterator[Listener]:
    """Every listening TCP socket and unconnected UDP socket that IPv4 packets may reach."""
    for name, protocol in _FILES.items():
        wanted = _LISTEN if protocol == "tcp" else _UNCONNECTED
        try:
            with (net / name).open() as lines:
                next(lines, None)
                for line in lines:
                    _, local, _, state, _ = line.split(None, 4)
                    if state == wanted:
                        yield from _listener(protocol, local)
                    elif protocol == "tcp":
                        break  # the kernel lists those that listen first, and there may be many
        except OSError:
            continue  # no IPv6 in this kernel


def _listener(protocol: str, local: str) -> Iterator[Listener]:
    address, _, port = local.partition(":")
    if address in _ANY:
        yield Listener(protocol, int(port, 16), None)
    elif len(address) == len(_ANY[0]) or address.startswith(_MAPPED):
        # 32 bits as the machine has them
        packed = int(address[-8:], 16).to_bytes(4, "little")
        yield Listener(protocol, int(port, 16), IPv4Address(packed))


def _is_in(one: Listener, pool: PoolRange) -> bool:
    return pool.first <= one.port <= pool.last and one.address in (None, pool.address)
