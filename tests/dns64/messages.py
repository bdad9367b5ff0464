"""Replies built with dnspython, and resolutions driven without sockets."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rrset

from nat64_dataplane.dns64.message import domain_names, wire
from nat64_dataplane.dns64.message.answer import TCP_SIZE, respond
from nat64_dataplane.dns64.message.edns import Edns
from nat64_dataplane.dns64.message.failed import Failed
from nat64_dataplane.dns64.message.wire import Reply
from nat64_dataplane.dns64.settings import Dns64, from_text
from nat64_dataplane.dns64.synthesis.alias_chain import Ask
from nat64_dataplane.dns64.synthesis.dns64_policy import Dns64Policy
from nat64_dataplane.dns64.synthesis.rfc6147 import Decision, Question, resolve

SOA = "example. 900 IN SOA ns.example. admin.example. 1 3600 600 86400 300"
Answers = dict[tuple[str, str], "Reply | Failed"]


def reply(
    name: str,
    rdtype: str,
    *answer: str,
    authority: Sequence[str] = (),
    rcode: int = dns.rcode.NOERROR,
    flags: int = 0,
    ede: Sequence[int] = (),
    opt: bool = True,
) -> Reply:
    """A reply as it comes from a recursive server; records as zone file lines."""
    query = dns.message.make_query(name, rdtype, use_edns=opt)
    message = dns.message.make_response(query, recursion_available=True)
    message.answer = [rrset(line) for line in answer]
    message.authority = [rrset(line) for line in authority]
    message.set_rcode(dns.rcode.Rcode.make(rcode))
    message.flags |= flags
    if opt:
        options: list[dns.edns.Option] = [
            dns.edns.EDEOption(dns.edns.EDECode.make(code)) for code in ede
        ]
        message.use_edns(0, 0, 1232, options=options)
    return wire.parse_reply(message.to_wire(max_size=65535))


def empty(name: str, rdtype: str, soa: str = SOA) -> Reply:
    """NODATA with its SOA."""
    return reply(name, rdtype, authority=[soa])


def rrset(line: str) -> dns.rrset.RRset:
    owner, ttl, rdclass, rdtype, data = line.split(None, 4)
    return dns.rrset.from_text(owner, int(ttl), rdclass, rdtype, data)


def policy(options: str = "") -> Dns64Policy:
    """The Dns64Policy of a `dns64` stanza with these lines; a /96 for local use unless they say."""
    return Dns64Policy(dns64_settings(options))


def dns64_settings(options: str = "") -> Dns64:
    text = options if "prefix" in options else f"prefix 64:ff9b:1::/96\n{options}"
    (server,) = from_text(f". {{\ndns64 {{\n{text}\n}}\nforward . ::1\n}}").servers
    assert server.dns64 is not None
    return server.dns64


class Resolution:
    """What came of a question: the decision, what was asked, and the message a client gets."""

    def __init__(self, decision: Decision, asked: list[Ask], question: Question) -> None:
        self.decision = decision
        self.rule = decision.rule
        self.answer = decision.answer
        self.asked = [(domain_names.to_text(ask.name), type_text(ask.type)) for ask in asked]
        flags = wire.RD | (wire.CD if question.cd else 0) | wire.AD
        edns = Edns(4096, 0, question.do, 0, b"")
        query = wire.Query(
            1, flags, question.wire, question.name, question.type, question.rdclass, edns
        )
        self.message = dns.message.from_wire(respond(query, decision.answer, TCP_SIZE))
        self.lines = [line for r in self.message.answer for line in r.to_text().split("\n")]

    @property
    def rcode(self) -> str:
        return dns.rcode.to_text(self.message.rcode())


def type_text(rdtype: int) -> str:
    return dns.rdatatype.to_text(dns.rdatatype.RdataType.make(rdtype))


def run(
    answers: Answers | Callable[[str, str], Reply | Failed],
    name: str = "www.example.",
    rdtype: str = "AAAA",
    options: str = "",
    *,
    do: bool = False,
    cd: bool = False,
    synthesize: bool = True,
    rdclass: int = wire.IN,
) -> Resolution:
    """Resolve a question with upstream's replies given by name and type."""
    question = Question(
        domain_names.from_text(name),
        int(dns.rdatatype.from_text(rdtype)),
        rdclass,
        do,
        cd,
        synthesize,
    )
    steps = resolve(policy(options), question)
    asked: list[Ask] = []
    try:
        ask = next(steps)
        while True:
            asked.append(ask)
            key = (domain_names.to_text(ask.name), type_text(ask.type))
            ask = steps.send(answers(*key) if callable(answers) else answers[key])
    except StopIteration as end:
        return Resolution(end.value, asked, question)
