"""RFC 6147, row by row: each test's name is a row of the checklist."""

from __future__ import annotations

import dns.flags
import dns.rcode
import pytest

from nat64_dataplane.dns64.message import wire
from nat64_dataplane.dns64.message.failed import Failed
from nat64_dataplane.dns64.synthesis.alias_chain import MAX_CHAIN
from nat64_dataplane.dns64.synthesis.rfc6147 import DNSSEC_ERRORS, Rule
from tests.dns64.messages import SOA, Answers, empty, reply, run

V4 = "www.example. 300 IN A 198.51.100.7"
V6 = "www.example. 300 IN AAAA 2001:db8::7"
SYNTHESIZED = "www.example. 300 IN AAAA 64:ff9b:1::c633:6407"


def nodata_then(*a_records: str) -> Answers:
    return {
        ("www.example.", "AAAA"): empty("www.example.", "AAAA"),
        ("www.example.", "A"): reply("www.example.", "A", *a_records),
    }


def test_5_1_aaaa_is_synthesized_from_a_where_there_is_no_aaaa() -> None:
    result = run(nodata_then(V4))
    assert result.lines == [SYNTHESIZED]
    assert result.rule is Rule.SYNTHESIZED
    assert result.asked == [("www.example.", "AAAA"), ("www.example.", "A")]


def test_5_class_other_than_in_is_as_if_there_were_no_dns64() -> None:
    chaos = reply("www.example.", "AAAA")
    result = run({("www.example.", "AAAA"): chaos}, rdclass=3)
    assert (result.rule, result.lines) == (Rule.CLASS, [])
    assert len(result.asked) == 1


def test_5_1_1_a_real_aaaa_is_the_answer_and_a_is_not_asked() -> None:
    result = run({("www.example.", "AAAA"): reply("www.example.", "AAAA", V6)})
    assert (result.rule, result.lines) == (Rule.REAL, [V6])


def test_5_1_2_nxdomain_is_passed_and_a_is_not_asked() -> None:
    gone = reply("www.example.", "AAAA", rcode=dns.rcode.NXDOMAIN)
    result = run({("www.example.", "AAAA"): gone})
    assert (result.rcode, result.rule) == ("NXDOMAIN", Rule.NXDOMAIN)


@pytest.mark.parametrize("rcode", [1, 2, 4, 5, 6, 7, 8, 9, 10])
def test_5_1_2_any_other_rcode_counts_as_empty_and_a_is_asked(rcode: int) -> None:
    answers = nodata_then(V4)
    answers["www.example.", "AAAA"] = reply("www.example.", "AAAA", rcode=rcode)
    result = run(answers)
    assert (result.rcode, result.lines) == ("NOERROR", [SYNTHESIZED.replace(" 300 ", " 30 ")])


def test_5_1_3_a_timeout_counts_as_empty_and_a_is_asked() -> None:
    answers = nodata_then(V4)
    answers["www.example.", "AAAA"] = Failed("no reply in time")
    result = run(answers)
    assert result.lines == [SYNTHESIZED.replace(" 300 ", " 30 ")]
    assert result.answer.ttl == 30  # there may be AAAA: it isn't kept for long


def test_5_1_4_excluded_aaaa_count_as_absent_by_default_the_mapped_range() -> None:
    answers = nodata_then(V4)
    mapped = "www.example. 300 IN AAAA ::ffff:198.51.100.7"
    answers["www.example.", "AAAA"] = reply("www.example.", "AAAA", mapped)
    assert run(answers).lines == [SYNTHESIZED]


def test_5_1_4_of_mixed_aaaa_only_the_good_ones_are_the_answer() -> None:
    mapped = "www.example. 300 IN AAAA ::ffff:198.51.100.7"
    mixed = reply("www.example.", "AAAA", mapped, V6, mapped.replace(".7", ".8"))
    result = run({("www.example.", "AAAA"): mixed})
    assert (result.rule, result.lines) == (Rule.REAL_FILTERED, [V6])


def test_5_1_4_the_signature_over_all_aaaa_goes_with_those_that_are_excluded() -> None:
    mapped = "www.example. 300 IN AAAA ::ffff:198.51.100.7"
    signature = SIGNATURE.replace("RRSIG A", "RRSIG AAAA")
    signed: Answers = {
        ("www.example.", "AAAA"): reply("www.example.", "AAAA", mapped, V6, signature)
    }
    assert run(signed, do=True).lines == [V6]
    whole: Answers = {("www.example.", "AAAA"): reply("www.example.", "AAAA", V6, signature)}
    assert len(run(whole, do=True).lines) == 2


