"""From an IPv6-only pod over AF_INET, by its CLAT and the translator, to servers with IPv4 only."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.lab.clat import PREFIX, Clat, clat
from tests.lab.probes import probe, udp_echo
from tests.lab.servers import pattern
from tests.lab.topology import ECHO_PORT, HTTP_PORT, NODE_V4, SERVER, SERVER_V4, Line, line
from tests.lab.translator import Translator, translator

pytestmark = pytest.mark.root

MEGABYTE = 1_000_000

# An AF_INET-only program: it sends to a port where nobody listens.
_REFUSED = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(60)
s.connect((sys.argv[1], 9))
s.send(b"?")
try:
    s.recv(100)
except ConnectionRefusedError:
    print("refused")
"""

# UDP with and without checksums, don't fragment or not: what comes back must be what was sent.
_UDP = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(60)
if "zero" in sys.argv[3]:
    s.setsockopt(socket.SOL_SOCKET, 11, 1)  # SO_NO_CHECK
s.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_PMTUDISC_DONT
s.connect((sys.argv[1], int(sys.argv[2])))
for size in map(int, sys.argv[4:]):
    sent = bytes(i % 251 for i in range(size))
    s.send(sent)
    assert s.recv(65535) == sent, size
print("ok")
"""


@contextmanager
def world(**mtus: int) -> Iterator[tuple[Line, Translator, Clat]]:
    """A lab whose pod has a CLAT, and whose node translates what comes of it."""
    with (
        line(**mtus) as lab,
        translator(lab.node, clat={"prefix": str(PREFIX)}) as nat64,
        clat(lab.node) as agent,
    ):
        agent.mount(lab.pod, "cni-1")
        agent.wait_pod("cni-1")
        yield lab, nat64, agent


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[Line, Translator, Clat]]:
    with world() as built:
        yield built


@pytest.fixture
def lab(shared: tuple[Line, Translator, Clat]) -> Line:
    return shared[0]


def curl(lab: Line, path: str, *args: str) -> str:
    """Fetch by an IPv4 literal, over AF_INET."""
    url = f"http://{SERVER_V4}:{HTTP_PORT}/{path}"
    return lab.pod.run("curl", "-4", "-sS", "--fail", "--max-time", "60", *args, url)


def udp(lab: Line, *sizes: int, zero: bool = False) -> str:
    arguments = (str(SERVER_V4), str(ECHO_PORT), "zero" if zero else "full", *map(str, sizes))
    return lab.pod.run(sys.executable, "-c", _UDP, *arguments).strip()


def megabyte_both_ways(lab: Line, scratch: Path) -> None:
    body = scratch / "body"
    body.write_bytes(pattern(MEGABYTE))
    digest = hashlib.sha256(body.read_bytes()).hexdigest()
    assert curl(lab, "sink", "--data-binary", f"@{body}").split() == [str(MEGABYTE), digest]
    got = scratch / "got"
    curl(lab, f"bytes/{MEGABYTE}", "-o", str(got))
    assert got.read_bytes() == body.read_bytes()


def test_the_pod_gets_an_address_and_a_route_of_the_translated_mtu(lab: Line) -> None:
    assert "inet 192.0.0.2/32" in lab.pod.run("ip", "-4", "addr", "show", "dev", "eth0")
    route = lab.pod.run("ip", "-4", "route").strip()
    assert route.startswith("default via inet6 fd64:1::1 dev eth0")
    assert "mtu 1472" in route


def test_a_page_is_fetched_by_its_literal(lab: Line) -> None:
    address, port = curl(lab, "peer").split()
    assert address == str(NODE_V4)
    assert 61001 <= int(port) <= 65535


@pytest.mark.parametrize("offload", ["off", "on"])
def test_a_megabyte_up_and_down_arrives_whole(lab: Line, offload: str, tmp_path: Path) -> None:
    for node, link in ((lab.pod, "eth0"), (lab.node, "pod0")):
        node.run("ethtool", "-K", link, "gso", offload, "tso", offload, "gro", offload)
    megabyte_both_ways(lab, tmp_path)


def test_a_megabyte_arrives_whole_without_checksum_offload(lab: Line, tmp_path: Path) -> None:
    for on in ("off", "on"):
        lab.pod.run("ethtool", "-K", "eth0", "tx", on, "rx", on)
        lab.node.run("ethtool", "-K", "pod0", "tx", on, "rx", on)
        if on == "off":
            megabyte_both_ways(lab, tmp_path)


def test_udp_is_echoed(lab: Line) -> None:
    assert udp(lab, 0, 1, 100, 1444) == "ok"


def test_udp_without_checksums_is_echoed(lab: Line) -> None:
    """IPv6 wants one: it is computed."""
    assert udp(lab, 0, 1, 100, 1444, zero=True) == "ok"


def test_fragments_pass_both_ways(lab: Line) -> None:
    """All of them, also those without ports."""
    assert udp(lab, 1445, 3000, 9000, 60000) == "ok"


def test_fragments_without_a_checksum_are_dropped_and_counted(
    shared: tuple[Line, Translator, Clat],
) -> None:
    """Nobody can compute it before all fragments are there."""
    lab, _, agent = shared

    def dropped() -> float:
        return agent.metric("nat64_clat_dropped_packets_total", reason="udp_zero_checksum_fragment")

    before = dropped()
    arguments = (str(SERVER_V4), str(ECHO_PORT), "zero", "3000")
    code = _UDP.replace("s.settimeout(60)", "s.settimeout(0.5)")
    assert "ok" not in lab.pod.run(sys.executable, "-c", code, *arguments, check=False)
    assert dropped() > before


def test_ping_is_answered(lab: Line) -> None:
    out = lab.pod.run("ping", "-4", "-n", "-c", "3", "-i", "0.2", "-W", "60", str(SERVER_V4))
    assert "3 received" in out


def test_a_closed_port_is_refused(lab: Line) -> None:
    assert "refused" in lab.pod.run(sys.executable, "-c", _REFUSED, str(SERVER_V4))


def test_traceroute_shows_every_hop(lab: Line) -> None:
    """The node is an IPv6 router to the pod, with no IPv4 address: 192.0.0.1 stands for it."""
    hops = [probe(lab.pod, SERVER_V4, ECHO_PORT, hops) for hops in (1, 2, 3)]
    assert hops[0] == ["error", "11", "0", "192.0.0.1"]
    assert hops[1] == ["error", "11", "0", "198.51.100.254"]
    assert hops[2] == ["answer", "probe"]


def test_the_pods_ipv6_is_as_it_was(lab: Line) -> None:
    assert "1 received" in lab.pod.run("ping", "-6", "-c", "1", "-W", "60", "fd64:1::1")


def test_names_are_connected_to_by_ipv6_as_before(lab: Line, tmp_path: Path) -> None:
    """Also from a unique local address, from which RFC 6724 would prefer IPv4 for a name with both.
    NetworkPolicies for the translator's prefix go on to see these connections."""
    hosts = tmp_path / "hosts"
    hosts.write_text(f"{SERVER_V4} name.example\n{SERVER} name.example\n")
    lab.pod.run("mount", "--bind", str(hosts), "/etc/hosts")
    code = "import socket; print(socket.getaddrinfo('name.example', 80)[0][4][0])"
    assert lab.pod.run(sys.executable, "-c", code).strip() == str(SERVER)
    lab.pod.run("umount", "/etc/hosts")


