"""The agent in topology Gateway: what it sets up in each role, repairs, says, and leaves behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from ipaddress import IPv6Network

import pytest

from nat64_dataplane import topology
from nat64_dataplane.translator.node import peer_table
from tests.dataplane.test_agent_life import footprint
from tests.lab.node import Node, wait_for
from tests.lab.site import LINK, Member, Site, site
from tests.lab.topology import PREFIX

pytestmark = pytest.mark.root

TABLE = peer_table.table_of("default")
TUNNEL = topology.tunnel_interface("default")
GATEWAY_DRIFT = {
    "rule": f"ip -6 rule delete table {TABLE}",
    "another rule": f"ip -6 rule add iif lo table {TABLE}",
    "routes": f"ip -6 route flush table {TABLE}",
    "tunnel": f"ip link delete {TUNNEL}",
    "tunnel down": f"ip link set {TUNNEL} down",
    "tunnel learns": f"ip link set {TUNNEL} type vxlan learning",
    "neighbour in the tunnel": f"ip -6 neigh delete fe80::64 dev {TUNNEL}",
    "hooks of the tunnel": f"rm /sys/fs/bpf/nat64-operator/default/links/$(cat "
    f"/sys/class/net/{TUNNEL}/ifindex)-*",
    "filter of the tunnel's port": "nft delete chain inet nat64_default forward",
}
ROUTER_DRIFT = (
    "tunnel",
    "tunnel down",
    "tunnel learns",
    "hooks of the tunnel",
    "filter of the tunnel's port",
)


@pytest.fixture(scope="module")
def tunnel() -> Iterator[Site]:
    with site(gateways=2, routers=1) as built:
        yield built


def settled(member: Member) -> str:
    """What the agent's setup looks like: of the kinds of state that drift is made of."""
    return member.node.run(
        "sh",
        "-c",
        f"ip -6 rule | sort; ip -6 route show table {TABLE}; ip -6 route show {PREFIX};"
        f"ip -o link show {TUNNEL} | sed 's/^[0-9]*: //; s/link.ether .*alias/alias/';"
        f"ip -d -o link show {TUNNEL} | grep -o nolearning;"
        f"ip -6 neigh show dev {TUNNEL} | grep -c PERMANENT;"
        f"ls /sys/fs/bpf/nat64-operator/default/links | wc -l;"
        "nft -t list table inet nat64_default | sed 's/packets.*bytes [0-9]*//'",
    )


@pytest.mark.parametrize("what", GATEWAY_DRIFT)
def test_drift_on_a_gateway_node_is_repaired(tunnel: Site, what: str) -> None:
    gateway = tunnel.gateways[0]
    before = settled(gateway)
    gateway.node.run("sh", "-c", GATEWAY_DRIFT[what])
    wait_for(f"repair of {what}", lambda: settled(gateway) == before)
    tunnel.wait_healthy()


@pytest.mark.parametrize("what", ROUTER_DRIFT)
def test_drift_on_a_router_node_is_repaired(tunnel: Site, what: str) -> None:
    [router] = tunnel.routers
    before = settled(router)
    router.node.run("sh", "-c", GATEWAY_DRIFT[what])
    wait_for(f"repair of {what}", lambda: settled(router) == before)
    tunnel.wait_healthy()


def test_no_node_learns_where_the_addresses_inside_the_tunnel_are(tunnel: Site) -> None:
    """They are the same everywhere: each packet of another node would be a move."""
    tunnel.wait_healthy()  # so probes have come through it
    for member in (*tunnel.routers, *tunnel.gateways):
        assert member.node.run("bridge", "fdb", "show", "dev", TUNNEL) == ""


def test_a_router_node_without_ipv4_is_ready_and_says_where_packets_go(tunnel: Site) -> None:
    [router] = tunnel.routers
    assert router.node.run("ip", "-4", "-o", "addr", "show", "scope", "global") == ""
    # the tests of drift before may have made it lose a gateway for a moment
    wait_for("both", lambda: "goes to 2 of 2 gateway nodes" in router.agent.get("readyz")[1])
    wait_for("both", lambda: router.agent.metric("nat64_gateway_nodes", state="healthy") == 2)
    shown = router.agent.json("topology")
    assert (shown["role"], shown["transport"]) == ("Router", "Tunnel")
    assert sum(gateway["share"] for gateway in shown["gateways"]) == pytest.approx(1, abs=0.01)
    assert router.agent.metric("nat64_gateway_node_up") == 2
    assert router.agent.metric("nat64_probe_rtt_seconds_count") > 0


