"""`nat64-dns64 explain`: shows one question to a person, step by step.

It uses the running sidecar's Corefile and asks the same upstreams by the same rules, without the
cache and without any effect on the sidecar itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import NamedTuple

import dns.message
import dns.rdatatype

from nat64_dataplane.dns64.access.client_acl import Client, ClientAcl
from nat64_dataplane.dns64.host import translator_status
from nat64_dataplane.dns64.host.random_bytes import Entropy
from nat64_dataplane.dns64.host.translator_status import UNCOUPLED, Status
from nat64_dataplane.dns64.message import domain_names, wire
from nat64_dataplane.dns64.message.answer import TCP_SIZE, Answer, respond, unprogrammed
from nat64_dataplane.dns64.message.edns import Edns
from nat64_dataplane.dns64.message.failed import Failed
from nat64_dataplane.dns64.message.wire import Reply
from nat64_dataplane.dns64.report.dns_metrics import rcode_text
from nat64_dataplane.dns64.settings import Server, Settings, Unprogrammed
from nat64_dataplane.dns64.synthesis.alias_chain import Ask
from nat64_dataplane.dns64.synthesis.dns64_policy import Dns64Policy
from nat64_dataplane.dns64.synthesis.rfc6147 import Decision, Question, resolve
from nat64_dataplane.dns64.upstream.upstream_group import UpstreamGroup

Say = Callable[[str], None]


class Request(NamedTuple):
    """What to explain: a name as text, and the client with its flags."""

    name: str
    type: str
    client: str
    do: bool
    cd: bool


async def explain(settings: Settings, request: Request, say: Say) -> int:
    """Print what happens to one question. Returns 0 if there was an answer with records."""
    name = domain_names.from_text(request.name)
    rdtype = int(dns.rdatatype.from_text(request.type))
    server = _server(settings, name)
    type_text = dns.rdatatype.to_text(dns.rdatatype.RdataType.make(rdtype))
    say(f"question     {domain_names.to_text(name)} {type_text}{_flags(request)}")
    if server is None:
        say("answer       REFUSED: no server block is for this name")
        return 1
    say(f"server       {server.label}, zones {' '.join(server.zones)}")
    clients = ClientAcl(server.acls)
    client = clients.get(request.client)
    verdict = clients.verdict(client, name, rdtype)
    say(f"client       {client.text}: {verdict}{_VERDICTS[verdict]}")
    if verdict != "allow":
        return 1
    policy = Dns64Policy(server.dns64) if server.dns64 else None
    synthesize, status = _say_synthesis(server, client, say)
    question = Question(name, rdtype, wire.IN, request.do, request.cd, synthesize)
    if policy is not None and not status.programmed:
        fails = policy.settings.unprogrammed is Unprogrammed.SERVFAIL
        family = client.family
        if fails and policy.may_synthesize(name, rdtype, wire.IN, cd=request.cd, family=family):
            say("rule         translator says servfail while there is no translator")
            _say_answer(question, unprogrammed(status.reason), say)
            return 1
    decision = await _resolve(server, policy, question, say)
    say(f"rule         {decision.rule.value}")
    _say_answer(question, decision.answer, say)
    return 0 if decision.answer.counts[0] else 1


_VERDICTS = {
    "allow": "",
    "block": ", the response is REFUSED",
    "filter": ", the response is empty",
    "drop": ", there is no response",
}


def _flags(request: Request) -> str:
    flags = [text for text, given in (("DO", request.do), ("CD", request.cd)) if given]
    return f" with {' and '.join(flags)}" if flags else ""


def _server(settings: Settings, name: bytes) -> Server | None:
    for zone in domain_names.ancestors(name):
        for server in settings.servers:
            if zone in (domain_names.from_text(text) for text in server.zones):
                return server
    return None


def _say_synthesis(server: Server, client: Client, say: Say) -> tuple[bool, Status]:
    """Say whether this client's AAAA are synthesized. Returns it, and the translator's status."""
    dns64, status = server.dns64, UNCOUPLED
    if dns64 is None:
        say("dns64        not in this server block: nothing is synthesized")
        return False, status
    prefixes = " ".join(str(prefix) for prefix in dns64.prefixes)
    if client.family == 1 and not dns64.allow_ipv4:
        say("dns64        off for IPv4 clients: allow_ipv4 would change that")
        return False, status
    if dns64.translator:
        status = translator_status.read(dns64.translator)
        if not status.programmed:
            say(f"dns64        off: the translator isn't programmed: {status.reason}")
            return False, status
        say(f"translator   programmed ({dns64.translator})")
    say(f"dns64        on, prefix {prefixes}")
    return True, status


async def _resolve(
    server: Server, policy: Dns64Policy | None, question: Question, say: Say
) -> Decision:
    loop = asyncio.get_running_loop()
    used: list[str] = []

    def observe(upstream: str, rcode: int | None, seconds: float) -> None:
        result = "no reply" if rcode is None else rcode_text(rcode)
        used.append(f"{upstream}: {result} after {seconds * 1000:.1f} ms")

    entropy = Entropy()
    groups = [UpstreamGroup(forward, entropy, observe) for forward in server.forwards]
    steps = resolve(policy, question)
    try:
        ask = next(steps)
        while True:
            say(f"asked        {domain_names.to_text(ask.name)} {_type(ask.type)}: {ask.why}")
            result: Reply | Failed = Failed("no forward stanza is for this name", wire.REFUSED)
            serving = [group for group in groups if group.serves(ask.name)]
            for number, group in enumerate(serving, 1):
                used.clear()
                done: asyncio.Future[Reply | Failed] = loop.create_future()
                tail = ask.type.to_bytes(2, "big") + question.rdclass.to_bytes(2, "big")
                group.ask(ask.name + tail, do=question.do, cd=question.cd, done=done.set_result)
                result = await done
                for line in used:
                    say(f"  try        {line}")
                _say_result(ask, result, say)
                if isinstance(result, Failed) or not group.passes_on(result):
                    break
                if number < len(serving):
                    say("  next       this reply passes the question on to the next forward stanza")
            if not serving:
                _say_result(ask, result, say)
            ask = steps.send(result)
    except StopIteration as end:
        decision = end.value
        assert isinstance(decision, Decision), "resolve returns a Decision"
        return decision
    finally:
        for group in groups:
            group.close()


def _say_result(ask: Ask, result: Reply | Failed, say: Say) -> None:
    for line in _result(ask, result):
        say(f"  reply      {line}")


def _result(ask: Ask, result: Reply | Failed) -> Iterator[str]:
    if isinstance(result, Failed):
        yield f"none: {result.reason}"
        return
    message = dns.message.from_wire(result.wire)
    if not message.answer:
        yield f"{rcode_text(result.rcode)}, no records"
    for rrset in message.answer:
        yield from rrset.to_text().split("\n")
    for rrset in message.authority:
        if rrset.rdtype == dns.rdatatype.SOA and not any(
            record.type == ask.type for record in result.answer
        ):
            yield f"SOA of {rrset.name} with TTL {rrset.ttl}"
    for code, text in result.errors():
        yield f"extended error {code}{f': {text}' if text else ''}"


def _say_answer(question: Question, answer: Answer, say: Say) -> None:
    edns = Edns(TCP_SIZE, 0, question.do, 0, b"")
    flags = wire.RD | (wire.CD if question.cd else 0)
    query = wire.Query(0, flags, question.wire, question.name, question.type, wire.IN, edns)
    message = dns.message.from_wire(respond(query, answer, TCP_SIZE))
    lines = [line for rrset in message.answer for line in rrset.to_text().split("\n")]
    say(f"answer       {rcode_text(answer.rcode)}{'' if lines else ', no records'}")
    for line in lines:
        say(f"             {line}")
    for code, text in answer.errors:
        say(f"             extended error {code}{f': {text}' if text else ''}")


def _type(rdtype: int) -> str:
    return dns.rdatatype.to_text(dns.rdatatype.RdataType.make(rdtype))
