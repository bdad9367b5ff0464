"""Topology Gateway between real kernels: what pods behind a router node do, by both transports."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Network

import pytest

from nat64_dataplane import pref64
from tests.lab.flows import Flow
from tests.lab.node import PATIENCE, Node, wait_for
from tests.lab.probes import probe, udp_echo
from tests.lab.servers import pattern
from tests.lab.site import SERVER, Member, Site, site
from tests.lab.topology import HTTP_PORT, SERVER_V4

pytestmark = pytest.mark.root

CLAT = IPv6Network("64:ff9b:1:fffe::/96")
MEGABYTES = 3_000_000
CARRIES = {"Tunnel": 1430, "Direct": 1500}
"""Bytes of IPv6 between the nodes of a link of 1500."""

_BIG_REPLIES = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 4711))
s.settimeout(60)
print("listening", flush=True)
data, peer = s.recvfrom(100)
s.connect(peer)
s.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER: always DF
while True:  # until a router on the way has said what fits
    try:
        s.send(bytes(int(data)))
    except OSError:
        break
    s.settimeout(0.2)
    try:
        s.recv(100)
    except OSError:
        pass
print(s.getsockopt(socket.IPPROTO_IP, 14))  # IP_MTU
"""

_NO_CHECKSUM = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, 11, 1)  # SO_NO_CHECK
s.bind(("", 4712))
print("listening", flush=True)
while True:
    data, peer = s.recvfrom(2000)
    s.sendto(data, peer)
"""

_ASK = """
import socket, sys
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.settimeout(60)
s.sendto(sys.argv[3].encode(), (sys.argv[1], int(sys.argv[2])))
if len(sys.argv) > 4:
    print(s.recv(2000).decode())
