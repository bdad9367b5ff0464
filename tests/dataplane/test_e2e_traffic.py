"""An IPv6-only client and IPv4-only servers, through the real agent, between real kernels."""

from __future__ import annotations

import sys
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from nat64_dataplane import pref64
from tests.lab.node import wait_for
from tests.lab.probes import megabyte_both_ways, udp_echo
from tests.lab.topology import ECHO_PORT, NODE_V4, POD, PREFIX, SERVER, SERVER_V4, Line
from tests.lab.translator import Translator

pytestmark = pytest.mark.root

_UDP_REFUSED = """
import socket, sys
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.settimeout(60)
s.connect((sys.argv[1], 9))
s.send(b"?")
try:
    s.recv(100)
except ConnectionRefusedError:
    print("refused")
"""


def test_the_pod_has_no_ipv4_address(lab: Line) -> None:
    assert lab.pod.run("ip", "-4", "addr", "show", "dev", "eth0") == ""


def test_a_page_is_fetched_and_the_server_sees_the_nodes_address(
    lab: Line, nat64: Translator
) -> None:
    address, port = lab.curl("peer").split()
    assert address == str(NODE_V4)
    assert 61001 <= int(port) <= 65535


def test_a_megabyte_up_and_down_arrives_whole(lab: Line, nat64: Translator, tmp_path: Path) -> None:
    megabyte_both_ways(lab, tmp_path)


def test_full_segments_take_the_fast_path(lab: Line, nat64: Translator, tmp_path: Path) -> None:
    megabyte_both_ways(lab, tmp_path)
    assert nat64.metric("nat64_sent_fast_packets_total") > 50
    assert nat64.metric("nat64_sent_kernel_packets_total") < 5, "only what resolves a neighbour"


def test_udp_is_echoed(lab: Line, nat64: Translator) -> None:
    assert udp_echo(lab.pod, 0, 1, 100, 1452)


def test_checksums_that_a_device_has_yet_to_complete_become_right(
    lab: Line, nat64: Translator, tmp_path: Path
) -> None:
    """Here the node's kernel completes them when a packet leaves, and the other end checks them."""
    for link in ("pod0", "eth0"):
        lab.node.run("ethtool", "-K", link, "tx", "off")
    try:
        megabyte_both_ways(lab, tmp_path)
        assert udp_echo(lab.pod, 0, 1, 100, 1452)
    finally:
        for link in ("pod0", "eth0"):
            lab.node.run("ethtool", "-K", link, "tx", "on")


def test_ping_is_answered(lab: Line, nat64: Translator) -> None:
    out = lab.pod.run("ping", "-6", "-n", "-c", "3", "-i", "0.1", "-W", "60", str(SERVER))
    assert "3 received" in out


def test_the_hop_limit_falls_by_one(lab: Line, nat64: Translator) -> None:
    """Out: 64 at the pod, minus the node (a router) and the router. Back: seen by ping's ttl."""
    out = lab.pod.run("ping", "-6", "-n", "-c", "1", "-W", "60", str(SERVER))
    assert "ttl=62" in out


def test_a_closed_udp_port_refuses(lab: Line, nat64: Translator) -> None:
    assert "refused" in lab.pod.run(sys.executable, "-c", _UDP_REFUSED, str(SERVER))


def test_a_closed_tcp_port_refuses_at_once(lab: Line, nat64: Translator) -> None:
    out = lab.pod.run(
        "sh", "-c", f"curl -gsS --max-time 60 http://[{SERVER}]:9/ 2>&1; echo $?", check=False
    )
    assert out.split()[-1] == "7", out


def test_the_node_itself_reaches_ipv4_through_the_prefix(lab: Line, nat64: Translator) -> None:
    lab.node.ip("addr add fd64:1::2/128 dev lo nodad")
    out = lab.node.run(
        "curl", "-gsS", "--max-time", "60", "--interface", "fd64:1::2", lab.url("peer")
    )
    assert out.split()[0] == str(NODE_V4)


def test_ipv4_of_the_node_itself_is_undisturbed(lab: Line, nat64: Translator) -> None:
    url = f"http://{SERVER_V4}:8080/peer"
    assert lab.node.run("curl", "-sS", "--max-time", "60", url).split()[0] == str(NODE_V4)
    assert "1 received" in lab.internet.run("ping", "-n", "-c", "1", "-W", "60", str(NODE_V4))


def test_the_command_line_shows_the_session(lab: Line, nat64: Translator) -> None:
    pod = lab.pod.start(
        sys.executable,
        "-c",
        f"import socket,time; s=socket.create_connection(('{SERVER}',{ECHO_PORT})); time.sleep(60)",
    )
    try:
        session = wait_for(
            "TCP session",
            lambda: next((s for s in nat64.json("sessions") if s["protocol"] == "tcp"), None),
        )
    finally:
        pod.kill()
    assert session["client"].startswith(f"[{POD}]:")
    assert session["remote"] == f"{SERVER_V4}:{ECHO_PORT}"
    assert session["state"] == "ESTABLISHED"
    bib = nat64.json("bib")
    assert (session["client"], session["address"]) in [(b["client"], b["address"]) for b in bib]
    assert session["address"].startswith(f"{NODE_V4}:")


def test_what_is_translated_is_counted(lab: Line, nat64: Translator) -> None:
    lab.curl("ok")
    assert nat64.metric("nat64_sessions") >= 1


_DROPPED = """
import socket, sys
server, metadata = sys.argv[1:]
udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
for _ in range(3):
    try:
        udp.sendto(b"?", (metadata, 80))
    except OSError:
        pass  # told of the one before
sctp = socket.socket(socket.AF_INET6, socket.SOCK_RAW, 132)
for _ in range(2):
    sctp.sendto(bytes(16), (server, 0))
"""


def test_drops_are_the_same_as_a_metric_and_on_the_command_line(
    lab: Line, nat64: Translator
) -> None:
    metadata = pref64.embed(PREFIX, IPv4Address("169.254.169.254"))
    lab.pod.run(sys.executable, "-c", _DROPPED, str(SERVER), str(metadata))
    shown = {row["counter"]: row for row in nat64.json("drops")}
    assert shown["dropped_destination_special"]["6to4"] == 3
    assert shown["dropped_unknown_transport"]["6to4"] == 2
    reasons = [name for name in shown if name.startswith("dropped_")]
    assert len(reasons) > 20
    for name in reasons:
        for direction in ("6to4", "4to6"):
            as_metric = nat64.metric(
                "nat64_dropped_packets_total",
                direction=direction,
                reason=name.removeprefix("dropped_"),
            )
            assert shown[name][direction] == as_metric, (name, direction)
    table = nat64.run("drops", "--name", nat64.name)
    assert "dropped_destination_special" in table
    assert "loopback, link-local, multicast or reserved IPv4 destination" in table
