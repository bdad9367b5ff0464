"""Path MTU discovery through the translator: large transfers over narrow IPv4 paths."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.node import Node
from tests.lab.probes import megabyte_both_ways
from tests.lab.topology import SERVER, SERVER_V4, Line, line
from tests.lab.translator import Translator, translator

pytestmark = pytest.mark.root


@pytest.fixture(params=[1400, 1280, 576])
def narrow(request: pytest.FixtureRequest) -> Iterator[tuple[Line, Translator]]:
    """A line whose last link, behind the router, is narrower than all others."""
    with line(path_mtu=request.param) as built, translator(built.node) as nat64:
        yield built, nat64


def without_gso(lab: Line) -> None:
    """Have both ends send every TCP segment as a packet of its own."""
    lab.pod.ip("link set eth0 gso_max_segs 1")
    lab.internet.ip("link set router0 gso_max_segs 1")


@pytest.mark.parametrize("gso", [True, False], ids=["gso", "no-gso"])
def test_a_megabyte_up_and_down(narrow: tuple[Line, Translator], gso: bool, tmp_path: Path) -> None:
    lab, _ = narrow
    if not gso:
        without_gso(lab)
    megabyte_both_ways(lab, tmp_path)


def test_the_pod_learns_the_mtu_of_the_ipv4_path_plus_twenty() -> None:
    with line(path_mtu=1400) as lab, translator(lab.node):
        lab.pod.run("ping", "-6", "-c", "1", "-s", "1452", "-M", "do", str(SERVER), check=False)
        route = lab.pod.run("ip", "-6", "route", "get", str(SERVER))
        assert "mtu 1420" in route


def test_the_nodes_own_narrow_uplink_is_told_by_the_kernel() -> None:
    with line(uplink_mtu=1300) as lab, translator(lab.node):
        lab.pod.run("ping", "-6", "-c", "1", "-s", "1452", "-M", "do", str(SERVER), check=False)
        assert "mtu 1320" in lab.pod.run("ip", "-6", "route", "get", str(SERVER))
        assert lab.curl("ok") == "ok"


def deaf(node: Node) -> None:
    """A host that hears no ICMP errors, as behind many firewalls."""
    node.run(
        "nft",
        "add table inet deaf; add chain inet deaf in { type filter hook input priority 0; }; "
        "add rule inet deaf in icmp type { destination-unreachable, time-exceeded } drop; "
        "add rule inet deaf in icmpv6 type { packet-too-big, destination-unreachable } drop",
    )


@pytest.mark.parametrize("gso", [True, False], ids=["gso", "no-gso"])
@pytest.mark.parametrize(
    ("narrow_pod", "narrow_uplink"), [(1420, 1500), (1500, 1400), (1420, 1400), (1280, 1500)]
)
def test_downloads_and_uploads_pass_where_nobody_hears_icmp(
    narrow_pod: int, narrow_uplink: int, gso: bool, tmp_path: Path
) -> None:
    """A VPN of 1420 bytes towards the client, or a narrow uplink: no end knows of the other's."""
    with (
        line(uplink_mtu=narrow_uplink) as lab,
        translator(lab.node),
    ):
        # The links at the far ends stay wide: only the node knows.
        lab.node.ip(f"link set pod0 mtu {narrow_pod}")
        for end in (lab.internet, lab.pod):
            deaf(end)
        if not gso:
            without_gso(lab)
        megabyte_both_ways(lab, tmp_path)


# Ten datagrams in one segmented send (UDP_SEGMENT), each way; the receiver counts what arrives.
SEGMENTED = """
import socket, sys
role, host, port, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
family = socket.AF_INET6 if ":" in host else socket.AF_INET
sock = socket.socket(family, socket.SOCK_DGRAM)
sock.settimeout(60)
def burst(send):
    sock.setsockopt(socket.IPPROTO_UDP, 103, size)
    send(b"".join(bytes((i,)) * size for i in range(10)))
def collect():
    got = [sock.recvfrom(65536) for _ in range(10)]
    assert sorted(data for data, _ in got) == [bytes((i,)) * size for i in range(10)]
    return got[0][1]
if role == "server":
    sock.bind((host, port))
    print("ready", flush=True)
    while True:
        peer = collect()
        burst(lambda data: sock.sendto(data, peer))
else:
    sock.connect((host, port))
    burst(sock.send)
    collect()
    print("ten each way")
"""


@pytest.mark.parametrize("size", [100, 1200, 1440])
def test_segmented_udp_both_ways(lab: Line, nat64: Translator, size: int) -> None:
    server = lab.internet.start(
        sys.executable,
        "-c",
        SEGMENTED,
        "server",
        str(SERVER_V4),
        "9999",
        str(size),
        stdout=subprocess.PIPE,
    )
    assert server.stdout
    assert server.stdout.readline().strip() == "ready"
    client = ("-c", SEGMENTED, "client", str(SERVER), "9999", str(size))
    assert lab.pod.run(sys.executable, *client).strip() == "ten each way"


def test_upload_over_a_path_of_576_that_the_server_does_not_know_of() -> None:
    """The server offers large segments. The pod can't go below 1280, so routers must fragment."""
    with line(path_mtu=576) as lab, translator(lab.node):
        default = lab.internet.run("ip", "route", "show", "default").strip()
        lab.internet.ip(f"route replace {default} advmss 1460")
        assert lab.curl("sink", "--data-binary", "x" * 100_000).split()[0] == "100000"
        counters = lab.router.run("nstat", "-az", "IpFragOKs")
        assert int(counters.split()[-2]) > 50, counters
