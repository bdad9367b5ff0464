"""Damaged and arbitrary bytes, by the hundred thousand: nothing crashes or answers wrongly.

The messages come from a generator with a fixed seed, so that a failure comes back. A full run has
220,000 of them, with those of `test_fuzz_server`; `NAT64_FUZZ` sets another number.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from random import Random

import dns.exception
import dns.message
import pytest

from nat64_dataplane.dns64.message import domain_names, wire
from nat64_dataplane.dns64.message.answer import (
    TCP_SIZE,
    UDP_SIZE,
    bare_error,
    refusal,
    respond,
    udp_limit,
)
from nat64_dataplane.dns64.message.failed import Failed
from nat64_dataplane.dns64.message.malformed import Malformed
from nat64_dataplane.dns64.synthesis.rfc6147 import Question, resolve
from tests.dns64.messages import SOA, policy, reply, run

INPUTS = int(os.environ.get("NAT64_FUZZ", "220000"))
EACH = INPUTS // 8
NAME = "www.example."
PREFIX_BYTES = bytes.fromhex("0064ff9b0001000000000000")
SIGNATURE = "A 13 2 300 20300101000000 20200101000000 1 example. c2ln"


def queries() -> list[bytes]:
    """Queries in the forms that clients send."""
    made = []
    for rdtype in ("AAAA", "A", "PTR", "ANY"):
        for options in ({"use_edns": False}, {"use_edns": 0}, {"want_dnssec": True}):
            made.append(dns.message.make_query(NAME, rdtype, **options).to_wire())
    return made


def replies() -> list[bytes]:
    """Replies of the shapes that upstreams send, compressed."""
    chain = (f"{NAME} 60 IN CNAME b.test.", "b.test. 50 IN CNAME c.b.test.")
    a, aaaa = "c.b.test. 9 IN A 198.51.100.7", f"{NAME} 9 IN AAAA 2001:db8::7"
    shapes = [
        reply(NAME, "AAAA", authority=[SOA]),
        reply(NAME, "AAAA", aaaa, authority=["example. 9 IN NS ns.example."]),
        reply(NAME, "AAAA", aaaa, f"{NAME} 9 IN AAAA ::ffff:192.0.2.1", ede=[6]),
        reply(NAME, "A", *chain, a, authority=["test. 9 IN NS ns.b.test."]),
        reply(NAME, "A", f"{NAME} 9 IN A 192.0.2.1", f"{NAME} 9 IN RRSIG {SIGNATURE}"),
        reply(NAME, "A", "example. 9 IN DNAME b.test.", chain[0]),
        reply(NAME, "AAAA", rcode=3, authority=[SOA], opt=False),
    ]
    return [shape.wire for shape in shapes]


def damaged(originals: list[bytes], count: int, seed: int) -> Iterator[bytes]:
    """Originals with bytes changed, cut, doubled, or put together; and plain noise."""
    random = Random(seed)
    for _ in range(count):
        data = bytearray(random.choice(originals))
        for _ in range(random.choice((1, 1, 2, 4, 16))):
            at = random.randrange(len(data) + 1)
            match random.randrange(7):
                case 0 if at < len(data):
                    data[at] = random.randrange(256)
                case 1 if at < len(data):
                    data[at] ^= 1 << random.randrange(8)
                case 2:
                    del data[at:]
                case 3:
                    data[at:at] = random.randbytes(random.randrange(4))
                case 4:
                    del data[at : at + random.randrange(5)]
                case 5:
                    data[at:at] = bytes((0xC0 | random.randrange(64), random.randrange(256)))
                case 6 if random.random() < 0.2:
                    data = bytearray(random.randbytes(random.randrange(80)))
                case _:
                    pass
        yield bytes(data)


def test_damaged_queries_are_refused_or_answered_for_what_they_ask() -> None:
    accepted = 0
    for number, data in enumerate(damaged(queries(), EACH, 1)):
        try:
            query = wire.parse_query(data)
        except Malformed:
            error = bare_error(data, wire.FORMERR)
            if error is not None:
                assert len(error) == 12
                assert error[:2] == data[:2]
                assert error[3] & 15 == 1
            continue
        accepted += 1
        response = refusal(query, wire.REFUSED)
        assert response[:2] == data[:2]
        assert response[12 : 12 + len(query.question)] == query.question
        assert data[12 : 12 + len(query.question)] == query.question
        if number % 50 == 0:
            dns.message.from_wire(response)
    assert accepted > EACH // 50


@pytest.mark.parametrize("which", ["AAAA", "A"])
def test_damaged_replies_are_refused_or_make_a_whole_answer(which: str) -> None:
    """Each in turn as the reply to the AAAA or the A question, then as what a client gets."""
    name = domain_names.from_text(NAME)
    question = Question(name, wire.AAAA, wire.IN, False, False, True)
    query = wire.parse_query(dns.message.make_query(NAME, "AAAA").to_wire())
    good = {
        wire.AAAA: reply(NAME, "AAAA", authority=[SOA]),
        wire.A: reply(NAME, "A", f"{NAME} 9 IN A 198.51.100.7"),
    }
    damaged_type = wire.AAAA if which == "AAAA" else wire.A
    rules = policy()
    accepted = 0
    for number, data in enumerate(damaged(replies(), EACH, 2 if which == "A" else 3)):
        try:
            parsed = wire.parse_reply(data)
        except Malformed:
            continue
        if parsed.question[:-4].lower() != name:
            continue  # no reply to our question: the transport drops it
        accepted += 1
        steps = resolve(rules, question)
        try:
            ask = next(steps)
            while True:
                result: wire.Reply | Failed = Failed("nothing")
                if ask.name == name:
                    result = parsed if ask.type == damaged_type else good[ask.type]
                ask = steps.send(result)
        except StopIteration as end:
            answer = end.value.answer
        response = respond(query, answer, TCP_SIZE)
        ours = wire.parse_reply(response)
        assert response[:2] == query.id.to_bytes(2, "big")
        assert ours.question == query.question
        if answer.synthesized:
            addresses = [
                ours.data(r) for r in ours.answer if r.type == wire.AAAA and r.rdclass == 1
            ]
            assert all(address[:12] == PREFIX_BYTES for address in addresses) or any(
                record.type == wire.AAAA for record in parsed.answer
            )
        if number % 20 == 0:
            with contextlib.suppress(dns.exception.DNSException):
                # a type that is opaque to us may be nonsense to dnspython; names never are
                dns.message.from_wire(response)
    assert accepted > EACH // 100


def test_noise_is_no_message() -> None:
    random = Random(4)
    for _ in range(EACH):
        data = random.randbytes(random.randrange(60))
        for parse in (wire.parse_query, wire.parse_reply):
            try:
                parse(data)
            except Malformed:
                continue


@pytest.mark.parametrize(("records", "errors"), [(200, 0), (1, 300), (0, 9000), (20, 150)])
def test_responses_keep_to_the_clients_size_whatever_it_says(records: int, errors: int) -> None:
    """Nor does it matter how much upstream has to say about errors."""
    lines = [f"{NAME} 9 IN AAAA 2001:db8::{n:x}" for n in range(records)]
    big = reply(NAME, "AAAA", *lines, rcode=0 if records else 3, ede=[15] * errors)
    result = run(lambda _name, _type: big, NAME)
    for size in (0, 1, 511, 512, 513, 1231, 1232, 1233, 4096, 65535):
        query = wire.parse_query(dns.message.make_query(NAME, "AAAA", payload=size).to_wire())
        response = respond(query, result.answer, udp_limit(query))
        assert len(response) <= min(max(size, 512), UDP_SIZE)
