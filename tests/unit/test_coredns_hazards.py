"""What is in the way of wiring is said before anything is written, with the line and the remedy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nat64_operator.api.policy import Forward, ForwardPolicy, HealthCheck, Mode
from nat64_operator.coredns import corefile_edits, corefile_hazards, forward_line, root_block
from nat64_operator.coredns.carried_upstreams import carried
from nat64_operator.errors import UnsupportedCorefileError

OWN = "[fd00:10:96::64]:53"


def block(*lines: str, key: str = ".:53", forward: str = "forward . 192.0.2.53") -> str:
    inner = "".join(f"    {text}\n" for text in ("errors", *lines, forward, "reload") if text)
    return f"{key} {{\n{inner}}}\n"


def refusal(
    text: str, mode: Mode = Mode.FORWARD, files: root_block.Files = root_block.NO_FILES
) -> str:
    try:
        corefile_edits.find(mode, text, files)
        corefile_hazards.check(text, mode, files)
    except UnsupportedCorefileError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    "key", [".:53", ".", ".:8053", ".:5353", ".:1053", "dns://.:1053", ".:53 x"]
)
@pytest.mark.parametrize("zone", [".", "dns://.", ".:53", "dns://.:53"])
def test_the_only_root_block_is_meant_whatever_its_port_and_way_of_writing(
    key: str, zone: str
) -> None:
    text = block(key=key, forward=f"forward {zone} 192.0.2.53")
    assert refusal(text) == ""
    assert forward_line.find(text).upstreams == ("192.0.2.53",)


@pytest.mark.parametrize(
    "odd",
    [
        "0/27.2.0.192.in-addr.arpa",
        "{$ZONE}:53",
        "[::1]:53",
        "2001:db8::/32:53",
        "corp.example:domain",
        "corp(1).example",
        "udp://corp.example",
    ],
)
@pytest.mark.parametrize("mode", Mode)
def test_an_odd_key_of_another_block_is_no_reason_to_refuse(odd: str, mode: Mode) -> None:
    text = f"{odd} {{\n    errors\n}}\n" + block("import custom/*.override")
    assert refusal(text, mode) == ""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (block() + block(key=".:5353"), ("(line 1, line 6)", "join them", "Manual")),
        (block("view v4 {\n    expr type() == 'A'\n    }"), ("line 3", "`view`", "remove it")),
        (
            block("bind ::1") + block("bind ::2"),
            ("several server blocks for `.` (line 1, line 7)", "Manual"),
        ),
        (block("dns64 64:ff9b::/96"), ("line 3", "both would synthesize", "Plugin")),
        (
            "(up) {\n    forward . 192.0.2.1\n}\n" + block("import up"),
            ("line 6", "`import up`", "brings the `forward .`", "Manual"),
        ),
        (block("template IN AAAA {\n    rcode NXDOMAIN\n    }"), ("line 3", "`template IN AAAA`")),
        (block("template ANY ANY ."), ("line 3", "`template ANY ANY .`")),
        (
            block("template IN AAAA {\n    match corp\n    }"),
            ("line 3", "`fallthrough`"),
        ),
        (block("rewrite type AAAA A"), ("line 3", "`rewrite type AAAA A`", "remove it")),
        (block("rewrite stop type aaaa a"), ("line 3", "`rewrite type AAAA A`")),
        (block("rewrite stop {\n    type AAAA A\n    }"), ("line 3", "`rewrite type AAAA A`")),
        (
            block("acl {\n        filter type AAAA\n    }"),
            ("line 3", "`filter type AAAA` (line 4)", "remove it"),
        ),
        (block("acl . {\n  allow type A net *\n  block net ::/0 type AAAA\n}"), ("(line 5)",)),
        (block().replace("    reload\n", ""), ("no server block has `reload`", "restart CoreDNS")),
        (
            block(forward="proxy . 192.0.2.53"),
            ("line 3", "replace `proxy` by `forward`"),
        ),
    ],
)
def test_what_would_make_the_edit_useless_or_harmful_is_named(
    text: str, says: tuple[str, ...]
) -> None:
    found = refusal(text)
    for words in says:
        assert words in found


@pytest.mark.parametrize(
    "lines",
    [
        "template IN A {\n    rcode NXDOMAIN\n    }",
        "template IN AAAA corp.example {\n    rcode NXDOMAIN\n    }",
        'template IN AAAA {\n    match "[.]corp[.]example[.]$"\n    fallthrough\n    }',
        "rewrite type ANY HINFO",
        "rewrite name old.example new.example",
        "acl {\n    filter type AAAA net 10.0.0.0/8\n    }",
        "acl corp.example {\n    filter type AAAA\n    }",
        "acl {\n    allow net fd00::/8\n    block\n    }",
        "hosts {\n    192.0.2.1 a.example\n    fallthrough\n    }",
        "import custom/*.override",
    ],
)
def test_what_leaves_aaaa_alone_is_no_reason_to_refuse(lines: str) -> None:
    assert refusal(block(lines)) == ""


def test_plugin_replaces_a_dns64_and_needs_no_forward() -> None:
    assert refusal(block("dns64"), Mode.PLUGIN) == ""
    for text in (
        block(forward=""),
        ".:53 {\n    reload\n    forward . ::1\n    forward . ::2\n}\n",
        ".:53 {\n    import up\n    reload\n}\n",
    ):
        site = corefile_edits.find(Mode.PLUGIN, text)
        wired = site.replaced(corefile_edits.Plugin("64:ff9b::/96").wired(site))
        found = corefile_edits.find(Mode.PLUGIN, wired)
        assert "prefix" in found.tokens
        assert found.replaced("") == text


def test_an_imported_file_that_forwards_first_is_named_and_one_that_comes_later_is_not() -> None:
    files = {"a.override": "forward . 192.0.2.9\n"}
    assert "`import custom/*.override`" in refusal(block("import custom/*.override"), files=files)
    late = block().replace("    reload\n", "    import custom/*.override\n    reload\n")
    assert refusal(late, files=files) == ""
    assert refusal(block("import custom/*.override"), files={"x.server": "a {\n}\n"}) == ""


@pytest.mark.parametrize(
    ("files", "line", "says"),
    [
        ({}, "import /etc/coredns/up.conf", ("`import /etc/coredns/up.conf`", "doesn't see that")),
        ({"a.override": "forward . {\n"}, "import custom/*.override", ("a.override", "mend it")),
        (
            {root_block.UNREAD: "dns/custom"},
            "import custom/*.override",
            ("may not read ConfigMap dns/custom", "coreDNS values"),
        ),
    ],
)
def test_what_is_imported_first_and_can_not_be_read_is_refused_with_line_and_remedy(
    files: dict[str, str], line: str, says: tuple[str, ...]
) -> None:
    for mode in (Mode.FORWARD, Mode.IMPORT):
        text = block(line, "import custom/*.override" if mode is Mode.IMPORT else "")
        found = refusal(text, mode, files)
        for words in ("line 3", *says, "move the `import` behind `forward .`", "mode Manual"):
            assert words in found, (mode, words)
    assert refusal(block(line), Mode.PLUGIN, files) == "", "it puts no `forward .` in"
    late = block().replace("    reload\n", f"    {line}\n    reload\n")
    assert refusal(late, files=files) == "", "what comes later isn't asked"


def test_a_pattern_that_fits_nothing_and_a_readable_map_are_no_reason_to_refuse() -> None:
    for files in ({}, {"other.server": "a {\n}\n"}, {"a.override": "log\n"}):
        assert refusal(block("import custom/*.override"), files=files) == ""
    unread = {root_block.UNREAD: "dns/custom", "a.override": "log\n"}
    assert refusal(block("import custom/*.override"), files=unread) == ""


def test_reload_may_come_from_an_import_or_stand_in_another_block() -> None:
    without = block().replace("    reload\n", "")
    assert refusal(without + "corp.example {\n    reload\n}\n") == ""
    imports = block("import x").replace("    reload\n", "")
    assert refusal("(x) {\n    reload\n}\n" + imports) == ""
    later = block().replace("reload\n", "import x\n")
    assert refusal(later) == "", "what it names can't be known"


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ("", 45),
        (" 2s 1s", 3),
        (" 10s", 15),
        (" 1m30s 500ms", 91),
        (" 1m", 75),
        (" often", 45),
        (" 1h 1h", 5400),
    ],
)
def test_how_long_reload_takes_is_read_from_the_corefile(words: str, seconds: int) -> None:
    text = block().replace("reload\n", f"reload{words}\n")
    assert corefile_hazards.reload_seconds(text) == seconds
    assert corefile_hazards.reload_seconds("{") == 45


def test_imports_that_import_each_other_end() -> None:
    text = "(a) {\n    import b\n}\n(b) {\n    import a\n}\n" + block("import a")
    assert refusal(text) == ""


@pytest.mark.parametrize(
    ("forward", "says"),
    [
        ("forward . 127.0.0.1:5454", "127.0.0.1:5454 is a resolver in CoreDNS's own pod"),
        ("forward . [::1]:53", "resolver in CoreDNS's own pod"),
        ("forward . dns://127.0.0.1", "resolver in CoreDNS's own pod"),
        ("forward . /etc/other.conf", "/etc/other.conf is a file in CoreDNS's own pod"),
        ("forward . https://192.0.2.1", "needs https"),
        ("forward . 192.0.2.1 quic://192.0.2.1", "needs quic"),
        ("forward . dns.example", "dns.example is not an address"),
        ("forward . {$UPSTREAM}", "{$UPSTREAM} is a variable"),
        ("forward . tls://192.0.2.1 {\n        tls /ca.crt\n    }", "`tls /ca.crt` (line 4)"),
    ],
)
def test_upstreams_that_a_sidecar_can_not_ask_are_refused_with_line_and_remedy(
    forward: str, says: str
) -> None:
    with pytest.raises(UnsupportedCorefileError) as caught:
        carried(forward_line.find(block(forward=forward)), OWN, Forward())
    assert says in str(caught.value)
    assert str(caught.value).startswith("line 3: ")
    assert "set spec.upstreams" in str(caught.value)


def test_options_of_the_line_are_carried_over_and_the_policys_own_win() -> None:
    options = (
        "force_tcp\nmax_fails 0\nfailover servfail REFUSED\nfailfast_all_unhealthy_upstreams\n"
        "health_check 1s no_rec domain a.example\ntls_servername x.example\nexpire 20s\n"
    )
    text = block(forward=f"forward . {OWN} tls://192.0.2.1 192.0.2.2 {{\n{options}    }}")
    found = carried(forward_line.find(text), OWN, Forward())
    assert found.names == ("tls://192.0.2.1%x.example", "192.0.2.2")
    assert found.forward == Forward(
        policy=ForwardPolicy.RANDOM,
        force_tcp=True,
        max_fails=0,
        failover=("SERVFAIL", "REFUSED"),
        fail_fast=True,
        health_check=HealthCheck(domain="a.example", recursion_desired=False),
    )
    said = Forward(policy=ForwardPolicy.SEQUENTIAL, max_fails=5)
    assert carried(forward_line.find(text), OWN, said).forward.policy is ForwardPolicy.SEQUENTIAL
    assert carried(forward_line.find(text), OWN, said).forward.max_fails == 5


@pytest.mark.parametrize(
    ("policy", "means"),
    [
        ("", ForwardPolicy.RANDOM),
        ("policy random", ForwardPolicy.RANDOM),
        ("policy round_robin", ForwardPolicy.ROUND_ROBIN),
        ("policy sequential", ForwardPolicy.SEQUENTIAL),
    ],
)
def test_the_choice_among_upstreams_is_coredns_own(policy: str, means: ForwardPolicy) -> None:
    text = block(
        forward=f"forward . ::1:1 192.0.2.1 {{\n    {policy}\n    }}".replace("::1:1 ", "")
    )
    assert carried(forward_line.find(text), OWN, Forward()).forward.policy is means


@given(st.text(max_size=200), st.sampled_from(Mode))
def test_no_text_raises_anything_else(text: str, mode: Mode) -> None:
    refusal(text, mode)
    refusal(block(text.replace("\n", " ")), mode)