"""


@pytest.fixture(scope="module", params=["Tunnel", "Direct"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def one(transport: str) -> Iterator[Site]:
    topology = {"transport": transport}
    with site(gateways=2, routers=2, topology=topology, clat={"prefix": str(CLAT)}) as built:
        yield built


def too_big_sent(member: Member) -> int:
    lines = member.node.run("cat", "/proc/net/snmp6").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Icmp6OutPktTooBigs"))


def both_ways(pod: Node, host: object = SERVER) -> None:
    """Megabytes up and down; every byte is right."""
    body = pattern(MEGABYTES)
    digest = hashlib.sha256(body).hexdigest()
    url = f"http://[{host}]:{HTTP_PORT}"
    got = pod.run("sh", "-c", f"curl -gsS --max-time 60 '{url}/bytes/{MEGABYTES}' | sha256sum")
    assert got.split()[0] == digest
    send = "from tests.lab.servers import pattern; import sys; "
    send += f"sys.stdout.buffer.write(pattern({MEGABYTES}))"
    command = (
        f"{sys.executable} -c '{send}' | curl -gsS --max-time 60 --data-binary @- '{url}/sink'"
    )
    assert pod.run("sh", "-c", command).split() == [str(MEGABYTES), digest]


def listening(one: Site, program: str) -> subprocess.Popen[str]:
    """Start a server on the internet."""
    server = one.internet.start(sys.executable, "-c", program, stdout=subprocess.PIPE)
    assert server.stdout
    assert server.stdout.readline() == "listening\n"
    return server


def test_megabytes_arrive_whole_and_segments_fit(one: Site) -> None:
    for router in one.routers:
        assert router.pod
        both_ways(router.pod)
    assert [too_big_sent(m) for m in (*one.gateways, *one.routers)] == [0] * 4


@pytest.mark.parametrize("offload", ["off", "on"])
def test_megabytes_arrive_whole_without_offloads(one: Site, offload: str) -> None:
    """Afterwards they are on again."""
    router = one.routers[0]
    assert router.pod
    for node in (router.pod, one.internet):
        for link in ("eth0",) if node is router.pod else ("gateway1", "gateway2"):
            node.run("ethtool", "-K", link, "gso", offload, "tso", offload, "tx", offload)
    both_ways(router.pod)


def test_datagrams_are_echoed_up_to_what_the_way_carries(one: Site, transport: str) -> None:
    assert one.routers[0].pod
    assert udp_echo(one.routers[0].pod, 0, 1, 100, CARRIES[transport] - 48)


def test_datagram_without_a_checksum_gets_one(one: Site) -> None:
    server = listening(one, _NO_CHECKSUM)
    assert one.routers[0].pod
    said = one.routers[0].pod.run(sys.executable, "-c", _ASK, str(SERVER), "4712", "hello", "!")
    assert said == "hello\n"
    server.kill()


def test_fragments_both_ways(one: Site) -> None:
    pod = one.routers[0].pod
    assert pod
    # the first datagram teaches the pod what fits
    wait_for("4000 bytes", lambda: udp_echo(pod, 4000, 9000, check=False))


def test_ping_and_every_hop(one: Site) -> None:
    router = one.routers[0]
    assert router.pod
    out = router.pod.run("ping", "-6", "-n", "-c", "3", "-i", "0.1", "-W", "30", str(SERVER))
    assert "3 received" in out
    kind, _, _, first = probe(router.pod, SERVER, HTTP_PORT, 1)
    assert (kind, first) == ("error", str(router.pods[1]))  # type: ignore[index]
    kind, _, code, second = probe(router.pod, SERVER, HTTP_PORT, 2)
    assert (kind, code) == ("error", "0")
    assert second in {str(gateway.address) for gateway in one.gateways}
    kind, what, code, third = probe(router.pod, SERVER, HTTP_PORT, 3)
    assert (kind, what, code, third) == ("error", "1", "4", str(SERVER))  # it is the server


def test_pod_is_told_what_the_way_carries(one: Site, transport: str) -> None:
    if transport == "Direct":
        return  # as much as its own link
    pod = one.routers[1].pod
    assert pod
    client = one.routers[1].clients[5]
    command = ("ping", "-6", "-n", "-c", "1", "-W", "60", "-M", "do", "-s", "1420", "-I")
    out = pod.run(*command, str(client), str(SERVER), check=False)
    assert "mtu=1430" in out.replace("mtu: ", "mtu="), out


def test_server_is_told_what_the_way_carries(one: Site, transport: str) -> None:
    if transport == "Direct":
        return
    server = listening(one, _BIG_REPLIES)
    assert one.routers[0].pod
    one.routers[0].pod.run(sys.executable, "-c", _ASK, str(SERVER), "4711", "1450")
    assert server.communicate(timeout=PATIENCE)[0] == "1410\n"


def test_clat_prefix_goes_through_the_gateway(one: Site) -> None:
    host = pref64.embed(CLAT, SERVER_V4)
    assert one.routers[0].pod
    both_ways(one.routers[0].pod, host)


def test_node_itself_reaches_ipv4(one: Site) -> None:
    for router in one.routers:
        url = f"http://[{SERVER}]:{HTTP_PORT}/peer"
        seen = router.node.run("curl", "-gsS", "--max-time", "20", url).split()[0]
        assert IPv4Address(seen.removeprefix("::ffff:")) in {m.ipv4 for m in one.gateways}


_KUBE_PROXY = """
table inet others {
  chain forward { type filter hook forward priority filter; policy accept;
    ct state invalid counter drop
  }
}
"""


def test_connections_survive_what_kube_proxy_drops(one: Site) -> None:
    """Conntrack of a node sees one way of a flow only, and calls that invalid."""
    members = (*one.gateways, *one.routers)

    def untracked(member: Member) -> bool:
        for router in one.routers:  # conntrack needs something to see
            assert router.pod
            router.pod.run("ping", "-6", "-c", "1", "-W", "1", str(router.address), check=False)
            one.seen_as(router, router.clients[0], check=False)
        return "notrack" in member.node.run("nft", "list", "ruleset")

    for member in members:
        member.node.run("nft", "-f", "-", input=_KUBE_PROXY)
    try:
        for member in members:
            wait_for(f"{member.name} not to track", lambda member=member: untracked(member))  # type: ignore[misc]
        for member in members:
            member.node.run("nft", "-f", "-", input="delete table inet others\n" + _KUBE_PROXY)
        for router in one.routers:
            assert router.pod
            both_ways(router.pod)
        for member in members:
            said = member.node.run("nft", "list", "chain", "inet", "others", "forward")
            assert "packets 0 " in said, (member.name, said)
    finally:
        for member in members:
            member.node.run("nft", "delete", "table", "inet", "others")


# Flips the table as fast as it can, and says how often.
_FLIP = """
import sys
from pathlib import Path
from nat64_dataplane.bpf import Map
from nat64_dataplane.translator.datapath.topology_maps import TopologyMaps
root = Path("/sys/fs/bpf/nat64-operator/default")
(folder,) = (path for path in root.iterdir() if (path / "peers").exists())
names = ("topology", "serving", "peers", "steering", "affinities")
maps = TopologyMaps({n: Map.open_pinned(folder / n) for n in names}, lambda: 0, lambda: None)
gateways = maps.steering().gateways
print("flipping", flush=True)
for count in range(3000):
    maps.steer(gateways, [(place + count) % 2 for place in range(4096)])
print(count + 1)
"""


def test_flows_and_new_connections_while_the_table_changes(one: Site) -> None:
    router = one.routers[0]
    assert router.pod
    router.agent.stop()
    try:
        # a segment that went to another gateway would be answered with a reset
        flows = [Flow(router.pod, "tcp", source=str(client)) for client in router.clients[:4]]
        flipper = router.node.start(sys.executable, "-c", _FLIP, stdout=subprocess.PIPE)
        assert flipper.stdout
        assert flipper.stdout.readline() == "flipping\n"
        for client in router.clients:  # each is new, or has its gateway
            assert one.seen_as(router, client)
        assert flipper.communicate(timeout=PATIENCE)[0] == "3000\n"
        for flow in flows:
            seen = flow.end()
            assert (seen["error"], seen["blocks"] > 0) == ("", True)
    finally:
        router.agent.start()
        one.wait_healthy()
