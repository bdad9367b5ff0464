"""What a translator takes for itself on a node, and whether two translators can share the node.

The operator asks before it sends a config to a node, and the agent asks again on the node: what the
operator saw may be older than what runs there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address
from typing import NamedTuple, Self

from nat64_dataplane.config import Config

Span = tuple[int, int]
"""First and last."""
Block = tuple[int, int, int, int]
"""First and last address, first and last port."""


class Claim(NamedTuple):
    """A config as numbers, ready to be compared with many others."""

    name: str
    prefixes: tuple[tuple[str, Span, str], ...]
    """Each with its field's name and its text."""
    interface: str
    node_pools: tuple[Span, ...]
    """First and last port of each pool on the node's own address."""
    blocks: tuple[Block, ...]
    """Each pool with addresses of its own."""
    static: tuple[Block, ...]
    """Each static mapping."""
    clat: str = ""
    """The CLAT prefix; empty for none."""

    @classmethod
    def of(cls, config: Config) -> Self:
        """Read a config. A router node takes no address and no port of its node for translation."""
        node_pools, blocks = [], []
        for pool in () if config.is_router else config.pools:
            network, ports = pool.network, pool.port_range
            if network is None:
                node_pools.append((ports.first, ports.last))
            else:
                first, last = int(network.network_address), int(network.broadcast_address)
                blocks.append((first, last, ports.first, ports.last))
        prefixes = [("prefix", config.prefix)]
        if config.clat:
            prefixes.append(("clat.prefix", config.clat.prefix))
        return cls(
            config.name,
            tuple(
                (field, (int(net.network_address), int(net.broadcast_address)), str(net))
                for field, net in prefixes
            ),
            config.interface,
            tuple(node_pools),
            tuple(blocks),
            tuple(
                (int(mapping.address), int(mapping.address), mapping.port, mapping.port)
                for mapping in config.static_mappings
            ),
            str(config.clat.prefix) if config.clat else "",
        )


class Clash(NamedTuple):
    """Why two claims can't stand side by side."""

    kind: str
    """`Clat`, `Prefix`, `Pool` or `Interface`."""
    field: str
    """The field of the claim that is refused, as the config file names it."""
    what: str
    """What the other one has, as in `64:ff9b::/96`."""


def clash_anywhere(mine: Claim, theirs: Claim) -> Clash | None:
    """What two translators can't both have on any node: an address and port of their own."""
    for field, ours, others in (
        ("pools", mine.blocks, (*theirs.blocks, *theirs.static)),
        ("staticMappings", mine.static, (*theirs.blocks, *theirs.static)),
    ):
        if shared := _shared(ours, others):
            return Clash("Pool", field, shared)
    return None


def clash_on_a_node(mine: Claim, theirs: Claim) -> Clash | None:
    """What two translators can't both have on one node."""
    if mine.clat and theirs.clat:
        return Clash("Clat", "clat", f"a CLAT in the pods, towards {theirs.clat},")
    for field, prefix, _ in mine.prefixes:
        for _, other, text in theirs.prefixes:
            if overlap(prefix, other):
                return Clash("Prefix", field, text)
    for ours in mine.node_pools:
        for others in theirs.node_pools:
            if overlap(ours, others):
                what = f"the node's own address with ports {others[0]}-{others[1]}"
                return Clash("Pool", "pools", what)
    if mine.interface == theirs.interface:
        return Clash("Interface", "interface", repr(theirs.interface))
    return None


def clash_at(mine: Claim, theirs: Claim, addresses: Iterable[IPv4Address]) -> Clash | None:
    """What clashes on a node with these IPv4 addresses of its own: one translator takes ports of
    the node's address, and the other has that very address written down.
    """
    for spelt, by_word in ((mine, theirs), (theirs, mine)):
        candidates = written_blocks(spelt, by_word)
        for address in addresses if candidates else ():
            if any(first <= int(address) <= last for first, last in candidates):
                return Clash("Pool", "pools", f"{address}, an address of the node")
    return None


def written_blocks(spelt: Claim, by_word: Claim) -> list[Span]:
    """The addresses that one claim writes down with ports that the other takes of each node."""
    return [
        (first, last)
        for first, last, low, high in (*spelt.blocks, *spelt.static)
        if any(overlap((low, high), ports) for ports in by_word.node_pools)
    ]


def overlap(a: Span, b: Span) -> bool:
    """Whether two spans share a number."""
    return a[0] <= b[1] and b[0] <= a[1]


def _shared(mine: Iterable[Block], theirs: Sequence[Block]) -> str | None:
    for first, last, low, high in mine:
        for start, end, bottom, top in theirs:
            if overlap((first, last), (start, end)) and overlap((low, high), (bottom, top)):
                if (start, bottom) == (end, top):
                    return f"{IPv4Address(start)} port {bottom}"
                return f"{IPv4Address(start)}-{IPv4Address(end)} with ports {bottom}-{top}"
    return None
