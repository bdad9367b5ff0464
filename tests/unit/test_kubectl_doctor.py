"""`kubectl nat64 doctor`: what it finds, and that each finding has a remedy."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from nat64_operator.kubectl import (
    cluster_dns,
    doctor,
    doctor_coredns,
    doctor_node,
    doctor_overlap,
)
from nat64_operator.kubectl.agents import Agent, Report, parse
from nat64_operator.kubectl.checks import Result
from nat64_operator.kubectl.output import Paint

AGENT = Agent("default", "node1", "nat64-system", "nat64-default-abc", "")
NODE: dict[str, Any] = {
    "name": "default",
    "prefix": "64:ff9b::/96",
    "interface": "nat64-default",
    "kernel": "6.18.1-generic",
    "bpffs": True,
    "sysctls": {"net.ipv6.conf.all.forwarding": "1", "net.core.bpf_jit_enable": "1"},
    "links": [
        {"name": "eth0", "up": True, "mtu": 1500, "kind": ""},
        {"name": "nat64-default", "up": True, "mtu": 65535, "kind": "veth"},
    ],
    "addresses": ["192.0.2.11"],
    "defaultRoutes": [{"interface": "eth0", "metric": 0}],
    "prefixRoutes": [
        {"destination": "64:ff9b::/96", "interface": "nat64-default", "table": 254, "ours": True}
    ],
    "modules": ["veth"],
    "uplinks": [{"name": "eth0", "mtu": 1500}],
    "pool": [{"address": "192.0.2.11", "first": 61001, "last": 65535}],
    "unreservedPorts": "",
    "problems": [],
}
STATUS: dict[str, Any] = {
    "programmed": True,
    "reason": "Programmed",
    "sessions": 5,
    "sessionLimit": 1000,
    "pools": [{"address": "192.0.2.11", "protocol": "tcp", "used": 5, "available": 100}],
    "drops": [],
}
COREFILE = ".:53 {{\n    errors\n    forward . {upstreams}\n    cache 30\n}}\n"


def node(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(NODE), **changes}


def test_a_good_node_has_nothing_but_good_news() -> None:
    steps = [*doctor_node.examine(NODE, AGENT), *doctor_node.room(STATUS, AGENT)]
    assert {step.result for step in steps} == {Result.OK}
    assert {step.name for step in steps} == {
        *("kernel", "sysctls", "IPv4 uplink", "routes", "translator"),
    }


FORWARDING = {"net.ipv6.conf.all.forwarding": "0"}
DOWN = [{"name": "eth0", "up": False, "mtu": 1500}, NODE["links"][1]]
SMALL = [{"name": "eth0", "mtu": 1200}]
OTHER_ROUTE = {"destination": "64:ff9b::/96", "interface": "nat64", "table": 254, "ours": False}


@pytest.mark.parametrize(
    ("changes", "result", "says"),
    [
        ({"bpffs": False}, Result.STOP, "no bpffs"),
        ({"kernel": "5.15.0-91-generic"}, Result.NOTE, "older than 6.1"),
        ({"sysctls": FORWARDING}, Result.STOP, "forwarding is 0"),
        ({"sysctls": {}}, Result.STOP, "forwarding is None"),
        (
            {"sysctls": {**NODE["sysctls"], "net.ipv6.conf.all.disable_ipv6": "1"}},
            Result.STOP,
            "disable_ipv6",
        ),
        (
            {"sysctls": {**NODE["sysctls"], "net.core.bpf_jit_enable": "0"}},
            Result.NOTE,
            "interpreted",
        ),
        ({"unreservedPorts": "61001-65535"}, Result.NOTE, "ports 61001-65535 are not in"),
        (
            {"problems": [{"reason": "NoUplink", "message": "no link"}]},
            Result.STOP,
            "NoUplink: no link",
        ),
        ({"defaultRoutes": []}, Result.NOTE, "no IPv4 default route"),
        ({"links": DOWN}, Result.STOP, "eth0 is down"),
        ({"uplinks": SMALL}, Result.NOTE, "MTU of 1200"),
        ({"links": NODE["links"][:1]}, Result.STOP, "nat64-default is not there"),
        ({"prefixRoutes": []}, Result.STOP, "has no route for"),
        ({"clatPrefix": "2001:db8:64::/96"}, Result.STOP, "has no route for 2001:db8:64::/96"),
        (
            {"prefixRoutes": [*NODE["prefixRoutes"], OTHER_ROUTE]},
            Result.NOTE,
            "leads to nat64 (table 254)",
        ),
        ({"modules": ["jool"]}, Result.STOP, "module jool is loaded"),
    ],
)
def test_what_is_wrong_with_a_node_is_found_with_a_remedy(
    changes: dict[str, Any], result: Result, says: str
) -> None:
    found = [s for s in doctor_node.examine(node(**changes), AGENT) if s.result is not Result.OK]
    [step] = [s for s in found if says in s.text]
    assert step.result is result
    assert step.remedy


def test_an_old_kernel_that_will_do_is_said() -> None:
    first = next(iter(doctor_node.examine(node(kernel="6.1.0-18-amd64"), AGENT)))
    assert first.result is Result.OK
    assert "clsact" in first.text


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"programmed": False, "reason": "NotPrepared: x"}, "NotPrepared"),
        ({"sessions": 800}, "800 of 1000 sessions"),
        (
            {"pools": [{"address": "a", "protocol": "udp", "used": 80, "available": 100}]},
            "80 of 100 udp ports",
        ),
        (
            {"drops": [{"reason": "ports_exhausted", "packets": 7, "meaning": "no free port"}]},
            "7 packets were dropped: ports_exhausted, no free port",
        ),
    ],
)
def test_what_fills_up_is_found_with_a_remedy(changes: dict[str, Any], says: str) -> None:
    found = [s for s in doctor_node.room({**STATUS, **changes}, AGENT) if s.result is not Result.OK]
    assert [says in step.text and bool(step.remedy) for step in found] == [True]


def test_drops_that_are_the_policys_own_doing_are_no_finding() -> None:
    drops = [{"reason": "destination_special", "packets": 7, "meaning": "metadata"}]
    assert all(s.result is Result.OK for s in doctor_node.room({**STATUS, "drops": drops}, AGENT))


def workload(image: str, namespace: str = "kube-system") -> dict[str, Any]:
    return {
        "kind": "DaemonSet",
        "metadata": {"namespace": namespace, "name": "x"},
        "spec": {"template": {"spec": {"containers": [{"image": image}]}}},
    }


@pytest.mark.parametrize(
    "image",
    [
        "gcr.io/k8s-staging-networking/nat64:v0.1",
        "registry.k8s.io/networking/nat64-agent@sha256:00",
        "example.org/tayga:1",
        "example.org/jool",
        "ghcr.io/ironcore-dev/ebpf-nat64:1",
        "ghcr.io/aojea/kindnetd:v1.8",
        "registry.k8s.io/dns/k8s-dns-node-cache:1.23.0",
    ],
)
def test_known_overlapping_components_are_named(image: str) -> None:
    [found] = doctor_overlap.workloads([workload(image)], "nat64-system")
    assert found.result is Result.NOTE
    assert found.remedy


@pytest.mark.parametrize(
    ("image", "namespace"),
    [
        ("registry.k8s.io/kube-proxy:v1", "kube-system"),
        ("example.org/nat64-operator/dataplane:1", "nat64-system"),
        ("example.org/nat64-operator/operator:1", "elsewhere"),
        ("docker.io/coredns/coredns:1", "kube-system"),
        ("docker.io/kindest/kindnetd:v2025", "kube-system"),
    ],
)
def test_others_are_not(image: str, namespace: str) -> None:
    assert list(doctor_overlap.workloads([workload(image, namespace)], "nat64-system")) == []


def test_ciliums_own_nat64_is_named() -> None:
    on = {"data": {"enable-nat46x64-gateway": "true"}}
    assert len(list(doctor_overlap.cilium(on, []))) == 1
    assert list(doctor_overlap.cilium({"data": {}}, [])) == []
    assert list(doctor_overlap.cilium(None, [])) == []


@pytest.mark.parametrize(
    ("data", "result", "says"),
    [
        ({"enable-host-firewall": "true", "enable-ipv4": "false"}, Result.STOP, "drops every IPv4"),
        ({"enable-bpf-masquerade": "true", "enable-ipv4": "true"}, Result.NOTE, "32768-65535"),
    ],
)
def test_what_cilium_does_to_our_ipv4_is_named(
    data: dict[str, str], result: Result, says: str
) -> None:
    [found] = doctor_overlap.cilium({"data": data}, [{"spec": {}}])
    assert (found.result, says in found.text, bool(found.remedy)) == (result, True, True)


def test_cilium_without_ipv4_masquerades_none() -> None:
    data = {"enable-bpf-masquerade": "true", "enable-ipv4": "false"}
    assert list(doctor_overlap.cilium({"data": data}, [{"spec": {}}])) == []


@pytest.mark.parametrize(
    ("pools", "shared"),
    [
        ([{"source": "Range", "range": "192.0.2.32/27"}], False),
        ([{"source": "Node", "ports": {"from": 20000, "to": 29999}}], False),
        ([{"source": "Node", "ports": {"from": 20000, "to": 32768}}], True),
        ([{"source": "Range", "range": "192.0.2.32/27"}, {"source": "Node"}], True),
    ],
)
def test_a_gateway_that_shares_no_port_with_ciliums_masquerade_is_not_warned_of(
    pools: list[dict[str, Any]], shared: bool
) -> None:
    data = {"enable-bpf-masquerade": "true", "enable-ipv4": "true"}
    found = list(doctor_overlap.cilium({"data": data}, [{"spec": {"pools": pools}}]))
    assert bool(found) is shared


IPV6_POOL = {"metadata": {"name": "ipv6"}, "spec": {"cidr": "fd00:10:244::/56"}}
FELIX = {"spec": {"bpfEnabled": True}}
NAMED = {"metadata": {"name": "default"}, "spec": {}}


def test_calicos_ebpf_that_drops_what_pods_send_to_us_is_named() -> None:
    [found] = doctor_overlap.calico(FELIX, [IPV6_POOL], [NAMED])
    assert (found.result, bool(found.remedy)) == (Result.NOTE, True)
    assert "IP pool ipv6 send to nat64-default" in found.text


@pytest.mark.parametrize(
    ("felix", "pool"),
    [
        ({}, {}),
        ({"bpfEnabled": False}, {}),
        ({"bpfEnabled": True}, {"natOutgoing": True}),
        ({"bpfEnabled": True}, {"disabled": True}),
        ({"bpfEnabled": True}, {"cidr": "203.0.113.0/24"}),
        ({"bpfEnabled": True, "bpfDataIfacePattern": "^(eth.*|nat64-.*)$"}, {}),
    ],
)
def test_calico_that_lets_pods_reach_us_is_not_warned_of(
    felix: dict[str, Any], pool: dict[str, Any]
) -> None:
    pool = {**IPV6_POOL, "spec": {**IPV6_POOL["spec"], **pool}}
    assert list(doctor_overlap.calico({"spec": felix}, [pool], [NAMED])) == []


def test_a_pattern_of_felix_that_is_none_here_matches_nothing() -> None:
    felix = {"spec": {"bpfEnabled": True, "bpfDataIfacePattern": "(?P<"}}
    assert len(list(doctor_overlap.calico(felix, [IPV6_POOL], [NAMED]))) == 1
    assert list(doctor_overlap.calico(None, [IPV6_POOL], [NAMED])) == []


@pytest.mark.parametrize(
    ("text", "results"),
    [
        (COREFILE.format(upstreams="[fd00::53]:53 /etc/resolv.conf"), ["ok"]),
        (COREFILE.format(upstreams="/etc/resolv.conf"), ["stop"]),
        (COREFILE.format(upstreams="/etc/resolv.conf [fd00::53]:53"), ["stop"]),
        (COREFILE.format(upstreams="[fd00::53]:53\n    dns64"), ["ok", "note"]),
        ("nonsense {", ["stop"]),
        (".:53 {\n    whoami\n}\n", ["stop"]),
    ],
)
def test_the_wiring_of_coredns_is_judged(text: str, results: list[str]) -> None:
    steps = list(doctor_coredns.forward(text, "fd00::53", "kube-system/coredns"))
    assert [step.result.value for step in steps] == results
    assert all(step.remedy for step in steps if step.result is not Result.OK)


def probe(**aaaa: Any) -> Report:
    answer = {"server": "fd00::a", "rcode": "NOERROR", "addresses": [], "error": None, **aaaa}
    return Report(AGENT, {"dns": {"AAAA": answer}}, "")


@pytest.mark.parametrize(
    ("report", "result"),
    [
        (probe(addresses=["64:ff9b::c000:aa"]), Result.OK),
        (probe(), Result.STOP),
        (probe(error="timed out"), Result.STOP),
        (Report(AGENT, None, "exec"), Result.NOTE),
    ],
)
def test_the_clusters_dns_must_synthesize(report: Report, result: Result) -> None:
    assert doctor.synthesis(report, [("dns", "coredns")]).result is result


def gateway(ready: str = "True") -> dict[str, Any]:
    condition = {"type": "Ready", "status": ready, "reason": "NoNodes", "message": "2 of 2"}
    return {
        "kind": "NAT64Gateway",
        "metadata": {"name": "default"},
        "status": {"conditions": [condition], "dnsAddress": "fd00::53", "prefix": "64:ff9b::/96"},
    }


def policy() -> dict[str, Any]:
    return {**gateway(), "kind": "DNS64Policy", "spec": {"coreDNS": {"mode": "Forward"}}}


def facts(**changes: Any) -> doctor.Facts:
    place = ("kube-system", "coredns")
    given: dict[str, Any] = {
        "gateways": [gateway()],
        "policies": [policy()],
        "operator": [{"metadata": {"name": "nat64-operator"}, "status": {"availableReplicas": 1}}],
        "nodes": [{"metadata": {"name": "node1"}}],
        "workloads": [],
        "cilium": None,
        "corefiles": {place: {"Corefile": COREFILE.format(upstreams="[fd00::53]:53")}},
        "inspections": [Report(AGENT, NODE, "")],
        "statuses": [Report(AGENT, [STATUS], "")],
        "probe": probe(addresses=["64:ff9b::c000:aa"]),
        "namespace": "nat64-system",
        "unread": {},
        **changes,
    }
    return doctor.Facts(**given)


def test_a_good_cluster_is_well() -> None:
    sections = doctor.judge(facts())
    assert doctor.is_well(sections)
    assert [s.title for s in sections] == ["cluster", "CoreDNS", "node node1, default"]
    assert {check["result"] for check in doctor.plain(sections)} == {"ok"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"gateways": []}, "no NAT64Gateway"),
        ({"gateways": [gateway("False")]}, "NAT64Gateway default is not ready: NoNodes: 2 of 2"),
        ({"operator": []}, "has no nat64-operator"),
        ({"operator": [{"metadata": {"name": "nat64-operator"}}]}, "is not available"),
        ({"inspections": [Report(AGENT, None, "its pod is Pending")]}, "its pod is Pending"),
    ],
)
def test_a_broken_cluster_is_not(changes: dict[str, Any], says: str) -> None:
    sections = doctor.judge(facts(**changes))
    assert not doctor.is_well(sections)
    assert says in " ".join(doctor.text(sections, Paint(False)).split())


def test_a_clusters_dns_that_is_not_found_is_said_to_be_unasked() -> None:
    found = doctor.plain(doctor.judge(facts(probe=None)))
    [check] = [check for check in found if check["name"] == "synthesis"]
    assert check["result"] == "note"
    assert "the cluster's DNS isn't known" in check["text"]


def dns_service(label: str, address: str, port: int = 53) -> dict[str, Any]:
    spec = {"clusterIP": address, "ports": [{"port": port, "protocol": "UDP"}]}
    return {"metadata": {"labels": {"k8s-app": label}}, "spec": spec}


def test_the_clusters_dns_is_an_installers_service_or_that_of_coredns_chart() -> None:
    chart = [dns_service("coredns", "fd00::9", 9153), dns_service("coredns", "fd00::b")]
    assert cluster_dns.address(chart) == "fd00::b"
    assert cluster_dns.address([*chart, dns_service("kube-dns", "fd00::a")]) == "fd00::a"
    assert cluster_dns.address([dns_service("kube-dns", "None")]) == ""


IMPORTS = COREFILE.format(upstreams="/etc/resolv.conf\n    import custom/*.override")
PLAIN = COREFILE.format(upstreams="/etc/resolv.conf")
PLUGIN = PLAIN.replace("    cache", "    dns64 PREFIX\n    cache")
OURS, ANOTHER = PLUGIN.replace("PREFIX", "64:ff9b::/96"), PLUGIN.replace("PREFIX", "2001:db8::/96")
OVERRIDE = {"nat64-default.override": "forward . [fd00::53]:53\n"}


@pytest.mark.parametrize(
    ("mode", "corefile", "custom", "result", "says"),
    [
        ("Plugin", OURS, None, "ok", "own dns64 for 64:ff9b::/96"),
        (
            "Plugin",
            ANOTHER,
            None,
            "stop",
            "not the gateway's prefix 64:ff9b",
        ),
        ("Plugin", PLAIN, None, "stop", "has no `dns64` stanza"),
        ("Plugin", "nonsense {", None, "stop", "can't be read"),
        ("Import", IMPORTS, OVERRIDE, "ok", "imports nat64-default.override"),
        ("Import", IMPORTS, {}, "stop", "has no key nat64-default.override"),
        ("Import", PLAIN, OVERRIDE, "stop", "imports no `*.override`"),
        ("Manual", COREFILE.format(upstreams="192.0.2.1 [fd00::53]:53"), None, "ok", "names the"),
        ("Manual", OURS, None, "ok", "names the sidecars, or"),
        ("Manual", PLAIN, None, "note", "doesn't name the sidecars"),
    ],
)
def test_each_mode_is_judged_by_what_it_does(
    mode: str, corefile: str, custom: dict[str, str] | None, result: str, says: str
) -> None:
    asked = {**policy(), "spec": {"coreDNS": {"mode": mode, "namespace": "dns"}}}
    files: dict[Any, Any] = {("dns", "coredns"): {"Corefile": corefile}}
    if custom is not None:
        files[("dns", "coredns-custom")] = custom
    sections = doctor.judge(facts(policies=[asked], corefiles=files))
    [found] = [c for c in doctor.plain(sections) if c["name"] == "wiring"]
    assert found["result"] == result
    assert says in found["text"]
    assert "dns/coredns" in found["text"]


def test_remedies_name_the_pod_and_its_namespace() -> None:
    agent = AGENT._replace(namespace="elsewhere", pod="nat64-x")
    broken = [Report(agent, None, "its pod is Pending")]
    for changes in (
        {"inspections": broken},
        {
            "inspections": [Report(agent, NODE, "")],
            "statuses": [Report(agent, [{**STATUS, "programmed": False}], "")],
        },
    ):
        checks = doctor.plain(doctor.judge(facts(**changes)))
        remedies = [c["remedy"] for c in checks if c["name"] in ("agent", "translator")]
        assert [("-n elsewhere" in r, "nat64-x" in r) for r in remedies] == [(True, True)]


def test_without_a_policy_there_is_a_note() -> None:
    sections = doctor.judge(facts(policies=[], probe=None))
    assert doctor.is_well(sections)
    assert any("DNS64Policy" in check["text"] for check in doctor.plain(sections))


def test_nodes_without_a_translator_are_named() -> None:
    nodes = [{"metadata": {"name": f"node{number}"}} for number in range(1, 14)]
    [found] = [c for c in doctor.plain(doctor.judge(facts(nodes=nodes))) if c["name"] == "nodes"]
    assert "node10, node11, node12, node13, node2" in found["text"]
    assert "and 2 more" in found["text"]
    unread = {"agents": "forbidden"}
    assert doctor.is_well(doctor.judge(facts(nodes=nodes, unread=unread, inspections=[])))


def test_what_may_not_be_read_is_said_and_not_held_against_the_cluster() -> None:
    sections = doctor.judge(facts(operator=[], unread={"operator": "forbidden"}))
    assert doctor.is_well(sections)
    assert any(check["text"] == "operator: forbidden" for check in doctor.plain(sections))


@pytest.mark.parametrize(
    ("status", "why"),
    [
        ({"containerStatuses": [{"name": "translator", "state": {"running": {}}}]}, ""),
        (
            {
                "containerStatuses": [
                    {"name": "translator", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
                ]
            },
            "the translator's container does not run: CrashLoopBackOff",
        ),
        (
            {
                "initContainerStatuses": [
                    {"name": "prepare", "state": {"waiting": {"reason": "ImagePullBackOff"}}}
                ]
            },
            "its init container prepare: ImagePullBackOff",
        ),
        ({"phase": "Pending"}, "its pod is Pending: containers have not started"),
    ],
)
def test_an_agent_that_cannot_be_asked_says_why(status: dict[str, Any], why: str) -> None:
    metadata = {"name": "p", "namespace": "n", "labels": {"nat64-operator.io/gateway": "default"}}
    pod = {"metadata": metadata, "spec": {"nodeName": "node1"}, "status": status}
    assert parse(pod).why_not == why
