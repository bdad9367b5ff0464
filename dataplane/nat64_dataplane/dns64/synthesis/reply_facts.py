"""What the rules of RFC 6147 need to know about a reply."""

from __future__ import annotations

from nat64_dataplane.dns64.message import wire
from nat64_dataplane.dns64.message.wire import Record, Reply


def has_addresses(reply: Reply) -> bool:
    """Whether a reply has A records and no error."""
    return not reply.rcode and wire.A in [record.type for record in reply.answer]


def covers(reply: Reply, record: Record, rdtype: int) -> bool:
    """Whether a record is a signature over those of a type."""
    if record.type != wire.RRSIG or record.length < 2:
        return False
    return reply.wire[record.data : record.data + 2] == rdtype.to_bytes(2, "big")


def is_signed(reply: Reply) -> bool:
    """Whether a reply has signatures, or the proof of a denial."""
    types = (wire.RRSIG, wire.NSEC, wire.NSEC3)
    return any(record.type in types for record in (*reply.answer, *reply.authority))
