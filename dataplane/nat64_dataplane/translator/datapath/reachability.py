"""Which IPv4 destinations may be reached, as ranges whose longest match is the answer. Pure.

A trie knows only the longest match, while the rules have an order: what the config denies is
denied; what no NAT64 should reach is lifted one range at a time; the rest of the defaults yields
to anything that is allowed. So each range's answer is worked out here, from all that hold it.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Network

from nat64_dataplane import pref64
from nat64_dataplane.config import Policy
from nat64_dataplane.special_purpose import (
    FORWARDED_NOT_GLOBAL,
    GLOBAL_EXCEPTIONS,
    NEVER_FORWARDED,
)
from nat64_dataplane.translator.datapath.abi import Verdict


def destinations(
    policy: Policy, prefix: IPv6Network, local: Iterable[IPv4Address]
) -> dict[IPv4Network, Verdict]:
    """Return the answer for every range that any rule names; what none holds is allowed."""
    own = {IPv4Network(address) for address in local}
    global_only = prefix == pref64.WELL_KNOWN and not policy.allow_non_global
    not_global = FORWARDED_NOT_GLOBAL if global_only else ()
    never = [(net, Verdict.SPECIAL) for net in NEVER_FORWARDED] + [
        (net, Verdict.LOCAL) for net in sorted(own)
    ]
    allowed = policy.allowed_destinations
    denied = policy.denied_destinations

    def answer(net: IPv4Network) -> Verdict:
        if any(_holds(other, net) for other in denied):
            return Verdict.DENIED
        lifts = [other for other in allowed if _holds(other, net)]
        for other, verdict in never:
            if _holds(other, net) and not any(_holds(other, lift) for lift in lifts):
                return verdict
        if lifts or any(_holds(other, net) for other in GLOBAL_EXCEPTIONS):
            return Verdict.ALLOWED
        if any(_holds(other, net) for other in not_global):
            return Verdict.NOT_GLOBAL
        return Verdict.ALLOWED

    named = {*NEVER_FORWARDED, *own, *allowed, *denied, *not_global}
    if not_global:
        named.update(GLOBAL_EXCEPTIONS)
    return {net: answer(net) for net in sorted(named)}


def _holds(outer: IPv4Network, inner: IPv4Network) -> bool:
    shift = 32 - outer.prefixlen
    return (
        outer.prefixlen <= inner.prefixlen
        and int(outer.network_address) >> shift == int(inner.network_address) >> shift
    )
