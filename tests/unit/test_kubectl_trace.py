"""`kubectl nat64 trace`: what it concludes from what was found."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from nat64_operator.kubectl import network_policies, trace
from nat64_operator.kubectl.agents import Agent, Report
from nat64_operator.kubectl.checks import Result, end, render
from nat64_operator.kubectl.exec_output import ClusterError
from nat64_operator.kubectl.output import Paint
from nat64_operator.kubectl.targets import split_target

POD: dict[str, Any] = {
    "metadata": {"namespace": "default", "name": "web", "labels": {"app": "web"}},
    "spec": {"nodeName": "node1", "dnsPolicy": "ClusterFirst"},
    "status": {"phase": "Running", "podIPs": [{"ip": "fd00::5"}]},
}
WAY: dict[str, Any] = {
    "address": "64:ff9b:1::c633:640a",
    "translated": True,
    "route": {"interface": "nat64-default", "error": None},
    "ipv4": "198.51.100.10",
    "sourceAllowed": True,
    "verdict": "ALLOWED",
    "ipv4Route": {"interface": "eth0", "gateway": "192.0.2.1", "error": None},
    "neighbour": {"interface": "veth5", "state": "STALE", "found": True},
    "probe": {
        "port": 443,
        "outcome": "connected",
        "milliseconds": 1.5,
        "source": "2001:db8::1",
        "sourceAllowed": True,
        "counters": {"translated_6to4": 3, "translated_4to6": 1},
    },
    "decision": {
        "outcome": "translated",
        "reason": "",
        "way": "fast",
        "source": "192.0.2.20:61001",
        "counters": {"translated_6to4": 1},
        "link": "veth5",
        "meaning": "",
    },
    "bindings": [],
    "sessions": [],
}
FOUND: dict[str, Any] = {
    "name": "default",
    "prefix": "64:ff9b:1::/96",
    "interface": "nat64-default",
    "programmed": True,
    "reason": "Programmed",
    "dns": {
        "AAAA": {"addresses": ["64:ff9b:1::c633:640a"], "rcode": "NOERROR", "error": None},
        "A": {"addresses": ["198.51.100.10"], "rcode": "NOERROR", "error": None},
    },
    "destinations": [WAY],
}
AGENT = Agent("default", "node1", "nat64-system", "nat64-default-abc", "")


def facts(*changes: tuple[str, Any], **fields: Any) -> trace.Facts:
    """Everything good but what `changes` say, each a path and a value."""
    found = copy.deepcopy(FOUND)
    for path, value in changes:
        *parents, last = path.split(".")
        inner: Any = found
        for key in parents:
            inner = inner[int(key) if key.isdigit() else key]
        inner[last] = value
    given: dict[str, Any] = {
        "pod": POD,
        "host": "name.example",
        "port": 443,
        "server": "fd00::a",
        "report": Report(AGENT, found, ""),
        "policies": [],
        "network_policies": [],
        **fields,
    }
    return trace.Facts(**given)


def test_a_good_way_has_every_step() -> None:
    steps = trace.judge(facts())
    assert [step.result for step in steps] == [Result.OK] * 10
    assert end(steps) is None


def dns(aaaa: list[str], a: list[str], **more: Any) -> list[tuple[str, Any]]:
    return [
        ("dns.AAAA.addresses", aaaa),
        ("dns.A.addresses", a),
        ("destinations", []),
        *((f"dns.AAAA.{key}", value) for key, value in more.items()),
    ]


PROBE = "destinations.0.probe"
STOPS: list[tuple[str, list[tuple[str, Any]], str, str]] = [
    (
        "not programmed",
        [("programmed", False), ("reason", "NoUplink: none")],
        "translator",
        "NoUpl",
    ),
    ("no answer of DNS", dns([], [], error="timed out"), "DNS", "does not answer: timed out"),
    ("no such name", dns([], [], rcode="NXDOMAIN"), "DNS", "no address at all (NXDOMAIN)"),
    ("not synthesized", dns([], ["198.51.100.10"]), "DNS", "synthesizes no IPv6 address"),
    ("no route", [("destinations.0.route.error", "no route")], "route", "no route"),
    ("other route", [("destinations.0.route.interface", "eth0")], "route", "to eth0 and not to"),
    ("source", [("destinations.0.sourceAllowed", False)], "policy", "allowedSources"),
    ("denied", [("destinations.0.verdict", "DENIED")], "policy", "deniedDestinations"),
    ("private", [("destinations.0.verdict", "NOT_GLOBAL")], "policy", "RFC 6052"),
    ("metadata", [("destinations.0.verdict", "SPECIAL")], "policy", "metadata"),
    ("node", [("destinations.0.verdict", "LOCAL")], "policy", "of the node itself"),
    ("no IPv4", [("destinations.0.ipv4Route.error", "unreachable")], "IPv4 route", "unreachable"),
    ("closed port", [(f"{PROBE}.outcome", "refused")], "packets", "refuses"),
    ("error", [(f"{PROBE}.outcome", "No route to host")], "packets", "No route to host"),
    (
        "silence",
        [(f"{PROBE}.outcome", "timeout"), (f"{PROBE}.counters", {"translated_6to4": 3})],
        "packets",
        "no answer comes back",
    ),
    (
        "drops",
        [
            (f"{PROBE}.outcome", "timeout"),
            (f"{PROBE}.counters", {"dropped_ports_exhausted_6to4": 3}),
        ],
        "packets",
        "dropped packets",
    ),
    (
        "a firewall before",
        [(f"{PROBE}.outcome", "timeout"), (f"{PROBE}.counters", {})],
        "packets",
        "never reached the translator",
    ),
    (
        "a firewall behind",
        [(f"{PROBE}.outcome", "timeout")],
        "packets",
        "gets no connection",
    ),
    (
        "silent pod",
        [("destinations.0.neighbour", {"interface": "v5", "state": "FAILED", "found": False})],
        "neighbour",
        "node1 asks for the pod on v5 and gets no answer (its neighbour entry is FAILED)",
    ),
]


@pytest.mark.parametrize(
    ("changes", "step", "says"), [s[1:] for s in STOPS], ids=[s[0] for s in STOPS]
)
def test_it_stops_in_words_with_a_remedy(
    changes: list[tuple[str, Any]], step: str, says: str
) -> None:
    last = end(trace.judge(facts(*changes)))
    assert last is not None
    assert last.name == step
    assert says in last.text
    assert last.remedy


def test_a_node_without_an_agent() -> None:
    last = end(trace.judge(facts(report=None)))
    assert last is not None
    assert last.text == "node1 has no translator"


def test_an_agent_that_cannot_be_asked() -> None:
    last = end(trace.judge(facts(report=Report(AGENT, None, "exec: forbidden"))))
    assert last is not None
    assert "exec: forbidden" in last.text


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"phase": "Pending"}, "is Pending"),
        ({"podIPs": [{"ip": "192.0.2.9"}]}, "no IPv6 address, only 192.0.2.9"),
        ({"podIPs": []}, "only none at all"),
    ],
)
def test_a_pod_that_cannot_be_traced(change: dict[str, Any], says: str) -> None:
    pod = {**POD, "status": {**POD["status"], **change}}
    [last] = trace.judge(facts(pod=pod))
    assert says in last.text


def test_an_ipv4_literal_gets_the_address_that_stands_for_it() -> None:
    last = end(trace.judge(facts(("dns", None), ("destinations", []), host="198.51.100.10")))
    assert last is not None
    assert "[64:ff9b:1::c633:640a]" in last.remedy


def test_a_name_with_ipv6_of_its_own_is_no_matter_of_nat64() -> None:
    native = {"address": "2001:db8::80", "translated": False, "route": {}}
    changed = [("dns.AAAA.addresses", ["2001:db8::80"]), ("destinations", [native])]
    last = end(trace.judge(facts(*changed)))
    assert last is not None
    assert last.name == "translation"


def test_a_pod_that_does_not_ask_the_clusters_dns() -> None:
    pod = {**POD, "spec": {**POD["spec"], "dnsPolicy": "Default"}}
    last = end(trace.judge(facts(*dns([], []), server="", pod=pod)))
    assert last is not None
    assert "dnsPolicy Default" in last.text


def test_a_clusters_dns_that_is_not_found_is_no_fault_of_the_pods() -> None:
    last = end(trace.judge(facts(*dns([], []), server="")))
    assert last is not None
    assert "the cluster's DNS isn't known" in last.text
    assert "--dns-server" in last.remedy


@pytest.mark.parametrize(
    ("policies", "remedy"),
    [
        (None, "may not read"),
        ([], "apply a DNS64Policy"),
        (
            [
                {
                    "metadata": {"name": "default"},
                    "status": {
                        "conditions": [
                            {"type": "Ready", "status": "False", "message": "no sidecar"}
                        ]
                    },
                }
            ],
            "DNS64Policy default is not ready: no sidecar",
        ),
        (
            [
                {
                    "metadata": {"name": "default"},
                    "status": {"conditions": [{"type": "Ready", "status": "True"}]},
                }
            ],
            "cache",
        ),
    ],
)
def test_why_a_name_is_not_synthesized(policies: Any, remedy: str) -> None:
    changed = dns([], ["198.51.100.10"])
    last = end(trace.judge(facts(*changed, policies=policies, explained=("rule",))))
    assert last is not None
    assert remedy in last.remedy
    assert last.details == ("rule",)


def network_policy(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "restrict"}, "spec": {"podSelector": {}, **spec}}


BLOCK = {"cidr": "64:ff9b:1::/96"}


@pytest.mark.parametrize(
    ("spec", "passes"),
    [
        ({"policyTypes": ["Egress"]}, False),
        ({"policyTypes": ["Ingress"]}, True),
        ({"ingress": []}, True),
        ({"egress": [{}]}, True),
        ({"egress": [{"to": [{"ipBlock": BLOCK}]}]}, True),
        ({"egress": [{"to": [{"ipBlock": {"cidr": "::/0", "except": ["64:ff9b::/32"]}}]}]}, False),
        ({"egress": [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}]}, False),
        ({"egress": [{"to": [{"podSelector": {}}]}]}, False),
        ({"egress": [{"ports": [{"port": 53, "protocol": "UDP"}]}]}, False),
        ({"egress": [{"ports": [{"port": 443}]}]}, True),
        ({"egress": [{"ports": [{"port": 80}]}]}, False),
        ({"egress": [{"ports": [{"port": 400, "endPort": 500}]}]}, True),
        ({"egress": [{"ports": [{}]}]}, True),
        ({"egress": [{"ports": [{"port": "https"}]}]}, False),
        ({"policyTypes": ["Egress"], "podSelector": {"matchLabels": {"app": "db"}}}, True),
    ],
)
def test_network_policies_are_judged_on_the_ipv6_address(
    spec: dict[str, Any], passes: bool
) -> None:
    last = end(trace.judge(facts(network_policies=[network_policy(**spec)])))
    assert (last is None) == passes
    if last:
        assert last.name == "NetworkPolicy"
        assert "64:ff9b:1::c633:640a/128" in last.remedy


@pytest.mark.parametrize(
    ("operator", "values", "matches"),
    [
        ("In", ["web"], True),
        ("In", ["db"], False),
        ("NotIn", ["web"], False),
        ("Exists", [], True),
        ("DoesNotExist", [], False),
    ],
)
def test_label_expressions(operator: str, values: list[str], matches: bool) -> None:
    expression = {"key": "app", "operator": operator, "values": values}
    assert network_policies.selects({"matchExpressions": [expression]}, {"app": "web"}) is matches


def test_policies_that_may_not_be_read_do_not_end_the_way() -> None:
    steps = trace.judge(facts(network_policies=None))
    assert end(steps) is None
    assert steps[3].result is Result.NOTE


def test_policies_of_other_kinds_are_named_as_not_evaluated() -> None:
    others = {"CiliumNetworkPolicy": ["deny-world"], "AdminNetworkPolicy": None, "X": []}
    steps = trace.judge(facts(other_policies=others))
    named = {step.name: step for step in steps}
    assert named["CiliumNetworkPolicy"].result is Result.NOTE
    assert "deny-world" in named["CiliumNetworkPolicy"].text
    assert "unread" in named["AdminNetworkPolicy"].text
    assert "X" not in named


def test_sessions_are_shown_and_unanswered_ones_noted() -> None:
    session = {
        "protocol": "tcp",
        "client": "[fd00::5]:4000",
        "address": "192.0.2.11:61001",
        "remote": "198.51.100.10:443",
        "state": "V6_INIT",
        "age": "3s",
    }
    steps = trace.judge(facts(("destinations.0.sessions", [session] * 7)))
    step = steps[8]
    assert step.result is Result.NOTE
    assert "no TCP one was answered yet" in step.text
    assert step.details[-1] == "and 2 more"


def test_text_is_for_people() -> None:
    shown = render(trace.judge(facts(("destinations.0.verdict", "DENIED"))), Paint(False))
    assert "✓ pod " in shown
    assert "✗ policy " in shown
    assert "try: remove the range" in " ".join(shown.split())
    assert max(map(len, shown.splitlines())) <= 100


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("a.example", "a.example", 443),
        ("a.example.:80", "a.example", 80),
        ("192.0.2.1:80", "192.0.2.1", 80),
        ("2001:db8::1", "2001:db8::1", 443),
        ("[2001:db8::1]:80", "2001:db8::1", 80),
        ("[2001:db8::1]", "2001:db8::1", 443),
    ],
)
def test_a_target_is_read(text: str, host: str, port: int) -> None:
    assert split_target(text) == (host, port)


@pytest.mark.parametrize("text", ["", "a:", "a:http", "a:0", "a:65536", "[2001:db8::1", ":80"])
def test_a_target_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ClusterError, match="write HOST"):
        split_target(text)


def test_the_programs_decision_ends_the_way_whatever_the_node_itself_reaches() -> None:
    steps = trace.judge(
        facts(
            ("destinations.0.decision.outcome", "dropped"),
            ("destinations.0.decision.reason", "source_behind_uplink"),
            ("destinations.0.decision.meaning", "source behind an uplink"),
        )
    )
    assert steps[-1].result is Result.STOP
    assert "source_behind_uplink, source behind an uplink" in steps[-1].text
    assert "veth5" in steps[-1].text


def test_a_connection_of_the_node_is_never_called_the_pods() -> None:
    for outcome in ("connected", "refused", "timeout"):
        [*_, last] = trace.judge(facts(("destinations.0.probe.outcome", outcome)))
        assert "node1 itself" in last.text or "node1's own" in last.text, outcome