def test_5_1_4_the_exclusion_set_can_be_chosen() -> None:
    answers = nodata_then(V4)
    answers["www.example.", "AAAA"] = reply("www.example.", "AAAA", V6)
    assert run(answers, options="exclude_aaaa 2001:db8::/32").lines == [SYNTHESIZED]
    mapped = "www.example. 300 IN AAAA ::ffff:198.51.100.7"
    answers["www.example.", "AAAA"] = reply("www.example.", "AAAA", mapped)
    assert run(answers, options="exclude_aaaa none").lines == [mapped]


def test_5_1_5_aliases_are_in_the_answer_and_followed_to_the_last_a() -> None:
    chain = ("www.example. 60 IN CNAME b.example.", "b.example. 50 IN CNAME c.example.")
    last = "c.example. 40 IN A 198.51.100.7"
    answers: Answers = {
        ("www.example.", "AAAA"): reply("www.example.", "AAAA", *chain, authority=[SOA]),
        ("www.example.", "A"): reply("www.example.", "A", *chain, last),
    }
    assert run(answers).lines == [*chain, "c.example. 40 IN AAAA 64:ff9b:1::c633:6407"]


def test_5_1_5_dname_and_its_cname_are_in_the_answer() -> None:
    chain = (
        "example. 60 IN DNAME other.test.",
        "www.example. 60 IN CNAME www.other.test.",
    )
    last = "www.other.test. 40 IN A 198.51.100.7"
    answers: Answers = {
        ("www.example.", "AAAA"): reply("www.example.", "AAAA", *chain, authority=[SOA]),
        ("www.example.", "A"): reply("www.example.", "A", *chain, last),
    }
    assert run(answers).lines == [*chain, "www.other.test. 40 IN AAAA 64:ff9b:1::c633:6407"]


def test_5_1_5_a_chain_that_upstream_leaves_open_is_followed() -> None:
    first, second = "www.example. 60 IN CNAME b.test.", "b.test. 50 IN CNAME c.test."
    answers: Answers = {
        ("www.example.", "AAAA"): reply("www.example.", "AAAA", first),
        ("b.test.", "AAAA"): empty("b.test.", "AAAA"),
        ("www.example.", "A"): reply("www.example.", "A", first),
        ("b.test.", "A"): reply("b.test.", "A", second),
        ("c.test.", "A"): reply("c.test.", "A", "c.test. 40 IN A 198.51.100.7"),
    }
    result = run(answers)
    assert result.lines == [first, second, "c.test. 40 IN AAAA 64:ff9b:1::c633:6407"]


def test_5_1_5_a_real_aaaa_behind_a_chain_that_upstream_leaves_open_is_the_answer() -> None:
    first, last = "www.example. 60 IN CNAME b.test.", "b.test. 50 IN AAAA 2001:db8::7"
    answers: Answers = {
        ("www.example.", "AAAA"): reply("www.example.", "AAAA", first),
        ("b.test.", "AAAA"): reply("b.test.", "AAAA", last),
    }
    result = run(answers)
    assert (result.lines, result.rule) == ([first, last], Rule.REAL)
    gone = dict(answers)
    gone["b.test.", "AAAA"] = reply("b.test.", "AAAA", rcode=dns.rcode.NXDOMAIN, authority=[SOA])
    assert (run(gone).rcode, run(gone).rule) == ("NXDOMAIN", Rule.NXDOMAIN)


def test_5_1_5_a_chain_without_end_ends() -> None:
    def loop(name: str, rdtype: str) -> wire.Reply:
        return reply(name, rdtype, f"{name} 60 IN CNAME x{name}")

    assert len(run(loop).asked) == 2 * (1 + MAX_CHAIN)


def test_5_1_6_an_empty_a_reply_is_the_answer() -> None:
    answers = nodata_then()
    answers["www.example.", "A"] = empty("www.example.", "A")
    result = run(answers)
    assert (result.rcode, result.lines, result.rule) == ("NOERROR", [], Rule.NO_A)
    assert result.message.authority[0].ttl == 900


