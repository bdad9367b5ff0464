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
from nat64_dataplane.translator.datapath.abi import Verdict

SPECIAL = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local, and every cloud's metadata service
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
"""Denied under every prefix; lifted only by an allowed range that lies within one of these."""

NOT_GLOBAL = tuple(
    IPv4Network(text)
    for text in (
        "10.0.0.0/8",
        "100.64.0.0/10",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
    )
)
"""IANA's special-purpose registry: not globally reachable (RFC 6890, RFC 6052 section 3.1)."""

GLOBAL_AFTER_ALL = tuple(IPv4Network(text) for text in ("192.0.0.9/32", "192.0.0.10/32"))
"""Anycast addresses within 192.0.0.0/24 that are global (RFC 7723, RFC 8155)."""


def destinations(
    policy: Policy, prefix: IPv6Network, local: Iterable[IPv4Address]
) -> dict[IPv4Network, Verdict]:
    """Return the answer for every range that any rule names; what none holds is allowed."""
    own = {IPv4Network(address) for address in local}
    not_global = NOT_GLOBAL if prefix == pref64.WELL_KNOWN and not policy.allow_non_global else ()
    never = [(net, Verdict.SPECIAL) for net in SPECIAL] + [
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
        if lifts or any(_holds(other, net) for other in GLOBAL_AFTER_ALL):
            return Verdict.ALLOWED
        if any(_holds(other, net) for other in not_global):
            return Verdict.NOT_GLOBAL
        return Verdict.ALLOWED

    named = {*SPECIAL, *own, *allowed, *denied, *not_global}
    if not_global:
        named.update(GLOBAL_AFTER_ALL)
    return {net: answer(net) for net in sorted(named)}


def _holds(outer: IPv4Network, inner: IPv4Network) -> bool:
    shift = 32 - outer.prefixlen
    return (
        outer.prefixlen <= inner.prefixlen
        and int(outer.network_address) >> shift == int(inner.network_address) >> shift
    )
