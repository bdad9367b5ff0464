"""Whatever a DNS64Policy can say, the sidecar accepts; and it can say all that the sidecar can."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nat64_dataplane.dns64.settings import (
    Server,
    cache_stanza,
    dns64_stanza,
    forward_stanza,
    from_text,
    typed_settings,
)
from nat64_dataplane.dns64.settings.corefile_settings import FORMS
from nat64_operator.api.gateway import Gateway
from nat64_operator.api.policy import Policy, PolicySpec, words
from nat64_operator.errors import InvalidObjectError
from nat64_operator.render import names
from nat64_operator.render.forward_stanza import named
from nat64_operator.render.manifest import Ref
from nat64_operator.render.sidecar_corefile import clients_config, render_corefile
from nat64_operator.settings import Settings
from tests.unit.operator_simulation import COREFILE, NAMESPACE, SETTINGS, Simulation
from tests.unit.policy_specs import (
    defaulted,
    fields,
    fields_set,
    ipv4_ranges,
    ipv6_ranges,
    lists,
    schema,
    specs,
    upstreams,
)

LEAVE = frozenset({"spec.gatewayRef", "spec.coreDNS"})
"""What isn't for the sidecar."""
RESOLV_CONF = "".join(f"nameserver 2001:db8:53::{n}\n" for n in range(3))

SIDECAR = names.sidecar_config("default", SETTINGS.dataplane_image)


def rendered(policy: PolicySpec, upstreams: Sequence[str]) -> str:
    made = Gateway.parse({"metadata": {"name": "default"}})
    return render_corefile(made.config(), made.ports, policy, upstreams)


def accepted(policy: PolicySpec, upstreams: Sequence[str], clients: Sequence[str] = ()) -> Server:
    """What the sidecar makes of a rendered Corefile; raises where it refuses it."""
    shared = clients_config(clients, Settings(dataplane_image="x:1"))["data"]["clients"]
    text = rendered(policy, upstreams).replace("import clients", shared)
    [server] = from_text(text, read_file=lambda _: RESOLV_CONF).servers
    return server


@settings(deadline=None)
@given(spec=specs("dns64policies", leave=LEAVE), clients=st.lists(ipv4_ranges | ipv6_ranges))
def test_whatever_a_policy_can_say_the_sidecar_accepts(
    spec: dict[str, Any], clients: list[str]
) -> None:
    policy = msgspec.convert(defaulted(schema("dns64policies"), spec), PolicySpec)
    server = accepted(policy, words(policy.upstreams), clients)
    assert server.port == 6464
    assert server.dns64 is not None
    assert server.dns64.translate_all == policy.translate_all
    assert {str(range_) for range_ in server.dns64.exclude_a} == set(policy.exclude_a)
    assert [forward.zone.rstrip(".") for forward in server.forwards] == [
        *(
            zone.name.rstrip(".").lower()
            for zone in sorted(policy.zones, key=lambda zone: -len(zone.name.strip(".").split(".")))
        ),
        "",
    ]


@pytest.mark.parametrize("full", lists(schema("dns64policies")))
@settings(
    deadline=None,
    max_examples=3,
    suppress_health_check=[
        HealthCheck.large_base_example,
        HealthCheck.data_too_large,
        HealthCheck.too_slow,
    ],
)
@given(data=st.data())
def test_the_sidecar_accepts_lists_as_long_as_they_may_be(full: str, data: st.DataObject) -> None:
    spec = data.draw(specs("dns64policies", full, LEAVE))
    policy = msgspec.convert(defaulted(schema("dns64policies"), spec), PolicySpec)
    accepted(policy, words(policy.upstreams))


corednss = st.sampled_from(
    ["https://192.0.2.1", "quic://192.0.2.1", "dns.example", "/etc/other", "unix:///run/x", "{", ""]
)


@settings(deadline=None)
@given(found=st.lists(upstreams | corednss | st.text(max_size=20), max_size=20))
def test_whatever_coredns_asks_the_sidecar_accepts_what_is_made_of_it(found: list[str]) -> None:
    server = accepted(PolicySpec(), found)
    assert 1 <= len(server.forwards[0].upstreams) <= 15


