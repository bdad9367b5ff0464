"""RFC 6147 once more, for the comparison: what a response has to be, from what upstream has.

Written for dnspython's messages and for clarity, apart from the sidecar's own code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from nat64_dataplane import pref64
from tests.dns64.differential import Case
from tests.dns64.generated import GLOBAL

A, AAAA, CNAME, DNAME, SOA = (
    dns.rdatatype.A,
    dns.rdatatype.AAAA,
    dns.rdatatype.CNAME,
    dns.rdatatype.DNAME,
    dns.rdatatype.SOA,
)
MAPPED = IPv6Network("::ffff:0:0/96")
SYNTHESIZED, NETWORK_ERROR = 29, 23
MOST_UDP = 1232
AFTER_FAILURE = 30
"""Seconds that a synthesized record lives where the AAAA question got no reply or an error."""

Reference = Callable[[str, str, str], "dns.message.Message | None"]
"""What upstream has for a name, type and class, whole; None for silence."""


@dataclass(frozen=True)
class Dns64:
    """A `dns64` stanza."""

    prefix: IPv6Network
    translate_all: bool = False
    allow_ipv4: bool = False

    @property
    def text(self) -> str:
        lines = [f"prefix {self.prefix}"]
        lines += ["translate_all"] if self.translate_all else []
        lines += ["allow_ipv4"] if self.allow_ipv4 else []
        return "dns64 {\n" + "\n".join(lines) + "\n}"

    def embed(self, address: str) -> str | None:
        """The address that stands for another; none where RFC 6052 section 3.1 forbids it."""
        if self.prefix == pref64.WELL_KNOWN and not is_global(address):
            return None
        return str(pref64.embed(self.prefix, IPv4Address(address)))

    def is_for(self, case: Case) -> bool:
        """Whether it changes anything for this question of this client."""
        return (case.rdtype, case.rdclass) == ("AAAA", "IN") and (self.allow_ipv4 or not case.ipv4)


def is_global(address: str) -> bool:
    """Of the addresses in these tests' zones, those that are."""
    return address.rpartition(".")[0] in GLOBAL


def addresses(message: dns.message.Message | None, rdtype: int) -> list[str]:
    """The addresses in an answer."""
    found = message.answer if message is not None else []
    return [data.address for rrset in found if rrset.rdtype == rdtype for data in rrset]


def expected(case: Case, dns64: Dns64, reference: Reference) -> list[dns.message.Message]:
    """The response, in each form in which it may be cut to what this client can take."""
    response = dns.message.make_response(case.query())
    if case.edns:
        response.want_dnssec(case.do)
    if case.cd:
        response.flags |= dns.flags.CD
    answer_into(response, case, dns64, reference)
    asked = dns.rdatatype.from_text(case.rdtype)
    if response.rcode() == dns.rcode.NOERROR and not any(
        rrset.rdtype == asked or asked == dns.rdatatype.ANY for rrset in response.answer
    ):
        response.flags |= dns.flags.RA  # without RA a stub resolver takes the server for a lame one
    return [response] if case.tcp else cuts(response, limit_of(case))


def limit_of(case: Case) -> int:
    """The most bytes over UDP."""
    return min(max(case.edns, 512), MOST_UDP)


def cuts(whole: dns.message.Message, limit: int) -> list[dns.message.Message]:
    """What may be left of a response: without what is said about errors, without what is
    additional, and only then, with TC, as many records as fit (RFC 2181 section 9). Names may be
    compressed otherwise than dnspython does, which may be room for a record more or less.
    """

    def fit(forms: list[dns.message.Message]) -> list[dns.message.Message]:
        return [form for form in forms if len(form.to_wire(max_size=65535)) <= limit]

    if fit([whole]):
        return [whole]
    silent, brief, least = (dns.message.from_wire(whole.to_wire(max_size=65535)) for _ in range(3))
    for form in (silent, least):
        if form.edns >= 0:
            form.use_edns(0, form.ednsflags, form.payload)
    for form in (brief, least):
        form.additional = []
    return (
        fit([silent, brief, least])
        or fit([shortened(least, count) for count in range(len(records_of(least)))])[-2:]
    )


def records_of(message: dns.message.Message) -> list[tuple[int, dns.rrset.RRset]]:
    """Every record of answer and authority section, each with its section."""
    return [
        (section, dns.rrset.from_rdata(rrset.name, rrset.ttl, data))
        for section in (1, 2)
        for rrset in message.sections[section]
        for data in rrset
    ]


