"""Datagrams larger than any link: fragmented by real kernels on both sides, both ways."""

from __future__ import annotations

import pytest

from tests.lab.node import wait_for
from tests.lab.probes import udp_echo
from tests.lab.topology import NODE_V4, SERVER, Line
from tests.lab.translator import Translator

pytestmark = pytest.mark.root


@pytest.mark.parametrize("size", [1473, 3000, 9000, 20000])
def test_a_large_datagram_and_its_echo_arrive_whole(
    lab: Line, nat64: Translator, size: int
) -> None:
    assert udp_echo(lab.pod, size)


@pytest.mark.parametrize("family", ["inet", "ip"])
@pytest.mark.parametrize("size", [3000, 9000])
def test_fragments_arrive_whole_where_conntrack_collects_them(
    lab: Line, nat64: Translator, size: int, family: str
) -> None:
    """It waits for all fragments of a packet, and some go past it. NAT of IPv4 is reason enough,
    and nothing need be tracked yet."""
    lab.node.run(
        "nft",
        f"add table {family} proxy;"
        f"add chain {family} proxy out {{ type nat hook postrouting priority srcnat; }};"
        f"add rule {family} proxy out oifname lo masquerade",
    )
    wait_for("notrack rules", lambda: "notrack" in lab.node.run("nft", "list", "ruleset"))
    assert udp_echo(lab.pod, size)


def test_a_large_ping_is_answered(lab: Line, nat64: Translator) -> None:
    """Not by RFC 7915 (section 1.2): fragmented ICMP isn't translated; what fits in one is."""
    out = lab.pod.run("ping", "-6", "-n", "-c", "1", "-W", "60", "-s", "1400", str(SERVER))
    assert "1 received" in out


def test_a_reply_that_fits_ipv4_only_teaches_the_server_the_path(
    lab: Line, nat64: Translator
) -> None:
    """1472 bytes fill an IPv4 packet of 1500 with DF set: 1520 as IPv6, so the first is lost."""
    udp_echo(lab.pod, 1472, check=False)
    assert udp_echo(lab.pod, 1472)
    assert "mtu 1480" in lab.internet.run("ip", "route", "get", str(NODE_V4))
