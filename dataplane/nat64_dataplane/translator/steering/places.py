"""The gateway nodes' indexes, by which maps and marks name them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv6Address

from nat64_dataplane.members import MAX_GATEWAYS

Places = dict[int, IPv6Address]
"""Index, below MAX_GATEWAYS, and address."""


def assign(before: Mapping[int, IPv6Address], wanted: Iterable[IPv6Address]) -> Places:
    """Give each gateway an index: the one that it has, or else a free one.

    Clients' affinities name indexes. So a new gateway gets one that was free before, if possible,
    and not that of a gateway which has just left.
    """
    wanted = list(dict.fromkeys(wanted))
    found = {index: address for index, address in before.items() if address in wanted}
    have = set(found.values())
    start = max(before, default=-1) + 1
    order = [(start + step) % MAX_GATEWAYS for step in range(MAX_GATEWAYS)]
    free = [index for index in order if index not in before]
    free += [index for index in order if index in before and index not in found]
    for address in wanted:
        if address not in have:
            found[free.pop(0)] = address
    return found
