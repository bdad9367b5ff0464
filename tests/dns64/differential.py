"""The same questions to two servers, and what differs between their responses."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype

ZONE = "lab.test."
ZONE_TEXT = """\
$ORIGIN lab.test.
$TTL 300
@ 900 IN SOA ns admin 1 3600 600 86400 300
@ IN NS ns
ns IN A 198.51.100.53
v4 IN A 198.51.100.7
v4-many IN A 198.51.100.1
v4-many IN A 198.51.100.2
v4-many IN A 198.51.100.3
v4-long 86400 IN A 198.51.100.8
v4-short 7 IN A 198.51.100.9
v6 IN AAAA 2001:db8::6
dual IN A 198.51.100.10
dual IN AAAA 2001:db8::10
private IN A 10.0.0.1
alias4 60 IN CNAME v4
alias6 60 IN CNAME v6
alias-dual 60 IN CNAME dual
alias-chain 60 IN CNAME alias-chain2
alias-chain2 50 IN CNAME alias-chain3
alias-chain3 40 IN CNAME v4-many
alias-none 60 IN CNAME missing
alias-text 60 IN CNAME text
mapped IN AAAA ::ffff:198.51.100.7
mapped4 IN A 198.51.100.11
mapped4 IN AAAA ::ffff:198.51.100.11
mixed IN A 198.51.100.12
mixed IN AAAA ::ffff:198.51.100.12
mixed IN AAAA 2001:db8::12
far IN A 192.175.48.7
far-many IN A 192.175.48.1
far-many IN A 192.31.196.2
far-some IN A 192.175.48.9
far-some IN A 198.51.100.16
far-alias 60 IN CNAME far-many
far-mapped IN A 192.175.48.11
far-mapped IN AAAA ::ffff:192.175.48.11
tree IN DNAME other
v4.other IN A 198.51.100.13
v6.other IN AAAA 2001:db8::13
text IN TXT "some text"
mail IN MX 10 v4
service IN SRV 1 2 53 v4
a.b.empty IN A 198.51.100.14
*.wild IN A 198.51.100.15
https IN HTTPS 1 . alpn=h2 ipv4hint=198.51.100.7
""" + "".join(f"big IN A 192.0.2.{host}\n" for host in range(1, 101))

NAMES = [
    *("@", "ns", "v4", "v4-many", "v4-long", "v4-short", "v6", "dual", "private", "alias4"),
    *("alias6", "alias-dual", "alias-chain", "alias-none", "alias-text", "mapped", "mapped4"),
    *("mixed", "tree", "v4.tree", "v6.tree", "x.tree", "v4.other", "text", "mail", "service"),
    *("empty", "b.empty", "a.b.empty", "x.wild", "y.x.wild", "https", "big", "missing", "V4"),
    *("Alias-Chain", "far", "far-many", "far-some", "far-alias", "far-mapped"),
]
TYPES = ("AAAA", "A", "ANY", "MX", "TXT", "CNAME", "NS", "SOA", "HTTPS", "DS")


class Case(NamedTuple):
    """One question as one client asks it."""

    name: str
    rdtype: str
    rdclass: str = "IN"
    tcp: bool = False
    edns: int = 1232
    """The size it offers; 0 without EDNS."""
    do: bool = False
    cd: bool = False
    ad: bool = False
    rd: bool = True
    ipv4: bool = False

    def __str__(self) -> str:
        flags = [name for name in ("tcp", "do", "cd", "ad", "ipv4") if getattr(self, name)]
        flags += [] if self.rd else ["no rd"]
        flags += [f"edns {self.edns}"] if self.edns != 1232 else []
        return " ".join([self.name, self.rdclass, self.rdtype, *flags])

    def query(self) -> dns.message.Message:
        query = dns.message.make_query(
            self.name,
            self.rdtype,
            self.rdclass,
            use_edns=0 if self.edns else False,
            want_dnssec=self.do,
            payload=self.edns or 0,
        )
        for wanted, flag in ((self.cd, dns.flags.CD), (self.ad, dns.flags.AD)):
            if wanted:
                query.flags |= flag
        if not self.rd:
            query.flags &= ~dns.flags.RD
        return query


def cases(names: list[str], types: tuple[str, ...] = TYPES) -> Iterator[Case]:
    """Every name and type plainly, and AAAA in all the ways that clients ask."""
    qualified = [ZONE if name == "@" else f"{name}.{ZONE}" for name in names]
    for name, rdtype in itertools.product(qualified, types):
        yield Case(name, rdtype)
    for name in qualified:
        for tcp, edns, do, cd, ad in itertools.product(
            (False, True), (0, 512, 4096), (False, True), (False, True), (False, True)
        ):
            if edns or not do:
                yield Case(name, "AAAA", tcp=tcp, edns=edns, do=do, cd=cd, ad=ad)
        yield Case(name, "AAAA", ipv4=True)
        yield Case(name, "AAAA", rd=False)
        yield Case(name, "AAAA", rdclass="CH")


Outcome = dns.message.Message | str
"""A response, or what came in its place."""


def ask(case: Case, port: int, timeout: float = 20.0) -> Outcome:
    """The response, or what came instead."""
    query = case.query()
    send = dns.query.tcp if case.tcp else dns.query.udp
    try:
        return send(query, "127.0.0.1" if case.ipv4 else "::1", timeout, port)
    except (dns.exception.DNSException, OSError, EOFError) as error:
        return type(error).__name__


def differences(ours: Outcome, theirs: Outcome) -> set[str]:
    """The parts of the response that differ, by name."""
    if isinstance(ours, str) or isinstance(theirs, str):
        return {"outcome"}  # no reply is never right, not even twice
    found = {
        name
        for name in ("AA", "TC", "RD", "RA", "AD", "CD")
        if (ours.flags ^ theirs.flags) & dns.flags.Flag[name]
    }
    if ours.rcode() != theirs.rcode():
        found.add("rcode")
    if (ours.edns < 0) != (theirs.edns < 0):
        found.add("edns")
    if [e.code for e in ours.extended_errors()] != [e.code for e in theirs.extended_errors()]:
        found.add("ede")
    if (ours.ednsflags ^ theirs.ednsflags) & dns.flags.DO:
        found.add("do")
    if ours.flags & theirs.flags & dns.flags.TC:
        return found  # what is left of a truncated response means nothing
    for section in ("answer", "authority", "additional"):
        mine, other = records(ours, section), records(theirs, section)
        if set(mine) != set(other):
            found.add(section)
        elif mine != other:
            found.add(f"{section} ttl")
    return found


def records(message: dns.message.Message, section: str) -> dict[str, int]:
    """The records of a section, each with its TTL."""
    return {
        f"{rrset.name} {dns.rdatatype.to_text(rrset.rdtype)} {data}".lower(): rrset.ttl
        for rrset in getattr(message, section)
        for data in rrset
    }
