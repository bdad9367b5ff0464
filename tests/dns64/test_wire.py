"""Messages as bytes: what is accepted means what dnspython reads; the rest is refused."""

from __future__ import annotations

import contextlib

import dns.flags
import dns.message
import dns.name
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nat64_dataplane.dns64.message import domain_names, wire
from nat64_dataplane.dns64.message.answer import from_reply, respond
from nat64_dataplane.dns64.message.compose import Body, Changes, Data, Moved, Writer, splice
from nat64_dataplane.dns64.message.edns import Edns
from nat64_dataplane.dns64.message.malformed import Malformed

LABELS = st.sampled_from(["www", "a", "b", "example", "xn--bcher-kva", "long" * 15])
NAMES = st.lists(LABELS, min_size=0, max_size=3).map(lambda parts: ".".join(parts) + ".")
TTLS = st.integers(0, 2**31 - 1)


def record_lines() -> st.SearchStrategy[str]:
    def line(parts: tuple[str, int, str, str]) -> str:
        owner, ttl, kind, target = parts
        data = {
            "A": "198.51.100.7",
            "AAAA": "2001:db8::7",
            "CNAME": target,
            "NS": target,
            "PTR": target,
            "DNAME": target,
            "MX": f"10 {target}",
            "SRV": f"1 2 3 {target}",
            "SOA": f"{target} admin.{target if target != '.' else ''} 1 2 3 4 5",
            "TXT": '"text"',
            "HTTPS": "1 . alpn=h2",
        }[kind]
        return f"{owner} {ttl} IN {kind} {data}"

    kinds = st.sampled_from(
        ["A", "AAAA", "CNAME", "NS", "PTR", "DNAME", "MX", "SRV", "SOA", "TXT", "HTTPS"]
    )
    return st.tuples(NAMES, TTLS, kinds, NAMES).map(line)


@st.composite
def messages(draw: st.DrawFn) -> dns.message.Message:
    """Responses with compression, of any records in any section."""
    name = draw(NAMES)
    query = dns.message.make_query(name, draw(st.sampled_from(["A", "AAAA", "MX"])))
    response = dns.message.make_response(query)
    for section in (response.answer, response.authority, response.additional):
        for line in draw(st.lists(record_lines(), max_size=4)):
            owner, ttl, _, rdtype, data = line.split(None, 4)
            section.append(dns.rrset.from_text(owner, int(ttl), "IN", rdtype, data))
    if draw(st.booleans()):
        response.use_edns(0, 0, 1232)
    else:
        response.use_edns(False)
    return response


def lines(message: dns.message.Message) -> list[list[str]]:
    return [
        [r.to_text() for r in section]
        for section in (message.answer, message.authority, message.additional)
    ]


def read(reply: wire.Reply, body: Body) -> dns.message.Message:
    counts = b"".join(count.to_bytes(2, "big") for count in (1, *body.counts))
    whole = b"\0\1\x81\x80" + counts + reply.question + body.bytes
    return dns.message.from_wire(whole, one_rr_per_rrset=True)


@given(messages())
def test_a_reply_is_read_as_dnspython_reads_it(message: dns.message.Message) -> None:
    data = message.to_wire()
    reply = wire.parse_reply(data)
    expected = dns.message.from_wire(data, one_rr_per_rrset=True)
    sections = (expected.answer, expected.authority, expected.additional)
    assert reply.counts == tuple(len(section) for section in sections)
    for record, rrset in zip(reply.records, [r for s in sections for r in s], strict=True):
        owner = dns.name.from_wire(domain_names.expand_name(data, record.start), 0)[0]
        assert (owner, record.type, record.ttl) == (rrset.name, rrset.rdtype, rrset.ttl)
        assert int.from_bytes(data[record.ttl_at : record.ttl_at + 4], "big") == rrset.ttl


@st.composite
def changed(draw: st.DrawFn) -> tuple[wire.Reply, Changes]:
    reply = wire.parse_reply(draw(messages()).to_wire())
    data = Data(wire.AAAA, 60, bytes(16))
    choices = st.one_of(st.none(), st.just(()), st.just((data,)), st.just((data, data)))
    changes = {index: draw(choices) for index in range(len(reply.records))}
    return reply, {index: new for index, new in changes.items() if new is not None}


@given(changed())
def test_both_ways_to_compose_a_body_give_the_same_message(
    made: tuple[wire.Reply, Changes],
) -> None:
    reply, changes = made
    writer = Writer(reply.question)
    writer.reply(reply, changes)
    written = read(reply, writer.body())
    expected: list[list[str]] = [[], [], []]
    original = dns.message.from_wire(reply.wire, one_rr_per_rrset=True)
    sections = (original.answer, original.authority, original.additional)
    index = 0
    for section, rrsets in enumerate(sections):
        for rrset in rrsets:
            new = changes.get(index)
            if new is None:
                expected[section].append(rrset.to_text())
            else:
                expected[section] += [f"{rrset.name} 60 IN AAAA ::"] * len(new)
            index += 1
    assert lines(written) == expected
    try:
        spliced = splice(reply, changes)
    except Moved:
        return
    assert lines(read(reply, spliced)) == expected


