"""The result of a question that got no usable reply."""

from __future__ import annotations

from typing import NamedTuple

from nat64_dataplane.dns64.message import wire


class Failed(NamedTuple):
    """No usable reply came: after every upstream and every try."""

    reason: str
    rcode: int = wire.SERVFAIL
    final: bool = False
    """Whether asking another question instead can't help."""