@pytest.mark.parametrize("rcode", [dns.rcode.NXDOMAIN, dns.rcode.SERVFAIL, dns.rcode.REFUSED])
def test_5_1_6_the_rcode_of_a_failed_a_question_is_kept(rcode: dns.rcode.Rcode) -> None:
    answers = nodata_then()
    answers["www.example.", "A"] = reply("www.example.", "A", rcode=rcode)
    result = run(answers)
    assert (result.message.rcode(), result.rule) == (rcode, Rule.A_FAILED)


def test_5_1_6_no_reply_to_the_a_question_is_servfail() -> None:
    answers = nodata_then()
    answers["www.example.", "A"] = Failed("no reply in time")
    result = run(answers)
    assert (result.rcode, result.rule) == ("SERVFAIL", Rule.A_FAILED)


@pytest.mark.parametrize(
    ("a_ttl", "soa_ttl", "expected"), [(300, 900, 300), (300, 120, 120), (7200, 3600, 3600)]
)
def test_5_1_7_ttl_is_the_least_of_a_and_soa(a_ttl: int, soa_ttl: int, expected: int) -> None:
    soa = f"example. {soa_ttl} IN SOA ns.example. admin.example. 1 3600 600 86400 30"
    answers = nodata_then(V4.replace("300", str(a_ttl)))
    answers["www.example.", "AAAA"] = empty("www.example.", "AAAA", soa)
    assert run(answers).message.answer[0].ttl == expected


@pytest.mark.parametrize(("a_ttl", "expected"), [(300, 300), (7200, 600)])
def test_5_1_7_ttl_without_soa_is_at_most_600(a_ttl: int, expected: int) -> None:
    answers = nodata_then(V4.replace("300", str(a_ttl)))
    answers["www.example.", "AAAA"] = reply("www.example.", "AAAA")
    assert run(answers).message.answer[0].ttl == expected


def test_5_1_7_every_a_becomes_an_aaaa() -> None:
    result = run(nodata_then(V4, V4.replace(".7", ".8")))
    assert result.lines == [SYNTHESIZED, SYNTHESIZED.replace("6407", "6408")]


def test_5_3_2_the_additional_section_stays_as_it_is() -> None:
    answers = nodata_then(V4)
    second = answers["www.example.", "A"]
    assert isinstance(second, wire.Reply)
    message = dns.message.from_wire(second.wire)
    message.additional.append(dns.rrset.from_text("ns.example.", 300, "IN", "A", "198.51.100.1"))
    answers["www.example.", "A"] = wire.parse_reply(message.to_wire())
    result = run(answers)
    assert result.message.additional[0].to_text() == "ns.example. 300 IN A 198.51.100.1"


def test_5_2_several_prefixes_give_one_aaaa_for_each_and_every_a() -> None:
    options = "prefix 64:ff9b:1::/96 2001:db8:64::/96"
    result = run(nodata_then(V4, V4.replace(".7", ".8")), options=options)
    assert [line.split()[-1] for line in result.lines] == [
        "64:ff9b:1::c633:6407",
        "2001:db8:64::c633:6407",
        "64:ff9b:1::c633:6408",
        "2001:db8:64::c633:6408",
    ]


def test_5_excluded_a_are_not_synthesized() -> None:
    answers = nodata_then(V4, "www.example. 300 IN A 192.0.2.1")
    assert run(answers, options="exclude_a 192.0.2.0/24").lines == [SYNTHESIZED]
    none = run(nodata_then(V4), options="exclude_a 198.51.100.0/24")
    assert (none.rcode, none.lines, none.rule) == ("NOERROR", [], Rule.A_EXCLUDED)


def test_5_an_ipv4_range_can_have_a_prefix_of_its_own() -> None:
    options = "map 198.51.0.0/16 2001:db8:1::/96\nmap 198.51.100.0/24 2001:db8:2::/96"
    answers = nodata_then(V4, V4.replace("198.51.100", "198.51.1"), "www.example. 9 IN A 192.0.2.1")
    assert [line.split()[-1] for line in run(answers, options=options).lines] == [
        "2001:db8:2::c633:6407",
        "2001:db8:1::c633:107",
        "64:ff9b:1::c000:201",
    ]


