"""Topology Gateway on the real cluster: node1 and node2 translate for node3, which has no IPv4.

All of it over both transports. What a gateway's death does is measured and tested in namespaces
(tests/bench/failover.py, tests/dataplane/test_site_flows.py).
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from ipaddress import IPv6Address

import pytest

from nat64_dataplane.topology import tunnel_vni
from tests.cluster import images
from tests.cluster.network import HOSTS, NODE3
from tests.cluster.product import GATEWAY, NAMESPACE, PREFIX, Pod, Product
from tests.cluster.registry import publish
from tests.cluster.run import ClusterError, wait_for
from tests.e2e.flow import live_flow
from tests.e2e.test_clat import FETCH, wait_for_rollout
from tests.e2e.test_kubectl import Plugin
from tests.e2e.test_metrics import (
    ADDED,
    assert_exported,
    expressions,
    is_of_topology,
    of_operators,
    scrape,
    series,
)
from tests.e2e.test_product import (
    IPV4_ONLY,
    SERVER,
    dig_often,
    node_state,
    running_pod,
    test_a_chain_of_aliases_to_an_ipv4_only_name_is_followed,
    test_a_dual_stack_name_is_not_synthesized,
    test_a_name_that_does_not_exist_stays_so,
    test_an_ipv4_only_name_is_synthesized_under_the_gateways_prefix,
    test_an_upload_of_a_megabyte_arrives_whole,
    test_cluster_names_are_untouched,
    test_ping_reaches_an_ipv4_only_name,
    test_udp_comes_back_to_the_pod,
)
from tests.e2e.two_roles import (
    CONNECT,
    ECHO,
    FORGE,
    GATEWAYS,
    LABEL,
    ROUTER,
    TUNNEL_PORT,
    WATCH,
    address_seen,
    agents_killed,
    forged,
    heard_until,
    joined,
    plugin,
    pod,
    pods_revision,
    resolver,
    subprocess_in,
    topology,
    topology_of,
    wait_for_gateways,
    wait_for_role,
)

pytestmark = pytest.mark.cluster

# What the product's own tests lend: they run here from a pod behind a router node.
__all__ = [
    "joined",
    "plugin",
    "pod",
    "test_a_chain_of_aliases_to_an_ipv4_only_name_is_followed",
    "test_a_dual_stack_name_is_not_synthesized",
    "test_a_name_that_does_not_exist_stays_so",
    "test_an_ipv4_only_name_is_synthesized_under_the_gateways_prefix",
    "test_an_upload_of_a_megabyte_arrives_whole",
    "test_cluster_names_are_untouched",
    "test_ping_reaches_an_ipv4_only_name",
    "test_udp_comes_back_to_the_pod",
    "topology",
]


# What only the tunnel has; and agents that end, which takes long and is no matter of the transport.
only_tunnel = pytest.mark.parametrize("topology", ["Tunnel"], indirect=True)


def test_the_node_has_no_ipv4(topology: Product) -> None:
    shown = topology.cluster.node(ROUTER).run(["ip", "-json", "-4", "address", "show"])
    links = {link["ifname"] for link in json.loads(shown) if link.get("addr_info")}
    assert links <= {"lo"}


def test_with_direct_the_tunnel_is_only_kept_for_a_change(topology: Product) -> None:
    """Of the other transport nothing else is left."""
    transport = topology_of(topology)["transport"]
    for name in (ROUTER, *GATEWAYS.values()):
        shown = topology.cluster.node(name).run(["ip", "link", "show", "n64v-default"])
        assert ("nat64-operator spare tunnel default" in shown) == (transport == "Direct"), name


def test_the_server_sees_one_gateway_for_all_of_a_pods_connections(pod: Pod) -> None:
    found = {address_seen(pod) for _ in range(5)}
    assert len(found) == 1
    assert found < set(GATEWAYS)


def test_datagrams_of_all_sizes_come_back_whole(pod: Pod) -> None:
    sizes = ("1", "1200", "1382", "1383", "1432", "1433", "1452", "2000", "8192")
    assert pod.exec("python3", "-c", ECHO, SERVER, *sizes) == "ok\n"


def test_a_download_arrives_whole(pod: Pod) -> None:
    script = f"curl -6sS -m 60 http://{IPV4_ONLY}/bytes/5000000 | wc -c"
    assert pod.sh(script).split() == ["5000000"]


def test_a_literal_goes_through_a_gateway(pod: Pod) -> None:
    """Its CLAT is on the router node, what undoes it on the gateway node."""
    said = pod.exec(*FETCH)
    assert said.split()[1] in GATEWAYS


def test_what_is_denied_is_refused_behind_a_router_too(pod: Pod) -> None:
    """Link-local addresses, so no cloud's metadata."""
    said = pod.sh("curl -gsS -m 30 'http://[64:ff9b:1::a9fe:a9fe]/' 2>&1; echo exit $?")
    assert "exit 7" in said
    assert "timed out" not in said


