"""A pod that does what it likes on its link, beside one that has a CLAT: harm stays with itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from scapy.layers.inet import UDP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6

from tests.dataplane.test_clat_traffic import curl, udp, world
from tests.lab.clat import PREFIX, Clat
from tests.lab.node import Node, wait_for
from tests.lab.topology import NODE_V4, POD, SERVER_V4, Line
from tests.lab.translator import Translator

pytestmark = pytest.mark.root

BAD = "fd64:3::10"
_PORT = 9999

# Sends frames, one per line of hex on the standard input, on a link.
_SEND = """
import socket, sys
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
    out.bind((sys.argv[1], 0))
    for line in sys.stdin:
        out.send(bytes.fromhex(line))
"""

# Listens on all IPv4 addresses, and prints who has sent what comes, up to the last word.
_LISTEN = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.bind(("0.0.0.0", int(sys.argv[1])))
    s.settimeout(60)
    print("ready", flush=True)
    heard = []
    while True:
        data, (who, _) = s.recvfrom(100)
        heard.append(who)
        if data == b"last word":
            break
print(*heard)
"""


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Line, Translator, Clat, Node]]:
    """The lab with a second pod, the bad one, which has a link and a CLAT of its own."""
    with world() as (lab, nat64, agent):
        bad = Node("bad")
        try:
            bad.join(lab.node, "eth0", "bad0")
            bad.ip(f"addr add {BAD}/64 dev eth0 nodad", "route add default via fd64:3::1 dev eth0")
            lab.node.ip("addr add fd64:3::1/64 dev bad0 nodad")
            agent.mount(bad, "cni-2")
            agent.wait_pod("cni-2")
            wait_for("the bad pod's way", lambda: answered(bad))
            yield lab, nat64, agent, bad
        finally:
            bad.close()


def answered(pod: Node) -> bool:
    return "1 received" in pod.run("ping", "-4", "-c1", "-W5", str(SERVER_V4), check=False)


def link_address(node: Node, link: str) -> bytes:
    return bytes.fromhex(node.run("cat", f"/sys/class/net/{link}/address").strip().replace(":", ""))


def send(node: Node, link: str, frames: list[bytes]) -> None:
    lines = "".join(f"{frame.hex()}\n" for frame in frames)
    node.run(sys.executable, "-c", _SEND, link, input=lines)


def udp6(source: str, destination: str, data: bytes) -> bytes:
    """An IPv6 packet with a right checksum."""
    return bytes(IPv6(src=source, dst=destination) / UDP(sport=7, dport=_PORT) / data)


def test_a_forged_source_gets_nothing_from_the_prefix(
    both: tuple[Line, Translator, Clat, Node],
) -> None:
    """The victim's address from the bad pod's link: the translator asks where the victim is."""
    lab, nat64, _, bad = both
    head = link_address(lab.node, "bad0") + link_address(bad, "eth0") + b"\x86\xdd"
    forged = udp6(str(POD), f"{PREFIX[0]}{SERVER_V4}", b"forged")

    def dropped() -> float:
        return nat64.metric("nat64_dropped_packets_total", reason="source_wrong_link")

    before = dropped()
    send(bad, "eth0", [head + forged] * 10)
    wait_for("all of them", lambda: dropped() == before + 10)
    remotes = [session["remote"] for session in nat64.json("sessions")]
    assert f"{SERVER_V4}:{_PORT}" not in remotes


def test_no_source_is_believed_that_a_pod_would_trust(
    both: tuple[Line, Translator, Clat, Node],
) -> None:
    """Packets within the prefix that seem to come from the pod itself, its loopback, or from what
    is no host. They come to the pod's link by whoever can put packets there."""
    lab, _, _, _ = both
    listener = lab.pod.start(sys.executable, "-c", _LISTEN, str(_PORT), stdout=subprocess.PIPE)
    assert listener.stdout
    assert listener.stdout.readline() == "ready\n"
    head = link_address(lab.pod, "eth0") + link_address(lab.node, "pod0") + b"\x86\xdd"
    never = ("192.0.0.2", "127.0.0.1", "0.0.0.0", "0.1.2.3", "224.0.0.1", "240.0.0.1")
    frames = [
        head + udp6(f"{PREFIX[0]}{source}", str(POD), data)
        for source, data in [
            *((source, b"?") for source in (*never, "255.255.255.255")),
            ("203.0.113.99", b"last word"),
        ]
    ]
    send(lab.node, "pod0", frames)
    assert listener.stdout.readline() == "203.0.113.99\n"
    listener.wait()


