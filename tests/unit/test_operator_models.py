"""The models and the CRDs say the same, and every option reaches the translator and the sidecar."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nat64_dataplane import config
from nat64_operator.api.gateway import Gateway, GatewaySpec, Pool
from nat64_operator.api.host_ports import DERIVED_PORTS, derived_ports
from nat64_operator.api.policy import Policy, PolicySpec, words
from nat64_operator.errors import InvalidObjectError
from nat64_operator.render.sidecar_corefile import render_corefile
from tests.unit.policy_specs import defaulted, fields, fields_set, schema

KINDS = {"nat64gateways": GatewaySpec, "dns64policies": PolicySpec}


@pytest.mark.parametrize("plural", KINDS)
def test_the_empty_spec_means_the_same_to_the_api_server_and_to_us(plural: str) -> None:
    stored = defaulted(schema(plural), {})
    assert msgspec.convert(stored, KINDS[plural]) == KINDS[plural]()


@pytest.mark.parametrize("plural", KINDS)
def test_crd_and_model_have_the_same_fields(plural: str) -> None:
    def of_model(kind: Any, path: str = "spec") -> set[str]:
        found = set()
        for field in msgspec.structs.fields(kind):
            name = f"{path}.{field.encode_name}"
            found.add(name)
            inner = getattr(field.type, "__args__", (field.type,))
            for candidate in inner:
                if isinstance(candidate, type) and issubclass(candidate, msgspec.Struct):
                    suffix = "[]" if "tuple" in str(field.type) else ""
                    found |= of_model(candidate, name + suffix)
        return found

    in_crd = {
        path
        for path, _ in fields(schema(plural))
        if path != "spec" and not path.endswith("[]") and "tolerations[]" not in path
    }
    assert of_model(KINDS[plural]) == in_crd


@pytest.mark.parametrize("plural", KINDS)
def test_every_field_is_described_and_bounded(plural: str) -> None:
    for path, field in fields(schema(plural)):
        if path.endswith("[]"):
            continue
        assert "description" in field or "x-kubernetes-int-or-string" in field, path
        if field.get("type") == "string" and "enum" not in field:
            assert "maxLength" in field, path
        if field.get("type") == "array":
            assert "maxItems" in field, path


def gateway(**spec: Any) -> Gateway:
    return Gateway.parse({"metadata": {"name": "default"}, "spec": spec})


def test_an_empty_gateway_is_the_translators_default() -> None:
    assert gateway().config() == config.Config(name="default")


def test_every_option_of_the_translator_can_be_set() -> None:
    made = gateway(
        prefix="64:ff9b:1::/96",
        clat={"mode": "Pods", "prefix": "2001:db8:64::/96"},
        pools=[
            {
                "source": "Range",
                "range": "203.0.113.8/29",
                "addressesPerNode": 2,
                "ports": {"from": 1024, "to": 65535},
            }
        ],
        uplinks=["eth0"],
        advertise={"interfaces": ["eth1"], "intervalSeconds": 200, "routeLifetimeSeconds": 900},
        interfaceName="nat",
        staticMappings=[
            {
                "protocol": "TCP",
                "client": "2001:db8::1",
                "clientPort": 80,
                "address": "203.0.113.8",
                "port": 8080,
            }
        ],
        policy={
            "allowedSources": ["2001:db8::/32"],
            "allowNonGlobal": True,
            "allowedDestinations": ["169.254.169.254/32"],
            "deniedDestinations": ["198.51.100.0/24"],
        },
        filtering="AddressDependent",
        tcpPortSharing="Never",
        copyTrafficClass=False,
        tcpMSS="Keep",
        flowOffload="Disabled",
        lowestIPv6MTU=1400,
        timeouts={
            "udpSeconds": 121,
            "icmpSeconds": 2,
            "tcpEstablishedSeconds": 7201,
            "tcpTransitorySeconds": 241,
            "tcpIncomingSynSeconds": 7,
            "fragmentSeconds": 3,
        },
        limits={
            "sessions": 2048,
            "sessionsPerClient": 4,
            "portsPerClient": 5,
            "newSessionsPerSecondPerClient": 6,
        },
        hostPorts={"translator": 1234},
        topology="Gateway",
        nodeSelector={"egress": "yes"},
    ).config()
    default = config.Config(name="default")

    def unchanged(a: Any, b: Any, path: str = "") -> Iterator[str]:
        for field in msgspec.structs.fields(a):
            one, other = getattr(a, field.name), getattr(b, field.name)
            if isinstance(one, msgspec.Struct) and other is not None:
                yield from unchanged(one, other, f"{path}{field.name}.")
            elif one == other:
                yield path + field.name

    # Pod ranges are facts of a cluster, not wishes: whoever writes the config by hand gives them.
    assert set(unchanged(made, default)) == {"version", "name", "policy.pod_ranges"}
    assert config.parse(config.render(made)) == made


@given(
    pools=st.lists(st.sampled_from(["", "203.0.113.1/32", "203.0.113.0/24"]), max_size=3),
    ports=st.tuples(st.integers(1, 65535), st.integers(1, 65535)).map(sorted),
    prefix=st.sampled_from(["64:ff9b::/96", "2001:db8::/32", "2001:db8:100::/40", "fd00::/64"]),
)
def test_what_becomes_a_config_reads_back_in_the_agent(
    pools: list[str], ports: list[int], prefix: str
) -> None:
    span = {"from": ports[0], "to": ports[1]}
    spread = [
        {"ports": span, **({"source": "Range", "range": pool} if pool else {})}
        for pool in dict.fromkeys(pools)
    ]
    overlapping = len({"203.0.113.1/32", "203.0.113.0/24"} & set(pools)) == 2
    made = gateway(prefix=prefix, **({"pools": spread} if spread else {}))
    if overlapping:
        return
    assert config.parse(config.render(made.config())) == made.config()


def test_ports_of_other_gateways_are_their_own_and_stay() -> None:
    names = [f"gateway-{n}" for n in range(50)]
    ports = [derived_ports(name) for name in names]
    assert ports == [derived_ports(name) for name in names]
    assert all(DERIVED_PORTS <= port < 30000 for six in ports for port in six)
    assert all(len(set(six)) == 6 for six in ports)


def test_a_given_port_wins() -> None:
    made = Gateway.parse({"metadata": {"name": "x"}, "spec": {"hostPorts": {"dns": 5353}}})
    assert made.ports.dns == 5353
    assert made.ports.translator == derived_ports("x")[0]


def test_pools_are_what_the_crd_says() -> None:
    assert GatewaySpec().pools == (Pool(),)


STORED = Path(__file__).parent / "stored"


@pytest.mark.parametrize(
    ("name", "plural"),
    [("nat64gateway", "nat64gateways"), ("dns64policy", "dns64policies")],
)
def test_the_stored_sample_sets_every_field(name: str, plural: str) -> None:
    stored = yaml.safe_load((STORED / f"{name}-v1alpha1.yaml").read_text())
    in_crd = {p for p, f in fields(schema(plural)) if not p.endswith("[]") or "properties" in f}
    optional = {p for p in in_crd if "tolerations[]." in p}
    extra = {p for p in fields_set(stored["spec"]) if ".nodeSelector." in p}
    assert fields_set(stored["spec"]) - extra >= in_crd - optional


def test_a_gateway_stored_by_the_first_release_reads_the_same() -> None:
    stored = yaml.safe_load((STORED / "nat64gateway-v1alpha1.yaml").read_text())
    read = Gateway.parse(stored)
    made = read.config()
    assert str(made.prefix) == "64:ff9b:1::/96"
    assert [(p.addresses, p.ports, p.addresses_per_node) for p in made.pools] == [
        ("node", "61001-65535", 0),
        ("203.0.113.8/29", "1024-65535", 2),
    ]
    assert (made.interface, made.uplinks, made.lowest_ipv6_mtu) == ("nat64-edge", ("eth0",), 1400)
    assert made.filtering is config.Filtering.ADDRESS_DEPENDENT
    assert (made.timeouts.udp, made.limits.sessions) == (121, 2048)
    assert made.static_mappings[0].port == 8080
    assert made.policy.allow_non_global
    assert made.topology == config.Topology(
        role=config.Role.GATEWAY,
        transport=config.Transport.TUNNEL,
        tunnel_port=18464,
        probe_milliseconds=500,
        failure_threshold=4,
        recovery_threshold=6,
    )
    assert read.ports.all() == {
        "translator": 1111,
        "dns": 1112,
        "dnsHealth": 1113,
        "dnsReady": 1114,
        "dnsMetrics": 1115,
        "clat": 1116,
    }
    assert [str(prefix) for prefix in made.prefixes] == ["64:ff9b:1::/96", "2001:db8:c1a7::/96"]


def test_a_policy_stored_by_the_first_release_reads_the_same() -> None:
    stored = yaml.safe_load((STORED / "dns64policy-v1alpha1.yaml").read_text())
    read = Policy.parse(stored)
    made = gateway()
    text = render_corefile(made.config(), made.ports, read.spec, words(read.spec.upstreams))
    for line in (
        "translate_all",
        "allow_ipv4",
        "exclude_aaaa ::ffff:0:0/96 2001:db8:bad::/48",
        "exclude_a 10.0.0.0/8",
        "map 172.16.0.0/12 64:ff9b:1:1::/96 2001:db8:64::/96",
        "exempt cluster.local corp.example",
        "ptr local nat64.example",
        "break_dnssec off",
        "translator /run/nat64-operator/default/status.json servfail",
        "success 2048 60 0",
        "forward corp.example tls://192.0.2.99%dns.example:853 {",
        "health_check 1000ms no_rec domain health.example",
        "serve_stale 86400s verify 1800ms 30s 5s",
        "log corp.example {combined} {",
        "block net 2001:db8:7:1::/64",
        "forward . 2001:db8::53 tls://192.0.2.53%dns.example:5353 {",
        "allow net 2001:db8:7::/48",
    ):
        assert line in text
    assert read.spec.core_dns.mode.value == "Import"


def test_fields_that_a_later_version_adds_do_no_harm() -> None:
    stored = yaml.safe_load((STORED / "nat64gateway-v1alpha1.yaml").read_text())
    later = {**stored, "spec": {**stored["spec"], "replication": "On"}}
    assert Gateway.parse(later).spec == Gateway.parse(stored).spec


@pytest.mark.parametrize(
    ("advertise", "says"),
    [
        ({"interfaces": ["eth1"], "intervalSeconds": 3}, "advertise: .*>= 4"),
        ({"interfaces": ["eth1"], "routeLifetimeSeconds": 599}, "advertise: .*599 is less than"),
        ({"interfaces": ["eth1"], "routeLifetimeSeconds": 65529}, "advertise: .*<= 65528"),
        ({"interfaces": ["nat64-default"]}, "advertise.*the translator's own link"),
    ],
)
def test_an_advertisement_that_was_stored_before_its_rule_is_refused(
    advertise: dict[str, Any], says: str
) -> None:
    with pytest.raises(InvalidObjectError, match=f"spec: {says}"):
        gateway(advertise=advertise).config()


def test_what_is_advertised_by_default_are_the_translators_own_times() -> None:
    made = gateway(advertise={"interfaces": ["eth1"]}).config().advertise
    assert made == config.Advertise(interfaces=("eth1",))
    assert (made.seconds_of_route, made.seconds_of_prefix) == (1800, 1800)
