"""The sidecar's Corefile: what it means, and how it is refused."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nat64_dataplane.corefile import CorefileError
from nat64_dataplane.dns64 import cli
from nat64_dataplane.dns64.settings import (
    Cache,
    Dns64,
    Forward,
    Listen,
    Ptr,
    Server,
    Settings,
    Unprogrammed,
    Upstream,
    from_text,
)


def read(stanzas: str) -> Settings:
    return from_text(f".:53 {{\n{stanzas}\n}}\n")


def server(stanzas: str) -> Server:
    return read(stanzas).servers[0]


def dns64(stanza: str) -> Dns64:
    found = server(stanza).dns64
    assert found is not None
    return found


def forward(body: str, to: str = "192.0.2.1") -> Forward:
    return server(f"forward . {to} {{\n{body}\n}}").forwards[0]


def cache(stanza: str) -> Cache:
    found = server(stanza).cache
    assert found is not None
    return found


@pytest.mark.parametrize(
    "stanza", ["dns64", "dns64 64:ff9b::/96", "dns64 {\nprefix 64:ff9b::/96\n}"]
)
def test_dns64_means_the_well_known_prefix_for_ipv6_clients(stanza: str) -> None:
    assert dns64(stanza) == Dns64()
    assert str(dns64(stanza).prefixes[0]) == "64:ff9b::/96"


def test_dns64_takes_corednss_options_and_ours() -> None:
    found = dns64(
        """dns64 2001:db8::/96 {
        prefix 2001:db8:1::/64 2001:db8:2::/48
        translate_all
        allow_ipv4
        exclude_aaaa 2001:db8:f::/48
        exclude_a 192.0.2.0/24 198.51.100.1
        map 10.0.0.0/8 2001:db8:3::/96
        map 10.1.0.0/16 2001:db8:4::/96
        exempt Cluster.Local 10.0.0.0/8
        ptr local nat64.example
        break_dnssec off
        special_use allow
        translator /run/x.json servfail
    }"""
    )
    assert [str(prefix) for prefix in found.prefixes] == [
        "2001:db8::/96",
        "2001:db8:1::/64",
        "2001:db8:2::/48",
    ]
    assert (found.translate_all, found.allow_ipv4) == (True, True)
    assert [str(network) for network in found.exclude_aaaa] == ["2001:db8:f::/48"]
    assert [str(network) for network in found.exclude_a] == ["192.0.2.0/24", "198.51.100.1/32"]
    assert [str(network) for network, _ in found.maps] == ["10.1.0.0/16", "10.0.0.0/8"]
    assert found.exempt == ("cluster.local.", "10.in-addr.arpa.")
    assert (found.ptr, found.ptr_name) == (Ptr.LOCAL, "nat64.example.")
    assert (found.break_dnssec, found.allow_special_use) == (False, True)
    assert (found.translator, found.unprogrammed) == ("/run/x.json", Unprogrammed.SERVFAIL)


def test_forward_reads_upstreams_of_every_form(tmp_path: Path) -> None:
    resolv = tmp_path / "resolv.conf"
    resolv.write_text("# comment\nsearch x\nnameserver 192.0.2.53\nnameserver 2001:db8::53\n")
    to = (
        f"192.0.2.1 192.0.2.2:5353 2001:db8::1 [2001:db8::2]:5353 dns://192.0.2.3 {resolv} "
        "tls://192.0.2.4 tls://192.0.2.5%dns.example:8853 tls://[2001:db8::6%dns.example] 192.0.2.1"
    )
    assert forward("", to).upstreams == (
        Upstream("192.0.2.1"),
        Upstream("192.0.2.2", 5353),
        Upstream("2001:db8::1"),
        Upstream("2001:db8::2", 5353),
        Upstream("192.0.2.3"),
        Upstream("192.0.2.53"),
        Upstream("2001:db8::53"),
        Upstream("192.0.2.4", 853, "tls"),
        Upstream("192.0.2.5", 8853, "tls", "dns.example"),
        Upstream("2001:db8::6", 853, "tls", "dns.example"),
    )


def test_forward_reads_every_option() -> None:
    found = forward(
        """except a.example b.example
        force_tcp
        prefer_udp
        expire 20s
        max_age 1m
        max_idle_conns 4
        read_timeout 500ms
        max_fails 3
        max_connect_attempts 5
        tls cert.pem key.pem ca.pem
        tls_servername dns.example
        policy round_robin
        health_check 250ms no_rec domain Health.example
        max_concurrent 1000
        next NXDOMAIN
        next_on_nodata
        failfast_all_unhealthy_upstreams
        failover SERVFAIL refused
        source_address 192.0.2.9"""
    )
    assert found == Forward(
        ".",
        (Upstream("192.0.2.1"),),
        excepted=("a.example.", "b.example."),
        force_tcp=True,
        prefer_udp=True,
        expire=20.0,
        max_age=60.0,
        max_idle_conns=4,
        read_timeout=0.5,
        max_fails=3,
        max_connect_attempts=5,
        policy="round_robin",
        health_interval=0.25,
        health_recursion=False,
        health_domain="health.example.",
        max_concurrent=1000,
        failfast=True,
        failover=frozenset({2, 5}),
        next_rcodes=frozenset({3}),
        next_on_nodata=True,
        tls_cert="cert.pem",
        tls_key="key.pem",
        tls_ca="ca.pem",
        tls_server_name="dns.example",
        source_address="192.0.2.9",
    )


def test_cache_has_corednss_defaults_and_options() -> None:
    assert cache("cache") == Cache(zones=(".",))
    assert cache("cache 60").denial_ttl == 60
    found = cache(
        """cache 60 example.org {
        success 5000 3600 10
        denial 2500 30 2
        prefetch 10 2m 20%
        serve_stale 2h verify 100ms 30s 10s
        serve_stale_policy prefer_positive
        servfail 2s
        disable denial sub.example.org
        disable success
        keepttl
    }"""
    )
    assert found.zones == ("example.org.",)
    assert (found.success_capacity, found.success_ttl, found.success_min_ttl) == (5000, 3600, 10)
    assert (found.denial_capacity, found.denial_ttl, found.denial_min_ttl) == (2500, 30, 2)
    assert (found.prefetch, found.prefetch_duration, found.prefetch_percent) == (10, 120.0, 20)
    assert found.stale is not None
    assert (found.stale.duration, found.stale.verify, found.stale.verify_timeout) == (
        7200.0,
        True,
        0.1,
    )
    assert (found.stale.ttl, found.stale.recheck) == (30, 10.0)
    assert (found.servfail_ttl, found.prefer_positive, found.keep_ttl) == (2.0, True, True)
    assert (found.no_denial, found.no_success) == (("sub.example.org.",), (".",))


def test_the_smaller_stanzas() -> None:
    settings = read(
        """bind ::1 127.0.0.1
        bind 192.0.2.1
        errors {
            stacktrace
            consolidate 5m ".* timeout$" warning show_first
        }
        log
        log example.org "{combined} x" {
            class denial error
        }
        health [::1]:1 {
            lameduck 5s
        }
        ready :2 {
            monitor continuously
        }
        prometheus localhost:3 {
            runtime_metrics
        }
        reload 10s 20s
        loop
        acl {
            allow type A AAAA net 192.0.2.0/24 ::1
            drop net *
        }"""
    )
    found = settings.servers[0]
    assert [str(address) for address in found.addresses] == ["::1", "127.0.0.1", "192.0.2.1"]
    assert found.consolidate[0].level == "warning"
    assert found.log[0].zone == "."
    assert found.log[1].format == f'{found.log[0].format} "{{>opcode}}" x'
    assert found.log[1].classes == {"denial", "error"}
    assert (settings.health, settings.lameduck) == (Listen("::1", 1), 5.0)
    assert (settings.ready, settings.prometheus) == (Listen("", 2), Listen("localhost", 3))
    assert settings.runtime_metrics
    assert settings.reload is not None
    assert (settings.reload.interval, settings.reload.jitter) == (10.0, 5.0)
    assert found.loop
    rule = found.acls[0].rules[0]
    assert (rule.action, rule.types) == ("allow", frozenset({1, 28}))
    assert rule.networks == (ip_network("192.0.2.0/24"), ip_network("::1"))
    assert found.acls[0].rules[1].networks == ()


@pytest.mark.parametrize(
    ("stanzas", "problem"),
    [
        ("kubernetes cluster.local", "2: unknown stanza 'kubernetes': known are acl, bind, cache"),
        (
            "dns64 64:ff9b::/90",
            "2: dns64: prefix 64:ff9b::/90 has length /90: allowed are /32, /40",
        ),
        ("dns64 64:ff9b::1/96", "2: dns64: '64:ff9b::1/96' is not an IPv6 address or range"),
        ("dns64 192.0.2.0/24", "2: dns64: '192.0.2.0/24' is not an IPv6 address or range"),
        ("dns64 a b", "2: dns64: 'a b' doesn't fit: write `dns64 \\[PREFIX\\]"),
        (
            "dns64 {\nprefx x\n}",
            "3: dns64 has no option 'prefx': known are allow_ipv4, break_dnssec",
        ),
        ("dns64 {\nprefix\n}", "3: prefix: 'nothing' doesn't fit: write `prefix PREFIX...`"),
        ("dns64 {\nptr maybe\n}", "3: ptr: 'maybe' is not allowed: write cname or off or local"),
        ("dns64 {\nptr local\n}", "3: ptr: 'local' doesn't fit"),
        ("dns64 {\nmap 10.0.0.0/8\n}", "3: map: '10.0.0.0/8' doesn't fit: write `map RANGE PREFIX"),
        ("dns64 {\nexclude_a 10.0.0.1/8\n}", "3: exclude_a: '10.0.0.1/8' is not an IPv4 address"),
        ("dns64 {\ntranslator x\n}", "3: translator: 'x' is not an absolute path"),
        ("dns64 {\nbreak_dnssec yes\n}", "'yes' is not allowed: write on or off"),
        ("dns64\ndns64", "3: dns64 stands twice in one server block"),
        ("forward .", "2: forward: '.' doesn't fit: write `forward FROM TO"),
        ("forward . dns.example", "2: forward: 'dns.example' is not an IP address"),
        ("forward . https://192.0.2.1", "'https' is not allowed: write dns or tls"),
        ("forward . 192.0.2.1:99999", "'99999' is not a whole number from 1 to 65535"),
        ("forward . /no/such/file", "2: forward: /no/such/file can't be read"),
        ("forward . 192.0.2.1 {\npolicy best\n}", "'best' is not allowed: write random or round"),
        ("forward . 192.0.2.1 {\nexpire 5\n}", "'5' is not a duration: write it as in 500ms"),
        ("forward . 192.0.2.1 {\nfailover NOERROR\n}", "NOERROR can't be a reason"),
        ("forward . 192.0.2.1 {\nfailover XYZ\n}", "'XYZ' is not an RCODE"),
        ("forward . 192.0.2.1 {\nmax_age 1s\n}", "max_age must not be less than expire"),
        ("cache 0", "2: cache: '0' is not a whole number from 1"),
        ("cache {\nservfail 6m\n}", "3: servfail: '6m' is outside 0s to 300s"),
        ("cache {\nprefetch 1 1m 5%\n}", "'5' is not a whole number from 10 to 90"),
        ("cache {\nserve_stale 1h eventually\n}", "'eventually' is not allowed"),
        ("cache {\nserve_stale_policy prefer_positive\n}", "serve_stale_policy needs serve_stale"),
        ("reload 1s", "2: reload: '1s' is outside 2s"),
        ("reload 10s 500ms", "'500ms' is no jitter"),
        ("bind eth0", "2: bind: 'eth0' is not an IP address"),
        ("health 8080", "2: health: '8080' has no port: write `health"),
        ("acl {\npermit net ::1\n}", "3: acl has no option 'permit': known are allow, block"),
        ("acl {\nallow ::1\n}", "3: allow: '::1' is not allowed here"),
        ("acl {\nallow net\n}", "3: allow: net has nothing after it"),
        ("acl {\nallow type XX\n}", "'XX' is not a query type"),
        ("log . {\nclass good\n}", "'good' is not allowed: write all or denial"),
        ("errors {\nconsolidate 5m (\n}", "'\\(' is not a regular expression"),
        ("loop x", "2: loop: 'x' doesn't fit: write `loop`"),
        ("loop {\n}", "2: loop: takes no block"),
        ("forward a..b 192.0.2.1", "'a..b' is not a zone name"),
        ("dns64 {\nexempt a\\9\n}", r"3: exempt: 'a\\\\9\.' is not a zone name: An escaped code"),
        ("dns64 {\nptr local a\\300\n}", "3: ptr: .* is not a zone name"),
        ("cache 60 a\\9", "2: cache: .* is not a zone name"),
        ("forward \u200b.x 192.0.2.1", "2: forward: .* is not a zone name: IDNA"),
        ("acl a\\9 {\nallow\n}", "2: acl: .* is not a zone name"),
        ("log a\\9", "2: log: .* is not a zone name"),
        ("forward . ::1 {\nhealth_check 1s domain a\\9\n}", "health_check: .* is not a zone name"),
    ],
)
def test_what_is_wrong_is_refused_with_line_and_rule(stanzas: str, problem: str) -> None:
    with pytest.raises(CorefileError, match=f"^Corefile:.*{problem}"):
        read(stanzas)


@pytest.mark.parametrize(
    ("corefile", "problem"),
    [
        ("", "1: no server block"),
        (". {\n}\n. {\n}\n", "3: dns://.:53 is served by two blocks"),
        ("a\\9 {\n}\n", "1: 'a.*9.' is not a zone name: An escaped code"),
        ("tls://. {\n}\n", "1: tls://.:853: only plain dns:// is served"),
        ("a {\nbind ::1\n}\nb {\n}\n", "4: blocks on port 53 must have the same bind addresses"),
    ],
)
def test_blocks_that_do_not_fit_together_are_refused(corefile: str, problem: str) -> None:
    with pytest.raises(CorefileError, match=problem):
        from_text(corefile)


def test_check_says_what_is_wrong_or_what_is_served(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "Corefile"
    path.write_text(".:6464 {\n    dns64 64:ff9b::/95\n}\n")
    assert cli.main(["check", "--corefile", str(path)]) == 2
    assert f"{path}:2: dns64: prefix 64:ff9b::/95" in capsys.readouterr().err
    path.write_text(".:6464 {\n    dns64\n    forward . ::1\n}\n")
    assert cli.main(["check", "--corefile", str(path)]) == 0
    assert "serving . on dns://:6464" in capsys.readouterr().out
    assert cli.main(["check", "--corefile", str(tmp_path / "none")]) == 2


WORDS = st.sampled_from(
    [
        *("dns64", "forward", "cache", "acl", "log", "errors", "health", "ready", "prometheus"),
        *("reload", "bind", "loop", "prefix", "map", "ptr", "local", "cname", "off", "exempt"),
        *("example.org", "64:ff9b::/96", "192.0.2.0/24", "192.0.2.1", "::1", "5s", "0", "-1", "."),
        *("10%", "net", "type", "A", "*", "allow", "block", "success", "denial", "serve_stale"),
        *("immediate", "verify", "policy", "random", "tls", "class", "all", "{common}", "/x"),
        *("translator", "exclude_a", "exclude_aaaa", "none", "health_check", "domain", "failover"),
    ]
)


@given(st.lists(st.lists(WORDS, min_size=1, max_size=5), max_size=6), st.booleans())
def test_any_words_are_read_or_refused_with_a_line(lines: list[list[str]], nested: bool) -> None:
    body = [" ".join(words) for words in lines]
    if nested and body:
        body = [f"{body[0]} {{", *body[1:], "}"]
    line = 1
    try:
        read("\n".join(body))
    except CorefileError as error:
        line = error.line
    assert 1 <= line <= len(body) + 3


@pytest.mark.parametrize(
    ("key", "zone", "port"),
    [
        ("0/27.2.0.192.in-addr.arpa", "0/27.2.0.192.in-addr.arpa.", 53),
        ("0/27.2.0.192.in-addr.arpa:1053", "0/27.2.0.192.in-addr.arpa.", 1053),
        ("192.0.2.0/24:1053", "2.0.192.in-addr.arpa.", 1053),
        ("2001:db8::/32:1053", "8.b.d.0.1.0.0.2.ip6.arpa.", 1053),
        ("corp(1).example", "corp(1).example.", 53),
    ],
)
def test_server_keys_are_what_coredns_takes(key: str, zone: str, port: int) -> None:
    """RFC 2317 names and ranges with a port: a block of the cluster's own may have them."""
    (server,) = from_text(f"{key} {{\nforward . ::1\n}}").servers
    assert (server.zones, server.port) == ((zone,), port)
