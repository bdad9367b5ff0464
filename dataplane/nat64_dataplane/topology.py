"""The Gateway topology: which role a node has, and how its packets reach the other role.

A *gateway node* translates, also for *router nodes*, which need no IPv4 and steer what pods send
to the Pref64 to a gateway. Without this section of the config a node translates for itself only.
"""

from __future__ import annotations

import enum
import hashlib
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Annotated

import msgspec

from nat64_dataplane import pref64
from nat64_dataplane.config_sections import Section

DEFAULT_TUNNEL_PORT = 8464
"""UDP port of the tunnel. The probes go to this number too, at the probe address."""
PROBE_PORT = 8464
TUNNEL_OVERHEAD = 70
"""Bytes that VXLAN over IPv6 adds: IPv6 40, UDP 8, VXLAN 8, the inner Ethernet header 14."""

_DUMMY = IPv4Address("192.0.0.8")
"""The IPv4 dummy address (RFC 7600): never the address of a host."""


class Role(enum.Enum):
    """What a node does for a gateway of topology Gateway."""

    GATEWAY = "Gateway"
    ROUTER = "Router"


class Transport(enum.Enum):
    """How packets go between router nodes and gateway nodes."""

    TUNNEL = "Tunnel"
    """VXLAN over the nodes' IPv6: over any network that carries UDP between nodes."""
    DIRECT = "Direct"
    """As they are, the other node being the next hop: both nodes are on one link."""


class Topology(Section, frozen=True, kw_only=True):
    """The part that this node has in topology Gateway."""

    role: Role
    transport: Transport = Transport.TUNNEL
    tunnel_port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = DEFAULT_TUNNEL_PORT
    """UDP port of the tunnel on every node."""
    probe_milliseconds: Annotated[int, msgspec.Meta(ge=100, le=10_000)] = 300
    """How often a router node asks each gateway node whether it serves."""
    failure_threshold: Annotated[int, msgspec.Meta(ge=1, le=20)] = 3
    """So many probes in a row without an answer: the gateway node is dead."""
    recovery_threshold: Annotated[int, msgspec.Meta(ge=1, le=20)] = 5
    """So many answers in a row: it is back. Doubles with each failure soon after."""


def tunnel_interface(name: str) -> str:
    """`n64v-NAME` where the kernel's 15 bytes allow it, else a hash of the name in its place."""
    plain = f"n64v-{name}"
    if len(plain) <= 15:
        return plain
    return f"n64v-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def tunnel_vni(name: str) -> int:
    """The VXLAN network identifier of a gateway's tunnel, 1 to 2^24 - 1: a hash of its name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:3], "big") or 1


def probe_address(prefix: IPv6Network) -> IPv6Address:
    """Where gateway nodes answer probes: what stands for 192.0.0.8 (RFC 7600) under `prefix`."""
    return pref64.embed(prefix, _DUMMY)
