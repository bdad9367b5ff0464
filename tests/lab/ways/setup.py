"""How a node's IPv4 is set up, as plain values, and the `ip` commands that do it.

Nothing here checks that a set-up makes sense: what the kernel refuses is missing for the node and
for the pod alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv6Network

LINKS = ("eth0", "eth1", "eth2", "tun0")
"""The node's links, by index in a set-up. `tun0` has no Ethernet headers."""
LO = "lo"
PREFIX = IPv6Network("64:ff9b:1::/96")
TABLES = (100, 101)
MARK, MARKED_PORT, PORT = 7, 7007, 7000
"""Packets to MARKED_PORT carry this mark: the node's by SO_MARK, a pod's by a rule of nftables."""

_NEXTHOP = 900
_GROUP = 990


@dataclass(frozen=True)
class Address:
    """One address, in the order in which they are added."""

    link: str
    address: str
    length: int = 27
    scope: str = "global"


@dataclass(frozen=True)
class Hop:
    """One way of a route. `gateway` may be an IPv6 address (`via inet6`)."""

    link: str
    gateway: str = ""
    onlink: bool = False
    weight: int = 1


@dataclass(frozen=True)
class Route:
    """A route; without hops, `kind` is what it does with packets."""

    destination: str
    hops: tuple[Hop, ...] = ()
    kind: str = "unicast"
    table: int = 254
    metric: int = 0
    source: str = ""
    nexthop_object: bool = False


@dataclass(frozen=True)
class Rule:
    """A policy rule. `action` is `lookup`, or what it does with packets."""

    priority: int
    action: str = "lookup"
    table: int = 254
    source: str = ""
    destination: str = ""
    mark: int | None = None
    iif: str = ""
    invert: bool = False
    suppress_prefix_length: int | None = None


@dataclass(frozen=True)
class Setup:
    """A node. `cold`: it knows none of its neighbours when the pod's packets come."""

    addresses: tuple[Address, ...] = ()
    routes: tuple[Route, ...] = ()
    rules: tuple[Rule, ...] = ()
    nexthop_compat_mode: int = 1
    hash_policy: int = 0
    cold: bool = False
    forward_drop: bool = False

    def __str__(self) -> str:
        return "\n".join(commands(self))


def commands(setup: Setup) -> Iterator[str]:
    """The lines for `ip -force -batch`."""
    for address in setup.addresses:
        yield (
            f"addr add {address.address}/{address.length} dev {address.link} scope {address.scope}"
        )
    for index, route in enumerate(setup.routes):
        yield from _route(route, index)
    for rule in setup.rules:
        yield _rule(rule)


def clearing() -> Iterator[str]:
    """The lines that remove any set-up again."""
    yield "rule flush"
    yield "rule add priority 32766 lookup main"
    yield "rule add priority 32767 lookup default"
    for table in TABLES:
        yield f"route flush table {table}"
    yield "route flush table main proto boot"
    yield "nexthop flush"
    # A translator that refuses this node must not continue as on the last one.
    yield f"route del {PREFIX} table main"
    for link in (*LINKS, LO):
        yield f"addr flush dev {link} to 0.0.0.0/0 scope global"
        yield f"addr flush dev {link} to 0.0.0.0/0 scope link"
    yield "neigh flush all"


def _route(route: Route, index: int) -> Iterator[str]:
    # Behind `default`, a gateway with an IPv6 address would make it a route of IPv6.
    destination = "0.0.0.0/0" if route.destination == "default" else route.destination
    tail = f" table {route.table}" + (f" metric {route.metric}" if route.metric else "")
    if route.source:
        tail += f" src {route.source}"
    if not route.hops:
        yield f"route add {route.kind} {destination}{tail}"
        return
    if route.nexthop_object:
        ids = []
        for number, hop in enumerate(route.hops):
            ids.append(f"{_NEXTHOP + 10 * index + number},{hop.weight}")
            yield f"nexthop add id {_NEXTHOP + 10 * index + number}{_hop(hop)}"
        which = _NEXTHOP + 10 * index
        if len(ids) > 1:
            which = _GROUP + index
            yield f"nexthop add id {which} group {'/'.join(ids)}"
        yield f"route add {destination} nhid {which}{tail}"
        return
    if len(route.hops) == 1:
        yield f"route add {destination}{_hop(route.hops[0])}{tail}"
        return
    hops = "".join(f" nexthop{_hop(hop)} weight {hop.weight}" for hop in route.hops)
    yield f"route add {destination}{tail}{hops}"


def _hop(hop: Hop) -> str:
    via = f" via {'inet6 ' if ':' in hop.gateway else ''}{hop.gateway}" if hop.gateway else ""
    return f"{via} dev {hop.link}" + (" onlink" if hop.onlink and via else "")


def _rule(rule: Rule) -> str:
    text = f"rule add priority {rule.priority}" + (" not" if rule.invert else "")
    text += f" from {rule.source or 'all'}"
    if rule.destination:
        text += f" to {rule.destination}"
    if rule.mark is not None:
        text += f" fwmark {rule.mark}"
    if rule.iif:
        text += f" iif {rule.iif}"
    if rule.action != "lookup":
        return f"{text} {rule.action}"
    text += f" lookup {rule.table}"
    if rule.suppress_prefix_length is not None:
        text += f" suppress_prefixlength {rule.suppress_prefix_length}"
    return text
