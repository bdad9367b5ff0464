"""Whether a pod's connection went like its node's own: values only, no network."""

from __future__ import annotations

import errno
from dataclasses import dataclass

ERRORS = {
    errno.ENETUNREACH: ("icmp 1 0", "icmp 1 3"),
    errno.EHOSTUNREACH: ("icmp 1 0", "icmp 1 3"),
    errno.EACCES: ("icmp 1 1",),
    errno.EINVAL: ("",),  # blackhole: there is no error
}
"""What a pod hears if its node's `connect` fails like this (RFC 7915 section 4.2 of what the kernel
says about a forwarded packet); empty: nothing."""


NO_SOURCE = "0.0.0.0"


@dataclass(frozen=True)
class Probe:
    """One destination, with the packets marked or not."""

    destination: str
    marked: bool = False


@dataclass(frozen=True)
class Way:
    """How a connection left the node."""

    link: str
    next_hop: str
    source: str


@dataclass(frozen=True)
class Outcome:
    """The outcome of one connection: its way out, if it left, and what the opener heard.

    `heard` is `connected`, an errno's name (node), `icmp TYPE CODE` (pod), or empty.
    """

    way: Way | None = None
    heard: str = ""


@dataclass(frozen=True)
class Compared:
    """One probe: the node's connections (several where it has a choice) and the pod's."""

    probe: Probe
    node: tuple[Outcome, ...]
    pod: tuple[Outcome, ...]


@dataclass(frozen=True)
class Report:
    """One set-up. `refusal` is why the translator isn't programmed; empty if it is."""

    refusal: str
    compared: tuple[Compared, ...]


def differences(report: Report) -> list[str]:
    """The difference between a pod's and its node's outcome; empty if the two agree."""
    found = []
    for each in report.compared:
        allowed = {way for outcome in each.node if (way := outcome.way)}
        for outcome in each.pod:
            if not _agrees(outcome, each.node, allowed, report.refusal):
                line = f"{each.probe}: node {_texts(each.node)}, pod {_text(outcome)}"
                if line not in found:
                    found.append(line)
    if found and report.refusal:
        found.append(f"the translator is not programmed: {report.refusal}")
    return found


def _agrees(pod: Outcome, node: tuple[Outcome, ...], allowed: set[Way], refusal: str) -> bool:
    if any(way.source == NO_SOURCE for way in allowed):
        return True  # the kernel has no address for that way: the node's own packets are lost
    if pod.way:
        connected = any(outcome.heard == "connected" for outcome in node)
        return pod.way in allowed and (pod.heard == "connected" or not connected)
    if allowed:
        return False
    if refusal:
        return True  # neither has a way out
    return any(
        pod.heard in ERRORS[number]
        for outcome in node
        for number in ERRORS
        if errno.errorcode[number] == outcome.heard
    )


def _texts(outcomes: tuple[Outcome, ...]) -> str:
    return " or ".join(sorted({_text(outcome) for outcome in outcomes}))


def _text(outcome: Outcome) -> str:
    way = outcome.way
    out = f"{way.source} by {way.link} to {way.next_hop or 'it'}" if way else "stays"
    return f"[{out}, hears {outcome.heard or 'nothing'}]"
