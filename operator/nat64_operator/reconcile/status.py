"""Statuses: they are written only when they change, with an Event for each new reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from nat64_operator.api.conditions import ACCEPTED, DEGRADED, Condition, merge
from nat64_operator.api.meta import Resource
from nat64_operator.reconcile.actions import Action, Emit, SetStatus
from nat64_operator.reconcile.world import World
from nat64_operator.render.manifest import Ref


def write(
    resource: Resource,
    conditions: Sequence[Condition],
    fields: Mapping[str, Any],
    world: World,
) -> list[Action]:
    """The actions that update a status; none where it is up to date."""
    subject, meta, before = Ref(resource.kind, resource.name), resource.meta, resource.status
    if refused := world.refused.get(subject):
        conditions = [_refused(condition, refused) for condition in conditions]
    ours = {condition.type for condition in conditions}
    # Conditions of other types belong to other writers. Server-side apply leaves them alone.
    known = [c for c in before.get("conditions") or () if c["type"] in ours]
    after = {
        "observedGeneration": meta.generation,
        **fields,
        "conditions": merge(known, conditions, meta.generation, timestamp(world.now)),
    }
    if after == {**before, "conditions": known}:
        return []
    actions: list[Action] = [SetStatus(subject, after)]
    said = {c["type"]: (c["status"], c["reason"]) for c in known}
    for condition, written in zip(conditions, after["conditions"], strict=True):
        news = said.get(condition.type) != (written["status"], written["reason"])
        if news and not _goes_without_saying(condition, said):
            actions.append(
                Emit(
                    subject,
                    meta.uid,
                    warning=_is_bad(condition),
                    reason=condition.reason,
                    message=f"{condition.type} is {written['status']}: {condition.message}"[:1024],
                )
            )
    return _without_repeats(actions)


def said(status: Mapping[str, Any], type_: str) -> str:
    """The value of a condition in a stored status: True, False or Unknown; empty for none."""
    found = (c["status"] for c in status.get("conditions") or () if c["type"] == type_)
    return next(found, "")


def _refused(condition: Condition, said: str) -> Condition:
    """A condition of an accepted object that cannot be carried out. `Accepted` stays as it is."""
    if condition.type in (ACCEPTED, DEGRADED):
        return condition
    why = f"the API server refuses a change that this needs: {said}"
    return Condition(condition.type, False, "ApplyFailed", why)


def timestamp(now: float) -> str:
    """A time as Kubernetes writes it."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def now_text() -> str:
    """The present, as Kubernetes writes it."""
    return timestamp(datetime.now(UTC).timestamp())


# Reasons of a change in progress: their Events are Normal, not Warning.
_UNDER_WAY = frozenset(
    {
        "RollingOut",
        "Writing",
        "AskingSidecars",
        "Confirming",
        "Restoring",
        "Moving",
        "Deleting",
        "SidecarsNotReady",
    }
)


def _goes_without_saying(condition: Condition, said: Mapping[str, Any]) -> bool:
    """Whether a condition is reported for the first time, and nothing is wrong."""
    return condition.type == DEGRADED and not condition.status and DEGRADED not in said


def _is_bad(condition: Condition) -> bool:
    if condition.type == DEGRADED:
        return bool(condition.status)
    return condition.status is False and condition.reason not in _UNDER_WAY


def _without_repeats(actions: list[Action]) -> list[Action]:
    """Keep one Event where several conditions have the same reason."""
    seen: set[str] = set()
    kept: list[Action] = []
    for action in actions:
        if isinstance(action, Emit):
            if action.reason in seen:
                continue
            seen.add(action.reason)
        kept.append(action)
    return kept
