"""RFC 6147 as one function: what to ask the upstream, and what to answer.

`resolve` is a generator, so that it is pure: it yields an `Ask`, receives the `Reply` (or `Failed`)
and finally returns a `Decision`. The server drives it from sockets, `explain` drives it step by
step, and tests drive it with messages of their own.
"""

from __future__ import annotations

import enum
from collections.abc import Generator
from typing import NamedTuple

from nat64_dataplane.dns64.message import wire
from nat64_dataplane.dns64.message.answer import (
    EDE_NETWORK_ERROR,
    EDE_OTHER,
    EDE_SYNTHESIZED,
    SUCCESS,
    UNCACHEABLE,
    Answer,
    failure,
    from_reply,
)
from nat64_dataplane.dns64.message.compose import Data, compose
from nat64_dataplane.dns64.message.failed import Failed
from nat64_dataplane.dns64.message.wire import Reply
from nat64_dataplane.dns64.synthesis import local_answers, resolver_arpa
from nat64_dataplane.dns64.synthesis.alias_chain import Ask, follow
from nat64_dataplane.dns64.synthesis.dns64_policy import Dns64Policy
from nat64_dataplane.dns64.synthesis.reply_facts import covers, has_addresses, is_signed

TTL_WITHOUT_SOA = 600
"""Seconds: the maximum TTL of a synthesized AAAA if no SOA gives another one (section 5.1.7)."""
TTL_AFTER_FAILURE = 30
"""Seconds: its maximum TTL if the AAAA question got no reply, or an error."""
_SYNTHESIZED = ((EDE_SYNTHESIZED, "DNS64"),)
DNSSEC_ERRORS = frozenset({1, 2, 5, 6, 7, 8, 9, 10, 11, 12, 27})
"""Extended DNS errors that say that validation failed (RFC 8914)."""


class Question(NamedTuple):
    """A client's question, reduced to what the answer depends on."""

    name: bytes
    """Wire format, lower case."""
    type: int
    rdclass: int
    do: bool
    cd: bool
    synthesize: bool
    """Whether this client's AAAA may be synthesized."""
    rd: bool = True
    """Whether it wants recursion; if so, the upstream is asked for it."""

    @property
    def wire(self) -> bytes:
        """The question section."""
        return self.name + self.type.to_bytes(2, "big") + self.rdclass.to_bytes(2, "big")


class Rule(enum.Enum):
    """The rule that decided. The value is a sentence for people."""

    PASSED = "not a question that DNS64 changes: upstream's reply is the answer"
    CLASS = "class other than IN: as if there were no DNS64 (RFC 6147 section 5.1)"
    NO_SYNTHESIS = "no synthesis for this client or by this node now: the reply is the answer"
    EXEMPT = "the name is in an exempt zone: the reply is the answer"
    CHECKING_DISABLED = "CD is set, the client validates: no synthesis (RFC 6147 section 3)"
    REAL = "the name has real AAAA records: they are the answer (RFC 6147 section 5.1.1)"
    REAL_FILTERED = "some AAAA are in excluded ranges: the others are the answer (section 5.1.4)"
    NXDOMAIN = "the name doesn't exist: that is the answer (RFC 6147 section 5.1.2)"
    BOGUS = "upstream says that DNSSEC validation failed: that is the answer (section 5.5)"
    SIGNED = "the answer is signed and break_dnssec is off: no synthesis (section 5.5)"
    NO_A = "no A records either: the reply to the A question is the answer (section 5.1.6)"
    A_FAILED = "the A question failed: its RCODE is the answer (RFC 6147 section 5.1.6)"
    A_EXCLUDED = "no A may be translated: the answer is empty (RFC 6147 section 5.1.4)"
    SYNTHESIZED = "no AAAA but A records: the answer is synthesized (RFC 6147 section 5.1.7)"
    IPV4ONLY = "ipv4only.arpa is answered here, with every prefix (RFC 7050, RFC 8880)"
    PTR_LOCAL = "the address is under a prefix: answered with ptr's name (section 5.3.1)"
    PTR_CNAME = "the address is under a prefix: CNAME to in-addr.arpa (section 5.3.1)"
    RESOLVER_ARPA = "resolver.arpa is answered here and never forwarded (RFC 9462 section 6.4)"
    ALIAS_LOOP = "the name's aliases lead in a circle"
    UNREACHED = "no upstream answered"
    FAULT = "a fault of this program: the log says which"


