"""The ports that a gateway's agents listen on, where its spec gives none."""

from __future__ import annotations

import hashlib

import msgspec

DEFAULT_NAME = "default"
# Ports of the gateway named `default`, and where those of the others start: below NodePorts
# (30000) and what Linux hands out (32768).
WELL_KNOWN_PORTS = (9464, 6464, 6465, 6466, 6467, 9466)
DERIVED_PORTS = 21000
DERIVED_SLOTS = 1000
IN_A_ROW = 5
"""Ports of a slot that follow each other."""
DERIVED_CLAT_PORTS = DERIVED_PORTS + DERIVED_SLOTS * IN_A_ROW
"""Where the CLAT agents' ports start. They came later, and no gateway's other ports may move."""


class Ports(msgspec.Struct, frozen=True):
    """The ports that a gateway's agents listen on, each on every node of the gateway."""

    translator: int
    dns: int
    dns_health: int
    dns_ready: int
    dns_metrics: int
    clat: int = 0
    """0 where pods have no CLAT: then there is no such agent."""

    def all(self) -> dict[str, int]:
        """By the name that the field has in `spec.hostPorts`."""
        ports = {
            "translator": self.translator,
            "dns": self.dns,
            "dnsHealth": self.dns_health,
            "dnsReady": self.dns_ready,
            "dnsMetrics": self.dns_metrics,
        }
        return {**ports, "clat": self.clat} if self.clat else ports


def derived_ports(name: str) -> tuple[int, ...]:
    """The ports that a gateway of this name has when its spec gives none and no other has them."""
    slot = slot_of(name)
    return WELL_KNOWN_PORTS if slot is None else slot_ports(slot)


def slot_of(name: str) -> int | None:
    """The slot that a name stands for; None for the gateway with ports of its own."""
    if name == DEFAULT_NAME:
        return None
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % DERIVED_SLOTS


def slot_ports(slot: int) -> tuple[int, ...]:
    """The ports of a slot."""
    first = DERIVED_PORTS + slot * IN_A_ROW
    return (*range(first, first + IN_A_ROW), DERIVED_CLAT_PORTS + slot)
