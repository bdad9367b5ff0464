"""Map keys and values of the Gateway topology, as dataplane/bpf/abi_topology.h has them.

As in `abi`: the names are the same, and a test compares sizes and offsets.
"""

from __future__ import annotations

import enum
import struct

MAX_GATEWAYS = 64
STEERING_PLACES = 4096
STEERING_SLOTS = 2
NO_GATEWAY = 0xFF
SERVING_SECONDS = 300
"""How long an agent is believed, and a router node that has sent without the tunnel."""


class NodeRole(enum.IntEnum):
    """enum role."""

    NODE = 0
    GATEWAY = 1
    ROUTER = 2


class GatewayState(enum.IntEnum):
    """enum gateway_state."""

    DEAD = 0
    """Gets nothing but probes."""
    HEALTHY = 1
    DRAINING = 2
    """Keeps its clients, and gets no new ones."""


class ProbeState(enum.IntEnum):
    """enum probe_state: what is in an answer."""

    QUESTION = 0
    SERVING = 1
    DRAINING = 2
    NOT_SERVING = 3


TOPOLOGY = struct.Struct("=16s6I")
PEER_KEY = struct.Struct("=I16s")
PEER = struct.Struct("=16sII")
GATEWAY = struct.Struct("=16sII")
STEERING = struct.Struct(f"={GATEWAY.size * MAX_GATEWAYS}s{STEERING_PLACES}s")
AFFINITY = struct.Struct("=IIB3x")
SERVING = struct.Struct("=II")


def place_of(client: bytes) -> int:
    """The place of a client in the table, by its address: place_of() in steer.h."""
    mixed = 0
    for (word,) in struct.iter_unpack(">I", client):
        mixed = (mixed ^ word) * 0x9E3779B1 & 0xFFFFFFFF
        mixed ^= mixed >> 16
    mixed = mixed * 0x85EBCA6B & 0xFFFFFFFF
    mixed ^= mixed >> 13
    mixed = mixed * 0xC2B2AE35 & 0xFFFFFFFF
    return (mixed ^ mixed >> 16) % STEERING_PLACES