class Decision(NamedTuple):
    """The answer and the rule that made it."""

    answer: Answer
    rule: Rule


Steps = Generator[Ask, Reply | Failed, Decision]


def resolve(policy: Dns64Policy | None, question: Question) -> Steps:
    """Decide one question, also for servers without `dns64` (`policy` None)."""
    if question.rdclass == wire.IN:
        resolvers = resolver_arpa.answer(question.name, question.type)
        if resolvers is not None:
            return Decision(resolvers, Rule.RESOLVER_ARPA)
    if policy is None or question.rdclass != wire.IN:
        rule = Rule.PASSED if question.rdclass == wire.IN else Rule.CLASS
        return (yield from _pass(question, rule))
    here = local_answers.answer(
        policy, question.name, question.type, synthesize=question.synthesize
    )
    if here is not None:
        if here.synthesized and question.do:
            here.errors = _SYNTHESIZED
        return Decision(here, Rule.IPV4ONLY)
    if question.type == wire.PTR:
        return (yield from _reverse(policy, question))
    if question.type != wire.AAAA:
        return (yield from _pass(question, Rule.PASSED))
    if question.cd:
        return (yield from _pass(question, Rule.CHECKING_DISABLED))
    if not question.synthesize:
        return (yield from _pass(question, Rule.NO_SYNTHESIS))
    if question.name in policy.exempt:
        return (yield from _pass(question, Rule.EXEMPT))
    return (yield from _aaaa(policy, question))


def _pass(question: Question, rule: Rule) -> Steps:
    reply = yield Ask(question.name, question.type, "the question itself")
    if isinstance(reply, Failed):
        return _unreached(reply)
    return Decision(from_reply(reply), rule)


def _unreached(failed: Failed, rule: Rule = Rule.UNREACHED) -> Decision:
    code = EDE_NETWORK_ERROR if failed.rcode == wire.SERVFAIL else EDE_OTHER
    return Decision(failure(failed.rcode, (code, failed.reason)), rule)


def _aaaa(policy: Dns64Policy, question: Question) -> Steps:
    why = "real AAAA records come first (section 5.1)"
    first = yield from follow(question.name, wire.AAAA, why)
    keeps_dnssec = _keeps_dnssec(policy, question)
    real: Decision | None = None
    ttl = TTL_AFTER_FAILURE
    if isinstance(first, Failed) and first.final:
        return _loop(first)
    if isinstance(first, Reply):
        rcode = first.rcode
        if rcode == wire.NXDOMAIN:
            return Decision(from_reply(first), Rule.NXDOMAIN)
        if rcode == wire.SERVFAIL and any(code in DNSSEC_ERRORS for code, _ in first.errors()):
            return Decision(from_reply(first), Rule.BOGUS)
        if rcode == wire.NOERROR:
            if keeps_dnssec and is_signed(first):
                return Decision(from_reply(first), Rule.SIGNED)
            real = _real(policy, first)
            if real is not None and not policy.settings.translate_all:
                return real
            ttl = TTL_WITHOUT_SOA
            for record in first.authority:
                if record.type == wire.SOA:
                    ttl = record.ttl
    why = "no usable AAAA: are there A records? (section 5.1.6)"
    second = yield from follow(question.name, wire.A, why)
    if isinstance(second, Failed):
        if real is None and second.final:
            return _loop(second)
        return real or _unreached(second, Rule.A_FAILED)
    if not has_addresses(second):
        rule = Rule.A_FAILED if second.rcode else Rule.NO_A
        excluded = _excluded(policy, second)
        return real or Decision(from_reply(second, excluded, keep=wire.RA), rule)
    if keeps_dnssec and isinstance(first, Reply) and is_signed(second):
        return Decision(from_reply(first), Rule.SIGNED)
    answer = synthesize(policy, second, ttl, do=question.do)
    if answer is not None:
        return Decision(answer, Rule.SYNTHESIZED)
    if real is not None:
        return real
    if isinstance(first, Reply) and first.rcode == wire.NOERROR and not first.answer:
        return Decision(from_reply(first), Rule.A_EXCLUDED)
    return Decision(_without_addresses(policy, second), Rule.A_EXCLUDED)


def _loop(failed: Failed) -> Decision:
    return Decision(failure(failed.rcode, (EDE_OTHER, failed.reason)), Rule.ALIAS_LOOP)