def test_a_range_that_was_stored_twice_is_mapped_once() -> None:
    mappings = [{"range": "10.0.0.0/8", "prefix": f"64:ff9b:1:{n}::/96"} for n in (1, 2)]
    policy = Policy.parse({"metadata": {"name": "x"}, "spec": {"mappings": mappings}}).spec
    made = accepted(policy, ()).dns64
    assert made is not None
    assert [str(prefix) for prefix in made.all_prefixes] == ["64:ff9b::/96", "64:ff9b:1:2::/96"]


@pytest.mark.parametrize(
    ("upstream", "expected"),
    [
        ("tls://192.0.2.1", "tls://192.0.2.1%x.example"),
        ("tls://192.0.2.1:8853", "tls://192.0.2.1%x.example:8853"),
        ("tls://[2001:db8::1]", "tls://[2001:db8::1%x.example]"),
        ("tls://[2001:db8::1]:8853", "tls://[2001:db8::1%x.example]:8853"),
        ("tls://2001:db8::1", "tls://[2001:db8::1%x.example]"),
        ("tls://192.0.2.1%own.example", "tls://192.0.2.1%own.example"),
        ("192.0.2.1", "192.0.2.1"),
    ],
)
def test_a_server_name_goes_with_the_tls_upstreams_that_have_none(
    upstream: str, expected: str
) -> None:
    assert named(upstream, "x.example") == expected
    [found] = accepted(PolicySpec(), [expected]).forwards
    [made] = found.upstreams
    assert made.server_name == expected.partition("%")[2].partition("]")[0].partition(":")[0]


Exposed = tuple[dict[str, Any], str]
"""A spec, and the line that it becomes."""

ZONE = {
    "name": "corp.example",
    "upstreams": [{"address": "192.0.2.9"}],
    "passOn": ["NXDOMAIN", "NODATA"],
}
ENCRYPTED = {
    "source": "Address",
    "address": "192.0.2.1",
    "port": 8853,
    "tls": {"serverName": "x.example"},
}
MAPPING = {"range": "10.0.0.0/8", "prefix": "2001:db8::/96", "additionalPrefixes": ["fd00::/96"]}
STALE = {
    "maxSeconds": 86400,
    "mode": "Verify",
    "verifyTimeoutMilliseconds": 1800,
    "ttlSeconds": 30,
    "recheckSeconds": 5,
    "preferPositive": True,
}
SUCCESS = {"successEntries": 2048, "maxTTLSeconds": 60, "minTTLSeconds": 1}
DENIAL = {"denialEntries": 1024, "denialMaxTTLSeconds": 30, "denialMinTTLSeconds": 2}
PREFETCH = {"queries": 10, "withinSeconds": 30, "percent": 20}
HEALTH = {"intervalMilliseconds": 900, "recursionDesired": False, "domain": "a.example"}
LOG = {"classes": ["Denial"], "names": ["corp.example"], "format": "Combined"}

