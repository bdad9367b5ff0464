"""Claimed pool addresses: answered for whatever the node's ARP settings are, and announced."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.node import wait_for
from tests.lab.topology import NODE_V4, Line
from tests.lab.translator import Translator, translator

pytestmark = pytest.mark.root

POOL = "198.51.100.8/30"
ADDRESSES = [f"198.51.100.{n}" for n in range(8, 12)]


@pytest.fixture
def claiming(lab: Line) -> Iterator[Translator]:
    """A node whose pool no link holds, in the subnet of its uplink."""
    with translator(lab.node, pools=[{"addresses": POOL}]) as one:
        yield one


def neighbour(lab: Line, address: str) -> str:
    """What the router knows of an address: its MAC."""
    return lab.router.run("ip", "neigh", "show", address, "dev", "node0")


def is_answered(lab: Line, address: str) -> bool:
    """Whether the router gets the node's MAC when it asks for an address."""
    lab.router.run("ping", "-c1", "-W1", address, check=False)
    return mac(lab) in neighbour(lab, address)


def mac(lab: Line) -> str:
    return lab.node.run("cat", "/sys/class/net/eth0/address").strip()


@pytest.mark.parametrize("arp_ignore", [0, 1, 2, 3, 8])
def test_arp_is_answered_whatever_arp_ignore_says(
    lab: Line, claiming: Translator, arp_ignore: int
) -> None:
    lab.node.sysctl(**{"net.ipv4.conf.all.arp_ignore": arp_ignore})
    for address in ADDRESSES:
        assert neighbour(lab, address) == ""
        wait_for("its answer", lambda a=address: is_answered(lab, a))  # type: ignore[misc]
    assert lab.curl("peer").split()[0] in ADDRESSES


def test_an_address_that_no_pool_has_is_not_answered_for(lab: Line, claiming: Translator) -> None:
    lab.router.run("ping", "-c1", "-W1", "198.51.100.12", check=False)
    assert "lladdr" not in neighbour(lab, "198.51.100.12")


def test_the_node_s_own_address_is_the_kernel_s_to_answer(lab: Line, claiming: Translator) -> None:
    lab.node.sysctl(**{"net.ipv4.conf.all.arp_ignore": 8})
    lab.router.ip("neigh flush all")
    lab.router.run("ping", "-c1", "-W1", str(NODE_V4), check=False)
    assert "lladdr" not in neighbour(lab, str(NODE_V4))


def test_an_address_that_comes_to_a_node_is_announced(lab: Line) -> None:
    for address in ADDRESSES:
        lab.router.ip(f"neigh replace {address} lladdr 02:00:00:00:00:99 nud stale dev node0")
    with translator(lab.node, pools=[{"addresses": POOL}]):
        for address in ADDRESSES:
            wait_for("its announcement", lambda a=address: mac(lab) in neighbour(lab, a))  # type: ignore[misc]


def test_addresses_that_leave_the_pool_are_answered_for_no_longer(
    lab: Line, claiming: Translator
) -> None:
    claiming.configure(pools=[{"addresses": "198.51.100.8/31"}])
    wait_for("the new config", lambda: "replaces" in claiming.log())

    def silent() -> bool:
        lab.router.ip("neigh flush all")
        lab.router.run("ping", "-c1", "-W1", "198.51.100.11", check=False)
        return "lladdr" not in neighbour(lab, "198.51.100.11")

    wait_for("silence", silent)
    wait_for("an answer", lambda: is_answered(lab, "198.51.100.8"))
