"""Answers of a DNS64 itself: ipv4only.arpa, and the reverse names of translated addresses."""

from __future__ import annotations

from nat64_dataplane import pref64
from nat64_dataplane.dns64.message import domain_names, wire
from nat64_dataplane.dns64.message.answer import DENIAL, SUCCESS, Answer, classify
from nat64_dataplane.dns64.message.compose import Body, Data, Writer
from nat64_dataplane.dns64.message.wire import Reply
from nat64_dataplane.dns64.settings import Ptr
from nat64_dataplane.dns64.synthesis.dns64_policy import IPV4ONLY, Dns64Policy

IPV4ONLY_ARPA = domain_names.from_text("ipv4only.arpa.")
_REVERSE = frozenset(domain_names.reverse_ipv4(address) for address in IPV4ONLY)
_TAILS = (IPV4ONLY_ARPA, *_REVERSE)
_NOBODY = domain_names.from_text("nobody.invalid.")
TTL = 86400
"""Seconds; what the real ipv4only.arpa has (RFC 7050 section 8.2)."""
DENIAL_TTL = 10800
ALIAS_TTL = 600
"""Seconds, at most, for the CNAME from ip6.arpa to in-addr.arpa."""

_ZONES = frozenset((IPV4ONLY_ARPA, *_REVERSE))


def answer(policy: Dns64Policy, name: bytes, rdtype: int, *, synthesize: bool) -> Answer | None:
    """Answer for ipv4only.arpa, its two reverse names, and the names below them (RFC 8880).

    Each is a zone of its own. A DS record belongs to the parent, so that question goes to the
    upstream: only there is the proof that the zone isn't signed. Without it, a validating resolver
    takes what we synthesize for forged.
    """
    if not name.endswith(_TAILS):
        return None
    zone = next((zone for zone in domain_names.ancestors(name) if zone in _ZONES), None)
    if zone is None or (rdtype == wire.DS and name == zone):
        return None
    writer = Writer(name + b"\0\0\0\1")
    flags = wire.AA | wire.RA
    if name != zone:
        flags |= wire.NXDOMAIN
    elif rdtype == wire.SOA:
        writer.record(0, name, Data(wire.SOA, TTL, b""), soa_rdata(zone))
    elif zone in _REVERSE:
        if rdtype in (wire.PTR, wire.ANY):
            _name_record(writer, name, wire.PTR, IPV4ONLY_ARPA, TTL)
    elif rdtype == wire.A:
        for address in IPV4ONLY:
            writer.record(0, name, Data(wire.A, TTL, address.packed))
    elif rdtype == wire.AAAA and synthesize:
        for prefix in policy.settings.prefixes:  # the prefixes of `map` are only for some addresses
            for address in IPV4ONLY:
                data = pref64.embed(prefix, address).packed
                writer.record(0, name, Data(wire.AAAA, TTL, data))
    result = finish(writer, flags, zone)
    result.synthesized = rdtype == wire.AAAA and result.kind == SUCCESS
    return result


def soa_rdata(zone: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """The SOA of a zone that is local, as RFC 6303 has it, in the parts that Writer takes."""
    numbers = (1, 3600, 1200, 604800, DENIAL_TTL)
    after = b"".join(number.to_bytes(4, "big") for number in numbers)
    return b"", zone, _NOBODY, after


def finish(writer: Writer, flags: int, zone: bytes) -> Answer:
    """Make the answer of the records that were written; a denial gets the SOA of its zone."""
    body = writer.body()
    if body.counts[0]:
        return _answer(flags, body, TTL, SUCCESS)
    writer.record(1, zone, Data(wire.SOA, DENIAL_TTL, b""), soa_rdata(zone))
    return _answer(flags, writer.body(), DENIAL_TTL, DENIAL)


def reverse_target(policy: Dns64Policy, name: bytes) -> bytes | Answer | None:
    """For a reverse name under a Pref64: its IPv4 counterpart, or the answer; otherwise None."""
    if policy.settings.ptr is Ptr.OFF:
        return None
    address = domain_names.from_reverse_ipv6(name)
    embedded = policy.embedded(address) if address is not None else None
    if embedded is None:
        return None
    if policy.settings.ptr is Ptr.CNAME:
        return domain_names.reverse_ipv4(embedded)
    writer = Writer(name + b"\0\0\0\1")
    _name_record(
        writer, name, wire.PTR, domain_names.from_text(policy.settings.ptr_name), ALIAS_TTL
    )
    return _answer(wire.AA | wire.RA, writer.body(), ALIAS_TTL, SUCCESS)


def alias(question: bytes, target: bytes, reply: Reply) -> Answer:
    """Answer with a CNAME to `target`, followed by the records of `reply`."""
    kind, ttl = classify(reply)
    alias_ttl = min(max(ttl, 0), ALIAS_TTL)
    writer = Writer(question)
    _name_record(writer, question[:-4], wire.CNAME, target, alias_ttl)
    writer.reply(reply)
    flags = reply.flags & (wire.RA | wire.RCODE_MASK)
    if kind == DENIAL and not reply.rcode:
        flags |= wire.RA
    result = _answer(flags, writer.body(), min(ttl, ALIAS_TTL), kind)
    result.errors = reply.errors()
    return result


def alias_to_local(question: bytes, target: bytes) -> Answer:
    """Answer with a CNAME to one of ipv4only.arpa's own reverse names, and its PTR."""
    writer = Writer(question)
    _name_record(writer, question[:-4], wire.CNAME, target, ALIAS_TTL)
    _name_record(writer, target, wire.PTR, IPV4ONLY_ARPA, TTL)
    return _answer(wire.AA | wire.RA, writer.body(), ALIAS_TTL, SUCCESS)


def _name_record(writer: Writer, owner: bytes, rdtype: int, name: bytes, ttl: int) -> None:
    writer.record(0, owner, Data(rdtype, ttl, b""), (b"", name, b"", b""))


def _answer(flags: int, body: Body, ttl: int, kind: str) -> Answer:
    return Answer(flags, body.counts, body.bytes, offsets=body.offsets, ttl=ttl, kind=kind)
