"""An answer that fits any query for the same question, and the responses made from it.

`body` is everything behind the question: the records, compressed against the question that stands
at offset 12 in every message. So a response is a header, the client's own question, the body and,
for clients with EDNS, an OPT record. TTLs are counted down where they stand.
"""

from __future__ import annotations

from struct import Struct

from nat64_dataplane.dns64.message import wire
from nat64_dataplane.dns64.message.compose import Changes, compose
from nat64_dataplane.dns64.message.edns import EDE_OPTION
from nat64_dataplane.dns64.message.truncate import truncate, without_additional
from nat64_dataplane.dns64.message.wire import Query, Reply

UDP_SIZE = 1232
"""The largest UDP message we send or ask for: it passes any IPv6 path in one piece (DNS flag
day 2020)."""
PLAIN_UDP_SIZE = 512
"""The limit for clients without EDNS (RFC 1035 section 4.2.1)."""
TCP_SIZE = 65535

SUCCESS, DENIAL, ERROR = "success", "denial", "error"
WITHHELD_TTL = 5
"""Seconds for which clients may keep an answer that a programmed translator would change. CoreDNS
keeps no answer for less (its `cache` raises shorter TTLs to this)."""
UNCACHEABLE = -1
"""The `ttl` of an answer that no cache may keep."""

EDE_SYNTHESIZED = 29
"""Extended DNS error "Synthesized": sent if the client asked for DNSSEC data."""
EDE_STALE = 3
EDE_NETWORK_ERROR = 23
EDE_OTHER = 0
MAX_ERROR_TEXT = 120
"""Bytes of the text of an extended DNS error."""

_HEADER = Struct("!6H")
_TTL = Struct("!I")
_OPT = Struct("!BHHIH")

KEPT_FLAGS = wire.AA | wire.RA | wire.AD
"""The flags of a reply that are true of the response too."""

Errors = tuple[tuple[int, str], ...]


class Answer:
    """The outcome of a question, ready to be cached: one body for all who ask the same.

    `flags` holds AA, RA, AD and the RCODE; `counts` the records in answer, authority and
    additional section; `offsets` where in `body` the TTLs are; `ttl` how many seconds it is
    good for.
    """

    __slots__ = ("body", "counts", "errors", "flags", "kind", "offsets", "synthesized", "ttl")

    def __init__(
        self,
        flags: int,
        counts: tuple[int, int, int] = (0, 0, 0),
        body: bytes = b"",
        *,
        offsets: tuple[int, ...] = (),
        ttl: int = UNCACHEABLE,
        kind: str = ERROR,
        errors: Errors = (),
        synthesized: bool = False,
    ) -> None:
        self.flags = flags
        self.counts = counts
        self.body = body
        self.offsets = offsets
        self.ttl = ttl
        self.kind = kind
        self.errors = errors
        self.synthesized = synthesized

    @property
    def rcode(self) -> int:
        """The RCODE, without EDNS's extension: what needs that is never passed on."""
        return self.flags & wire.RCODE_MASK


def failure(rcode: int, *errors: tuple[int, str]) -> Answer:
    """An answer with nothing but an RCODE and extended errors."""
    return Answer(wire.RA | rcode, errors=errors)


def unprogrammed(reason: str) -> Answer:
    """The answer of `translator PATH servfail` while no translator is programmed."""
    return failure(wire.SERVFAIL, (EDE_OTHER, f"no translator: {reason}"))


def from_reply(reply: Reply, changes: Changes | None = None, *, keep: int = KEPT_FLAGS) -> Answer:
    """Make the answer that a reply is, with changes to its records. `keep` masks its flags."""
    if reply.rcode > wire.RCODE_MASK:  # these are for us, not for our client
        return failure(wire.SERVFAIL, (EDE_OTHER, f"upstream answered with RCODE {reply.rcode}"))
    body = compose(reply, changes or {})
    flags = reply.flags & (keep | wire.RCODE_MASK)
    kind, ttl = classify(reply)
    if kind == DENIAL and not reply.rcode:
        flags |= wire.RA  # without RA, stub resolvers take an empty answer for a lame server's
    return Answer(
        flags,
        body.counts,
        body.bytes,
        offsets=body.offsets,
        ttl=ttl,
        kind=kind,
        errors=reply.errors(),
    )


def classify(reply: Reply) -> tuple[str, int]:
    """Return the kind of a reply and for how many seconds it is good (RFC 2308 section 5).

    A denial without SOA and any error are not to be kept.
    """
    rcode = reply.rcode
    if rcode not in (wire.NOERROR, wire.NXDOMAIN):
        return ERROR, UNCACHEABLE
    denial = rcode == wire.NXDOMAIN or not answers_question(reply)
    if not denial:
        records = (*reply.answer, *reply.authority)
        return SUCCESS, min((record.ttl for record in records), default=0)
    soa = next((record for record in reply.authority if record.type == wire.SOA), None)
    if soa is None:
        return DENIAL, UNCACHEABLE
    minimum = int.from_bytes(reply.wire[soa.data + soa.length - 4 : soa.data + soa.length], "big")
    chain = (record.ttl for record in reply.answer)
    return DENIAL, min((soa.ttl, minimum, *chain))


