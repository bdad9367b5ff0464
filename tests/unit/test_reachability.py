"""Which destinations are reachable: the fast answer is the one that the rules give one by one."""

from __future__ import annotations

import time
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Network

from hypothesis import given
from hypothesis import strategies as st

from nat64_dataplane import pref64
from nat64_dataplane.config import Policy
from nat64_dataplane.special_purpose import (
    FORWARDED_NOT_GLOBAL,
    GLOBAL_EXCEPTIONS,
    NEVER_FORWARDED,
)
from nat64_dataplane.translator.datapath.abi import Verdict
from nat64_dataplane.translator.datapath.reachability import destinations

OTHER = IPv6Network("2001:db8:64::/96")


def one_by_one(
    policy: Policy, prefix: IPv6Network, local: Iterable[IPv4Address], net: IPv4Network
) -> Verdict:
    """The rules in their order, for one range."""
    not_global = FORWARDED_NOT_GLOBAL if prefix == pref64.WELL_KNOWN else ()
    if policy.allow_non_global:
        not_global = ()
    if any(net.subnet_of(other) for other in policy.denied_destinations):
        return Verdict.DENIED
    lifts = [other for other in policy.allowed_destinations if net.subnet_of(other)]
    never = [(other, Verdict.SPECIAL) for other in NEVER_FORWARDED]
    never += [(IPv4Network(address), Verdict.LOCAL) for address in sorted(local)]
    for other, verdict in never:
        if net.subnet_of(other) and not any(lift.subnet_of(other) for lift in lifts):
            return verdict
    if lifts or any(net.subnet_of(other) for other in GLOBAL_EXCEPTIONS):
        return Verdict.ALLOWED
    if any(net.subnet_of(other) for other in not_global):
        return Verdict.NOT_GLOBAL
    return Verdict.ALLOWED


def longest_match(found: dict[IPv4Network, Verdict], address: IPv4Address) -> Verdict:
    for length in range(32, -1, -1):
        net = IPv4Network((address, length), strict=False)
        if net in found:
            return found[net]
    return Verdict.ALLOWED


# Few bits, so that ranges hold each other often; the first bytes are those with rules of their own.
first_bytes = st.sampled_from([0, 10, 100, 127, 169, 172, 192, 198, 203, 224, 240, 8])
addresses = st.builds(
    lambda a, b, c, d: IPv4Address(bytes([a, b, c, d])),
    first_bytes,
    st.sampled_from([0, 2, 51, 64, 168, 254]),
    st.sampled_from([0, 2, 100, 113]),
    st.integers(0, 15),
)
networks = st.builds(
    lambda address, length: IPv4Network((address, length), strict=False),
    addresses,
    st.sampled_from([0, 4, 8, 10, 12, 15, 16, 24, 28, 31, 32]),
)


@given(
    allowed=st.lists(networks, max_size=6),
    denied=st.lists(networks, max_size=4),
    local=st.sets(addresses, max_size=4),
    non_global=st.booleans(),
    prefix=st.sampled_from([pref64.WELL_KNOWN, OTHER]),
    asked=st.lists(addresses, min_size=1, max_size=8),
)
def test_the_longest_match_is_what_the_rules_say(
    allowed: list[IPv4Network],
    denied: list[IPv4Network],
    local: set[IPv4Address],
    non_global: bool,
    prefix: IPv6Network,
    asked: list[IPv4Address],
) -> None:
    policy = Policy(
        allow_non_global=non_global,
        allowed_destinations=tuple(allowed),
        denied_destinations=tuple(denied),
    )
    found = destinations(policy, prefix, map(IPv4Network, local))
    for net, verdict in found.items():
        assert verdict is one_by_one(policy, prefix, local, net)
    for address in (*asked, *local):
        expected = one_by_one(policy, prefix, local, IPv4Network(address))
        assert longest_match(found, address) is expected


def test_ten_thousand_addresses_take_no_time_to_speak_of() -> None:
    first = int(IPv4Address("198.18.0.0"))
    own = [IPv4Network(first + n) for n in range(10_000)]
    policy = Policy(
        allowed_destinations=tuple(IPv4Network((n << 24, 8)) for n in range(1, 100)),
        denied_destinations=tuple(IPv4Network((n << 16, 16)) for n in range(1, 100)),
    )
    start = time.process_time()
    found = destinations(policy, pref64.WELL_KNOWN, own)
    took = time.process_time() - start
    assert len(found) > 10_000
    assert took < 0.5, f"{took:.2f} s of CPU"
