"""The node's IPv4 policy rules: what of them the kernel's look-up for a packet can follow.

The look-up is made for a packet that comes in on the translator's link (`bpf_fib_lookup`). Rules by
source, destination, protocol, port and DSCP are followed; by mark too, from Linux 6.10. Rules about
what the node itself sends (`iif lo`, `uidrange`) can't be.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Any, NamedTuple

from pyroute2 import IPRoute

_INVERT = 0x2  # FIB_RULE_INVERT
_ALL_BITS = 0xFFFFFFFF
LOOPBACK = "lo"
MOST_MARKS = 4
"""MAX_MARKS of dataplane/bpf/abi_config.h."""


class Rule(NamedTuple):
    """One rule."""

    priority: int
    table: int
    """0 where it looks up none."""
    mark: tuple[int, int] | None = None
    """Value and mask."""
    iif: str = ""
    uids: bool = False
    """Whether it asks for the owner of a socket."""
    inverted: bool = False


def read(ipr: IPRoute) -> tuple[Rule, ...]:
    """All IPv4 rules, in the kernel's order."""
    return tuple(map(_rule, ipr.rule("dump", family=socket.AF_INET)))


def _rule(message: Any) -> Rule:
    value, mask = message.get("FRA_FWMARK"), message.get("FRA_FWMASK")
    marked = value is not None or mask is not None
    return Rule(
        priority=message.get("FRA_PRIORITY") or 0,
        table=message.get("FRA_TABLE") or message["table"],
        mark=(value or 0, _ALL_BITS if mask is None else mask) if marked else None,
        iif=message.get("FRA_IIFNAME") or "",
        uids=message.get("FRA_UID_RANGE") is not None,
        inverted=bool(message["flags"] & _INVERT),
    )


def marks(rules: Iterable[Rule]) -> tuple[tuple[int, int], ...]:
    """Value and mask of each mark that a rule asks for."""
    return tuple(sorted({rule.mark for rule in rules if rule.mark and rule.mark[1]}))


def not_followed(rules: Iterable[Rule]) -> list[str]:
    """Which rules hold for what the node sends and not for its pods, or the other way round.

    Not those by mark before Linux 6.10: what carries such a mark takes the kernel's path then.
    """
    found = []
    rules = tuple(rules)
    too_many = marks(rules)[MOST_MARKS:]
    for rule in rules:
        if rule.mark in too_many and rule.mark:
            found.append(f"rule {rule.priority}: fwmark {rule.mark[0]:#x}/{rule.mark[1]:#x}")
        if rule.iif == LOOPBACK:
            found.append(f"rule {rule.priority}: {'not ' * rule.inverted}iif lo")
        elif rule.uids:
            found.append(f"rule {rule.priority}: uidrange")
    return found
