"""Carries out the actions that topology Gateway needs: tunnel, rule, routes to router nodes."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
from collections.abc import Iterator
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from nat64_dataplane.errors import HostError
from nat64_dataplane.translator.node import actions, peer_table
from nat64_dataplane.translator.node.facts import IFF_NOARP, ROUTE_PROTOCOL, PeerRoute, PeerRule

NO_LINK_LOCAL = {
    "attrs": [["AF_INET6", {"attrs": [["IFLA_INET6_ADDR_GEN_MODE", 1]]}]]  # ..._MODE_NONE
}

_NUD_PERMANENT = 0x80

log = logging.getLogger(__name__)


def execute(ipr: IPRoute, action: actions.Action) -> dict[PeerRoute, int]:
    """Carry out one action; returns the routes that the kernel refuses, with its errno.

    Raises HostError, NetlinkError, OSError.
    """
    match action:
        case actions.DelAddress(index, address):
            ipr.addr("del", index=index, address=str(address), prefixlen=32)
        case actions.SetNeighbour(index, mac, address):
            ipr.neigh(
                "replace",
                ifindex=index,
                family=socket.AF_INET6,
                dst=str(address),
                lladdr=mac.hex(":"),
                state=_NUD_PERMANENT,
            )
        case actions.CreateTunnel(name, port):
            with _port_taken(port):
                # All nodes use the same Ethernet addresses inside the tunnel. A device that learns
                # would look one up for each packet, and tell of a move whenever the node changes.
                ipr.link(
                    "add",
                    ifname=name,
                    kind="vxlan",
                    vxlan_collect_metadata=1,
                    vxlan_learning=0,
                    vxlan_port=port,
                )
        case actions.ConfigureTunnel():
            _configure(ipr, action)
        case actions.WritePeerRoutes(table, new, old):
            failed = peer_table.delete(table, old) | peer_table.write(table, new)
            for route, code in sorted(failed.items()):
                log.debug("route to %s refused: %s", route.prefix, os.strerror(code))
            return failed
        case actions.AddRule(rule):
            ipr.rule("add", protocol=ROUTE_PROTOCOL, **_rule(rule))
        case actions.DeleteRule(rule):
            ipr.rule("del", **_rule(rule))  # whoever has added it
        case _:
            raise TypeError(f"{action} is somebody else's")
    return {}


def _configure(ipr: IPRoute, action: actions.ConfigureTunnel) -> None:
    index = action.index
    ipr.link("set", index=index, IFLA_AF_SPEC=NO_LINK_LOCAL)
    flags = {"flags": IFF_NOARP, "change": IFF_NOARP}
    ipr.link("set", index=index, mtu=action.mtu, IFLA_IFALIAS=action.alias, **flags)
    with _port_taken(action.port):
        ipr.link("set", index=index, state="up")


def _rule(rule: PeerRule) -> dict[str, Any]:
    return {
        "family": socket.AF_INET6,
        "iifname": rule.iif,
        "table": rule.table,
        "priority": rule.priority,
        "action": "to_tbl",
    }


@contextlib.contextmanager
def _port_taken(port: int) -> Iterator[None]:
    """Say what it means when a tunnel can't have its port. Raises HostError."""
    try:
        yield
    except NetlinkError as error:
        if error.code in (errno.EADDRINUSE, errno.EEXIST):
            raise HostError(
                "TunnelPortTaken",
                f"UDP port {port} is another socket's or tunnel's on this node: "
                "choose another spec.gateways.tunnelPort",
            ) from error
        raise
