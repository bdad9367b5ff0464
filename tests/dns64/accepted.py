"""In what CoreDNS's responses may differ from the sidecar's: the rows of docs/dns64.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Network
from typing import NamedTuple

import dns.flags
import dns.message
import dns.rcode

from nat64_dataplane import pref64
from tests.dns64.differential import Case, records
from tests.dns64.oracle import (
    AAAA,
    AFTER_FAILURE,
    CNAME,
    DNAME,
    MAPPED,
    A,
    Dns64,
    addresses,
    is_global,
    limit_of,
)

SECTIONS = ("answer", "authority", "additional")


class Seen(NamedTuple):
    """A case with both responses, and what upstream has for it."""

    case: Case
    dns64: Dns64
    cached: bool
    ours: dns.message.Message
    theirs: dns.message.Message
    right: dns.message.Message
    first: dns.message.Message | None
    """Upstream's reply to the question itself."""
    second: dns.message.Message | None
    """Upstream's reply to the question for A."""

    @property
    def falls_under_dns64(self) -> bool:
        return self.dns64.is_for(self.case)


RECORDS = frozenset(SECTIONS)
TTLS = frozenset(f"{section} ttl" for section in SECTIONS)
OTHERWISE = RECORDS | TTLS | {"AA", "RA", "rcode", "TC"}
"""The parts of a response that decides otherwise about synthesis, or that is cut elsewhere."""

AA, CD, RA, TC = dns.flags.AA, dns.flags.CD, dns.flags.RA, dns.flags.TC


def _cd_passes(seen: Seen) -> bool:
    return seen.case.cd and seen.falls_under_dns64


def _excluded(seen: Seen) -> bool:
    """CoreDNS gives every AAAA that is excluded."""
    mapped = {a for a in addresses(seen.first, AAAA) if IPv6Network(a).subnet_of(MAPPED)}
    return bool(mapped) and mapped <= {*addresses(seen.theirs, AAAA)}


def _special_use(seen: Seen) -> bool:
    """CoreDNS embeds every A, of which some may not be."""
    ipv4 = addresses(seen.second, A)
    if seen.dns64.prefix != pref64.WELL_KNOWN or all(map(is_global, ipv4)):
        return False
    embedded = {_embedded(a) for a in ipv4}
    return bool(seen.theirs.flags & TC) or embedded == {*addresses(seen.theirs, AAAA)}


def _embedded(address: str) -> str:
    return str(pref64.embed(pref64.WELL_KNOWN, IPv4Address(address)))


def _real_kept(seen: Seen) -> bool:
    if not seen.dns64.translate_all or not seen.falls_under_dns64:
        return False
    return bool(addresses(seen.ours, AAAA)) and not addresses(seen.theirs, AAAA)


def _nxdomain_passes(seen: Seen) -> bool:
    aliased = any(rrset.rdtype in (CNAME, DNAME) for rrset in seen.ours.answer)
    gone = seen.ours.rcode() == seen.theirs.rcode() == dns.rcode.NXDOMAIN
    return aliased and gone and seen.falls_under_dns64 and not seen.theirs.flags & AA


def _least_ttls(seen: Seen) -> bool:
    """CoreDNS gives all that it caches the least TTL, so none a higher one than it has."""
    pairs = [(records(seen.theirs, section), records(seen.right, section)) for section in SECTIONS]
    return seen.cached and all(
        theirs[key] <= right[key] for theirs, right in pairs for key in theirs if key in right
    )


def _truncated_upstream(seen: Seen) -> bool:
    return not seen.case.tcp and bool(seen.theirs.flags & ~seen.ours.flags & TC)


def _cut_at_1232(seen: Seen) -> bool:
    """CoreDNS sends more than we do, or what just fits since it compresses names otherwise."""
    cut_here = bool(seen.ours.flags & ~seen.theirs.flags & TC) or not seen.ours.additional
    size = len(seen.theirs.to_wire(max_size=65535))
    return cut_here and not seen.case.tcp and size > limit_of(seen.case) - LONGEST_NAME


LONGEST_NAME = 80
"""Bytes, of the names in these zones."""


def _silence_is_empty(seen: Seen) -> bool:
    return seen.first is None and seen.theirs.rcode() == dns.rcode.SERVFAIL


def _failed_first(seen: Seen) -> bool:
    """The AAAA question got no reply or an error, so that what is synthesized is short-lived."""
    if seen.first is not None and seen.first.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return False
    return any(rrset.ttl == AFTER_FAILURE for rrset in seen.ours.answer)


def _format_error(seen: Seen) -> bool:
    """Upstream's FORMERR is about the sidecar's own message, not the client's."""
    return seen.theirs.rcode() == FORMERR and seen.ours.rcode() == dns.rcode.SERVFAIL


FORMERR = dns.rcode.FORMERR

ACCEPTED: dict[str, tuple[frozenset[str], Callable[[Seen], bool]]] = {
    "checking-disabled": (OTHERWISE, _cd_passes),
    "cd-copied": (frozenset({"CD"}), lambda seen: seen.case.cd and not seen.theirs.flags & CD),
    "extended-errors": (frozenset({"ede"}), lambda seen: not seen.theirs.extended_errors()),
    "aaaa-exclusion": (OTHERWISE, _excluded),
    "special-use": (OTHERWISE, _special_use),
    "translate-all": (OTHERWISE, _real_kept),
    "nxdomain-aliased": (frozenset({"AA"}), _nxdomain_passes),
    "ra-kept": (frozenset({"RA"}), lambda seen: not seen.theirs.flags & RA),
    "own-ttls": (TTLS, _least_ttls),
    "upstream-truncation": (OTHERWISE, _truncated_upstream),
    "udp-size": (OTHERWISE, _cut_at_1232),
    "timeout-is-empty": (OTHERWISE, _silence_is_empty),
    "failure-is-short": (TTLS, _failed_first),
    "format-error": (OTHERWISE, _format_error),
}
"""The parts of a response that a difference may show in, and whether CoreDNS's is one of it. What
is right instead, the sidecar's response has been checked for.
"""


def unexplained(seen: Seen, found: set[str], used: Counter[str]) -> set[str]:
    """What no row explains; rows that do are counted."""
    left = set(found)
    for key, (parts, explains) in ACCEPTED.items():
        if parts & found and explains(seen):
            used[key] += 1
            left -= parts
    return left
