"""`kubectl nat64 test`: the requests to a pod on a node. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

from nat64_dataplane import pref64
from nat64_operator.kubectl.exec_output import ClusterError, Json

CHECKS = {
    "dns64": "a name that has only IPv4 gets an address under the prefix",
    "tcp": "a TCP connection to the target opens",
    "literal": "an IPv4 socket connects to the target's IPv4 address, where pods have a CLAT",
    "udp": "a datagram to the target is answered",
    "ping": "the target answers a ping",
    "pmtu": "the largest packet that fits the pod's way to the target comes back",
    "dual-stack": "a name that has IPv6 of its own keeps it",
    "exempt": "names in exempt zones, and the cluster's own, are not synthesized",
    "denied": "destinations that policy denies can't be reached through the prefix",
    "node": "the node's own IPv4 addresses can't be reached through the prefix",
}
NEVER = ("169.254.169.254", "127.0.0.1")
"""Metadata services and loopback, which must not be reachable through a prefix."""
CLUSTER_NAME = "kubernetes.default.svc"
DNS_PORT = 53
DENIED_SECONDS = 3.0

Request = dict[str, Any]


@dataclass(frozen=True)
class Wish:
    """The user's options."""

    host: str
    port: int
    udp_host: str = ""
    """The server for the datagram; empty for the target's own port 53."""
    udp_port: int = DNS_PORT
    dual_stack: str = ""
    """A name with both families; empty to skip that check."""
    exempt: tuple[str, ...] = ()
    """Names that must not be synthesized, besides the zones that policies exempt."""
    skip: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Node:
    """What is known about a node before its pod is asked."""

    name: str
    gateways: Sequence[Json]
    """Those that translate on it."""
    policies: Sequence[Json] = ()
    """DNS64Policies of those gateways."""
    addresses: Sequence[str] = ()
    """The node's own IPv4 addresses: those of its pools."""
    prefixes: Sequence[IPv6Network] = field(init=False)

    def __post_init__(self) -> None:
        """Read the prefixes once."""
        found = [IPv6Network(g["spec"]["prefix"]) for g in self.gateways]
        object.__setattr__(self, "prefixes", found)

    def translates(self, address: str) -> bool:
        """Whether an address is under one of the node's prefixes."""
        found = ip_address(address)
        return any(found in prefix for prefix in self.prefixes)

    def shown(self, address: IPv4Address) -> str:
        """The address that stands for an IPv4 address."""
        return str(pref64.embed(self.prefixes[0], address))

    @property
    def has_clat(self) -> bool:
        """Whether the node's pods have a CLAT."""
        return any((g["spec"].get("clat") or {}).get("mode") == "Pods" for g in self.gateways)

    def ranges(self, name: str) -> list[IPv4Network]:
        """A list of ranges of the gateways' policies."""
        lists = [(g["spec"].get("policy") or {}).get(name) or () for g in self.gateways]
        return [IPv4Network(text) for ranges in lists for text in ranges]


def check_skip(names: Sequence[str]) -> frozenset[str]:
    """Checks to skip. Raises ClusterError for an unknown one."""
    for name in names:
        if name not in CHECKS:
            raise ClusterError(f"--skip {name}: there are {', '.join(CHECKS)}")
    return frozenset(names)


def requests(node: Node, wish: Wish) -> dict[str, Request]:
    """The requests to the pod, by the keys under which their answers are found."""
    target, host = wish.host, _host(node, wish.host)
    found: dict[str, Request] = {"self": {"do": "self"}}
    if _literal(target) is None:
        found["dns64"] = {"do": "resolve", "name": absolute(target)}
    found["tcp"] = {"do": "tcp", "host": host, "port": wish.port}
    if node.has_clat and not isinstance(_literal(target), IPv6Address):
        name = target if _literal(target) else absolute(target)
        found["literal"] = {"do": "tcp", "host": name, "port": wish.port, "family": 4}
    datagram = _host(node, wish.udp_host) if wish.udp_host else host
    found["udp"] = {"do": "udp", "host": datagram, "port": wish.udp_port}
    found["ping"] = {"do": "ping", "host": host}
    found["pmtu"] = {"do": "ping", "host": host, "full": True}
    if wish.dual_stack:
        found["dual-stack"] = {"do": "resolve", "name": absolute(wish.dual_stack)}
    found["exempt cluster"] = {"do": "resolve", "name": CLUSTER_NAME}
    for name in _exempt(node, wish):
        found[f"exempt {name}"] = {"do": "resolve", "name": absolute(name)}
    for address in _denied(node):
        found[f"denied {address}"] = _attempt(node, address, wish.port)
    for text in node.addresses:
        found[f"node {text}"] = _attempt(node, IPv4Address(text), 22)
    return {key: what for key, what in found.items() if key.split()[0] not in wish.skip}


def absolute(name: str) -> str:
    """A name to which no search domain is added."""
    return name.rstrip(".") + "."


def _attempt(node: Node, address: IPv4Address, port: int) -> Request:
    return {"do": "tcp", "host": node.shown(address), "port": port, "timeout": DENIED_SECONDS}


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _host(node: Node, host: str) -> str:
    """A name as it is; an IPv4 address as the IPv6 address that stands for it."""
    address = _literal(host)
    if isinstance(address, IPv4Address):
        return node.shown(address)
    return host if address is not None else absolute(host)


def _exempt(node: Node, wish: Wish) -> list[str]:
    zones = [z for p in node.policies for z in p["spec"].get("exemptZones") or ()]
    return sorted(
        {*(z.rstrip(".") for z in zones if z.rstrip(".") != "cluster.local"), *wish.exempt}
    )


def _denied(node: Node) -> list[IPv4Address]:
    """The addresses that must not be reachable, and the first address of each range that a gateway
    denies.
    """
    allowed = node.ranges("allowedDestinations")
    denied = node.ranges("deniedDestinations")
    never = [a for a in map(IPv4Address, NEVER) if not any(a in range_ for range_ in allowed)]
    return [*never, *(range_[min(1, range_.num_addresses - 1)] for range_ in denied[:3])]
