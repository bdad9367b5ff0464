"""`kubectl nat64 test --disruption`: what happened to flows that were kept open. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nat64_operator.kubectl.checks import Step, note, ok, stop
from nat64_operator.kubectl.doctor import Section
from nat64_operator.kubectl.exec_output import Json

SILENCE = 30.0
"""Seconds without an answer after which a flow counts as broken; TCP itself waits longer."""
PERIOD = 1.0
REPORT_PATH = "/tmp/flows.json"  # noqa: S108 - in the pod


def flows(host: str, port: int, number: int, tls: bool) -> dict[str, Any]:
    """The input of a pod's `flows`."""
    return {
        "host": host,
        "port": port,
        "tls": tls,
        "flows": number,
        "silence": SILENCE,
        "period": PERIOD,
    }


def established(report: Json) -> bool:
    """Whether every flow has been answered."""
    return all(flow["answers"] for flow in report["flows"])


def settled(report: Json, since: float) -> bool:
    """Whether every flow was answered, or broke, after a moment of the pod's clock."""
    return all(
        (flow["last"] or 0) > since or any(b["at"] > since for b in flow["broken"])
        for flow in report["flows"]
    )


def summary(before: Mapping[str, Json], after: Mapping[str, Json]) -> dict[str, Any]:
    """What happened between two reports of each node, in plain values."""
    nodes = [_node(node, before[node], after[node]) for node in sorted(after)]
    return {
        "flows": sum(node["flows"] for node in nodes),
        "brokenFlows": sum(len(node["broken"]) for node in nodes),
        "closedByServer": sum(node["closedByServer"] for node in nodes),
        "requests": sum(node["requests"] for node in nodes),
        "newConnections": sum(node["newConnections"] for node in nodes),
        "failedConnections": sum(len(node["failed"]) for node in nodes),
        "nodes": nodes,
    }


def _node(name: str, before: Json, after: Json) -> dict[str, Any]:
    pairs = list(zip(before["flows"], after["flows"], strict=True))
    failed = after["opened"]["failed"][len(before["opened"]["failed"]) :]
    return {
        "node": name,
        "flows": len(pairs),
        "requests": sum(b["answers"] - a["answers"] for a, b in pairs),
        "closedByServer": sum(b["closed"] - a["closed"] for a, b in pairs),
        "broken": [
            _later(entry, before) for a, b in pairs for entry in b["broken"][len(a["broken"]) :]
        ],
        "newConnections": after["opened"]["ok"] - before["opened"]["ok"],
        "failed": [_later(entry, before) for entry in failed],
    }


def _later(entry: Json, before: Json) -> dict[str, Any]:
    return {"second": round(entry["at"] - before["now"]), "why": entry["why"]}


def sections(found: Mapping[str, Any]) -> list[Section]:
    """For people."""
    return [Section(f"node {node['node']}", list(_steps(node))) for node in found["nodes"]]


def _steps(node: Mapping[str, Any]) -> Iterable[Step]:
    kept = f"{node['requests']} requests on {_count(node['flows'], 'open connection')}"
    if node["broken"]:
        yield stop(
            "flows",
            f"{kept}; {len(node['broken'])} broke",
            "`kubectl nat64 doctor`, and the translator's log from that time",
            _listed(node["broken"]),
        )
    elif node["closedByServer"] * 2 >= max(node["requests"], 1):
        yield stop(
            "flows",
            f"{kept}; the server ended {node['closedByServer']} of them: nothing was kept open",
            "name a server that keeps HTTP connections open (keep-alive): --target HOST:PORT",
        )
    elif not node["requests"]:
        yield stop("flows", "no request was answered", "run the test without --disruption first")
    else:
        yield ok("flows", f"{kept}; none broke")
        if node["closedByServer"]:
            yield note(
                "flows",
                f"the server closed {_count(node['closedByServer'], 'connection')} normally: "
                "those were opened again",
            )
    opened = _count(node["newConnections"], "new connection")
    if node["failed"]:
        yield stop(
            "new",
            f"{opened}; {len(node['failed'])} more failed",
            "if names did not resolve, look at the DNS64 sidecars' rollout",
            _listed(node["failed"]),
        )
    else:
        yield ok("new", f"{opened}, each with its name resolved; none failed")


def _listed(entries: list[dict[str, Any]]) -> list[str]:
    lines = [f"after {entry['second']} s: {entry['why']}" for entry in entries[:5]]
    return [*lines, f"and {len(entries) - 5} more"] if len(entries) > 5 else lines


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")
