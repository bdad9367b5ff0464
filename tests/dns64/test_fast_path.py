"""The fast path for the usual miss gives the answers of the full path."""

from __future__ import annotations

import dns.message
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nat64_dataplane.dns64.message import domain_names, wire
from nat64_dataplane.dns64.message.answer import respond
from nat64_dataplane.dns64.message.malformed import Malformed
from nat64_dataplane.dns64.synthesis import one_pass
from nat64_dataplane.dns64.synthesis.rfc6147 import synthesize
from tests.dns64.conftest import DNS64, PLUGINS, StartSidecar, StartUpstream
from tests.dns64.differential import NAMES, ZONE_TEXT, Case, ask, differences
from tests.dns64.messages import policy, reply
from tests.dns64.test_differential import KINDS, failing
from tests.dns64.test_fuzz import NAME, damaged, replies
from tests.dns64.test_wire import messages
from tests.dns64.upstreams import Upstream, Zone

FORMS: tuple[dict[str, object], ...] = (
    {},
    {"edns": 0},
    {"edns": 4096},
    {"do": True},
    {"cd": True},
    {"ad": True},
    {"tcp": True},
)


def zone() -> Zone:
    """The records of the comparison with CoreDNS, from a server that recurses."""
    lines, ttl = [], "300"
    for line in ZONE_TEXT.splitlines()[2:]:
        owner, *words = line.split()
        if words[0].isdigit():
            ttl_here, words = words[0], words[1:]
        else:
            ttl_here = ttl
        owner = "lab.test." if owner == "@" else f"{owner}.lab.test."
        if words[1] in ("CNAME", "DNAME", "NS"):
            words[2] = f"{words[2]}.lab.test."
        if words[1] not in ("SOA", "MX", "SRV", "HTTPS"):
            lines.append(f"{owner} {ttl_here} {' '.join(words)}")
    return Zone.of(*lines)


def compare(sidecar: StartSidecar, up: Upstream, names: list[str], dns64: str = DNS64) -> None:
    body = f"cache\nforward . {up} {{\nmax_fails 0\nmax_connect_attempts 1\n}}"
    short = sidecar(body, dns64=dns64)
    long = sidecar(body, dns64=dns64, plugins=PLUGINS + "log\n")
    for number, name in enumerate(names):
        for form in (FORMS[number % len(FORMS)], *FORMS):
            case = Case(name, "AAAA")._replace(**form)  # type: ignore[arg-type]
            mine, other = ask(case, short.port), ask(case, long.port)
            found = {part for part in differences(mine, other) if not part.endswith("ttl")}
            assert not found, f"{case}: {found}\nshort:\n{mine}\nlong:\n{other}"
            assert isinstance(mine, dns.message.Message)
    rules = ("synthesized", "real", "real_filtered", "nxdomain", "no_a", "a_failed")
    for rule in rules:
        assert short.metric("nat64_dns64_resolutions_total", rule=rule) == long.metric(
            "nat64_dns64_resolutions_total", rule=rule
        )
    for metric in ("coredns_cache_requests_total", "coredns_cache_misses_total"):
        assert short.metric(metric) == long.metric(metric)


def test_the_same_answers_for_every_shape_of_reply(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    names = [f"{name}.lab.test." for name in NAMES if name != "@"]
    compare(sidecar, upstream(zone()), names)
    compare(sidecar, upstream(zone()), names, "dns64 {\nexempt wild.lab.test\n}\n")


def test_the_same_answers_for_upstreams_that_fail(
    upstream: StartUpstream, sidecar: StartSidecar
) -> None:
    names = [f"{kind}-{rdtype}.fail.test." for kind in KINDS for rdtype in ("aaaa", "a")]
    compare(sidecar, upstream(failing), names)


def test_the_same_answers_for_what_is_local(upstream: StartUpstream, sidecar: StartSidecar) -> None:
    compare(sidecar, upstream(zone()), ["ipv4only.arpa.", "x.ipv4only.arpa.", "xipv4only.arpa."])


@given(messages(), st.integers(0, 1000))
def test_one_pass_gives_what_two_do(message: dns.message.Message, ttl: int) -> None:
    rules = policy("prefix 64:ff9b:1::/96 2001:db8:64::/48\nexclude_a 192.0.2.0/24")
    reply = wire.parse_reply(message.to_wire())
    first = 12 + len(reply.question)
    answer = one_pass.synthesized(reply.wire, first, rules.embed, ttl)
    if answer is None:
        return
    expected = synthesize(rules, reply, ttl, do=False)
    assert expected is not None
    query = wire.Query(1, wire.RD, reply.question, reply.question[:-4].lower(), 28, 1, None)
    mine, other = (dns.message.from_wire(respond(query, a, 65535)) for a in (answer, expected))
    assert [r.to_text() for r in mine.answer] == [r.to_text() for r in other.answer]
    assert mine == other
    assert (answer.ttl, answer.flags, answer.counts) == (
        expected.ttl,
        expected.flags,
        expected.counts,
    )
    for offset, wanted in zip(answer.offsets, expected.offsets, strict=True):
        assert answer.body[offset : offset + 4] == expected.body[wanted : wanted + 4]


@pytest.mark.parametrize("original", replies(), ids=range(len(replies())))
def test_one_pass_refuses_what_is_damaged(original: bytes) -> None:
    rules = policy()
    for data in damaged([original], 2000, 5):
        try:
            reply = wire.parse_reply(data)
        except Malformed:
            reply = None
        question = domain_names.from_text(NAME) + original[12 + 13 : 12 + 17]
        end = 12 + len(question)
        if (
            data[12:end] == question
            and one_pass.synthesized(data, end, rules.embed, 60) is not None
        ):
            assert reply is not None
            assert synthesize(rules, reply, 60, do=False) is not None


def test_the_usual_reply_takes_one_pass() -> None:
    chain = reply(NAME, "A", f"{NAME} 60 IN CNAME b.test.", "b.test. 50 IN A 198.51.100.7",
                  authority=["test. 50 IN NS ns.b.test."])  # fmt: skip
    answer = one_pass.synthesized(chain.wire, 12 + len(chain.question), policy().embed, 60)
    assert answer is not None


@given(messages())
def test_a_reply_without_data_is_one_by_the_long_way_too(message: dns.message.Message) -> None:
    data = message.to_wire()
    reply = wire.parse_reply(data)
    ttl = one_pass.no_data(data, 12 + len(reply.question))
    shape = (reply.counts, [record.type for record in reply.authority])
    if ttl is None:
        assert shape != ((0, 1, 0), [wire.SOA])
    else:
        assert shape == ((0, 1, 0), [wire.SOA])
        assert ttl == reply.authority[0].ttl