OPTIONS: dict[str, dict[str, Exposed | str]] = {
    "dns64": {
        "prefix": "the gateway's: an address under another prefix is one that nobody translates",
        "translate_all": ({"translateAll": True}, "translate_all"),
        "allow_ipv4": ({"allowIPv4Clients": True}, "allow_ipv4"),
        "exclude_aaaa": ({"excludeAAAA": ["fd00::/8"]}, "exclude_aaaa fd00::/8"),
        "exclude_a": ({"excludeA": ["10.0.0.0/8"]}, "exclude_a 10.0.0.0/8"),
        "map": ({"mappings": [MAPPING]}, "map 10.0.0.0/8 2001:db8::/96 fd00::/96"),
        "exempt": ({"exemptZones": ["corp.example"]}, "exempt corp.example"),
        "ptr": ({"ptr": "Local", "ptrName": "x.example"}, "ptr local x.example"),
        "break_dnssec": ({"breakDNSSEC": False}, "break_dnssec off"),
        "special_use": "the gateway's policy.allowNonGlobal, which says what is translated",
        "translator": (
            {"untranslated": "ServFail"},
            "translator /run/nat64-operator/default/status.json servfail",
        ),
    },
    "cache": {
        "success": ({"cache": SUCCESS}, "success 2048 60 1"),
        "denial": ({"cache": DENIAL}, "denial 1024 30 2"),
        "prefetch": ({"cache": {"prefetch": PREFETCH}}, "prefetch 10 30s 20%"),
        "serve_stale": (
            {"cache": {"serveStale": STALE}},
            "serve_stale 86400s verify 1800ms 30s 5s",
        ),
        "serve_stale_policy": (
            {"cache": {"serveStale": STALE}},
            "serve_stale_policy prefer_positive",
        ),
        "servfail": ({"cache": {"servfailSeconds": 9}}, "servfail 9s"),
        "disable": (
            {"cache": {"disable": {"success": ["a.example"], "denial": ["b.example"]}}},
            "disable denial b.example",
        ),
        "keepttl": ({"cache": {"keepTTL": True}}, "keepttl"),
    },
    "forward": {
        "except": "such a name would be REFUSED; `zones` sends names to other resolvers",
        "force_tcp": ({"forward": {"forceTCP": True}}, "force_tcp"),
        "prefer_udp": "has no effect: upstream is asked over UDP whatever the client used",
        "expire": ({"forward": {"expireSeconds": 20}}, "expire 20s"),
        "max_age": ({"forward": {"maxAgeSeconds": 300}}, "max_age 300s"),
        "max_idle_conns": "has no effect: there is one connection to each upstream",
        "read_timeout": ({"forward": {"readTimeoutMilliseconds": 900}}, "read_timeout 900ms"),
        "max_fails": ({"forward": {"maxFails": 0}}, "max_fails 0"),
        "max_connect_attempts": ({"forward": {"maxConnectAttempts": 4}}, "max_connect_attempts 4"),
        "tls": "names files in the pod, keys among them, and the operator reads no Secrets",
        "tls_servername": (
            {"upstreams": [ENCRYPTED], "zones": [{"name": "a.example", "upstreams": [ENCRYPTED]}]},
            "forward . tls://192.0.2.1%x.example:8853 {",
        ),
        "policy": ({"forward": {"policy": "RoundRobin"}}, "policy round_robin"),
        "health_check": (
            {"forward": {"healthCheck": HEALTH}},
            "health_check 900ms no_rec domain a.example",
        ),
        "max_concurrent": ({"forward": {"maxConcurrent": 7}}, "max_concurrent 7"),
        "next": ({"zones": [ZONE]}, "next NXDOMAIN"),
        "next_on_nodata": ({"zones": [ZONE]}, "next_on_nodata"),
        "failfast_all_unhealthy_upstreams": (
            {"forward": {"failFast": True}},
            "failfast_all_unhealthy_upstreams",
        ),
        "failover": ({"forward": {"failover": ["SERVFAIL"]}}, "failover SERVFAIL"),
        "source_address": "one policy is for many nodes, and each has addresses of its own",
    },
    "other stanzas": {
        "acl": (
            {"deniedClients": ["fd00:1::/32"], "allowedClients": ["fd00::/16"]},
            "block net fd00:1::/32",
        ),
        "bind": "every address: CoreDNS comes to the node's, kubelet's probes to loopback",
        "cache": ({}, "cache {"),
        "dns64": ({}, "dns64 {"),
        "errors": (
            {"log": {"consolidateErrorsSeconds": 60}},
            "consolidate 60s .* error show_first",
        ),
        "forward": ({"zones": [ZONE]}, "forward corp.example 192.0.2.9 {"),
        "health": "the port is the gateway's hostPorts; the time is what CoreDNS needs to move on",
        "log": ({"logQueries": "Errors", "log": LOG}, "log corp.example {combined} {"),
        "loop": "always: a sidecar that asks itself must end",
        "prometheus": "the port is the gateway's hostPorts",
        "ready": "the port is the gateway's hostPorts",
        "reload": "the operator's: it changes the file and waits for what comes of it",
    },
}
"""Each option of the sidecar with the fields that set it, or why there are none."""