def test_trace_on_a_router_node_names_the_gateway_and_why_it_is_that_one(tunnel: Site) -> None:
    [router] = tunnel.routers
    client = router.clients[5]
    chosen = tunnel.gateway_of(router, client)
    traced = json.loads(
        router.agent.run(
            "trace",
            *("--config", str(router.agent.file), "--client", str(client)),
            *("--destination", str(topology.probe_address(PREFIX) + 1)),
        )
    )
    [found] = traced["destinations"]
    assert traced["role"] == "Router"
    assert found["steered"]
    assert found["gateway"]["node"] == chosen.name
    assert "affinity" in found["gateway"]["why"]


def test_routes_to_router_nodes_are_seen_by_replies_only(tunnel: Site) -> None:
    gateway, [router] = tunnel.gateways[0], tunnel.routers
    plain = gateway.node.run("ip", "-6", "route", "get", str(router.clients[0]))
    reply = gateway.node.run(
        *("ip", "-6", "route", "get", str(router.clients[0])),
        *("from", str(PREFIX[0xC6336401]), "iif", "nat64-default"),
    )
    assert TUNNEL not in plain
    assert TUNNEL in reply
    assert router.node.run("ip", "-6", "rule").count("\n") == 2


def test_each_route_carries_what_the_way_to_its_router_node_does(tunnel: Site) -> None:
    gateway, other = tunnel.gateways
    [router] = tunnel.routers
    narrow = f"{other.address} dev eth0 mtu 1400"
    other.pods = IPv6Network("fd64:90::/64")
    gateway.node.ip(f"route add {narrow}")
    tunnel.tell(routers=[router, other])
    assert router.pods

    def mtu(to: IPv6Network) -> str:
        shown = gateway.node.run("ip", "-6", "route", "show", str(to), "table", str(TABLE))
        return shown.partition("mtu lock ")[2].split(" ")[0]

    ranges = router.pods, other.pods
    wait_for("the routes", lambda: [mtu(each) for each in ranges] == ["1430", "1330"])
    gateway.node.ip(f"route del {narrow}")
    other.pods = None
    tunnel.tell()
    wait_for("the route to be gone", lambda: not mtu(IPv6Network("fd64:90::/64")))


_FILTER = """
table inet strict {
  chain pre {
    type filter hook prerouting priority -290;
    meta nfproto ipv6 fib saddr . mark . iif oif missing drop
  }
}
"""


def test_a_strict_reverse_path_filter_is_named_where_it_drops_packets(tunnel: Site) -> None:
    gateway, [router] = tunnel.gateways[0], tunnel.routers
    for member in (gateway, router):
        member.node.run("nft", _FILTER)
    gateway.agent.wait_ready(containing="inet strict pre")
    tunnel.wait_states(gateway1="dead")
    for member in (gateway, router):
        member.node.run("nft", "delete table inet strict")
    tunnel.wait_healthy()
    assert "ReversePathFilter" not in router.agent.log()


def test_an_uplink_without_a_way_out_moves_clients_before_any_probe_is_missed(tunnel: Site) -> None:
    gateway, [router] = tunnel.gateways[0], tunnel.routers
    route = gateway.node.run("ip", "route", "show", "default").strip()
    gateway.node.ip("route delete default")
    tunnel.wait_states(gateway1="dead")
    assert gateway.agent.json("topology")["serving"] == "not-serving"
    [why] = [g["why"] for g in router.agent.json("topology")["gateways"] if g["state"] == "dead"]
    assert "no way out over IPv4" in why
    gateway.node.ip(f"route add {route}")
    tunnel.wait_healthy()


def test_a_carrier_that_is_lost_is_no_way_out(tunnel: Site) -> None:
    gateway = tunnel.gateways[1]
    tunnel.internet.ip(f"link set {gateway.name} down")
    tunnel.wait_states(gateway2="dead")
    tunnel.internet.ip(f"link set {gateway.name} up")
    tunnel.wait_healthy()


