"""`kubectl nat64 status`: gateways, policies, nodes, and dropped packets. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from nat64_operator.kubectl import clat, topology
from nat64_operator.kubectl.agents import Report
from nat64_operator.kubectl.exec_output import Json
from nat64_operator.kubectl.output import Cell, Paint, Tone, table, yes_no

FULL_PERCENT = 80
"""From this usage on, a pool or a table needs attention."""


def build(
    gateways: Iterable[Json],
    policies: Iterable[Json],
    reports: Iterable[Report],
    clats: Iterable[Report] = (),
    standings: Iterable[Report] = (),
) -> dict[str, Any]:
    """All of it in plain values, as `-o json` prints it. `standings`: how nodes stand to those of
    the other role.
    """
    nodes = [node(report) for report in reports]
    said = {(entry["node"], entry["gateway"]): entry for entry in nodes}
    routers = []
    for report in standings:
        if report.agent.router:
            mine = said.get((report.agent.node, report.agent.gateway), {})
            well, reason = bool(mine.get("programmed")), mine.get("reason", "")
            routers.append(topology.counts(report, well, reason))
    drops: Counter[str] = Counter()
    meanings: dict[str, str] = {}
    for entry in nodes:
        for drop in entry["drops"]:
            drops[drop["reason"]] += drop["packets"]
            meanings[drop["reason"]] = drop["meaning"]
    return {
        "gateways": [resource(obj) for obj in gateways],
        "policies": [resource(obj) for obj in policies],
        "nodes": nodes,
        "routers": routers,
        "clat": [clat.counts(report) for report in clats],
        "drops": [
            {"reason": reason, "packets": packets, "meaning": meanings[reason]}
            for reason, packets in drops.most_common()
        ],
    }


def is_well(status: dict[str, Any]) -> bool:
    """Whether everything is ready and every node translates."""
    everything = [*status["gateways"], *status["policies"]]
    return (
        bool(status["gateways"])
        and all(one["ready"] for one in everything)
        and all(entry["programmed"] for entry in status["nodes"])
        and all(entry["ready"] and not entry["failed"] for entry in status["clat"])
    )


def resource(obj: Json) -> dict[str, Any]:
    """A gateway or a policy."""
    state = obj.get("status") or {}
    ready = condition(obj, "Ready")
    return {
        "name": obj["metadata"]["name"],
        "ready": ready.get("status") == "True",
        "reason": ready.get("reason", "NotSeen"),
        "message": ready.get("message", "the operator has not looked at it yet"),
        "prefix": state.get("prefix"),
        "nodes": (state.get("nodes") or {}).get("summary"),
        "routers": (state.get("routers") or {}).get("summary"),
        "draining": (state.get("gateways") or {}).get("draining") or [],
    }


def condition(obj: Json, kind: str) -> Json:
    """A condition of an object; empty if it has none of that type."""
    for found in (obj.get("status") or {}).get("conditions") or ():
        if found["type"] == kind:
            one: Json = found
            return one
    return {}


def node(report: Report) -> dict[str, Any]:
    """A node's translator."""
    data = report.data[0] if report.data else {}
    pools = data.get("pools") or []
    used, available = fullest(pools)
    return {
        "node": report.agent.node,
        "gateway": report.agent.gateway,
        "role": "Router" if report.agent.router else "Gateway",
        "programmed": bool(data.get("programmed")),
        "reason": report.error or data.get("reason") or "",
        "sessions": data.get("sessions"),
        "sessionLimit": data.get("sessionLimit"),
        "portsUsed": used if pools else None,
        "ports": available if pools else None,
        "pools": pools,
        "drops": data.get("drops") or [],
        "advertised": data.get("advertised") or [],
        "warnings": data.get("warnings") or [],
    }