@pytest.mark.parametrize(
    ("prefix", "address"),
    [
        ("2001:db8::/32", "2001:db8:c633:6407::"),
        ("2001:db8:100::/40", "2001:db8:1c6:3364:7::"),
        ("2001:db8:122::/48", "2001:db8:122:c633:64:700::"),
        ("2001:db8:122:300::/56", "2001:db8:122:3c6:33:6407::"),
        ("2001:db8:122:344::/64", "2001:db8:122:344:c6:3364:700:0"),
        ("2001:db8:122:344::/96", "2001:db8:122:344::c633:6407"),
    ],
)
def test_rfc6052_every_prefix_length(prefix: str, address: str) -> None:
    (line,) = run(nodata_then(V4), options=f"prefix {prefix}").lines
    assert line.split()[-1] == address


def test_rfc6052_3_1_the_well_known_prefix_stands_for_global_addresses_only() -> None:
    answers = nodata_then("www.example. 300 IN A 10.0.0.1", "www.example. 300 IN A 8.0.0.1")
    wkp = "prefix 64:ff9b::/96"
    assert [r.split()[-1] for r in run(answers, options=wkp).lines] == ["64:ff9b::800:1"]
    allowed = run(answers, options=wkp + "\nspecial_use allow")
    assert [r.split()[-1] for r in allowed.lines] == ["64:ff9b::a00:1", "64:ff9b::800:1"]


def test_5_3_3_other_types_a_and_any_among_them_are_passed() -> None:
    for rdtype, line in (("A", V4), ("ANY", V4), ("MX", "www.example. 300 IN MX 1 m.example.")):
        result = run({("www.example.", rdtype): reply("www.example.", rdtype, line)}, rdtype=rdtype)
        assert (result.lines, result.rule) == ([line], Rule.PASSED)


def test_exempt_zones_are_never_synthesized() -> None:
    result = run(nodata_then(V4), options="exempt example")
    assert (result.lines, result.rule, len(result.asked)) == ([], Rule.EXEMPT, 1)


def test_translate_all_synthesizes_though_there_are_aaaa() -> None:
    answers = nodata_then(V4)
    answers["www.example.", "AAAA"] = reply("www.example.", "AAAA", V6)
    assert run(answers, options="translate_all").lines[0].split()[-1] == "64:ff9b:1::c633:6407"


def test_translate_all_keeps_the_real_aaaa_where_there_is_no_a() -> None:
    answers: Answers = {
        ("www.example.", "AAAA"): reply("www.example.", "AAAA", V6),
        ("www.example.", "A"): empty("www.example.", "A"),
    }
    result = run(answers, options="translate_all")
    assert (result.lines, result.rule) == ([V6], Rule.REAL)


def test_5_5_do_0_cd_0_is_synthesized_with_ad_cleared() -> None:
    answers = nodata_then(V4)
    answers["www.example.", "A"] = reply("www.example.", "A", V4, flags=dns.flags.AD)
    result = run(answers)
    assert result.lines == [SYNTHESIZED]
    assert not result.message.flags & dns.flags.AD


def test_5_5_do_1_cd_0_is_synthesized_with_ad_cleared_and_an_extended_error() -> None:
    result = run(nodata_then(V4), do=True)
    assert result.lines == [SYNTHESIZED]
    assert not result.message.flags & dns.flags.AD
    assert [error.code for error in result.message.extended_errors()] == [29]


SIGNATURE = (
    "www.example. 300 IN RRSIG A 13 2 300 20300101000000 20200101000000 1 example. "
    "c2lnbmF0dXJlc2lnbmF0dXJlc2lnbmF0dXJlc2lnbmF0dXJlc2lnbmF0dXJlc2lnbmF0dXJlc2lnbmF0dXI="
)


def test_5_5_do_1_with_break_dnssec_off_signed_answers_stay_as_they_are() -> None:
    answers = nodata_then(V4, SIGNATURE)
    result = run(answers, options="break_dnssec off", do=True)
    assert (result.lines, result.rule) == ([], Rule.SIGNED)
    unsigned = run(nodata_then(V4), options="break_dnssec off", do=True)
    assert unsigned.lines == [SYNTHESIZED]
    without_do = run(answers, options="break_dnssec off")
    assert without_do.lines == [SYNTHESIZED]


def test_5_5_signatures_over_a_go_with_the_a() -> None:
    assert run(nodata_then(V4, SIGNATURE), do=True).lines == [SYNTHESIZED]


@pytest.mark.parametrize("do", [False, True])
def test_5_5_cd_1_is_passed_with_either_do(do: bool) -> None:
    result = run(nodata_then(V4), cd=True, do=do)
    assert (result.lines, result.rule, len(result.asked)) == ([], Rule.CHECKING_DISABLED, 1)