def answers_question(reply: Reply) -> bool:
    """Whether the answer section has what was asked for, not only aliases on the way."""
    asked = int.from_bytes(reply.question[-4:-2], "big")
    if asked in (wire.ANY, wire.AXFR, wire.IXFR):
        return bool(reply.answer)
    return any(record.type == asked for record in reply.answer)


def respond(query: Query, answer: Answer, limit: int) -> bytes:
    """Write the response to `query`, at most `limit` bytes long.

    What doesn't fit is cut: first the additional section, then what is said about errors, then
    records from the end, aliases last, with TC set so that the client asks again over TCP (RFC 2181
    section 9). A client that can't has something to go on with.
    """
    flags = wire.QR | query.flags & (wire.OPCODE_MASK | wire.RD | wire.CD) | answer.flags
    if not (query.do or query.ad):
        flags &= ~wire.AD
    opt = options(query, answer.errors)
    room = limit - wire.HEADER_SIZE - len(query.question) - len(opt)
    body, counts = answer.body, answer.counts
    if len(body) > room and counts[2]:
        body, counts = without_additional(query.question, body, counts)
    if len(body) > room and answer.errors:
        silent = options(query)
        opt, room = silent, room + len(opt) - len(silent)
    if len(body) > room:
        body, counts = truncate(query.question, body, counts, room)
        flags |= wire.TC
    an, ns, ar = counts
    head = _HEADER.pack(query.id, flags, 1, an, ns, ar + bool(opt))
    return b"".join((head, query.question, body, opt))


def as_reply(answer: Answer, question: bytes) -> Reply:
    """The reply that an answer would be, to be used in place of upstream's."""
    flags = wire.QR | wire.RD | answer.flags
    head = _HEADER.pack(0, flags, 1, *answer.counts)
    return wire.parse_reply(b"".join((head, question, answer.body)))


def short_lived(answer: Answer, ttl: int) -> Answer:
    """Copy an answer with no TTL above `ttl` seconds."""
    body = bytearray(answer.body)
    for offset in answer.offsets:
        _TTL.pack_into(body, offset, min(ttl, _TTL.unpack_from(body, offset)[0]))
    return Answer(
        answer.flags,
        answer.counts,
        bytes(body),
        offsets=answer.offsets,
        ttl=min(answer.ttl, ttl),
        kind=answer.kind,
        errors=answer.errors,
        synthesized=answer.synthesized,
    )


def with_ttl(answer: Answer, ttl: int) -> Answer:
    """Set every TTL of an answer, which must be the caller's own."""
    body = bytearray(answer.body)
    for offset in answer.offsets:
        _TTL.pack_into(body, offset, ttl)
    answer.body = bytes(body)
    return answer


def options(query: Query, errors: Errors = (), rcode: int = 0) -> bytes:
    """Write the OPT record of a response; nothing for a client without EDNS (RFC 6891)."""
    if query.edns is None:
        return b""
    data = b""
    for code, text in errors:
        cut = text.encode()[:MAX_ERROR_TEXT].decode(errors="ignore")  # at a character
        value = code.to_bytes(2, "big") + cut.encode()
        data += EDE_OPTION.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value
    ttl = rcode >> 4 << 24 | (0x8000 if query.edns.do else 0)
    return _OPT.pack(0, wire.OPT, UDP_SIZE, ttl, len(data)) + data


def refusal(query: Query, rcode: int) -> bytes:
    """Write a response that has nothing but an RCODE, extended ones included."""
    opt = options(query, rcode=rcode)
    flags = wire.QR | query.flags & (wire.OPCODE_MASK | wire.RD | wire.CD) | rcode & 0xF
    return _HEADER.pack(query.id, flags, 1, 0, 0, bool(opt)) + query.question + opt


def bare_error(message: bytes, rcode: int) -> bytes | None:
    """Answer a message that can't be read, if at least its header can and it isn't a response."""
    if len(message) < wire.HEADER_SIZE or message[2] & 0x80:
        return None
    flags = wire.QR | int.from_bytes(message[2:4], "big") & (wire.OPCODE_MASK | wire.RD)
    return message[:2] + _HEADER.pack(0, flags | rcode, 0, 0, 0, 0)[2:]


def udp_limit(query: Query) -> int:
    """The largest response to send this client over UDP, in bytes."""
    if query.edns is None:
        return PLAIN_UDP_SIZE
    return min(max(query.edns.size, PLAIN_UDP_SIZE), UDP_SIZE)