def _excluded(policy: Dns64Policy, reply: Reply) -> dict[int, tuple[Data, ...]]:
    """The records to drop from the reply to an A question: excluded AAAA."""
    return {
        index: ()
        for index, record in enumerate(reply.answer)
        if record.type == wire.AAAA
        and record.rdclass == wire.IN
        and policy.excluded(reply.data(record))
    }


def _real(policy: Dns64Policy, reply: Reply) -> Decision | None:
    """Keep the AAAA that aren't excluded; None if there are none to keep."""
    if not reply.answer:
        return None
    drop: dict[int, tuple[Data, ...]] = {}
    good = 0
    for index, record in enumerate(reply.answer):
        if record.type != wire.AAAA or record.rdclass != wire.IN:
            continue
        if policy.excluded(reply.data(record)):
            drop[index] = ()
        else:
            good += 1
    if not good:
        return None
    if drop:
        for index, record in enumerate(reply.answer):
            if covers(reply, record, wire.AAAA):  # it also covers the AAAA that are removed
                drop[index] = ()
        return Decision(from_reply(reply, drop, keep=wire.AA | wire.RA), Rule.REAL_FILTERED)
    return Decision(from_reply(reply), Rule.REAL)


def synthesize(policy: Dns64Policy, reply: Reply, ttl: int, *, do: bool) -> Answer | None:
    """Put AAAA in the place of every A; None if no A may be translated.

    `ttl` is the maximum TTL of a synthesized record (section 5.1.7). Signatures over the A records
    are removed with them; everything else stays (section 5.3.3).
    """
    changes = _excluded(policy, reply)
    found, least = 0, ttl
    for index, record in enumerate(reply.answer):
        if record.type == wire.A and record.rdclass == wire.IN:
            capped = min(ttl, record.ttl)
            addresses = policy.embed(reply.data(record))
            changes[index] = tuple([Data(wire.AAAA, capped, address) for address in addresses])
            found += len(addresses)
        elif covers(reply, record, wire.A):
            changes[index] = ()
        least = min(least, record.ttl)
    if not found:
        return None
    body = compose(reply, changes)
    return Answer(
        reply.flags & wire.RA,  # no server is authoritative for a record that is in no zone
        body.counts,
        body.bytes,
        offsets=body.offsets,
        ttl=least,
        kind=SUCCESS,
        errors=_SYNTHESIZED if do else (),
        synthesized=True,
    )


def _without_addresses(policy: Dns64Policy, reply: Reply) -> Answer:
    """The aliases of a reply whose A records are all excluded: an empty answer, not cached."""
    drop = _excluded(policy, reply)
    for index, record in enumerate(reply.answer):
        if record.type == wire.A or covers(reply, record, wire.A):
            drop[index] = ()
    answer = from_reply(reply, drop, keep=wire.RA)
    answer.flags |= wire.RA
    answer.ttl = UNCACHEABLE
    return answer


def _keeps_dnssec(policy: Dns64Policy, question: Question) -> bool:
    """Whether this client gets signed answers unchanged: `break_dnssec off`."""
    return question.do and not policy.settings.break_dnssec


def _reverse(policy: Dns64Policy, question: Question) -> Steps:
    """PTR for an address under a Pref64 (section 5.3.1); any other PTR is passed on."""
    target = local_answers.reverse_target(policy, question.name)
    if target is None:
        return (yield from _pass(question, Rule.PASSED))
    if question.cd:
        return (yield from _pass(question, Rule.CHECKING_DISABLED))
    if _keeps_dnssec(policy, question):
        real = yield Ask(question.name, wire.PTR, "break_dnssec is off: is the answer signed?")
        if isinstance(real, Reply) and is_signed(real):
            return Decision(from_reply(real), Rule.SIGNED)
    if isinstance(target, Answer):
        return Decision(target, Rule.PTR_LOCAL)
    here = local_answers.answer(policy, target, wire.PTR, synthesize=question.synthesize)
    if here is not None:
        return Decision(local_answers.alias_to_local(question.wire, target), Rule.IPV4ONLY)
    reply = yield Ask(target, wire.PTR, "the address is under a prefix: what is its IPv4 name?")
    if isinstance(reply, Failed):
        return _unreached(reply)
    return Decision(local_answers.alias(question.wire, target, reply), Rule.PTR_CNAME)