def test_a_draining_gateway_says_so_and_keeps_its_clients(tunnel: Site) -> None:
    [router] = tunnel.routers
    clients = tunnel.clients_by_gateway(router)["gateway1"][:3]
    tunnel.draining.add("gateway1")
    tunnel.tell()
    tunnel.wait_states(gateway1="draining")
    wait_for(
        "the gateway to say so",
        lambda: tunnel.gateways[0].agent.json("topology")["serving"] == "draining",
    )
    assert {tunnel.gateway_of(router, client).name for client in clients} == {"gateway1"}
    shown = {g["node"]: g["share"] for g in router.agent.json("topology")["gateways"]}
    assert shown == {"gateway1": 0, "gateway2": 1}
    tunnel.draining.clear()
    tunnel.tell()
    tunnel.wait_healthy()


def test_a_bad_membership_file_changes_nothing_and_is_said(tunnel: Site) -> None:
    [router] = tunnel.routers
    path = tunnel.folder / "gateways.json"
    new = path.with_suffix(".bad")
    new.write_text('{"gateways": [{"node": "x", "address": "fe80::1"}]}')
    new.replace(path)
    router.agent.wait_ready(503, r"gateways.json: gateways[0] (node x): address fe80::1")
    tunnel.wait_healthy()
    assert set(tunnel.states(router)) == {"gateway1", "gateway2"}
    tunnel.seen_as(router, router.clients[0])
    tunnel.tell()
    router.agent.wait_ready()
    tunnel.wait_healthy()


def test_an_agent_that_is_killed_and_started_again_moves_no_client(tunnel: Site) -> None:
    [router] = tunnel.routers
    before = {client: tunnel.gateway_of(router, client).name for client in router.clients[:6]}
    router.agent.kill()
    assert set(tunnel.states(router).values()) == {"healthy"}
    router.agent.start()
    router.agent.wait_ready()
    assert "is dead" not in router.agent.log().rpartition("agent of translator")[2]
    after = {client: tunnel.gateway_of(router, client).name for client in before}
    assert after == before
    tunnel.wait_healthy()


def test_pods_reach_no_nodes_tunnel_port(tunnel: Site) -> None:
    [router] = tunnel.routers
    assert router.pod
    drops = "nft list chain inet nat64_default forward"
    before = router.node.run(*drops.split())
    for gateway in tunnel.gateways:
        router.pod.run(
            "python3",
            "-c",
            "import socket; socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)"
            f".sendto(b'x', ('{gateway.address}', {topology.DEFAULT_TUNNEL_PORT}))",
        )
    wait_for("the drop to be counted", lambda: router.node.run(*drops.split()) != before)


def test_a_port_that_another_socket_has_is_named(tunnel: Site) -> None:
    """Last but one: it changes the config of a gateway node for a while."""
    gateway = tunnel.gateways[0]
    taken = gateway.node.start(
        "python3",
        "-c",
        "import socket, sys; s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM);"
        "s.bind(('::', 8470)); print('bound', flush=True); sys.stdin.read()",
        stdin=-1,
        stdout=-1,
    )
    assert taken.stdout
    assert taken.stdout.readline() == "bound\n"
    gateway.agent.configure(topology={"role": "Gateway", "tunnelPort": 8470})
    gateway.agent.wait_ready(503, "TunnelPortTaken: UDP port 8470")
    gateway.agent.configure(topology={"role": "Gateway"})
    gateway.agent.wait_ready()
    taken.kill()
    taken.wait()
    tunnel.wait_healthy()


