"""The node's ways out over IPv4, each by the source address that the node itself uses there. Pure.

Which way a connection takes, and from which address, is the kernel's answer at the time
(dataplane/bpf/zones.h). What is worked out here is only which answers it may give: for these there
must be pools, and a hook where the replies come in. An address that no route uses is none of them,
as a VIP that the node merely answers for.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from typing import NamedTuple

from nat64_dataplane.config import Config
from nat64_dataplane.translator.node.facts import IFF_LOOPBACK, Facts, Hop, Link

MOST = 16
"""MAX_ZONES of dataplane/bpf/abi_config.h."""
OUR_ALIAS = "nat64-operator "
"""What the alias of every translator's link begins with."""
_POD_LINKS = frozenset({"veth", "netkit"})


class Way(NamedTuple):
    """What leaves from one address."""

    source: IPv4Address
    links: tuple[int, ...]
    """The links by which it does, by interface index."""
    networks: tuple[IPv4Network, ...] = ()
    """The subnets on these."""


def ways(config: Config, facts: Facts) -> tuple[Way, ...]:
    """Every way out that routes and rules may lead to, in the order of their addresses."""
    found: dict[IPv4Address, set[int]] = {}
    subnets: dict[IPv4Address, set[IPv4Network]] = {}
    links = {link.index: link for link in _outward_links(config, facts)}
    for hop in facts.hops:
        known = [links[hop.ifindex]] if hop.ifindex in links else []
        for link in known if hop.ifindex else links.values():
            for source in _sources(facts, link, hop):
                found.setdefault(source, set()).add(link.index)
                if hop.network:
                    subnets.setdefault(source, set()).add(hop.network)
    held = {address.address for address in facts.addresses}
    return tuple(
        Way(source, tuple(sorted(found[source])), tuple(sorted(subnets.get(source, ()))))
        for source in sorted(found.keys() & held)
    )


def _outward_links(config: Config, facts: Facts) -> Iterator[Link]:
    """Not the translators' own links, and not the pods'."""
    # A node that is itself a container has such links too: these have a gateway, or a subnet.
    numbered = {way.ifindex for way in facts.defaults}
    numbered |= {hop.ifindex for hop in facts.hops if hop.network or hop.gateway}
    for link in facts.links:
        if link.flags & IFF_LOOPBACK or link.name == config.interface:
            continue
        if link.alias.startswith(OUR_ALIAS):
            continue
        if config.uplinks and link.name not in config.uplinks:
            continue
        if link.elsewhere and link.kind in _POD_LINKS and link.index not in numbered:
            continue
        yield link


def _sources(facts: Facts, link: Link, hop: Hop) -> Iterator[IPv4Address]:
    """What the kernel may take where the route names none: see its inet_select_addr()."""
    if hop.source:
        yield hop.source
        return
    own = [a for a in facts.addresses if a.ifindex == link.index and not a.secondary]
    for address in own:
        subnet = IPv4Network((address.address, address.length), strict=False)
        if hop.gateway and hop.gateway in subnet:
            yield address.address
            return
    yield from (address.address for address in own[:1])
    own_or_any = own or [a for a in facts.addresses if not a.secondary]
    yield from [address.address for address in own_or_any if address.is_global][:1]
