"""How much memory a translator may use, which depends on the sessions that it may hold."""

from __future__ import annotations

import math
from typing import Any

from kubernetes.utils.quantity import parse_quantity

# The kernel charges the memory of a map to the container that creates it: a part for each session
# that is allowed, and a part for each that exists. docs/dataplane.md says how both were measured.
BYTES_PER_SESSION_ALLOWED = 48
BYTES_PER_SESSION = 352
MEBI = 1024 * 1024


def translator_resources(resources: dict[str, Any], sessions: int) -> dict[str, Any]:
    """The translator's resources plus the memory of its sessions: a limit without it would refuse
    connections long before `limits.sessions` does.
    """
    most = sessions * (BYTES_PER_SESSION_ALLOWED + BYTES_PER_SESSION)
    extra = {"requests": sessions * BYTES_PER_SESSION_ALLOWED, "limits": most}
    made = {kind: dict(values) for kind, values in resources.items()}
    for kind, size in extra.items():
        if "memory" in made.get(kind, {}):
            made[kind]["memory"] = add_memory(str(made[kind]["memory"]), size)
    return made


def add_memory(text: str, size: int) -> str:
    """A quantity of memory plus `size` bytes, in whole Mi. A text that is no quantity stays as it
    is.
    """
    try:
        value = parse_quantity(text)
    except ValueError:
        return text
    return f"{math.ceil((value + size) / MEBI)}Mi" if value.is_finite() else text