@pytest.mark.parametrize("alias", ["tunnel other", "spare tunnel other"])
def test_with_direct_the_tunnels_port_is_left_to_those_who_need_it(
    tunnel: Site, alias: str
) -> None:
    """Of two translators on a node; the other one's link is made by hand."""
    gateway = tunnel.gateways[0]
    gateway.node.ip("link add n64v-other type vxlan external dstport 8471")
    gateway.node.run("ip", "link", "set", "n64v-other", "alias", f"nat64-operator {alias}")
    links = "ip -br link show type vxlan | cut -d' ' -f1"
    gateway.agent.configure(topology={"role": "Gateway", "transport": "Direct", "tunnelPort": 8471})
    wait_for("Direct", lambda: gateway.agent.json("topology")["transport"] == "Direct")
    wait_for("no tunnel", lambda: gateway.node.run("sh", "-c", links).split() == ["n64v-other"])
    gateway.agent.wait_ready()
    gateway.agent.configure(topology={"role": "Gateway", "tunnelPort": 8471})
    if alias.startswith("spare"):
        wait_for("the port", lambda: gateway.node.run("sh", "-c", links).split() == [TUNNEL])
    else:
        gateway.agent.wait_ready(503, "TunnelPortTaken: UDP port 8471")
        gateway.node.ip("link del n64v-other")
    gateway.agent.configure(topology={"role": "Gateway"})
    gateway.agent.wait_ready()
    tunnel.wait_healthy()


def test_a_node_that_changes_its_role_has_nothing_of_the_old_one(tunnel: Site) -> None:
    """Last: a gateway node becomes a router node, and then translates for itself only."""
    gateway, other = tunnel.gateways
    node, agent = gateway.node, gateway.agent
    gateway.pods = IPv6Network("fd64:90::/64")
    tunnel.tell(gateways=[other], routers=[*tunnel.routers, gateway])
    agent.stop()
    agent.configure(topology={"role": "Router"})
    agent.started()
    assert "this node was Gateway" in agent.log()
    wait_for("the hooks of a router node", lambda: hooks(node) == {"nat64-default", TUNNEL})
    assert f"lookup {TABLE}" not in node.run("ip", "-6", "rule")
    assert node.run("ip", "-6", "route", "show", "table", str(TABLE), check=False) == ""
    assert "192.0.0.8" not in node.run("ip", "-br", "addr")
    assert "240.64" not in node.run("ip", "-4", "route")
    assert agent.json("topology")["role"] == "Router"
    assert node.run("sysctl", "-n", "net.ipv4.ip_local_reserved_ports").strip() == ""
    agent.stop()
    agent.configure()
    agent.started()
    assert "this node was Router" in agent.log()
    assert node.run("ip", "-br", "link", "show", "type", "vxlan") == ""
    assert agent.json("topology")["role"] == "Node"
    assert "forward" not in node.run("nft", "list", "ruleset")
    agent.stop()
    agent.remove()


def hooks(node: Node) -> set[str]:
    """The links where programs of the translator are, those of flow offload apart."""
    names = {}
    for line in node.run("ip", "-o", "link").splitlines():
        index, name, *_ = line.split(": ")
        names[index] = name.partition("@")[0]
    pins = node.run("ls", "/sys/fs/bpf/nat64-operator/default/links").split()
    indices = {pin.partition("-")[0] for pin in pins if not pin.endswith("-offload")}
    return {names.get(index, f"not there a moment ago: {index}") for index in indices}


@pytest.mark.parametrize("transport", ["Tunnel", "Direct"])
def test_removal_leaves_both_roles_as_they_were(transport: str) -> None:
    with site(gateways=1, routers=1, topology={"transport": transport}, start=False) as one:
        members = (*one.gateways, *one.routers)
        for member in members:
            member.node.settle()
        before = [footprint(member.node) for member in members]
        for member in members:
            member.agent.started()
        one.wait_healthy()
        for member, was in zip(members, before, strict=True):
            member.agent.stop()
            member.agent.remove()
            assert footprint(member.node) == was


def test_a_gateway_that_is_behind_another_router_is_warned_of() -> None:
    with site(gateways=1, routers=1, topology={"transport": "Direct"}) as one:
        [router] = one.routers
        far = LINK[0x300]
        router.node.ip(f"route add fd64:99::/64 via {far} onlink dev eth0")
        content = json.loads((one.folder / "gateways.json").read_text())
        content["gateways"].append({"node": "far", "address": "fd64:99::1"})
        new = one.folder / "new"
        new.write_text(json.dumps(content))
        new.replace(one.folder / "gateways.json")
        router.agent.wait_ready(containing="warning NotOnLink")
        assert "(far)" in router.agent.get("readyz")[1]
