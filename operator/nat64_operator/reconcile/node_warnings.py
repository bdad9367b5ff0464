"""The warnings of a gateway's nodes although they translate, as the condition `Degraded`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from nat64_operator.api.conditions import DEGRADED, Condition

_NAMED = 5
_SHOWN = 4


class NodeWarning(NamedTuple):
    """One warning of one node's agent."""

    reason: str
    message: str
    remedy: str


class Asked(NamedTuple):
    """The answers of a gateway's nodes."""

    warnings: Mapping[str, tuple[NodeWarning, ...]] = {}
    """Of every node that answered."""
    silent: tuple[str, ...] = ()
    """The nodes that did not answer."""


def condition(asked: Asked, more: Iterable[NodeWarning] = ()) -> Condition:
    """True where any node warns. `more`: warnings about the gateway as a whole."""
    by_reason: dict[str, list[str]] = {}
    words: dict[str, NodeWarning] = {}
    for node, found in sorted(asked.warnings.items()):
        for warning in found:
            by_reason.setdefault(warning.reason, []).append(node)
            words.setdefault(warning.reason, warning)
    parts = [f"{w.reason}: {w.message}; {w.remedy}" for w in more]
    reasons = [w.reason for w in more] + sorted(by_reason)
    for reason in sorted(by_reason):
        warning = words[reason]
        nodes = some(by_reason[reason], _NAMED)
        parts.append(f"{reason} on {nodes}: {warning.message}; {warning.remedy}")
    if rest := len(parts) - _SHOWN:
        parts = parts[:_SHOWN] + ([f"and {rest} more reasons"] if rest > 0 else [])
    unasked = f"not answered by {some(asked.silent, _NAMED)}" if asked.silent else ""
    if not reasons:
        said = f"{len(asked.warnings)} nodes were asked, and none has a warning"
        return Condition(DEGRADED, False, "NoWarnings", "; ".join(filter(None, (said, unasked))))
    reason = reasons[0] if len(reasons) == 1 else "SeveralWarnings"
    return Condition(DEGRADED, True, reason, ". ".join(filter(None, (*parts, unasked))))


def some(items: Iterable[str], most: int) -> str:
    """The first of some names, and how many more there are."""
    every = list(items)
    shown = ", ".join(every[:most])
    return shown + (f" and {len(every) - most} more" if every[most:] else "")