def fullest(pools: Iterable[Json]) -> tuple[int, int]:
    """Ports used and available of the protocol that has the least left, over all addresses."""
    used: Counter[str] = Counter()
    available: Counter[str] = Counter()
    for pool in pools:
        used[pool["protocol"]] += pool["used"]
        available[pool["protocol"]] += pool["available"]
    if not available:
        return 0, 0
    protocol = max(available, key=lambda name: used[name] / max(available[name], 1))
    return used[protocol], available[protocol]


def render(status: dict[str, Any], paint: Paint) -> str:
    """For people."""
    parts = []
    for title, key in (("GATEWAY", "gateways"), ("POLICY", "policies")):
        rows = [
            (
                *(one["name"], yes_no(one["ready"]), one["prefix"] or "-", _nodes(one)),
                one["message"],
            )
            for one in status[key]
        ]
        columns = (title, "READY", "PREFIX", "NODES", "MESSAGE")
        parts.append(table(columns, rows, paint) if rows else f"no {key}")
    if translating := [one for one in status["nodes"] if one["role"] != "Router"]:
        titles = ("NODE", "GATEWAY", "PROGRAMMED", "SESSIONS", "PORTS", "DROPPED", "REASON")
        parts.append(table(titles, map(_node_row, translating), paint))
    if status["routers"]:
        steering = map(topology.row, status["routers"])
        parts.append(table(topology.ROUTER_COLUMNS, steering, paint))
    if draining := [one for one in status["gateways"] if one["draining"]]:
        drains = [(one["name"], ", ".join(one["draining"])) for one in draining]
        parts.append(table(("GATEWAY", "DRAINING"), drains, paint))
    if status["clat"]:
        parts.append(table(clat.COLUMNS, map(clat.row, status["clat"]), paint))
    if advertising := [entry for entry in status["nodes"] if entry["advertised"]]:
        links = [
            (entry["node"], entry["gateway"], ", ".join(entry["advertised"]))
            for entry in advertising
        ]
        parts.append(table(("NODE", "GATEWAY", "ADVERTISED ON"), links, paint))
    if warnings := list(_warning_rows(status["nodes"])):
        parts.append(table(("WARNING", "NODES", "MESSAGE", "DO"), warnings, paint))
    if status["drops"]:
        drops = [(d["reason"], str(d["packets"]), d["meaning"]) for d in status["drops"]]
        parts.append(table(("DROPPED FOR", "PACKETS", "MEANING"), drops, paint))
    return "\n\n".join(parts)


def _nodes(one: dict[str, Any]) -> str:
    """How many of a gateway's nodes are ready, of each role."""
    return " + ".join(filter(None, (one["nodes"], one["routers"]))) or "-"


def _warning_rows(nodes: Iterable[dict[str, Any]]) -> Iterator[Sequence[str | Cell]]:
    """One row per reason, with its nodes and the message of the first."""
    found: dict[str, tuple[Json, list[str]]] = {}
    for entry in nodes:
        for warning in entry["warnings"]:
            _, having = found.setdefault(warning["reason"], (warning, []))
            having.append(entry["node"])
    for reason, (warning, having) in found.items():
        shown = ", ".join(having[:3]) + (f" and {len(having) - 3} more" if having[3:] else "")
        yield Cell(reason, Tone.CAREFUL), shown, warning["message"], warning["remedy"]


def _node_row(entry: dict[str, Any]) -> Sequence[str | Cell]:
    return (
        entry["node"],
        entry["gateway"],
        yes_no(entry["programmed"]),
        _part(entry["sessions"], entry["sessionLimit"]),
        _part(entry["portsUsed"], entry["ports"]),
        str(sum(drop["packets"] for drop in entry["drops"])),
        entry["reason"],
    )


def _part(used: int | None, of: int | None) -> Cell:
    if used is None or not of:
        return Cell("-")
    full = used * 100 >= of * FULL_PERCENT
    return Cell(f"{used}/{of}", Tone.CAREFUL if full else Tone.PLAIN)
