"""A cluster of both roles, for tests: node1 and node2 translate, node3, without IPv4, steers."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster import Cluster
from tests.cluster.joining import join, leave
from tests.cluster.network import HOSTS, HTTP_IPV6, INTERNET, NODE3
from tests.cluster.product import GATEWAY, NAMESPACE, Pod, Product
from tests.cluster.run import ClusterError, CommandError, run, wait_for
from tests.e2e.test_clat import ipv4, wait_for_rollout
from tests.e2e.test_kubectl import Plugin
from tests.e2e.test_lifecycle import rollout
from tests.e2e.test_product import SERVER

LABEL = "example.org/nat64"
ROUTER = NODE3.name
TUNNEL_PORT = 8464
GATEWAYS = {host.ipv4: host.name for host in HOSTS}

# Sends datagrams of each size until one of each has come back: no network promises a datagram, and
# the first one that is too long is how the kernel learns what the path carries.
ECHO = """
import socket, sys, time
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.settimeout(1)
s.connect((sys.argv[1], 7))
for size in map(int, sys.argv[2:]):
    data = bytes(n % 251 for n in range(size))
    end = time.monotonic() + 60
    while True:
        try:
            s.send(data)
            while s.recv(65535) != data:
                pass
            break
        except OSError as error:
            if time.monotonic() > end:
                sys.exit(f"{size}: {error}")
print("ok")
"""

# Connects again and again until a line comes; prints how many connections were refused or lost.
CONNECT = """
import json, select, socket, sys, time
made, failed = 0, []
while not select.select([sys.stdin], [], [], 0.1)[0]:
    try:
        with socket.create_connection((sys.argv[1], 80), 20) as s:
            s.sendall(b"HEAD / HTTP/1.0\\r\\n\\r\\n")
            assert s.recv(4), "closed"
        made += 1
    except (OSError, AssertionError) as error:
        failed.append(str(error))
print(json.dumps([made, failed]))
"""

# VXLAN with an inner packet, as a router node sends it, to each address in turn.
FORGE = """
import socket, struct, sys
source, server = (socket.inet_pton(socket.AF_INET6, a) for a in sys.argv[1:3])
inner = struct.pack("!IHBB", 6 << 28, 8, 17, 64) + source + server + struct.pack("!4H", 9, 9, 8, 1)
frame = bytes.fromhex("026e36347601026e3634760186dd") + inner
packet = struct.pack("!II", 0x08000000, int(sys.argv[3]) << 8) + frame
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
for to in sys.argv[4:]:
    for _ in range(5):
        s.sendto(packet, (to, 8464))
"""

# Prints the destination port of each UDP datagram that an IPv6 address sends over a link.
WATCH = """
import socket, sys
own = socket.inet_pton(socket.AF_INET6, sys.argv[2])
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind((sys.argv[1], 0))
while True:
    frame = s.recv(65535)
    if frame[12:14] == b"\\x86\\xdd" and frame[22:38] == own and frame[20] == 17:
        print(int.from_bytes(frame[56:58], "big"), flush=True)
"""


def spec(transport: str) -> dict[str, Any]:
    gateways = {"transport": transport}
    more = {"topology": "Gateway", "nodeSelector": {LABEL: "gateway"}, "gateways": gateways}
    return {**GATEWAY, "spec": {**GATEWAY["spec"], **more, "clat": {"mode": "Pods"}}}


@pytest.fixture(scope="module")
def joined(product: Product) -> Iterator[Product]:
    """Both nodes with IPv4 are gateway nodes, and the one without has joined."""
    cluster = product.cluster
    for host in HOSTS:
        cluster.kubectl("label", "node", host.name, f"{LABEL}=gateway", "--overwrite")
    product.apply(spec("Tunnel"))
    wait_for_rollout(product)
    join(cluster, NODE3)
    try:
        yield product
    finally:
        leave(cluster, NODE3)
        product.apply(GATEWAY)
        wait_for_rollout(product)
        rollout(product)  # no node's config changes with the selector of nodes, but every pod does
        for host in HOSTS:
            cluster.kubectl("label", "node", host.name, f"{LABEL}-")
        product.wait_ready()
        what = ("rollout", "status", "deployment/nat64-operator", "--timeout=120s")
        cluster.kubectl("-n", NAMESPACE, *what)  # one of its pods may have been on that node


@pytest.fixture(scope="module", params=["Tunnel", "Direct"])
def topology(request: pytest.FixtureRequest, joined: Product) -> Product:
    """The product with one transport, programmed on all three nodes."""
    if request.param == "Direct":
        joined.apply(spec("Direct"))
    wait_for_rollout(joined)
    wait_for_gateways(joined, dict.fromkeys(GATEWAYS.values(), "healthy"))
    # Hosts keep for ten minutes what they have learnt of the tunnel's MTU. With Direct, a ping that
    # fills the way would be answered in fragments, and fragmented ICMP is not translated.
    forget_path_mtus()
    return joined


@pytest.fixture(scope="module")
def pod(topology: Product) -> Iterator[Pod]:
    pod = Pod(topology.cluster, "behind-a-router", ROUTER)
    pod.start()
    wait_for("its CLAT", lambda: bool(ipv4(pod)), timeout=60)
    yield pod
    pod.delete()


@pytest.fixture(scope="module")
def plugin(joined: Product) -> Plugin:
    return Plugin(joined.cluster, joined.cluster.kubeconfig)


def forget_path_mtus() -> None:
    """Have the internet's hosts forget what path MTU discovery has told them."""
    run(["ip", "netns", "exec", INTERNET, "tee", "/proc/sys/net/ipv4/route/flush"], input="1")