@pytest.mark.parametrize("code", sorted(DNSSEC_ERRORS))
def test_5_5_a_servfail_for_dnssec_is_passed_and_a_is_not_asked(code: int) -> None:
    bogus = reply("www.example.", "AAAA", rcode=dns.rcode.SERVFAIL, ede=[code])
    result = run({("www.example.", "AAAA"): bogus})
    assert (result.rcode, result.rule) == ("SERVFAIL", Rule.BOGUS)
    assert [error.code for error in result.message.extended_errors()] == [code]


def test_no_synthesis_for_those_who_are_not_to_have_it() -> None:
    result = run(nodata_then(V4), synthesize=False)
    assert (result.lines, result.rule) == ([], Rule.NO_SYNTHESIS)


# 5.3.1: reverse names of addresses under a prefix
REVERSE = "7.0.4.6.3.3.6.c.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.b.9.f.f.4.6.0.0.ip6.arpa."
INVERSE = "7.100.51.198.in-addr.arpa."


def test_5_3_1_ptr_under_a_prefix_is_a_cname_to_in_addr_arpa() -> None:
    answer = reply(INVERSE, "PTR", f"{INVERSE} 300 IN PTR www.example.")
    result = run({(INVERSE, "PTR"): answer}, REVERSE, "PTR")
    assert result.lines == [
        f"{REVERSE} 300 IN CNAME {INVERSE}",
        f"{INVERSE} 300 IN PTR www.example.",
    ]


@pytest.mark.parametrize("do", [False, True])
def test_5_3_1_ptr_is_passed_to_clients_that_validate(do: bool) -> None:
    passed: Answers = {(REVERSE, "PTR"): reply(REVERSE, "PTR", rcode=dns.rcode.NXDOMAIN)}
    for options in ("ptr cname", "ptr local nat64.example.net"):
        result = run(passed, REVERSE, "PTR", options=options, cd=True, do=do)
        assert (result.rcode, result.rule) == ("NXDOMAIN", Rule.CHECKING_DISABLED)


def test_5_3_1_ptr_with_break_dnssec_off_stays_as_it_is_where_it_is_signed() -> None:
    proof = "0.0.ip6.arpa. 300 IN NSEC 1.0.ip6.arpa. NS RRSIG NSEC"
    answers: Answers = {
        (REVERSE, "PTR"): reply(REVERSE, "PTR", rcode=dns.rcode.NXDOMAIN, authority=[proof]),
        (INVERSE, "PTR"): reply(INVERSE, "PTR", f"{INVERSE} 300 IN PTR www.example."),
    }
    off = "break_dnssec off"
    signed = run(answers, REVERSE, "PTR", options=off, do=True)
    assert (signed.rcode, signed.rule) == ("NXDOMAIN", Rule.SIGNED)
    assert run(answers, REVERSE, "PTR", options=off).rule is Rule.PTR_CNAME
    answers[REVERSE, "PTR"] = reply(REVERSE, "PTR", rcode=dns.rcode.NXDOMAIN)
    assert run(answers, REVERSE, "PTR", options=off, do=True).rule is Rule.PTR_CNAME


def test_5_3_1_ptr_keeps_the_rcode_of_the_ipv4_name() -> None:
    gone = reply(INVERSE, "PTR", rcode=dns.rcode.NXDOMAIN)
    assert run({(INVERSE, "PTR"): gone}, REVERSE, "PTR").rcode == "NXDOMAIN"


def test_5_3_1_ptr_can_be_answered_locally() -> None:
    result = run({}, REVERSE, "PTR", options="ptr local nat64.example.net")
    assert result.lines == [f"{REVERSE} 600 IN PTR nat64.example.net."]
    assert result.message.flags & dns.flags.AA


def test_5_3_1_ptr_can_be_passed() -> None:
    answer = reply(REVERSE, "PTR", rcode=dns.rcode.NXDOMAIN)
    result = run({(REVERSE, "PTR"): answer}, REVERSE, "PTR", options="ptr off")
    assert (result.rcode, result.rule) == ("NXDOMAIN", Rule.PASSED)


def test_5_3_1_ptr_outside_the_prefixes_is_resolved_normally() -> None:
    other = REVERSE.replace("1.0.0.0.b.9.f.f.4.6.0.0", "2.0.0.0.b.9.f.f.4.6.0.0")
    answers: Answers = {(other, "PTR"): reply(other, "PTR", f"{other} 9 IN PTR x.example.")}
    assert run(answers, other, "PTR").rule is Rule.PASSED


