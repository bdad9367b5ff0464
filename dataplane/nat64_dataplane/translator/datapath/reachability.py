"""Which IPv4 destinations may be reached, as ranges whose longest match is the answer. Pure.

A trie knows only the longest match, but the rules have an order: what the config denies stays
denied; special addresses are allowed one range at a time; all other defaults give way to any
allowed range. So this module computes the answer of each range from all rules that cover it.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

from nat64_dataplane import pref64
from nat64_dataplane.config import Policy
from nat64_dataplane.special_purpose import (
    FORWARDED_NOT_GLOBAL,
    GLOBAL_EXCEPTIONS,
    NEVER_FORWARDED,
)
from nat64_dataplane.translator.datapath.abi import Verdict

_LAST_ADDRESS = 0xFFFFFFFF


# The kinds of rules that may name a range, as plain bits: an IntFlag takes ten times as long.
_DENIED, _ALLOWED, _SPECIAL, _LOCAL, _NOT_GLOBAL, _GLOBAL = (1 << n for n in range(6))


class _Holders(NamedTuple):
    """All rules whose ranges hold one range, with the length of the longest prefix of some kinds.

    Ranges that hold the same range lie within each other, the longer prefix in the shorter.
    """

    rules: int = 0
    allowed: int = -1
    special: int = -1
    local: int = -1

    def and_of(self, rules: int, length: int) -> _Holders:
        """These, and the rules that name a range of prefix length `length` within all of them."""
        return _Holders(
            self.rules | rules,
            length if rules & _ALLOWED else self.allowed,
            length if rules & _SPECIAL else self.special,
            length if rules & _LOCAL else self.local,
        )

    @property
    def verdict(self) -> Verdict:
        """Who wins."""
        if self.rules & _DENIED:
            return Verdict.DENIED
        # An allowed range lifts these where it lies within them, not where they lie within it.
        if self.special > self.allowed:
            return Verdict.SPECIAL
        if self.local > self.allowed:
            return Verdict.LOCAL
        if self.rules & (_ALLOWED | _GLOBAL):
            return Verdict.ALLOWED
        return Verdict.NOT_GLOBAL if self.rules & _NOT_GLOBAL else Verdict.ALLOWED


def destinations(
    policy: Policy, prefix: IPv6Network, local: Iterable[IPv4Network]
) -> dict[IPv4Network, Verdict]:
    """Return the answer for every range that any rule names; what none holds is allowed.

    Takes n log n steps: a node may have 10,000 addresses of its own.
    """
    named: dict[tuple[int, int], int] = {}

    def name(networks: Iterable[IPv4Network], rule: int) -> None:
        for net in networks:
            key = int(net.network_address), net.prefixlen
            named[key] = named.get(key, 0) | rule

    name(NEVER_FORWARDED, _SPECIAL)
    name(local, _LOCAL)
    name(policy.allowed_destinations, _ALLOWED)
    name(policy.denied_destinations, _DENIED)
    if prefix == pref64.WELL_KNOWN and not policy.allow_non_global:
        name(FORWARDED_NOT_GLOBAL, _NOT_GLOBAL)
        name(GLOBAL_EXCEPTIONS, _GLOBAL)

    found: dict[IPv4Network, Verdict] = {}
    around: list[tuple[int, _Holders]] = [(_LAST_ADDRESS, _Holders())]
    # In this order a range comes after those that hold it: they are the ones that still go on.
    for (first, length), rules in sorted(named.items()):
        while around[-1][0] < first:
            around.pop()
        holders = around[-1][1].and_of(rules, length)
        around.append((first | _LAST_ADDRESS >> length, holders))
        found[IPv4Network((first, length))] = holders.verdict
    return found
