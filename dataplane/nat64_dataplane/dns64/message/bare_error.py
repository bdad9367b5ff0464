"""Replies without a question. A server that can't read a question answers so."""

from __future__ import annotations

from nat64_dataplane.dns64.message.wire import HEADER_SIZE, RCODE_MASK


def is_bare_error(wire: bytes) -> bool:
    """Whether a reply has no question and no records but OPT, and says error or TC: its sender
    couldn't read the question, or doesn't repeat it.
    """
    if len(wire) < HEADER_SIZE or not wire[2] & 0x80 or wire[4:10] != bytes(6):
        return False
    return bool(wire[3] & RCODE_MASK or wire[2] & 0x02)


def with_question(message: bytes, question: bytes) -> bytes:
    """Put a question into a reply that has none."""
    return b"".join((message[:4], b"\0\1", message[6:HEADER_SIZE], question, message[HEADER_SIZE:]))
