"""resolver.arpa, with which clients discover designated resolvers (RFC 9462): none here.

The name means the resolver that is asked, so the question must not be forwarded: the upstream would
designate itself, and a client that goes there gets no synthesis.
"""

from __future__ import annotations

from nat64_dataplane.dns64.message import domain_names, wire
from nat64_dataplane.dns64.message.answer import Answer
from nat64_dataplane.dns64.message.compose import Data, Writer
from nat64_dataplane.dns64.synthesis.local_answers import TTL, finish, soa_rdata

RESOLVER_ARPA = domain_names.from_text("resolver.arpa.")
_DNS = domain_names.from_text("_dns.resolver.arpa.")


def answer(name: bytes, rdtype: int) -> Answer | None:
    """Answer for resolver.arpa and names below it; None for other names, and for its DS, which
    belongs to the parent.
    """
    if not name.endswith(RESOLVER_ARPA) or RESOLVER_ARPA not in domain_names.ancestors(name):
        return None
    if name == RESOLVER_ARPA and rdtype == wire.DS:
        return None
    writer = Writer(name + b"\0\0\0\1")
    flags = wire.AA | wire.RA
    if name == RESOLVER_ARPA and rdtype == wire.SOA:
        writer.record(0, name, Data(wire.SOA, TTL, b""), soa_rdata(RESOLVER_ARPA))
    elif name not in (RESOLVER_ARPA, _DNS):
        flags |= wire.NXDOMAIN
    return finish(writer, flags, RESOLVER_ARPA)
