"""`nat64-translator topology`: this node's role, and how it stands to nodes of the other one."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Any

import msgspec

from nat64_dataplane.translator.datapath.abi_topology import GatewayState, NodeRole
from nat64_dataplane.translator.datapath.datapath import Datapath
from nat64_dataplane.translator.report import text_table
from nat64_dataplane.translator.report.show_commands import EXIT_OK, opened
from nat64_dataplane.translator.run_directory import RunDir, Status

_ROLES = {NodeRole.NODE: "Node", NodeRole.GATEWAY: "Gateway", NodeRole.ROUTER: "Router"}
_BETWEEN = ("recovering", "new")
"""States that only the agent knows: for the program they are `dead`, mostly."""


def topology(options: argparse.Namespace) -> int:
    """Print the gateway nodes as a router node sees them, or what a gateway node answers."""
    with opened(options) as datapath:
        assert datapath.directory
        name = datapath.directory.parent.name
        found = _view(datapath, RunDir(options.run_dir, name).read_status())
    if options.output == "json":
        print(msgspec.json.format(msgspec.json.encode(found)).decode())
        return EXIT_OK
    print(f"role {found['role']}", *_facts(found), sep=", ")
    if found["role"] == _ROLES[NodeRole.ROUTER]:
        columns = ("node", "address", "weight", "state", "share", "clients", "why")
        print(text_table.render(found["gateways"], columns, "table"))
    return EXIT_OK


def _view(datapath: Datapath, status: Status | None) -> dict[str, Any]:
    standing = datapath.topology.standing()
    view: dict[str, Any] = {"role": _ROLES[standing.role]}
    if standing.role is NodeRole.NODE:
        return view
    view["transport"] = "Direct" if standing.direct else "Tunnel"
    view["address"] = str(standing.address)
    if standing.role is NodeRole.GATEWAY:
        said = datapath.topology.said()
        view["serving"] = said.name.lower().replace("_", "-")
        view["routers"] = len(set(datapath.topology.peers().values()))
        return view
    view["gateways"] = list(_gateways(datapath, status))
    return view


def _gateways(datapath: Datapath, status: Status | None) -> list[dict[str, Any]]:
    """Who they are, the agent has noted; how they are used, the maps say."""
    steering = datapath.topology.steering()
    clients = Counter(each.number for each in datapath.topology.affinities())
    shares = Counter(steering.table)
    numbers = {gateway.address: number for number, gateway in steering.gateways.items()}
    rows = []
    for noted in status.gateways if status else ():
        row = msgspec.to_builtins(noted)
        number = next((n for a, n in numbers.items() if str(a) == noted.address), None)
        if number is None:
            row |= {"state": "absent", "share": 0, "clients": 0}
        else:
            used = steering.gateways[number].state
            if noted.state not in _BETWEEN or used is not GatewayState.DEAD:
                row["state"] = used.name.lower()
            row |= {
                "share": round(shares[number] / len(steering.table), 3),
                "clients": clients[number],
            }
        rows.append(row)
    return rows


def _facts(view: dict[str, Any]) -> list[str]:
    return [
        f"{key} {view[key]}"
        for key in ("transport", "address", "serving", "routers")
        if key in view
    ]