def test_forward_rules_of_the_pods_node_hold(pod: Pod) -> None:
    """What a NetworkPolicy becomes on the node: packets are still under the prefix there."""
    node = pod.cluster.node(ROUTER)
    rules = (
        "add table ip6 simulated\n"
        "add chain ip6 simulated forward { type filter hook forward priority 0; }\n"
        f"add rule ip6 simulated forward ip6 daddr {SERVER} reject\n"
    )
    node.run(["nft", "-f", "-"], input=rules)
    try:
        assert "path" not in pod.sh(f"curl -gsS -m 10 'http://[{SERVER}]/' 2>&1", check=False)
    finally:
        node.run(["nft", "delete", "table", "ip6", "simulated"])
    assert "path /after" in pod.exec("curl", "-gsS", "-m", "20", f"http://[{SERVER}]/after")


def test_pods_on_a_gateway_node_use_their_own_node(topology: Product) -> None:
    for address, name in GATEWAYS.items():
        with running_pod(topology.cluster, f"on-{name}", name) as pod:
            assert address_seen(pod) == address


def agent_at(topology: Product, name: str) -> tuple[bool, str, list[int]]:
    """Whether the agent of a node is ready, which pod that is, and how often it began again."""
    agent = topology.agent_on(name)
    text = topology.cluster.kubectl("-n", NAMESPACE, "get", "pod", agent, "-o", "json")
    states = json.loads(text)["status"].get("containerStatuses", [])
    ready = bool(states) and all(state["ready"] for state in states)
    return ready, agent, [state["restartCount"] for state in states]


def wait_for_another(topology: Product, name: str, before: tuple[bool, str, list[int]]) -> None:
    def is_there() -> bool:
        try:
            now = agent_at(topology, name)
        except ClusterError:  # none, or two for a moment
            return False
        return now[0] and now != before

    wait_for(f"the agent of {name} to be back", is_there, timeout=240)


@only_tunnel
def test_agents_that_are_killed_lose_no_flow(topology: Product, pod: Pod) -> None:
    new = ("curl", "-gsS", "-m", "30", f"http://[{SERVER}]/new")
    with live_flow(pod, "killed-agents") as flow:
        # One after the other: without any ready pod, the Service of the sidecars has no endpoint,
        # and CoreDNS asks its other upstream, which knows no IPv6 address of the name.
        for name in (ROUTER, *GATEWAYS.values()):
            before = agent_at(topology, name)
            topology.cluster.node(name).run(["pkill", "-KILL", "-f", "nat64-translator run"])
            flow.goes_on()
            assert "path /new" in pod.exec(*new)
            wait_for_another(topology, name, before)
        wait_for_gateways(topology, dict.fromkeys(GATEWAYS.values(), "healthy"))
        flow.goes_on()


def lists_unready(topology: Product) -> bool:
    """Whether the Service of the sidecars has those whose pods are not ready."""
    what = ("service", "nat64-default-dns", "-o", "jsonpath={.spec.publishNotReadyAddresses}")
    return topology.cluster.kubectl("-n", NAMESPACE, "get", *what) == "true"


@only_tunnel
def test_names_resolve_while_the_agents_of_all_gateway_nodes_are_down(
    topology: Product, pod: Pod
) -> None:
    """Only their sidecars and their kernels are left. The Service itself is asked: no cache."""
    cluster = topology.cluster
    what = ("service", "nat64-default-dns", "-o", "jsonpath={.spec.clusterIP}")
    service = cluster.kubectl("-n", NAMESPACE, "get", *what)
    with agents_killed(topology, *GATEWAYS.values()):
        wait_for("the Service to list them", lambda: lists_unready(topology), timeout=60, every=0.2)

        def answers() -> bool:
            said = pod.sh(f"dig +short +tries=1 +time=2 @{service} {IPV4_ONLY} AAAA", check=False)
            return SERVER in said.split()

        # Not at once: kube-proxy has yet to hear of it, and an agent may just have become ready.
        wait_for("ten answers", lambda: all(answers() for _ in range(10)), timeout=60)
        assert "path /new" in pod.exec("curl", "-gsS", "-m", "30", f"http://[{SERVER}]/new")
    wait_for_rollout(topology)
    wait_for("the Service to list ready ones", lambda: not lists_unready(topology), timeout=60)
    wait_for_gateways(topology, dict.fromkeys(GATEWAYS.values(), "healthy"))


