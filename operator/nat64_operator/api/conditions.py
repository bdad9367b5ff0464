"""Conditions by the Kubernetes conventions: one per type, with the time of its last transition."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

ACCEPTED, PROGRAMMED, READY = "Accepted", "Programmed", "Ready"
ROUTERS_PROGRAMMED = "RoutersProgrammed"
"""What Programmed says, of nodes that steer to those that translate."""
DEGRADED = "Degraded"
"""True if something will fail later although all is ready. Others are good if True."""


class Condition(NamedTuple):
    """One statement about an object. `status` None is Unknown."""

    type: str
    status: bool | None
    reason: str
    message: str


def merge(
    before: Iterable[dict[str, Any]], now: Iterable[Condition], generation: int, time: str
) -> list[dict[str, Any]]:
    """Write `now`, keeping the transition time of each condition whose status is the same."""
    known = {c["type"]: c for c in before}
    merged = []
    for condition in now:
        status = {True: "True", False: "False", None: "Unknown"}[condition.status]
        old = known.get(condition.type)
        same = old is not None and old["status"] == status
        merged.append(
            {
                "type": condition.type,
                "status": status,
                "observedGeneration": generation,
                "lastTransitionTime": old["lastTransitionTime"] if old and same else time,
                "reason": condition.reason,
                "message": condition.message[:32768],
            }
        )
    return merged