# RFC 7050 and RFC 8880
def test_rfc8880_ipv4only_arpa_is_answered_here_with_every_prefix() -> None:
    result = run({}, "ipv4only.arpa.", options="prefix 64:ff9b::/96 2001:db8:64::/96")
    assert [line.split()[-1] for line in result.lines] == [
        "64:ff9b::c000:aa",
        "64:ff9b::c000:ab",
        "2001:db8:64::c000:aa",
        "2001:db8:64::c000:ab",
    ]
    assert result.asked == []


def test_rfc8880_ipv4only_arpa_shows_no_prefix_that_is_for_a_range_only() -> None:
    options = "prefix 64:ff9b:1::/96\nmap 10.0.0.0/8 2001:db8:64::/96"
    lines = run({}, "ipv4only.arpa.", options=options).lines
    assert [line.split()[-1] for line in lines] == ["64:ff9b:1::c000:aa", "64:ff9b:1::c000:ab"]


def test_rfc8880_ipv4only_arpa_says_that_it_is_synthesized_to_who_asks_for_dnssec() -> None:
    told = run({}, "ipv4only.arpa.", do=True).message.extended_errors()
    assert [error.code for error in told] == [29]
    assert not run({}, "ipv4only.arpa.").message.extended_errors()
    assert not run({}, "ipv4only.arpa.", "A", do=True).message.extended_errors()


def test_rfc8880_ipv4only_arpa_has_its_a_records_and_nothing_else() -> None:
    lines = [line.split()[-1] for line in run({}, "ipv4only.arpa.", "A").lines]
    assert lines == ["192.0.0.170", "192.0.0.171"]
    text = run({}, "ipv4only.arpa.", "TXT")
    assert (text.rcode, text.lines) == ("NOERROR", [])
    assert text.message.authority[0].rdtype == dns.rdatatype.SOA
    assert run({}, "x.ipv4only.arpa.").rcode == "NXDOMAIN"


def test_rfc8880_its_reverse_names_are_answered_here() -> None:
    for last in ("170", "171"):
        (line,) = run({}, f"{last}.0.0.192.in-addr.arpa.", "PTR").lines
        assert line.endswith("PTR ipv4only.arpa.")


def test_rfc8880_without_synthesis_there_is_no_aaaa_and_nothing_is_asked() -> None:
    result = run({}, "ipv4only.arpa.", synthesize=False)
    assert (result.rcode, result.lines, result.asked) == ("NOERROR", [], [])


def test_names_that_only_end_like_ipv4only_arpa_are_not_it() -> None:
    name = "xipv4only.arpa."
    assert run({(name, "AAAA"): reply(name, "AAAA", rcode=3)}, name).rule is Rule.NXDOMAIN


def one_alias(owner: str, target: str) -> wire.Reply:
    return reply(owner, "AAAA", f"{owner} 60 IN CNAME {target}")


def test_5_1_5_a_loop_of_aliases_is_a_failure_and_a_is_not_asked() -> None:
    answers: Answers = {
        ("www.example.", "AAAA"): one_alias("www.example.", "b.example."),
        ("b.example.", "AAAA"): one_alias("b.example.", "www.example."),
    }
    result = run(answers)
    assert (result.rcode, result.rule) == ("SERVFAIL", Rule.ALIAS_LOOP)
    assert len(result.asked) == 2


def test_5_1_4_excluded_aaaa_in_the_reply_to_the_a_question_are_left_out() -> None:
    mapped, other = "::ffff:198.51.100.9", "2001:db8::9"
    both = [f"www.example. 300 IN AAAA {address}" for address in (mapped, other)]
    answers = nodata_then(V4)
    answers["www.example.", "A"] = reply("www.example.", "A", V4, *both)
    assert run(answers).lines == [SYNTHESIZED, both[1]]
    answers["www.example.", "A"] = reply("www.example.", "A", *both)
    assert run(answers).lines == [both[1]]


def test_the_text_of_an_extended_error_is_cut_at_a_character() -> None:
    text = "x" * 119 + "\N{SNOWMAN}"
    answers: Answers = {("www.example.", rdtype): Failed(text) for rdtype in ("AAAA", "A")}
    (error,) = run(answers).message.extended_errors()
    assert error.text == "x" * 119