@only_tunnel
def test_deleting_the_agents_pods_loses_no_flow(topology: Product, pod: Pod) -> None:
    with live_flow(pod, "deleted-agents") as flow:
        for name in (ROUTER, *GATEWAYS.values()):
            before = agent_at(topology, name)
            topology.cluster.kubectl("-n", NAMESPACE, "delete", "pod", before[1])
            flow.goes_on()
            wait_for_another(topology, name, before)
        wait_for_rollout(topology)
        flow.goes_on()


def test_alerts_and_dashboard_ask_for_what_is_exported(topology: Product, pod: Pod) -> None:
    agents = [f"http://[{host.ipv6}]:9464/metrics" for host in (*HOSTS, NODE3)]
    found = series([scrape(pod, url) for url in (*of_operators(topology), *agents)])
    asked = [each for each in expressions() if is_of_topology(each[1])]
    assert asked
    for each in asked:
        assert_exported({**found, "up": ADDED}, *each)


def test_kubectl_knows_both_roles(plugin: Plugin, topology: Product, pod: Pod) -> None:
    found = plugin.json("status")
    assert plugin.code == 0, found
    assert {node["node"] for node in found["nodes"]} == {ROUTER, *GATEWAYS.values()}
    traced = plugin.json("trace", pod.name, f"{IPV4_ONLY}:80")
    assert (plugin.code, traced["reached"], traced["stopsAt"]) == (0, True, None), traced
    text = " ".join(step["text"] for step in traced["steps"])
    assert GATEWAYS[address_seen(pod)] in text
    checks = plugin.json("doctor")
    assert plugin.code == 0, checks
    assert any(ROUTER in check["subject"] for check in checks)


def test_the_connectivity_test_passes_on_the_router_node(
    plugin: Plugin, topology: Product, pod: Pod
) -> None:
    """Once both of CoreDNS's pods have forgotten what a sidecar couldn't say: for 30 s they keep
    the denial that they got elsewhere while none was ready.
    """

    def synthesized() -> bool:
        answers = dig_often(pod, IPV4_ONLY, "AAAA")
        return all(found == [IPv6Address(SERVER)] for found in answers)

    wait_for("both of CoreDNS's pods to synthesize", synthesized, timeout=60, every=1)
    plugin.patience = 300
    found = plugin.json(
        *("test", "--node", ROUTER, "--target", f"{IPV4_ONLY}:80", "--udp", f"{IPV4_ONLY}:7"),
        *("--dual-stack", "dual.internet.example"),
    )
    assert [check for check in found["checks"] if check["result"] != "ok"] == [], plugin.errors
    assert plugin.code == 0, (found, plugin.errors)
    assert found["passed"] is True


def test_the_node_itself_pulls_from_an_ipv4_only_registry(topology: Product) -> None:
    """Its resolver is set as docs/topologies.md has it: the sidecars' Service first."""
    cluster = topology.cluster
    [pause] = (image for image in images.equipment() if image.target == "pause")
    publish(images.ensure([pause])[pause], "pulled", "dev")
    where = ("-n", NAMESPACE, "get", "service", "nat64-default-dns", "-o")
    service = cluster.kubectl(*where, "jsonpath={.spec.clusterIP}")
    with resolver(cluster, service):
        said = cluster.node(ROUTER).run(["curl", "-sS", "-m", "30", f"http://{IPV4_ONLY}/node"])
        assert said.split()[1] in GATEWAYS
        name = f"{IPV4_ONLY}/pulled:dev"
        ctr = partial(cluster.node(ROUTER).ctr, "images")

        def pulled() -> bool:  # containerd reads a changed resolv.conf after some seconds
            return name in ctr("pull", "--plain-http", name)

        wait_for("the pull", pulled, timeout=60, every=1)
        assert name in ctr("list", "--quiet")
        ctr("remove", name)


