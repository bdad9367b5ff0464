"""What clients may hold at most: questions per server block, connections per port."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """Numbers, and times in seconds. No Corefile sets them; tests use small ones."""

    under_way: int = 16384
    """Questions of all clients of a server block that may wait for upstreams at once."""
    under_way_per_client: int = 4096
    connections: int = 512
    """TCP connections to one address and port."""
    connections_per_client: int = 128
    """Connections of one address, so that one client can't take all."""
    pipelined: int = 64
    """Queries of one connection that may wait for answers; further ones are read when there is
    room."""
    idle: float = 10.0
    """As in CoreDNS: how long a TCP connection may be silent between queries."""
    read: float = 3.0
    """How long a query may take over TCP from its first byte to its last."""


LIMITS = ClientLimits()