def seen(product: Product, node: str = ROUTER) -> dict[str, str]:
    """Each gateway's state, as a router node sees it."""
    found = product.translator(node, "topology", "--name", "default")
    return {gateway["node"]: gateway["state"] for gateway in found["gateways"]}


def wait_for_gateways(product: Product, states: dict[str, str], node: str = ROUTER) -> None:
    def is_so() -> bool:
        with contextlib.suppress(ClusterError, json.JSONDecodeError):  # an agent starts again
            return seen(product, node) == states
        return False

    wait_for(f"{node} to see {states}", is_so, timeout=120)


def pods_revision(product: Product) -> list[str]:
    """The agents' pods: a rollout replaces them."""
    what = ("get", "pods", "-l", "nat64-operator.io/gateway=default", "-o", "name")
    return sorted(product.cluster.kubectl("-n", NAMESPACE, *what).split())


def drops(product: Product, node: str, *reasons: str) -> int:
    found = product.translator(node, "drops", "--name", "default")
    names = {f"dropped_{reason}" for reason in reasons}
    return sum(row["6to4"] + row["4to6"] for row in found if row["counter"] in names)


def address_seen(pod: Pod) -> str:
    said = pod.exec("curl", "-6sS", "-m", "20", f"http://[{SERVER}]/")
    return said.split()[1]


@contextlib.contextmanager
def resolver(cluster: Cluster, nameserver: str) -> Iterator[None]:
    node = cluster.node(ROUTER)
    before = node.run(["cat", "/etc/resolv.conf"])
    lines = f"nameserver {nameserver}\n{before}options timeout:2 attempts:5\n"
    node.write("/etc/resolv.conf", lines)
    try:
        yield
    finally:
        node.write("/etc/resolv.conf", before)


@contextlib.contextmanager
def agents_killed(product: Product, *nodes: str) -> Iterator[None]:
    """No agent lives long on these nodes."""
    over = threading.Event()

    def kill(node: str) -> None:
        while not over.is_set():
            with contextlib.suppress(CommandError):  # between two attempts there is none
                product.cluster.node(node).run(["pkill", "-KILL", "-f", "nat64-translator run"])
            over.wait(0.3)

    killers = [threading.Thread(target=kill, args=(node,)) for node in nodes]
    for killer in killers:
        killer.start()
    try:
        yield
    finally:
        over.set()
        for killer in killers:
            killer.join()


def heard_until(listener: subprocess.Popen[str], pod: Pod, port: int) -> list[int]:
    """Where the pod's datagrams on the nodes' segment go, until one is to a port."""
    assert listener.stdout
    found: list[int] = []
    over = threading.Event()

    def send() -> None:
        script = (
            "import socket; s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM);"
            f"s.sendto(b'honest', ('{HTTP_IPV6}', {port}))"
        )
        while not over.is_set():
            pod.exec("python3", "-c", script)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        for line in listener.stdout:
            found.append(int(line))
            if found[-1] == port:
                return found
    finally:
        over.set()
        sender.join()
    raise AssertionError("the watch has ended")


def topology_of(product: Product) -> dict[str, Any]:
    found: dict[str, Any] = product.translator(ROUTER, "topology", "--name", "default")
    return found


def forged(product: Product) -> int:
    reasons = ("not_member", "source_of_another", "destination", "source")
    return drops(product, ROUTER, *(f"tunnel_{reason}" for reason in reasons))


def subprocess_in(pod: Pod, script: str, *arguments: str) -> subprocess.Popen[str]:
    argv = pod.cluster.client("kubectl", "exec", "-i", pod.name, "--", "python3", "-c", script)
    return subprocess.Popen(
        [*argv, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def wait_for_role(product: Product, node: str, role: str) -> None:
    def is_so() -> bool:
        with contextlib.suppress(ClusterError, json.JSONDecodeError):
            found = product.translator(node, "topology", "--name", "default")
            return bool(found["role"] == role)
        return False

    wait_for(f"{node} to be a {role}", is_so, timeout=180)
