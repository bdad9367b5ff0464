"""Drift: whether an object is still as it was applied, and how to repair it.

The API server fills in defaults, so only the fields that we applied are compared. `managedFields`
distinguishes a field that somebody else added from a default: it names the manager of each field.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from kubernetes.utils.quantity import parse_quantity

from nat64_operator.api.meta import Object
from nat64_operator.reconcile.actions import Action, Apply, Delete, Replace
from nat64_operator.reconcile.world import get
from nat64_operator.render import names
from nat64_operator.render.manifest import Ref
from nat64_operator.settings import FIELD_MANAGER

# The parts of an object that are ours as a whole. Others may add labels and annotations.
_CONTENT = ("f:spec", "f:data", "f:binaryData")


def repair(wanted: dict[str, Any], live: Object | None, *, guarded: bool = False) -> list[Action]:
    """The actions that repair an object; none if it is as wanted. `guarded` ones fail if it has
    changed since it was observed.
    """
    if live is None:
        return [Apply(wanted)]
    if live.get("immutable") and live.get("data") != wanted.get("data"):
        return [Delete(Ref.of(live), live["metadata"]["uid"]), Apply(wanted)]
    if has_foreign_parts(wanted, live):
        return [Replace(wanted, live["metadata"]["resourceVersion"])]
    version = live["metadata"]["resourceVersion"] if guarded else ""
    return [Apply(wanted, version)] if differs(wanted, live) else []


def strip(obj: dict[str, Any]) -> None:
    """Remove the part of `managedFields` that `repair` does not need."""
    kept = [
        {"fieldsV1": {key: value for key, value in fields.items() if key in _CONTENT}}
        for entry in obj["metadata"].pop("managedFields", None) or ()
        if entry.get("manager") != FIELD_MANAGER and not entry.get("subresource")
        if (fields := entry.get("fieldsV1") or {}).keys() & set(_CONTENT)
    ]
    if kept:
        obj["metadata"]["managedFields"] = kept


def differs(wanted: Object, live: Object | None) -> bool:
    """Whether `wanted` has to be applied."""
    if live is None:
        return True
    annotation = ("metadata", "annotations", names.REVISION)
    return get(wanted, *annotation) != get(live, *annotation) or not covers(live, wanted)


def covers(live: Any, wanted: Any) -> bool:
    """Whether every field of `wanted` has the same value in `live`."""
    if isinstance(wanted, Mapping):
        if not isinstance(live, Mapping):
            return live is None and not wanted
        return all(covers(live.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return (live or []) == wanted or (
            isinstance(live, list)
            and len(live) == len(wanted)
            and all(covers(a, b) for a, b in zip(live, wanted, strict=True))
        )
    return (
        bool(live == wanted) or (wanted is False and live is None) or _same_quantity(live, wanted)
    )


# Maps whose meaning changes with every key: an added key removes nodes or endpoints.
_WHOLE = frozenset({"nodeSelector", "selector", "matchLabels", "nodeSelectorTerms", "tolerations"})


def has_foreign_parts(wanted: Object, live: Object | None) -> bool:
    """Whether someone else added a selector key, a container or a field. Server-side apply cannot
    remove what another manager owns.
    """
    if live is None:
        return False
    if any(_has_more(live.get(part), wanted.get(part)) for part in ("spec", "data")):
        return True
    return any(
        _declares_more(entry.get("fieldsV1") or {}, wanted)
        for entry in live["metadata"].get("managedFields") or ()
    )


def _has_more(live: Any, wanted: Any, key: str = "") -> bool:
    if isinstance(wanted, Mapping) and isinstance(live, Mapping):
        if key in _WHOLE and set(live) - set(wanted):
            return True
        inherited = key if key in _WHOLE else ""
        return any(_has_more(live.get(k), value, inherited or k) for k, value in wanted.items())
    if isinstance(wanted, list) and isinstance(live, list):
        if len(live) > len(wanted):
            return True
        return any(_has_more(a, b, key) for a, b in zip(live, wanted, strict=False))
    return False


def _declares_more(fields: Mapping[str, Any], wanted: Any) -> bool:
    """Whether a set of fields, in the form of `managedFields`, has one that is not in `wanted`."""
    for step, inner in fields.items():
        if step in (".", _ANNOTATIONS):
            continue
        child = _child(step, wanted)
        if child is None or (inner and _declares_more(inner, child)):
            return True
    return False


_ANNOTATIONS = "f:annotations"
"""Annotations of the pod template are left alone, so that `kubectl rollout restart` works."""


def _child(step: str, wanted: Any) -> Any:
    """The wanted value at one path element: a field, or a list item by its keys or its value."""
    kind, _, name = step.partition(":")
    if kind == "f":
        return wanted.get(name) if isinstance(wanted, Mapping) else None
    items = wanted if isinstance(wanted, list) else ()
    key = json.loads(name)
    if kind == "k":
        return next((i for i in items if all(i.get(k) == v for k, v in key.items())), None)
    return key if key in items else None


def _same_quantity(a: Any, b: Any) -> bool:
    """Whether two texts are one quantity, as `1000m` and `1` are."""
    if not isinstance(a, str | int | float) or not isinstance(b, str | int | float):
        return False
    try:
        return bool(parse_quantity(a) == parse_quantity(b))
    except ValueError:
        return False
