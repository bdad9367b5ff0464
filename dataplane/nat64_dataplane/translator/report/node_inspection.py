"""The node's state as a translator sees it, for people who look for the cause of a problem.

This module reads everything and judges nothing, and needs no running agent.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from nat64_dataplane.config import Config
from nat64_dataplane.errors import HostError
from nat64_dataplane.translator.config_source import ConfigSource
from nat64_dataplane.translator.node import fact_parts, node_sysctls, pools, uplinks_and_pools
from nat64_dataplane.translator.node.facts import ROUTE_PROTOCOL, Facts

DEFAULT_CONFIG = Path("/etc/nat64/translator.yaml")

SYSCTLS = (
    "net/ipv6/conf/all/forwarding",
    "net/ipv6/conf/all/disable_ipv6",
    "net/ipv4/conf/all/rp_filter",
    "net/ipv4/ip_local_reserved_ports",
    "net/ipv4/ip_local_port_range",
    "net/core/bpf_jit_enable",
)
_MODULES = Path("/proc/modules")
_MOUNTS = Path("/proc/self/mounts")


def run(options: argparse.Namespace) -> int:
    """Print it all as JSON."""
    config = ConfigSource(options.config, options.node_file, options.node).current
    with IPRoute(strict_check=True) as ipr:
        found = fact_parts.read(ipr)
        routes = prefix_routes(ipr, config)
    print(json.dumps(describe(config, found, routes), indent=2))
    return 0


def describe(config: Config, found: Facts, routes: list[dict[str, Any]]) -> dict[str, Any]:
    """The node in plain values. What a config can't find here is said under `problems`."""
    node: dict[str, Any] = {
        "name": config.name,
        "prefix": str(config.prefix),
        "clatPrefix": str(config.clat.prefix) if config.clat else None,
        "interface": config.interface,
        "kernel": os.uname().release,
        "bpffs": _has_bpffs(),
        "sysctls": {key.replace("/", "."): _sysctl(key) for key in SYSCTLS},
        "links": [
            {"name": link.name, "up": link.up, "mtu": link.mtu, "kind": link.kind}
            for link in found.links
        ],
        "addresses": sorted(str(a.address) for a in found.addresses if a.is_global),
        "defaultRoutes": [
            {"interface": _name(found, route.ifindex), "metric": route.metric}
            for route in found.defaults
        ],
        "prefixRoutes": routes,
        "modules": _modules(),
        "uplinks": [],
        "pool": [],
        "unreservedPorts": node_sysctls.format_ports(_unreserved(config, found)),
        "problems": [],
    }
    try:
        node["uplinks"] = [
            {"name": uplink.name, "mtu": uplink.mtu}
            for uplink in uplinks_and_pools.uplinks(config, found)
        ]
        node["pool"] = [
            {"address": str(r.address), "first": r.first, "last": r.last}
            for r in pools.pool_ranges(config, found)
        ]
        pools.require_default(config, found)
    except HostError as error:
        node["problems"].append({"reason": error.reason, "message": str(error)})
    return node


def prefix_routes(ipr: IPRoute, config: Config) -> list[dict[str, Any]]:
    """Every route, in any table, that is for a prefix or for a part of it."""
    found = []
    for route in ipr.route("dump", family=socket.AF_INET6):
        text = route.get("dst")
        if text is None:
            continue
        net = IPv6Network(f"{text}/{route['dst_len']}")
        if any(net.subnet_of(prefix) for prefix in config.prefixes):
            found.append(
                {
                    "destination": str(net),
                    "interface": link_name(ipr, route.get("oif")),
                    "table": route.get("table"),
                    "ours": route["proto"] == ROUTE_PROTOCOL,
                }
            )
    return found


def route_to(
    ipr: IPRoute,
    destination: IPv4Address | IPv6Address,
    source: IPv6Address | None = None,
    link: int = 0,
) -> dict[str, Any]:
    """Where the kernel sends a packet: from `source`, as if it came in on the link with this index,
    or without one where that source is.
    """
    query: dict[str, Any] = {
        "family": socket.AF_INET if destination.version == 4 else socket.AF_INET6,
        "dst": str(destination),
    }
    try:
        if source is not None:
            if not link:
                back = ipr.route("get", family=socket.AF_INET6, dst=str(source))
                link = back[0].get("oif")
            query |= {"src": str(source), "iif": link}
        [route] = ipr.route("get", **query)
    except NetlinkError as error:
        name = errno.errorcode.get(error.code, str(error.code))
        return {"interface": None, "error": f"{os.strerror(error.code)} ({name})"}
    gateway = route.get("gateway")
    return {
        "interface": link_name(ipr, route.get("oif")),
        "gateway": gateway,
        "source": route.get("prefsrc"),
        "error": None,
    }


def link_name(ipr: IPRoute, index: int | None) -> str | None:
    """A link's name; None where there is none."""
    if not index:
        return None
    try:
        [link] = ipr.link("get", index=index)
    except NetlinkError:
        return None
    name: str = link.get("ifname")
    return name


def _name(found: Facts, index: int) -> str | None:
    link = found.link_at(index)
    return link.name if link else None


def _unreserved(config: Config, found: Facts) -> set[int]:
    try:
        reserved = node_sysctls.parse_ports(_sysctl("net/ipv4/ip_local_reserved_ports") or "")
        return node_sysctls.reserved_ports(config, found) - reserved
    except ValueError:
        return set()


def _sysctl(key: str) -> str | None:
    """A sysctl; None where it isn't there or not for us to read."""
    try:
        return " ".join((node_sysctls.PROC_SYS / key).read_text().split())
    except OSError:
        return None


def _has_bpffs() -> bool:
    """Whether there is a place for pins, so that state outlives the agent."""
    mounts = [line.split()[1:3] for line in _MOUNTS.read_text().splitlines()]
    return [str(node_sysctls.BPFFS), "bpf"] in mounts


def _modules() -> list[str]:
    """The kernel modules that are loaded; those compiled in are not among them."""
    try:
        return sorted(line.split()[0] for line in _MODULES.read_text().splitlines())
    except OSError:
        return []
