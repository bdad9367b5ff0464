"""Reading Corefiles: tokens, blocks and stanzas, with their places."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nat64_dataplane.corefile import (
    Address,
    CorefileError,
    ServerBlock,
    Stanza,
    parse,
    tokenize,
)

KUBEADM = """\
.:53 {
    errors
    health {
       lameduck 5s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus :9153
    forward . /etc/resolv.conf {
       max_concurrent 1000
    }
    cache 30 {
       disable success cluster.local
       disable denial cluster.local
    }
    loop
    reload
    loadbalance
}
"""


def texts(source: str) -> list[str]:
    return [token.text for token in tokenize(source)]


def test_tokens_are_words_quoted_words_and_braces() -> None:
    assert texts('a "b c" {\n}') == ["a", "b c", "{", "}"]


def test_a_quoted_quote_is_the_only_escape() -> None:
    assert texts(r'"a\"b" "c\nd"') == ['a"b', r"c\nd"]


def test_a_comment_runs_to_the_end_of_its_line() -> None:
    assert texts("a # b c\nd") == ["a", "d"]


def test_a_hash_within_a_word_hides_the_rest_of_the_word_only_as_in_coredns() -> None:
    assert texts("a#b c") == ["a", "c"]


def test_byte_order_mark_and_carriage_returns_are_no_part_of_words() -> None:
    tokens = tokenize("\ufeffa b\r\nc\r\n")
    assert [(token.text, token.line) for token in tokens] == [("a", 1), ("b", 1), ("c", 2)]


def test_a_quote_that_never_closes_is_refused_with_its_line() -> None:
    with pytest.raises(CorefileError, match=r"^Corefile:2: a quote opens here and never closes"):
        tokenize('a\nb "c\n')


def test_lines_are_counted_through_quoted_newlines() -> None:
    assert [token.line for token in tokenize('"a\nb"\nc')] == [1, 3]


@given(st.text(alphabet='ab{}"\\# \n\r\t,é\u2028', max_size=60))
def test_every_token_is_where_it_says(source: str) -> None:
    try:
        tokens = tokenize(source)
    except CorefileError:
        return
    last = 0
    for token in tokens:
        written = source[token.start : token.end]
        assert last <= token.start < token.end
        assert token.line == source.count("\n", 0, token.start) + 1
        if token.quoted:
            assert written[0] == written[-1] == '"'
        else:
            assert written.replace("\r", "") == token.text
        last = token.end


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused_with_a_line(source: str) -> None:
    line = 1
    try:
        parse(source)
    except CorefileError as error:
        line = error.line
    assert 1 <= line <= source.count("\n") + 1


def test_kubeadms_corefile_is_read() -> None:
    corefile = parse(KUBEADM)
    (block,) = corefile.blocks
    assert block.addresses == (Address(".", 53, "dns"),)
    assert [stanza.name.text for stanza in block.stanzas] == [
        "errors",
        "health",
        "ready",
        "kubernetes",
        "prometheus",
        "forward",
        "cache",
        "loop",
        "reload",
        "loadbalance",
    ]
    (forward,) = block.find("forward")
    assert forward.values == (".", "/etc/resolv.conf")
    assert [option.values for option in forward.options("max_concurrent")] == [("1000",)]
    assert KUBEADM[forward.start : forward.end] == (
        "forward . /etc/resolv.conf {\n       max_concurrent 1000\n    }"
    )


def test_a_block_is_found_by_zone_and_port() -> None:
    corefile = parse("example.org {\n}\nEXAMPLE.net.:1053, dns://. {\nerrors\n}\n")
    found = corefile.find_block("example.net", 1053)
    assert found is corefile.blocks[1]
    assert corefile.find_block(".") is found
    assert corefile.find_block("example.net") is None


def test_keys_may_continue_after_a_comma_and_the_brace_may_stand_alone() -> None:
    (block,) = parse("a.example,\nb.example\n{\n errors\n}").blocks
    assert [key.text for key in block.keys] == ["a.example", "b.example"]
    assert len(block.stanzas) == 1


def test_a_single_block_needs_no_braces() -> None:
    (block,) = parse(".:1053\nerrors\nforward . 192.0.2.1\n").blocks
    assert [stanza.name.text for stanza in block.stanzas] == ["errors", "forward"]
    assert block.close is None


def test_top_level_imports_are_kept_in_order() -> None:
    corefile = parse("import /etc/coredns/custom/*.server\n.:53 {\n import custom/*.override\n}")
    kinds = [type(item) for item in corefile.items]
    assert kinds == [Stanza, ServerBlock]


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (".:53 {\n errors\n", "1: a brace opens here and never closes"),
        (".:53 {\n}\n}\n", "3: a closing brace without an opening one"),
        (". {\n {\n }\n}\n", "2: a brace must follow a name on the same line"),
        ("a, {\n}\n", "1: a zone must follow the comma, not a brace"),
        ("{\n}\n", "1: a block needs a zone"),
        ("(x)\nerrors\n", "1: the snippet \\(x\\) needs a block"),
        ("(x) {\n}\n(x) {\n}\n", "3: the snippet \\(x\\) is defined twice"),
        (". {\n a {\n } b\n}\n", "3: 'b' must be on a line after the brace"),
        (". {\n" + "a {\n" * 30, "more than 16 blocks"),
    ],
)
def test_what_is_not_a_corefile_is_refused_with_its_line(source: str, problem: str) -> None:
    with pytest.raises(CorefileError, match=problem):
        parse(source)


@pytest.mark.parametrize(
    ("key", "addresses"),
    [
        (".", [(".", 53, "dns")]),
        (".:6464", [(".", 6464, "dns")]),
        (":6464", [(".", 6464, "dns")]),
        ("Example.ORG:1053", [("example.org.", 1053, "dns")]),
        ("tls://example.org", [("example.org.", 853, "tls")]),
        ("10.0.0.0/8", [("10.in-addr.arpa.", 53, "dns")]),
        ("192.0.2.0/24:1053", [("2.0.192.in-addr.arpa.", 1053, "dns")]),
        ("10.0.0.0/7", [("10.in-addr.arpa.", 53, "dns"), ("11.in-addr.arpa.", 53, "dns")]),
        ("2001:db8::/32", [("8.b.d.0.1.0.0.2.ip6.arpa.", 53, "dns")]),
        ("0.0.0.0/0", [("in-addr.arpa.", 53, "dns")]),
        ("2001:db8::/32:1053", [("8.b.d.0.1.0.0.2.ip6.arpa.", 1053, "dns")]),
        ("0/27.2.0.192.in-addr.arpa", [("0/27.2.0.192.in-addr.arpa.", 53, "dns")]),
        ("0/27.2.0.192.in-addr.arpa:1053", [("0/27.2.0.192.in-addr.arpa.", 1053, "dns")]),
        ("corp(1).example", [("corp(1).example.", 53, "dns")]),
        ("corp.example:domain", [("corp.example:domain.", 53, "dns")]),
    ],
)
def test_keys_are_zones_with_port_and_transport(
    key: str, addresses: list[tuple[str, int, str]]
) -> None:
    (block,) = parse(f"{key} {{\n}}\n").blocks
    assert list(block.addresses) == addresses


@pytest.mark.parametrize("key", ["ftp://.", ".:0", ".:99999", ".:a", "a..b", "x" * 64, "[::1]:53"])
def test_bad_keys_are_refused(key: str) -> None:
    with pytest.raises(CorefileError, match=r"^Corefile:1: "):
        _ = parse(f"{key} {{\n}}\n").blocks[0].addresses


@pytest.mark.parametrize(
    "key",
    ["ftp://.", "udp://corp.example", "a..b", "[::1]:53", "{$ZONE}:53", "x:" + "9" * 5000, "::/0"],
)
def test_a_block_with_a_key_that_can_not_be_read_is_no_zone_and_hides_no_other(key: str) -> None:
    corefile = parse(f"{key} {{\n}}\n.:53 {{\n}}\n")
    assert corefile.find_block(".") is corefile.blocks[1]
    assert not corefile.blocks[0].serves(".", None)


@given(st.text(min_size=1, max_size=40).filter(lambda key: not set(key) & set('{}"# \n\t,')))
def test_no_key_ever_raises_where_a_block_is_looked_for(key: str) -> None:
    try:
        corefile = parse(f"{key} {{\n}}\n")
    except CorefileError:
        return
    for block in corefile.blocks:
        assert block.serves(".", None) in (True, False)
