"""Kubernetes' quantities: `250m`, `64Mi`."""

from __future__ import annotations

import math
import re
from decimal import Decimal

_QUANTITY = re.compile(r"^([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$")
_SCALE: dict[str | None, Decimal] = {
    None: Decimal(1),
    "m": Decimal("0.001"),
    **{unit: Decimal(1000) ** i for i, unit in enumerate("kMGTPE", 1)},
    **{f"{unit}i": Decimal(1024) ** i for i, unit in enumerate("KMGTPE", 1)},
}
_MEBI = 1024 * 1024


def parse(text: object) -> Decimal | None:
    """Read one; None where it isn't one."""
    found = _QUANTITY.match(str(text))
    return Decimal(found[1]) * _SCALE[found[2]] if found else None


def plus(text: str, size: int) -> str:
    """A quantity of memory and so many bytes more, in whole Mi. What isn't one stays as it is."""
    value = parse(text)
    return text if value is None else f"{math.ceil((int(value) + size) / _MEBI)}Mi"
