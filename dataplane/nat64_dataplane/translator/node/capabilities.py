"""Whether the translator can have its capabilities on this node (capabilities(7)).

A node may itself be a container, as with kind. Then its runtime limits the capabilities of every
process in it, privileged or not: Docker before 23 knows neither CAP_BPF nor CAP_PERFMON.
"""

from __future__ import annotations

from pathlib import Path

from nat64_dataplane.errors import HostError

NEEDED = {"CAP_NET_ADMIN": 12, "CAP_PERFMON": 38, "CAP_BPF": 39}
"""Name and number, as in linux/capability.h."""


def lacking(status: str) -> list[str]:
    """The needed capabilities that are not in the bounding set of a process.

    `status` is the text of its /proc/PID/status.
    """
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name == "CapBnd":
            bounding = int(value, 16)
            return [needed for needed, number in NEEDED.items() if not bounding >> number & 1]
    return []


def check(status: Path = Path("/proc/self/status")) -> None:
    """Refuse a node that can't give a translator what it needs. Raises HostError."""
    if names := lacking(status.read_text("ascii", "replace")):
        raise HostError(
            "NoCapability",
            f"no process on this node can have {' and '.join(names)}. Where the node is a "
            "container (kind), the engine must know them: Docker 23 or newer",
        )
