"""Which node has which addresses of a range that a gateway's nodes share. Pure: no Kubernetes here.

No address is ever given to a node while another may still translate with it. So a share is sticky;
an address whose owner is gone, or is to have it no longer, is given back first, and given to
another node only after a delay.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, collapse_addresses
from typing import NamedTuple

DELAY_SECONDS = 300.0
"""From giving back to giving anew. A kubelet hands a changed file on within some 90 seconds, and a
machine whose Node was deleted may go on for a while."""
MAX_ADDRESSES = 8192
"""How many addresses a gateway's nodes may have: the record of them is one object."""


class Share(NamedTuple):
    """Who has an address."""

    node: str
    released: float | None = None
    """When it was given back, in seconds since 1970; None while the node has it."""


Held = Mapping[IPv4Address, Share]


class Demand(NamedTuple):
    """A range, and how many of its addresses each node is to have."""

    network: IPv4Network
    per_node: int


class Shortage(NamedTuple):
    """A range that is too small, in numbers."""

    needed: int
    """Addresses, for all nodes."""
    missing: int
    """Of those, addresses that no node could be given."""
    nodes: tuple[str, ...]
    """The nodes that have fewer than they should."""


class Allocation(NamedTuple):
    """Who has what from now on."""

    held: dict[IPv4Address, Share]
    short: dict[IPv4Network, Shortage]
    wake: float | None
    """Seconds after which an address that was given back can be given anew; None for none."""

    def of_nodes(self) -> dict[str, tuple[IPv4Network, ...]]:
        """The addresses that each node has, as few networks as they can be."""
        found: dict[str, list[IPv4Address]] = {}
        for address, share in sorted(self.held.items()):
            if share.released is None:
                found.setdefault(share.node, []).append(address)
        return {node: networks(addresses) for node, addresses in found.items()}


def allocate(
    held: Held,
    demands: Sequence[Demand],
    nodes: Collection[str],
    *,
    may_hold: Collection[str] = (),
    settled: bool = True,
    taken: Collection[IPv4Address] = (),
    now: float,
) -> Allocation:
    """Decide who has what.

    `held` is the record so far. `nodes` are to have addresses. `may_hold` are nodes where a
    translator may still run although they are to have none. While not `settled`, nodes may run a
    config with other demands than these. `taken` are addresses that are somebody's own, and never
    given out.
    """
    kept: dict[IPv4Address, Share] = {}
    counts: dict[tuple[IPv4Network, str], int] = {}
    for address in sorted(held):
        share = held[address]
        demand = _demanded(address, demands)
        place = (demand.network, share.node) if demand and share.node in nodes else None
        if demand and place and counts.get(place, 0) < demand.per_node:
            counts[place] = counts.get(place, 0) + 1
            kept[address] = Share(share.node)
        elif share.released is None and (
            share.node in may_hold or (share.node in nodes and not settled)
        ):
            kept[address] = share
        elif (since := now if share.released is None else share.released) + DELAY_SECONDS > now:
            kept[address] = Share(share.node, since)
    short = {}
    for demand in demands:
        if found := _fill(demand, nodes, kept, counts, set(taken)):
            short[demand.network] = found
    released = [share.released for share in kept.values() if share.released is not None]
    wake = min(released) + DELAY_SECONDS - now if released else None
    return Allocation(kept, short, wake)


def _fill(
    demand: Demand,
    nodes: Iterable[str],
    kept: dict[IPv4Address, Share],
    counts: Mapping[tuple[IPv4Network, str], int],
    taken: Collection[IPv4Address],
) -> Shortage | None:
    """Give free addresses to the nodes that lack some, first to those that have none."""
    network, per_node = demand
    lacking = {
        node: per_node - counts.get((network, node), 0)
        for node in sorted(nodes)
        if counts.get((network, node), 0) < per_node
    }
    free = (a for a in network if a not in kept and a not in taken)
    room = MAX_ADDRESSES - len(kept)
    for node in sorted(lacking, key=lambda name: (-lacking[name], name)):
        while lacking[node] and room > 0 and (address := next(free, None)) is not None:
            kept[address] = Share(node)
            lacking[node] -= 1
            room -= 1
    missing = {node: count for node, count in lacking.items() if count}
    if not missing:
        return None
    return Shortage(per_node * len(set(nodes)), sum(missing.values()), tuple(missing))


def networks(addresses: Iterable[IPv4Address]) -> tuple[IPv4Network, ...]:
    """Addresses as few networks as they can be."""
    return tuple(collapse_addresses(map(IPv4Network, addresses)))


def _demanded(address: IPv4Address, demands: Iterable[Demand]) -> Demand | None:
    return next((demand for demand in demands if address in demand.network), None)
