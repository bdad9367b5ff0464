"""From the gateway nodes' health to what the maps are to hold. Pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address

from nat64_dataplane.members import GatewayEntry
from nat64_dataplane.translator.steering import hash_table
from nat64_dataplane.translator.steering.health import State
from nat64_dataplane.translator.steering.places import Places


class Use(enum.IntEnum):
    """How packets may use a gateway node: enum gateway_state of the eBPF program."""

    DEAD = 0
    HEALTHY = 1
    DRAINING = 2
    """By the clients that it has."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What the maps are to hold. Two equal ones need no second writing."""

    gateways: Mapping[int, tuple[IPv6Address, Use]]
    table: tuple[int, ...]
    """hash_table.ENTRIES indexes."""

    @property
    def serving(self) -> int:
        """How many gateways packets may be sent to."""
        return sum(use in (Use.HEALTHY, Use.DRAINING) for _, use in self.gateways.values())


def decide(
    places: Places,
    entries: Mapping[IPv6Address, GatewayEntry],
    states: Mapping[IPv6Address, State],
) -> Decision:
    """Who takes new clients: the healthy, else those that drain, else those that only just
    answer again. Being spared helps nobody when there is no other.
    """
    uses = {
        index: (address, _use(states.get(address, State.NEW), entries[address]))
        for index, address in places.items()
    }
    takers = [index for index, (_, use) in uses.items() if use is Use.HEALTHY]
    if not takers:
        takers = [index for index, (_, use) in uses.items() if use is Use.DRAINING]
    if not takers:
        takers = [index for index, at in places.items() if states.get(at) is State.RECOVERING]
        uses |= {index: (places[index], Use.HEALTHY) for index in takers}
    weighed = {index: (places[index], entries[places[index]].weight) for index in takers}
    return Decision(uses, tuple(hash_table.fill(weighed)))


def _use(state: State, entry: GatewayEntry) -> Use:
    if state is State.DRAINING or (state is State.HEALTHY and entry.draining):
        return Use.DRAINING
    return Use.HEALTHY if state is State.HEALTHY else Use.DEAD
