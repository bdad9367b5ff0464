"""The node's only uplink has no Ethernet headers, as a tunnel or a VPN hasn't."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from nat64_dataplane import pref64
from tests.lab.probes import megabyte_both_ways, probe, udp_echo
from tests.lab.topology import ECHO_PORT, POD, PREFIX, SERVER, Line, line
from tests.lab.translator import Translator, translator

pytestmark = pytest.mark.root

NODE_RAW, ROUTER_RAW = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.254")
MTU, PATH_MTU = 1400, 1300
MAPPING = {
    "protocol": "udp",
    "client": str(POD),
    "clientPort": 7777,
    "address": str(NODE_RAW),
    "port": 7777,
}


@pytest.fixture(scope="module")
def lab() -> Iterator[Line]:
    """node -- TUN cable of 1400 -- router -- link of 1300 -- internet."""
    with line(path_mtu=PATH_MTU) as built:
        built.node.ip("link delete eth0")
        built.node.join_raw(built.router, "tun0", "tun0", MTU)
        built.node.ip(
            f"addr add {NODE_RAW}/32 dev tun0", f"route add default dev tun0 src {NODE_RAW}"
        )
        built.router.ip(f"addr add {ROUTER_RAW}/32 dev tun0", f"route add {NODE_RAW} dev tun0")
        yield built


@pytest.fixture(scope="module")
def nat64(lab: Line) -> Iterator[Translator]:
    with translator(lab.node, staticMappings=[MAPPING]) as running:
        assert "tun0" in running.get("readyz")[1]
        yield running


def test_a_megabyte_up_and_down(lab: Line, nat64: Translator, tmp_path: Path) -> None:
    megabyte_both_ways(lab, tmp_path)
    assert lab.curl("peer").split()[0] == str(NODE_RAW)


@pytest.mark.parametrize("size", [0, 100, 2000, 9000])
def test_datagrams_whole_and_in_fragments(lab: Line, nat64: Translator, size: int) -> None:
    udp_echo(lab.pod, size, check=False)  # large ones teach the pod the path
    before = nat64.metric("nat64_fragments_translated_total", direction="4to6")
    assert udp_echo(lab.pod, size)
    after = nat64.metric("nat64_fragments_translated_total", direction="4to6")
    assert (after > before) == (size > MTU)


def test_route_traced_from_the_pod(lab: Line, nat64: Translator) -> None:
    """The router's error arrives by the raw uplink."""
    assert probe(lab.pod, SERVER, ECHO_PORT, 1)[:3] == ["error", "3", "0"]  # the node, in IPv6
    told = probe(lab.pod, SERVER, ECHO_PORT, 2)
    assert told == ["error", "3", "0", str(pref64.embed(PREFIX, ROUTER_RAW))]
    assert probe(lab.pod, SERVER, ECHO_PORT, 9)[0] == "answer"


def test_route_traced_from_the_internet(lab: Line, nat64: Translator) -> None:
    """The node's error, and the pod's, leave by the raw uplink."""
    assert probe(lab.internet, NODE_RAW, 7777, 2) == ["error", "11", "0", str(NODE_RAW)]
    assert probe(lab.internet, NODE_RAW, 7777, 9) == ["error", "3", "3", str(NODE_RAW)]


def test_closed_port_refuses(lab: Line, nat64: Translator) -> None:
    assert probe(lab.pod, SERVER, 9, 9) == ["error", "1", "4", str(SERVER)]


def test_path_mtu_is_learnt_from_beyond_the_uplink(lab: Line, nat64: Translator) -> None:
    """1300 as IPv4: 1320 as IPv6. The first answer is the node's own, about its 1400."""
    for _ in range(2):
        lab.pod.run("ping", "-6", "-c", "1", "-s", "1452", "-M", "do", str(SERVER), check=False)
        lab.pod.run("ping", "-6", "-c", "1", "-s", "1372", "-M", "do", str(SERVER), check=False)
    assert "mtu 1320" in lab.pod.run("ip", "-6", "route", "get", str(SERVER))