def shortened(message: dns.message.Message, count: int) -> dns.message.Message:
    """A message's first records, and TC."""
    form = dns.message.from_wire(message.to_wire(max_size=65535))
    form.flags |= dns.flags.TC
    form.sections[1:] = [[], [], []]
    for section, record in records_of(message)[:count]:
        known = next(
            (
                r
                for r in form.sections[section]
                if r.match(record.name, record.rdclass, record.rdtype, record.covers)
            ),
            None,
        )
        if known is None:
            form.sections[section].append(record)
        else:
            known.update(record)  # type: ignore[no-untyped-call]
    return form


def answer_into(
    response: dns.message.Message, case: Case, dns64: Dns64, reference: Reference
) -> None:
    def ask(rdtype: str) -> dns.message.Message | None:
        reply = reference(case.name, rdtype, case.rdclass)
        # FORMERR would be about the sidecar's own message: it's as good as no reply
        return None if reply is not None and reply.rcode() == dns.rcode.FORMERR else reply

    first = ask(case.rdtype)
    if not dns64.is_for(case) or case.cd:
        take(response, first, dns.flags.AA)
        return
    if first is not None and first.rcode() == dns.rcode.NXDOMAIN:  # section 5.1.2
        take(response, first, dns.flags.AA)
        return
    usable = first is not None and first.rcode() == dns.rcode.NOERROR
    real = [a for a in addresses(first, AAAA) if IPv6Address(a) not in MAPPED] if usable else []
    if real and not dns64.translate_all:  # sections 5.1.1 and 5.1.4
        take(response, first, dns.flags.AA)
        drop_mapped(response)
        return
    second = ask("A")
    if second is None or second.rcode() or not addresses(second, A):  # section 5.1.6
        take(response, first if real else second, dns.flags.AA if real else 0)
        drop_mapped(response)
        return
    found = [dns64.embed(a) for a in addresses(second, A)]
    if any(found):
        take(response, second)
        replace_addresses(response, dns64, lifetime(first) if usable else AFTER_FAILURE)
        if case.do:
            say(response, SYNTHESIZED, "DNS64")
        return
    if real or (usable and first is not None and not first.answer):
        take(response, first, dns.flags.AA)
        drop_mapped(response)
        return
    take(response, second)
    response.answer = [rrset for rrset in response.answer if rrset.rdtype != A]


def lifetime(first: dns.message.Message | None) -> int:
    """The most that a synthesized record may live (section 5.1.7)."""
    soas = [r.ttl for r in first.authority if r.rdtype == SOA] if first is not None else []
    return min(soas, default=600)


def take(
    response: dns.message.Message, reply: dns.message.Message | None, keep: dns.flags.Flag | int = 0
) -> None:
    """Pass a reply on; no reply is SERVFAIL, from a server that offers recursion."""
    if reply is None:
        response.flags |= dns.flags.RA
        response.set_rcode(dns.rcode.SERVFAIL)
        say(response, NETWORK_ERROR)
        return
    response.flags |= reply.flags & (dns.flags.RA | keep)
    response.set_rcode(reply.rcode())
    for mine, theirs in zip(response.sections[1:], reply.sections[1:], strict=True):
        mine.extend(copy(rrset) for rrset in theirs)
    for error in reply.extended_errors():
        say(response, error.code)


def copy(rrset: dns.rrset.RRset) -> dns.rrset.RRset:
    return dns.rrset.from_rdata_list(rrset.name, rrset.ttl, list(rrset))


def drop_mapped(response: dns.message.Message) -> None:
    kept = []
    for rrset in response.answer:
        data = [d for d in rrset if rrset.rdtype != AAAA or IPv6Address(d.address) not in MAPPED]
        kept += [dns.rrset.from_rdata_list(rrset.name, rrset.ttl, data)] if data else []
    response.answer = kept


def replace_addresses(response: dns.message.Message, dns64: Dns64, most: int) -> None:
    """Put AAAA where A are (sections 5.1.7 and 5.2)."""
    made = []
    for rrset in response.answer:
        if rrset.rdtype != A:
            made.append(rrset)
            continue
        found = [dns64.embed(data.address) for data in rrset]
        data = [dns.rdata.from_text("IN", "AAAA", text) for text in found if text]
        if data:
            made.append(dns.rrset.from_rdata_list(rrset.name, min(rrset.ttl, most), data))
    response.answer = made


def say(response: dns.message.Message, code: int, text: str | None = None) -> None:
    """Add an extended error, where the client knows EDNS."""
    if response.edns >= 0:
        option = dns.edns.EDEOption(dns.edns.EDECode.make(code), text)
        response.use_edns(0, response.ednsflags, response.payload, options=[option])
