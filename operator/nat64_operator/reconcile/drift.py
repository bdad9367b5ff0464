"""Whether an object is as it was applied. The API server fills in defaults, so what we asked for
is compared with what is there, field by field, and what others added beside it is theirs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from nat64_operator.api.meta import Object
from nat64_operator.reconcile.world import get
from nat64_operator.render import names

_QUANTITY = re.compile(r"^([0-9.]+)(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$")
_SCALE: dict[str | None, Decimal] = {
    None: Decimal(1),
    "m": Decimal("0.001"),
    **{unit: Decimal(1000) ** i for i, unit in enumerate("kMGTPE", 1)},
    **{f"{unit}i": Decimal(1024) ** i for i, unit in enumerate("KMGTPE", 1)},
}


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


def _same_quantity(a: Any, b: Any) -> bool:
    found = [_QUANTITY.match(str(value)) for value in (a, b)]
    if not all(found):
        return False
    one, other = (Decimal(m[1]) * _SCALE[m[2]] for m in found if m)
    return one == other
