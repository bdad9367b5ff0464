"""Whether an object is as it was applied. The API server fills in defaults, so what we asked for
is compared with what is there, field by field, and what others added beside it is theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nat64_operator.api.meta import Object
from nat64_operator.reconcile.world import get
from nat64_operator.render import names, quantity


def differs(wanted: Object, live: Object | None) -> bool:
    """Whether `wanted` has to be applied."""
    if live is None:
        return True
    annotation = ("metadata", "annotations", names.REVISION)
    return get(wanted, *annotation) != get(live, *annotation) or not covers(live, wanted)


def covers(live: Any, wanted: Any) -> bool:
    """Whether everything in `wanted` is so in `live`."""
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


# Maps that mean something as a whole: a key that someone adds takes nodes or endpoints away.
_WHOLE = frozenset({"nodeSelector", "selector", "matchLabels"})


def has_foreign_parts(wanted: Object, live: Object | None) -> bool:
    """Whether someone added what server-side apply can't take away, as it isn't ours: a key of a
    selector, a container, a volume.
    """
    return live is not None and _has_more(live.get("spec"), wanted.get("spec"))


def _has_more(live: Any, wanted: Any, key: str = "") -> bool:
    if isinstance(wanted, Mapping) and isinstance(live, Mapping):
        if key in _WHOLE and set(live) - set(wanted):
            return True
        return any(_has_more(live.get(name), value, name) for name, value in wanted.items())
    if isinstance(wanted, list) and isinstance(live, list):
        if len(live) > len(wanted):
            return True
        return any(_has_more(a, b) for a, b in zip(live, wanted, strict=False))
    return False


def _same_quantity(a: Any, b: Any) -> bool:
    one = quantity.parse(a)
    return one is not None and one == quantity.parse(b)
