"""What commands say about nodes that steer to gateway nodes, and about gateway nodes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from nat64_operator.kubectl.agents import Report
from nat64_operator.kubectl.checks import Step, note, ok, stop
from nat64_operator.kubectl.output import Cell, Tone, yes_no

ROUTER_COLUMNS = ("ROUTER", "GATEWAY", "STEERS", "TRANSPORT", "GATEWAY NODES", "REASON")
HEALTHY = ("healthy", "draining")
"""States in which a gateway node takes the packets of clients that it has."""


def counts(report: Report, programmed: bool, reason: str) -> dict[str, Any]:
    """A router node, as `status -o json` prints it. `report` is what `nat64-translator topology`
    says there.
    """
    data = report.data or {}
    return {
        "node": report.agent.node,
        "gateway": report.agent.gateway,
        "programmed": programmed,
        "reason": report.error or reason,
        "transport": data.get("transport"),
        "gateways": [
            {key: row.get(key) for key in ("node", "state", "share", "why")}
            for row in data.get("gateways") or ()
        ],
    }


def row(router: dict[str, Any]) -> Sequence[str | Cell]:
    """The same for people."""
    found = router["gateways"]
    bad = [one for one in found if one["state"] not in HEALTHY]
    named = ", ".join(f"{one['node']} {one['state']}" for one in found[:3])
    named += f" and {len(found) - 3} more" if found[3:] else ""
    return (
        router["node"],
        router["gateway"],
        yes_no(router["programmed"]),
        router["transport"] or "-",
        Cell(named or "none", Tone.CAREFUL if bad or not found else Tone.PLAIN),
        router["reason"],
    )


def examine(report: Report) -> Iterator[Step]:
    """`doctor`, a node of either role."""
    if report.error:
        yield note("topology", f"not asked: {report.error}")
        return
    found = report.data
    if found["role"] == "Gateway":
        yield _serving(found)
    elif found["role"] == "Router":
        yield from _gateway_nodes(found.get("gateways") or ())


def _serving(found: dict[str, Any]) -> Step:
    said, routers = found.get("serving"), found.get("routers", 0)
    if said == "serving":
        return ok("topology", f"serves {routers} router nodes")
    if said == "draining":
        return note(
            "topology",
            f"draining: none of {routers} router nodes gives it new clients",
            "uncordon the node when it may take new clients again",
        )
    return stop(
        "topology",
        f"tells {routers} router nodes that it does not serve",
        "it needs a config and an IPv4 way out: see what is said about them here",
    )


def _gateway_nodes(found: Sequence[dict[str, Any]]) -> Iterator[Step]:
    good = [one["node"] for one in found if one["state"] in HEALTHY]
    if not found:
        yield stop(
            "topology",
            "no gateway node is known here: what pods send is dropped",
            "label nodes as spec.nodeSelector says, and see the NAT64Gateway's conditions",
        )
    elif not good:
        yield stop("topology", "no gateway node answers", _SILENT, _details(found))
    elif len(good) < len(found):
        text = f"{len(good)} of {len(found)} gateway nodes answer"
        yield note("topology", text, _SILENT, _details(found))
    else:
        yield ok("topology", f"all {len(found)} gateway nodes answer")


_SILENT = (
    "let UDP to spec.gateways.tunnelPort pass between the nodes (with the transport Direct: check "
    "that they are on one link, and that nothing checks source addresses), and look at the gateway "
    "nodes below"
)


def _details(found: Iterable[dict[str, Any]]) -> list[str]:
    return [
        f"{one['node']} at {one.get('address')}: {one['state']}" + (f", {why}" if why else "")
        for one in found
        if one["state"] not in HEALTHY
        for why in [one.get("why")]
    ]


def steered(found: dict[str, Any]) -> dict[str, Any] | None:
    """The destination of a trace that a router node gives to a gateway node."""
    return next((way for way in found["destinations"] if way.get("steered")), None)


def walk(node: str, way: dict[str, Any], there: Report | None) -> Iterator[Step]:
    """The steps of a trace from a router node to the gateway node. `there` is what the gateway node
    says about the same packet.
    """
    if not way.get("sourceAllowed", True):
        yield stop(
            "policy",
            "the pod's address is not in the NAT64Gateway's spec.policy.allowedSources",
            "add the pod's range there, or leave the list empty",
        )
        return
    chosen = way["gateway"]
    if chosen is None:
        yield stop(
            "steering",
            f"{node} has no gateway node to give the packet to: the pod gets `no route`",
            "`kubectl nat64 doctor` says which gateway nodes don't answer; one is needed that "
            "isn't cordoned",
        )
        return
    who = f"{chosen['node'] or 'a gateway node'} at {chosen['address']}"
    text = f"{node} gives the packet to {who}, which is {chosen['state']} ({chosen['why']})"
    if chosen["state"] not in HEALTHY:
        yield stop("steering", text, "`kubectl nat64 doctor` says why it doesn't answer")
        return
    yield ok("steering", text)
    yield _tunnel(node, chosen)
    if there is None:
        yield stop(
            "gateway node",
            f"{who} has no translator that can be asked",
            "its node may be gone, or you may not list pods there",
        )
    elif there.error:
        yield stop(
            "gateway node",
            f"the translator on {there.agent.node} can't be asked: {there.error}",
            "`kubectl nat64 doctor` and the pod's log say more",
        )


def _tunnel(node: str, chosen: dict[str, Any]) -> Step:
    route = chosen.get("route") or {}
    if route.get("error"):
        return stop(
            "tunnel",
            f"{node} has no route to {chosen['address']}: {route['error']}",
            "nodes must reach each other over IPv6",
        )
    by = f" by {route['interface']}" if route.get("interface") else ""
    via = f" via {route['gateway']}" if route.get("gateway") else ""
    return ok("tunnel", f"{node} reaches {chosen['address']}{by}{via}")


def way_back(node: str, way: dict[str, Any], interface: str) -> Iterator[Step]:
    """How the gateway node sends a reply; nothing where its agent doesn't say."""
    found = way.get("wayBack")
    if not found:
        return
    if found.get("error"):
        yield stop(
            "way back",
            f"{node} has no route back to the pod: {found['error']}",
            "the pod's range must be known: see PodRangesUnknown in docs/troubleshooting.md",
        )
    elif found["interface"] == interface:
        yield stop(
            "way back",
            f"{node} routes the reply to {interface} again",
            "the pod's address is under the gateway's prefix: give it another prefix",
        )
    else:
        yield ok("way back", f"{node} sends replies to the pod by {found['interface']}")
