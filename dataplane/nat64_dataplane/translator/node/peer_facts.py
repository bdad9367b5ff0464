"""Reads by netlink what concerns the other nodes in topology Gateway: ways, routes, tunnels."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from ipaddress import IPv6Address, IPv6Network
from typing import Any, NamedTuple

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from nat64_dataplane.translator.node import path_mtus, route_dump
from nat64_dataplane.translator.node.facts import ROUTE_PROTOCOL, PeerRoute, PeerRule

_SKIP_STATS = 1 << 3  # RTEXT_FILTER_SKIP_STATS: half of a link's message
_RTN_UNICAST, _RTN_LOCAL = 1, 2


class Peers(NamedTuple):
    """What leads to router nodes: of one table, IPv6."""

    routes: frozenset[PeerRoute] = frozenset()
    rules: frozenset[PeerRule] = frozenset()


def peers(ipr: IPRoute, table: int) -> Peers:
    """Our routes in a table, and the rules that lead to it."""
    if not table:
        return Peers()
    return Peers(
        routes=frozenset(
            PeerRoute(
                IPv6Network((own.route.destination or 0, own.route.length)),
                IPv6Address(own.route.gateways[0]) if own.route.gateways[0] else None,
                own.route.links[0],
                own.mtu if own.mtu_locked else 0,
            )
            for own in route_dump.of_protocol(socket.AF_INET6, table, ROUTE_PROTOCOL)
            if own.route.links
        ),
        rules=frozenset(
            PeerRule(rule.get("FRA_IIFNAME") or "", table, rule.get("FRA_PRIORITY") or 0)
            for rule in ipr.rule("dump", family=socket.AF_INET6)
            if (rule.get("FRA_TABLE") or rule["table"]) == table
        ),
    )


class Way(NamedTuple):
    """How the node itself reaches an address."""

    ifindex: int
    gateway: IPv6Address | None
    source: IPv6Address | None
    mtu: int
    """Of the route, as path MTU discovery has it, or else of the link."""


def way(ipr: IPRoute, address: IPv6Address) -> Way | None:
    """Ask the kernel; None where there is no route."""
    try:
        answers = ipr.route("get", dst=str(address), family=socket.AF_INET6)
    except NetlinkError:
        return None
    for answer in answers:
        link, gateway, source = answer.get("oif"), answer.get("gateway"), answer.get("prefsrc")
        if link and answer["type"] in (_RTN_UNICAST, _RTN_LOCAL):
            return Way(
                link,
                IPv6Address(gateway) if gateway else None,
                IPv6Address(source) if source else None,
                answer.get_nested("RTA_METRICS", "RTAX_MTU") or _mtu_of_link(ipr, link),
            )
    return None


def mtus(ipr: IPRoute, addresses: Sequence[IPv6Address]) -> dict[IPv6Address, int]:
    """What the ways to these carry, in bytes; nothing for those without a route. Raises OSError."""
    links: dict[int, int] = {}
    found = {}
    for address, link, mtu in path_mtus.find(addresses):
        if not mtu and link not in links:
            links[link] = _mtu_of_link(ipr, link)
        found[address] = mtu or links[link]
    return found


def _mtu_of_link(ipr: IPRoute, index: int) -> int:
    answer = next(iter(ipr.link("get", index=index, ext_mask=_SKIP_STATS)))
    return int(answer.get("mtu"))


def vxlan_port(message: Any) -> int:
    """The UDP port of a VXLAN device in external mode, by its link message; 0 for other links."""
    if message.get(("linkinfo", "kind")) != "vxlan":
        return 0
    data = message.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA")
    external = data and data.get_attr("IFLA_VXLAN_COLLECT_METADATA")
    return int(data.get_attr("IFLA_VXLAN_PORT")) if external else 0


def learns(message: Any) -> bool:
    """Whether a VXLAN device notes which node each link-layer address is behind."""
    if message.get(("linkinfo", "kind")) != "vxlan":
        return False
    data = message.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA")
    return bool(data and data.get_attr("IFLA_VXLAN_LEARNING"))