# Prints the Ethernet types of all frames on a link, until one has the last word in it.
_TAP = """
import socket, sys
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as tap:
    tap.bind((sys.argv[1], 3))
    tap.settimeout(60)
    print("ready", flush=True)
    kinds = set()
    while b"last word" not in (frame := tap.recv(65535)):
        kinds.add(frame[12:14].hex())
print(*sorted(kinds))
"""


def test_no_ipv4_is_seen_outside_the_pod(lab: Line) -> None:
    """Whatever the pod sends: to literals, to multicast, to its neighbours, and ARP."""
    tap = lab.node.start(sys.executable, "-c", _TAP, "pod0", stdout=subprocess.PIPE)
    assert tap.stdout
    assert tap.stdout.readline() == "ready\n"
    curl(lab, "peer")
    lab.pod.run("ping", "-4", "-c", "1", "-W", "1", "224.0.0.1", check=False)
    lab.pod.run("ip", "route", "add", "203.0.113.99/32", "dev", "eth0")
    lab.pod.run("ping", "-4", "-c", "1", "-W", "1", "203.0.113.99", check=False)
    lab.pod.run("ip", "route", "del", "203.0.113.99/32", "dev", "eth0")
    last = "import socket; socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).sendto"
    lab.pod.run(sys.executable, "-c", f"{last}(b'last word', ('fd64:1::1', 9))")
    assert tap.stdout.readline() == "86dd\n"


def test_a_smaller_mtu_on_the_way_out_is_learnt(tmp_path: Path) -> None:
    """An IPv4 router behind the translator says so, and the pod's kernel hears it as IPv4."""
    with world(path_mtu=1400) as (lab, _, _):
        megabyte_both_ways(lab, tmp_path)
        assert udp_echo_df(lab) == "1400"


# Without fragmenting: sends until the kernel knows the path's MTU, and prints what it is.
_DF = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_PMTUDISC_DO
s.settimeout(1)
s.connect((sys.argv[1], int(sys.argv[2])))
for _ in range(20):
    try:
        s.send(bytes(1444))
        s.recv(65535)
    except OSError:
        pass
    mtu = s.getsockopt(socket.IPPROTO_IP, 14)  # IP_MTU
    if mtu < 1472:
        print(mtu)
        break
"""


def udp_echo_df(lab: Line) -> str:
    return lab.pod.run(sys.executable, "-c", _DF, str(SERVER_V4), str(ECHO_PORT)).strip()


def test_a_smaller_mtu_of_the_pods_link_is_learnt_outside(tmp_path: Path) -> None:
    """What is too long for the pod's link is reported to the IPv4 server, in IPv4."""
    with world(pod_mtu=1300) as (lab, _, _):
        assert "mtu 1272" in lab.pod.run("ip", "-4", "route")
        megabyte_both_ways(lab, tmp_path)
        assert udp(lab, 1244, 1245, 9000) == "ok"


def test_a_jumbo_pod_sends_as_much_as_its_link_takes(tmp_path: Path) -> None:
    with world(pod_mtu=9000, uplink_mtu=9000, path_mtu=9000) as (lab, _, _):
        assert "mtu 8972" in lab.pod.run("ip", "-4", "route")
        megabyte_both_ways(lab, tmp_path)
        assert udp(lab, 8944, 8945, 30000) == "ok"


def test_ipv6_literals_in_the_prefix_are_the_clats(lab: Line) -> None:
    """What comes from the prefix is IPv4 to the pod: a socket of IPv6 hears nothing of it."""
    assert not udp_echo(lab.pod, 10, host=f"{PREFIX[0]}{SERVER_V4}", check=False)
