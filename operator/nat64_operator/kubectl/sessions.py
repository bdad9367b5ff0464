"""`kubectl nat64 sessions` and `bib`: which pod holds which port, and its sessions. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from nat64_dataplane import pref64
from nat64_operator.errors import OperatorError
from nat64_operator.kubectl.agents import Report
from nat64_operator.kubectl.exec_output import Json
from nat64_operator.kubectl.output import Paint, table

SESSION_COLUMNS = (
    *("node", "pod", "protocol", "client", "address", "remote", "state", "age"),
    "expires",
)
BIB_COLUMNS = ("node", "pod", "protocol", "client", "address", "static", "age", "expires")


class DestinationError(OperatorError):
    """A destination is neither an IPv4 address or range nor an address under a gateway's prefix."""


def destination(text: str, prefixes: Iterable[IPv6Network]) -> IPv4Network:
    """Read a destination as a user writes it. Raises DestinationError."""
    try:
        return IPv4Network(text)
    except ValueError:
        pass
    try:
        address = IPv6Address(text)
    except ValueError:
        raise DestinationError(
            f"destination {text!r}: write an IPv4 address or range, as in 198.51.100.0/24, or an "
            "IPv6 address under a gateway's prefix"
        ) from None
    known = list(prefixes)
    for prefix in known:
        if address in prefix:
            return IPv4Network(pref64.extract(prefix, address))
    listed = ", ".join(map(str, known)) or "none"
    raise DestinationError(f"destination {address} is under no gateway's prefix: {listed}")


def split(endpoint: str) -> tuple[IPv4Address | IPv6Address, int]:
    """Address and port of `[2001:db8::1]:80` or `192.0.2.1:80`."""
    host, _, port = endpoint.rpartition(":")
    host = host.strip("[]")
    return (IPv6Address(host) if ":" in host else IPv4Address(host)), int(port)


def owners(pods: Iterable[Json]) -> dict[str, str]:
    """Pod addresses to NAMESPACE/NAME; those on the host network share the node's address."""
    found: dict[str, str] = {}
    for pod in pods:
        if pod["spec"].get("hostNetwork"):
            continue
        for entry in (pod.get("status") or {}).get("podIPs") or ():
            metadata = pod["metadata"]
            address = entry["ip"]
            if ":" in address:
                address = str(IPv6Address(address))
            found[address] = f"{metadata['namespace']}/{metadata['name']}"
    return found


def merge(reports: Iterable[Report], known: Mapping[str, str]) -> list[dict[str, Any]]:
    """The entries of all nodes, each with its node, gateway and pod."""
    rows = []
    for report in reports:
        for entry in report.data or ():
            address, _ = split(entry["client"])
            rows.append(
                {
                    "node": report.agent.node,
                    "gateway": report.agent.gateway,
                    "pod": known.get(str(address)),
                    **entry,
                }
            )
    return rows


def clients_with(remote: IPv4Network, reports: Iterable[Report]) -> set[tuple[str, str]]:
    """Protocol and client of every session to a range."""
    return {
        (session["protocol"], session["client"])
        for report in reports
        for session in report.data or ()
        if split(session["remote"])[0] in remote
    }


def render(rows: Iterable[Mapping[str, Any]], columns: Iterable[str], paint: Paint) -> str:
    """For people."""
    names = tuple(columns)
    lines = [[_text(row.get(name)) for name in names] for row in rows]
    return table([name.upper() for name in names], lines, paint)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)