@only_tunnel
def test_pods_cannot_reach_the_tunnel_and_what_they_forge_is_counted(
    topology: Product, pod: Pod
) -> None:
    """Neither their own node's end of it nor a gateway's: not as themselves, not as another."""
    vni = tunnel_vni("default")
    [own] = pod.addresses(6)
    before = forged(topology)
    argv = [*topology.cluster.internet.enter(), sys.executable, "-c", WATCH, ROUTER, own]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as listener:
        try:
            heard_until(listener, pod, 9)
            for source in (own, "fd00:10:244::99"):
                addresses = [NODE3.ipv6, *(host.ipv6 for host in HOSTS)]
                pod.exec("python3", "-c", FORGE, source, SERVER, str(vni), *addresses)
            heard = heard_until(listener, pod, 10)
        finally:
            listener.kill()
    assert TUNNEL_PORT not in heard, "it left the node"
    wait_for("the drops to be counted", lambda: forged(topology) > before, timeout=60)


def test_a_drained_node_gets_no_new_clients_and_breaks_nothing(topology: Product, pod: Pod) -> None:
    """No connection is refused, of old clients nor of new ones; nothing is rolled out for it."""
    cluster = topology.cluster
    pods = pods_revision(topology)
    drained = GATEWAYS[address_seen(pod)]
    rest = next(name for name in GATEWAYS.values() if name != drained)
    connecting = subprocess_in(pod, CONNECT, SERVER)
    with live_flow(pod, "drained") as flow:
        try:
            flags = ("--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=180s")
            cluster.kubectl("drain", drained, *flags)
            wait_for_gateways(topology, {drained: "draining", rest: "healthy"})
            flow.goes_on()
            with running_pod(cluster, "newcomer", ROUTER) as newcomer:
                assert GATEWAYS[address_seen(newcomer)] == rest
            assert GATEWAYS[address_seen(pod)] == drained, "an old client keeps its gateway"
        finally:
            cluster.kubectl("uncordon", drained)
        wait_for_gateways(topology, dict.fromkeys(GATEWAYS.values(), "healthy"))
        flow.goes_on()
    said, _ = connecting.communicate("stop\n", timeout=60)
    made, failed = json.loads(said)
    assert made > 0
    assert failed == []
    assert pods_revision(topology) == pods


def test_a_node_that_loses_its_label_becomes_a_router_and_leaves_nothing_of_the_old_role(
    topology: Product, pod: Pod
) -> None:
    """And back: another role, another agent, and no trace of the one before."""
    cluster, changing = topology.cluster, "node2"
    was = node_state(cluster, changing)
    assert "61001" in was
    cluster.kubectl("label", "node", changing, f"{LABEL}-")
    try:
        wait_for_gateways(topology, {"node1": "healthy"})
        wait_for_role(topology, changing, "Router")

        def hooks() -> list[str]:
            shown = cluster.node(changing).run(["bpftool", "net", "show"])
            return [line for line in shown.splitlines() if "eth0" in line and "nat64" in line]

        wait_for("no trace of a gateway", lambda: "61001" not in node_state(cluster, changing), 60)
        wait_for("no hook at its uplink", lambda: hooks() == [], 60)
        wait_for_gateways(topology, {"node1": "healthy"}, changing)
        assert GATEWAYS[address_seen(pod)] == "node1"
        with running_pod(cluster, "changed", changing) as other:
            assert GATEWAYS[address_seen(other)] == "node1"
    finally:
        cluster.kubectl("label", "node", changing, f"{LABEL}=gateway", "--overwrite")
    wait_for_role(topology, changing, "Gateway")
    wait_for_rollout(topology)
    wait_for_gateways(topology, dict.fromkeys(GATEWAYS.values(), "healthy"))
    with running_pod(cluster, "changed", changing) as other:
        assert GATEWAYS[address_seen(other)] == changing


def test_going_back_to_topology_node_leaves_nothing_on_the_router_node(joined: Product) -> None:
    """Last: it takes the router's role away; node3 then has no translator at all."""
    cluster = joined.cluster
    only = {**GATEWAY, "spec": {**GATEWAY["spec"], "nodeSelector": {LABEL: "gateway"}}}
    joined.apply(only)
    wait_for_rollout(joined)

    def left() -> list[str]:
        state = node_state(cluster, ROUTER)
        traces = ("nat64", "n64p-", "n64v-", PREFIX.removesuffix("/96"))
        return [trace for trace in traces if trace in state]

    wait_for("the router node to be clean", lambda: left() == [], timeout=180)
    for name in GATEWAYS.values():
        state = node_state(cluster, name)
        assert "n64v-" not in state
        with running_pod(cluster, "node-again", name) as pod:
            assert GATEWAYS[address_seen(pod)] == name
