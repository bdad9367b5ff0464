"""Chains of aliases: questions follow them to their end, and the replies become one."""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple

from nat64_dataplane.dns64.message import domain_names, wire
from nat64_dataplane.dns64.message.compose import Data, Writer
from nat64_dataplane.dns64.message.failed import Failed
from nat64_dataplane.dns64.message.wire import Reply

MAX_CHAIN = 8
"""How many questions follow one chain of aliases that the upstream doesn't follow itself."""


class Ask(NamedTuple):
    """A question for the upstream."""

    name: bytes
    type: int
    why: str


def follow(name: bytes, rdtype: int, why: str) -> Generator[Ask, Reply | Failed, Reply | Failed]:
    """Ask for A or AAAA. If the upstream stops at an alias without a reason, ask for its target
    (section 5.1.5). A loop of aliases is a failure.
    """
    reply = yield Ask(name, rdtype, why)
    chain: list[Reply] = []
    seen, at = {name}, name
    while isinstance(reply, Reply):
        looped = _walk(reply, at, seen)
        if looped is not None:
            text = domain_names.to_text(looped)
            return Failed(f"a loop of aliases at {text}", wire.SERVFAIL, final=True)
        target = _open_end(reply)
        if target is None or len(chain) >= MAX_CHAIN:
            break
        chain.append(reply)
        at = target
        seen.add(at)
        reply = yield Ask(target, rdtype, "the chain of aliases ends here without an address")
    if not chain or isinstance(reply, Failed):
        return reply
    return join(name, rdtype, [*chain, reply])


def _aliases(reply: Reply) -> dict[bytes, bytes]:
    """The targets of a reply's aliases by owner, in lower case."""
    return {
        domain_names.expand_name(reply.wire, record.start).lower(): domain_names.expand_name(
            reply.wire, record.data
        ).lower()
        for record in reply.answer
        if record.type == wire.CNAME and record.rdclass == wire.IN
    }


def _walk(reply: Reply, at: bytes, seen: set[bytes]) -> bytes | None:
    """Follow a reply's aliases from a name on. Returns the name that comes twice, if one does."""
    targets = _aliases(reply)
    while (target := targets.get(at)) is not None:
        if target in seen:
            return target
        seen.add(target)
        at = target
    return None


def _open_end(reply: Reply) -> bytes | None:
    """Return the name at which a chain of aliases stops with nothing after it: at most name servers
    in the authority section, of the zone that has the aliases.
    """
    if not reply.answer or reply.rcode:
        return None
    if any(record.type not in (wire.NS, wire.RRSIG) for record in reply.authority):
        return None
    aliases = (wire.CNAME, wire.DNAME, wire.RRSIG)
    if any(record.type not in aliases or record.rdclass != wire.IN for record in reply.answer):
        return None
    last = [record for record in reply.answer if record.type == wire.CNAME]
    return domain_names.expand_name(reply.wire, last[-1].data).lower() if last else None


def join(name: bytes, rdtype: int, replies: list[Reply]) -> Reply:
    """Make one reply of a chain of aliases and the replies to their targets."""
    question = name + rdtype.to_bytes(2, "big") + b"\0\1"
    writer = Writer(question)
    last = replies[-1]
    for reply in replies:
        for record in reply.answer if reply is not last else ():
            target = (
                domain_names.expand_name(reply.wire, record.data)
                if record.type == wire.CNAME
                else b""
            )
            if target:
                owner = domain_names.expand_name(reply.wire, record.start)
                alias = Data(wire.CNAME, record.ttl, b"")
                writer.record(0, owner, alias, (b"", target, b"", b""))
    writer.reply(last)
    body = writer.body()
    counts = b"".join(count.to_bytes(2, "big") for count in (1, *body.counts))
    head = b"\0\0" + (last.flags & 0xFFFF).to_bytes(2, "big") + counts
    return wire.parse_reply(head + question + body.bytes)