def test_every_option_of_the_sidecar_is_in_the_table() -> None:
    assert {name: set(options) for name, options in OPTIONS.items()} == {
        "dns64": set(dns64_stanza.OPTIONS),
        "cache": set(cache_stanza.OPTIONS),
        "forward": set(forward_stanza.OPTIONS),
        "other stanzas": set(FORMS),
    }


ROWS = [
    (*row, name)
    for part in OPTIONS.values()
    for name, row in part.items()
    if not isinstance(row, str)
]


@pytest.mark.parametrize(("spec", "line"), [row[:2] for row in ROWS], ids=[row[2] for row in ROWS])
def test_what_a_policy_says_is_a_line_of_the_corefile(spec: dict[str, Any], line: str) -> None:
    policy = Policy.parse({"metadata": {"name": "x"}, "spec": spec}).spec
    text = rendered(policy, words(policy.upstreams))
    assert line in [found.strip() for found in text.splitlines()]


def test_every_field_is_the_way_to_some_option() -> None:
    used = set().union(*(fields_set(spec) for spec, *_ in ROWS))
    leaves = {
        path
        for path, field in fields(schema("dns64policies"))
        if "properties" not in field.get("items", field) and not path.endswith("[]")
    }
    assert {path for path in leaves - used if not path.startswith(tuple(LEAVE))} == set()


def test_what_is_not_said_is_the_sidecars_own_default() -> None:
    server = accepted(PolicySpec(), ["192.0.2.1"])
    [found] = server.forwards
    assert found == typed_settings.Forward(".", found.upstreams, policy="sequential")
    assert server.cache == typed_settings.Cache(
        success_capacity=100_000, denial_capacity=20_000, denial_ttl=3600
    )


def test_tls_upstreams_of_coredns_keep_the_name_that_is_checked() -> None:
    asked = "tls://192.0.2.1 tls://[2001:db8::1]:8853"
    line = f"{asked} {{\n        tls_servername x.example\n"
    simulation = Simulation()
    simulation.write_corefile(COREFILE.replace("/etc/resolv.conf {\n", line))
    simulation.create("NAT64Gateway", "default")
    simulation.create("DNS64Policy", "default")
    simulation.settle()
    sidecars = simulation.owned[Ref("ConfigMap", SIDECAR, NAMESPACE)]
    expected = "forward . tls://192.0.2.1%x.example tls://[2001:db8::1%x.example]:8853 {"
    assert expected in sidecars["data"]["Corefile"]
    assert f"]:53 {asked} {{" in simulation.text()
    assert "tls_servername x.example" in simulation.text()


@pytest.mark.parametrize(
    ("upstream", "word"),
    [
        ({"source": "Node"}, "/etc/resolv.conf"),
        ({"address": "192.0.2.1"}, "192.0.2.1"),
        ({"address": "2001:db8::1"}, "2001:db8::1"),
        ({"address": "2001:db8::1", "port": 5353}, "[2001:db8::1]:5353"),
        ({"address": "192.0.2.1", "tls": {}}, "tls://192.0.2.1"),
        ({"address": "2001:db8::1", "tls": {}}, "tls://[2001:db8::1]"),
        (
            {"address": "2001:db8::1", "port": 8853, "tls": {"serverName": "a.example"}},
            "tls://[2001:db8::1%a.example]:8853",
        ),
    ],
)
def test_an_upstream_is_a_word_of_the_corefile(upstream: dict[str, Any], word: str) -> None:
    spec = {"upstreams": [upstream, upstream]}
    read = Policy.parse({"metadata": {"name": "x"}, "spec": spec}).spec
    assert words(read.upstreams) == (word,)
    [found] = accepted(read, [word]).forwards
    assert len(found.upstreams) >= 1


@pytest.mark.parametrize("upstream", [{}, {"source": "Node", "address": "192.0.2.1"}, "192.0.2.1"])
def test_an_upstream_of_another_shape_is_refused(upstream: Any) -> None:
    with pytest.raises(InvalidObjectError, match="upstreams"):
        Policy.parse({"metadata": {"name": "x"}, "spec": {"upstreams": [upstream]}})
