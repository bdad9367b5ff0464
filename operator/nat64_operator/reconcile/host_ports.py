"""The ports that each gateway's agents listen on: given ones, else five that no other gateway has.

A gateway's slot starts from a hash of its name, so that most have the same ports in every cluster.
It is recorded: gateways that come later go elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from nat64_operator.api.gateway import Gateway
from nat64_operator.api.host_ports import DERIVED_SLOTS, slot_of, slot_ports
from nat64_operator.reconcile import node_record
from nat64_operator.reconcile.world import World


def assign(gateways: Iterable[Gateway], world: World) -> list[Gateway]:
    """The same gateways, each with its slot. Those with a recorded slot keep it, the older of the
    others choose first. Where all slots are taken, it stays with the hash's, and is in conflict.
    """
    found = {gateway.name: gateway for gateway in gateways}
    recorded = {
        name: slot
        for name in found.keys() | world.gateways.keys() | world.gateways_left_behind()
        if (slot := node_record.read(name, world).slot) is not None
    }
    made = {
        name: msgspec.structs.replace(gateway, slot=recorded.get(name))
        for name, gateway in found.items()
    }
    taken = {port for slot in recorded.values() for port in slot_ports(slot)}
    for gateway in found.values():
        taken |= {port for port in msgspec.structs.astuple(gateway.spec.host_ports) if port}
        taken |= {gateway.tunnel.tunnel_port} if gateway.has_routers else set()
    for gateway in sorted(found.values(), key=lambda one: one.meta.age_order):
        wanted = slot_of(gateway.name)
        if gateway.name in recorded or wanted is None:
            continue
        free = (
            slot
            for n in range(DERIVED_SLOTS)
            if taken.isdisjoint(slot_ports(slot := (wanted + n) % DERIVED_SLOTS))
        )
        slot = next(free, wanted)
        taken |= set(slot_ports(slot))
        made[gateway.name] = msgspec.structs.replace(gateway, slot=slot)
    return list(made.values())