@given(changed())
def test_ttls_are_where_a_body_says(made: tuple[wire.Reply, Changes]) -> None:
    reply, changes = made
    writer = Writer(reply.question)
    writer.reply(reply, changes)
    bodies = [writer.body()]
    with contextlib.suppress(Moved):
        bodies.append(splice(reply, changes))
    for body in bodies:
        data = bytearray(body.bytes)
        for offset in body.offsets:
            data[offset : offset + 4] = (7).to_bytes(4, "big")
        message = read(reply, body._replace(bytes=bytes(data)))
        sections = (message.answer, message.authority, message.additional)
        assert all(rrset.ttl == 7 for section in sections for rrset in section)
        assert len(body.offsets) == sum(body.counts)


def test_the_usual_reply_is_spliced() -> None:
    query = dns.message.make_query("www.example.", "A")
    response = dns.message.make_response(query)
    for line in ("www.example. 60 IN CNAME b.test.", "b.test. 50 IN A 198.51.100.7"):
        owner, ttl, _, rdtype, data = line.split(None, 4)
        response.answer.append(dns.rrset.from_text(owner, int(ttl), "IN", rdtype, data))
    reply = wire.parse_reply(response.to_wire())
    body = splice(reply, {1: (Data(wire.AAAA, 50, bytes(16)),)})
    assert lines(read(reply, body))[0][1] == "b.test. 50 IN AAAA ::"


@settings(max_examples=500)
@given(st.binary(max_size=120))
@example(b"\0\0\x80\0\0\1\0\1\0\0\0\0\0\0\1\0\1\xc0\x0c\0\1\0\1\0\0\0\0\0\4\1\2\3\4")
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for parse in (wire.parse_query, wire.parse_reply):
        with contextlib.suppress(Malformed):
            parse(data)


@settings(max_examples=300)
@given(messages(), st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), max_size=4))
def test_a_damaged_reply_is_refused_or_can_be_passed_on(
    message: dns.message.Message, damage: list[tuple[int, int]]
) -> None:
    data = bytearray(message.to_wire())
    for at, value in damage:
        data[at % len(data)] = value
    try:
        reply = wire.parse_reply(bytes(data))
    except Malformed:
        return
    writer = Writer(reply.question)
    if len(reply.question) < 5:
        return
    writer.reply(reply)
    again = wire.parse_reply(
        b"\0\1\x81\x80"
        + b"".join(count.to_bytes(2, "big") for count in (1, *writer.body().counts))
        + reply.question
        + writer.body().bytes
    )
    assert again.counts == reply.counts


@pytest.mark.parametrize(
    ("what", "data"),
    [
        ("pointer to itself", b"\xc0\x0c"),
        ("pointer forward", b"\xc0\x20"),
        ("pointer into the header", b"\xc0\x04"),
        ("label kind 0x40", b"\x41a\0"),
        ("label past the end", b"\x3fa"),
        ("pointer past the end", b"\xc0"),
    ],
)
def test_bad_names_are_refused(what: str, data: bytes) -> None:
    with pytest.raises(Malformed):
        wire.skip_name(bytes(12) + data, 12)


def test_a_name_is_at_most_255_bytes_with_its_pointers() -> None:
    label = b"\x3f" + b"a" * 63
    start = bytes(12) + label * 3 + b"\0"
    assert wire.skip_name(start + b"\x3c" + b"b" * 60 + b"\xc0\x0c", len(start))
    with pytest.raises(Malformed, match="longer than 255"):
        wire.skip_name(start + b"\x3f" + b"b" * 63 + b"\xc0\x0c", len(start))


def test_a_ttl_with_its_top_bit_set_is_zero() -> None:
    head = b"\0\0\x80\0\0\1\0\1\0\0\0\0\0\0\1\0\1"
    reply = wire.parse_reply(head + b"\0\0\1\0\1\xff\xff\xff\xff\0\4\1\2\3\4")
    assert reply.answer[0].ttl == 0


@given(NAMES)
def test_names_go_to_text_and_back(name: str) -> None:
    assert domain_names.to_text(domain_names.from_text(name)) == name


@given(messages(), st.integers(12, 600), st.sampled_from([0, 1, 2]))
def test_no_response_is_larger_than_its_limit(
    message: dns.message.Message, limit: int, edns: int
) -> None:
    reply = wire.parse_reply(message.to_wire())
    name, rdtype = reply.question[:-4], int.from_bytes(reply.question[-4:-2], "big")
    opt = Edns(limit, 0, edns == 2, 0, b"") if edns else None
    query = wire.Query(1, wire.RD, reply.question, name, rdtype, 1, opt)
    limit = max(limit, 12 + len(reply.question) + 11)
    response = respond(query, from_reply(reply), limit)
    assert len(response) <= limit
    parsed = dns.message.from_wire(response)
    if not parsed.flags & dns.flags.TC:
        assert len(parsed.answer) > 0 or not reply.answer