# Frames with random heads for the kernel's offloads (struct virtio_net_hdr), around random IPv4.
_OFFLOADS = """
import random, socket, struct, sys
rng = random.Random(1)
link = bytes.fromhex(sys.argv[1])
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
    out.setsockopt(263, 15, 1)  # PACKET_VNET_HDR
    out.bind(("eth0", 0))
    sent = 0
    for _ in range(2000):
        protocol = rng.choice([6, 17, 1])
        data = rng.randbytes(rng.choice([0, 7, 8, 20, 40, 1400, 9000, 40000]))
        if protocol == 6 and len(data) >= 20:
            data = data[:12] + bytes([rng.choice([0x50, 0x50, 0xF0, 0x10])]) + data[13:]
        size = 20 + len(data)
        ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, size, 1, rng.choice([0, 0x4000, 0x2000, 100]),
                         64, protocol, 0, socket.inet_aton("192.0.0.2"),
                         socket.inet_aton(sys.argv[2]))
        total = sum(struct.unpack("!10H", ip))
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        ip = ip[:10] + struct.pack("!H", total ^ 0xFFFF) + ip[12:]
        head = struct.pack("=BBHHHH", rng.choice([0, 1]), rng.choice([0, 1, 3, 4, 5, 0x81]),
                           rng.choice([0, 34, 54, 100]), rng.choice([0, 1, 8, 536, 1400, 65535]),
                           rng.choice([0, 14, 34, 54]), rng.choice([0, 6, 16]))
        try:
            out.send(head + link + ip + data)
            sent += 1
        except OSError:
            pass  # the kernel refuses many of them
print(sent)
"""


def test_bent_offloads_harm_nobody(both: tuple[Line, Translator, Clat, Node]) -> None:
    """What a raw socket may ask of the kernel goes through the pod's programs too."""
    lab, _, agent, bad = both
    link = (link_address(lab.node, "bad0") + link_address(bad, "eth0") + b"\x08\x00").hex()
    before = agent.metric("nat64_clat_received_packets_total", direction="out")
    sent = int(bad.run(sys.executable, "-c", _OFFLOADS, link, str(SERVER_V4)))
    assert sent > 100
    assert agent.metric("nat64_clat_received_packets_total", direction="out") >= before + sent
    assert curl(lab, "peer").split()[0] == str(NODE_V4)
    assert udp(lab, 0, 1444, 1445, 9000) == "ok"
    assert answered(bad)


def test_a_storm_of_errors_changes_nothing_for_others(
    both: tuple[Line, Translator, Clat, Node],
) -> None:
    """Errors about packets that nobody has sent, out of the bad pod and into the other one."""
    lab, _, _, bad = both
    inner = udp6(str(POD), f"{PREFIX[0]}{SERVER_V4}", bytes(64))
    head = link_address(lab.pod, "eth0") + link_address(lab.node, "pod0") + b"\x86\xdd"
    into = [
        head + bytes(IPv6(src=source, dst=str(POD)) / ICMPv6PacketTooBig(mtu=mtu) / inner)
        for source in ("fd64:1::1", f"{PREFIX[0]}{SERVER_V4}", "2001:db8::1")
        for mtu in (0, 68, 576, 1280, 1499)
    ]
    send(lab.node, "pod0", into * 200)
    head = link_address(lab.node, "bad0") + link_address(bad, "eth0") + b"\x86\xdd"
    out = [
        head
        + bytes(
            IPv6(src=BAD, dst=f"{PREFIX[0]}{SERVER_V4}") / ICMPv6PacketTooBig(mtu=1280) / quoted
        )
        for quoted in (inner, udp6(f"{PREFIX[0]}{SERVER_V4}", str(POD), bytes(64)))
    ]
    send(bad, "eth0", out * 1000)
    assert curl(lab, "peer").split()[0] == str(NODE_V4)
    assert udp(lab, 0, 1444, 1445, 9000) == "ok"
    route = lab.pod.run("ip", "-4", "route", "get", str(SERVER_V4))
    assert "mtu 1472" in route, "no path was made smaller by packets that nobody has sent"
