"""Every kind of uplink that a node has: TCP, UDP, ping, path MTU, fragments, errors through each.

One agent follows all of them, as it must where an operator changes a node's network.
"""

from __future__ import annotations

import functools
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab.node import Node, wait_for
from tests.lab.probes import megabyte_both_ways, probe, udp_echo
from tests.lab.topology import ECHO_PORT, NODE_V4, ROUTER_V4, SERVER, Line, line
from tests.lab.translator import Translator, translator

pytestmark = pytest.mark.root

PATH_MTU = 1300
TIME_EXCEEDED = ["error", "3", "0"]

# Keys of this test: two pairs, private and public.
_WG_NODE = (
    "yH581iMvEvpECAMfVgQLCGx7+RXKWi8BEnilruug4Fo=",
    "Iukv/phXSJqYVgxg969vjEDHBp4O+El4GvoYQy/EpSk=",
)
_WG_ROUTER = (
    "YPDQog+hhbiZ3YF5jPXn7a+/UqYmdhDV82YEKo0cz24=",
    "kvRRDCicbrZbvA6kVRsB/G/lbvhPu1ei0xX994+REFc=",
)
_WG = """
import sys
from pyroute2 import WireGuard
link, private, public, endpoint = sys.argv[1:]
peer = {"public_key": public, "endpoint_addr": endpoint, "endpoint_port": 51820,
        "allowed_ips": ["0.0.0.0/0"]}
WireGuard().set(link, private_key=private, listen_port=51820, peer=peer)
"""


@dataclass(frozen=True)
class Kind:
    """How the cable between node (eth0) and router (node0) becomes their links `up` and `down`."""

    up: str = "eth0"
    down: str = "node0"
    node: tuple[str, ...] = ()
    router: tuple[str, ...] = ()
    offloads: str = ""
    """Arguments of `ethtool -K` for eth0."""
    bridge: tuple[str, ...] = ()
    """Commands of `bridge` on the node."""
    route: str = f"default via {ROUTER_V4} dev UP"
    wireguard: bool = False
    ppp: bool = False
    made: tuple[str, ...] = ()
    """Links to delete afterwards, on both."""


_VLAN_OF_ROUTER = ("link add link node0 name down7 type vlan id 7", "link set down7 up")

KINDS = {
    "physical": Kind(),
    "without offloads": Kind(offloads="gro off gso off tso off"),
    "GRO lists": Kind(offloads="gro on rx-gro-list on"),
    "VLAN": Kind(
        "up7",
        "down7",
        ("link add link eth0 name up7 type vlan id 7", "link set up7 up"),
        _VLAN_OF_ROUTER,
        made=("up7", "down7"),
    ),
    "bond": Kind(
        "bond0",
        node=(
            "link add bond0 type bond mode active-backup miimon 100",
            "link set eth0 down",
            "link set eth0 master bond0",
            "link set bond0 up",
        ),
        made=("bond0",),
    ),
    "bridge": Kind(
        "br0",
        node=("link add br0 type bridge", "link set eth0 master br0", "link set br0 up"),
        made=("br0",),
    ),
    "bridge with VLAN filtering": Kind(
        "br0",
        node=(
            "link add br0 type bridge vlan_filtering 1",
            "link set eth0 master br0",
            "link set br0 up",
        ),
        made=("br0",),
    ),
    "VLAN of a bridge that filters": Kind(
        "up7",
        "down7",
        (
            "link add br0 type bridge vlan_filtering 1",
            "link set eth0 master br0",
            "link set br0 up",
            "link add link br0 name up7 type vlan id 7",
            "link set up7 up",
        ),
        _VLAN_OF_ROUTER,
        bridge=("vlan add vid 7 dev eth0", "vlan add vid 7 dev br0 self"),
        made=("up7", "br0", "down7"),
    ),
    "macvlan": Kind(
        "mac0",
        node=("link add link eth0 name mac0 type macvlan mode bridge", "link set mac0 up"),
        made=("mac0",),
    ),
    "ipvlan": Kind(
        "ipv0",
        node=("link add link eth0 name ipv0 type ipvlan mode l2", "link set ipv0 up"),
        made=("ipv0",),
    ),
    "VRF": Kind(
        node=("link add red type vrf table 10", "link set red up", "link set eth0 master red"),
        route=f"default via {ROUTER_V4} dev UP onlink",
        made=("red",),
    ),
    "WireGuard": Kind(
        "wg0",
        "wg0",
        ("addr add 192.0.2.1/24 dev eth0", "link add wg0 mtu 1420 type wireguard"),
        ("addr add 192.0.2.254/24 dev node0", "link add wg0 mtu 1420 type wireguard"),
        route="default dev UP",
        wireguard=True,
        made=("wg0",),
    ),
    "PPP": Kind("ppp0", "ppp0", route="default dev UP", ppp=True),
}


@pytest.fixture(scope="module")
def lab() -> Iterator[Line]:
    with line(path_mtu=PATH_MTU) as built:
        yield built


@pytest.fixture(scope="module")
def nat64(lab: Line) -> Iterator[Translator]:
    with translator(lab.node) as running:
        yield running


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, lab: Line, nat64: Translator) -> Iterator[Kind]:
    chosen = KINDS[request.param]
    _clear(lab.node, "eth0", chosen)
    _clear(lab.router, "node0", chosen)
    try:
        lab.node.ip(*chosen.node)
    except AssertionError as error:
        _unless_lacking(error)
    lab.router.ip(*chosen.router)
    if chosen.wireguard:
        _wireguard(lab.node, _WG_NODE[0], _WG_ROUTER[1], "192.0.2.254")
        _wireguard(lab.router, _WG_ROUTER[0], _WG_NODE[1], "192.0.2.1")
    if chosen.ppp:
        _ppp(lab.node, lab.router)
    for command in chosen.bridge:
        lab.node.run("bridge", *command.split())
    if chosen.offloads:
        lab.node.run("ethtool", "-K", "eth0", *chosen.offloads.split())
    if not chosen.ppp:  # pppd agrees on addresses itself
        lab.router.ip(f"addr add {ROUTER_V4}/24 dev {chosen.down}")
        lab.node.ip(f"addr add {NODE_V4}/24 dev {chosen.up}")
    lab.node.ip(f"route add {chosen.route}".replace("UP", chosen.up))
    nat64.wait_ready(containing=f"over {chosen.up}")
    yield chosen
    if chosen.ppp:
        lab.node.started[-1].terminate()
        lab.node.started.pop().wait()
    _clear(lab.node, "eth0", chosen)
    _clear(lab.router, "node0", chosen)
    if chosen.offloads:
        lab.node.run("ethtool", "-K", "eth0", "gro", "on", "gso", "on", "tso", "on")


def _unless_lacking(error: AssertionError) -> None:
    """Skip what this machine's kernel lacks; where `make test-kernels` runs it, nothing may be."""
    if not any(text in str(error) for text in ("Unknown device type", "Operation not supported")):
        raise error
    pytest.skip("this kernel lacks that kind of link")


def _wireguard(node: Node, private: str, public: str, endpoint: str) -> None:
    node.run(sys.executable, "-c", _WG, "wg0", private, public, endpoint)
    node.ip("link set wg0 up")


def _ppp(node: Node, router: Node) -> None:
    """Two pppd, each with an end of a pseudo-terminal, as over a modem's line."""
    common = ("nodetach", "noauth", "local", "nodefaultroute", "noipv6", "nopersist")
    other = router.command("pppd", *common, "notty", f"{ROUTER_V4}:{NODE_V4}")
    node.start("pppd", *common, f"{NODE_V4}:{ROUTER_V4}", "pty", shlex.join(other))
    for one in (node, router):
        wait_for("PPP", functools.partial(_has_a_peer, one))


def _has_a_peer(node: Node) -> bool:
    return "peer" in node.run("ip", "addr", "show", "ppp0")


def _clear(node: Node, link: str, kind: Kind) -> None:
    for made in kind.made:
        node.run("ip", "link", "del", made, check=False)
    node.ip(f"addr flush dev {link} scope global", f"link set {link} up")


def test_everything_passes(lab: Line, nat64: Translator, kind: Kind, tmp_path: Path) -> None:
    for _ in range(2):  # the first one finds the neighbours and the path
        lab.pod.run("ping", "-c", "1", "-W", "3", str(SERVER), check=False)
    assert " 1 received" in lab.pod.run("ping", "-c", "1", "-W", "3", str(SERVER))
    megabyte_both_ways(lab, tmp_path)
    assert lab.curl("peer").split()[0] == str(NODE_V4)
    for size in (0, 100, 1250, 2000, 9000):
        udp_echo(lab.pod, size, check=False)  # large ones teach the pod the path
        assert udp_echo(lab.pod, size), size
    assert probe(lab.pod, SERVER, ECHO_PORT, 2)[:3] == TIME_EXCEEDED


def test_a_link_and_its_vlan_each_with_a_default_route(lab: Line, nat64: Translator) -> None:
    """Each is an uplink; the route decides, and when it goes the other one takes over."""
    vlan = KINDS["VLAN"]
    _clear(lab.node, "eth0", vlan)
    _clear(lab.router, "node0", vlan)
    try:
        lab.node.ip(*vlan.node)
    except AssertionError as error:
        _unless_lacking(error)
    lab.router.ip(
        *vlan.router, f"addr add {ROUTER_V4}/24 dev node0", "addr add 192.0.2.254/24 dev down7"
    )
    lab.node.ip(
        f"addr add {NODE_V4}/24 dev eth0",
        "addr add 192.0.2.1/24 dev up7",
        f"route add default via {ROUTER_V4} dev eth0 metric 10",
        "route add default via 192.0.2.254 dev up7 metric 20",
    )
    nat64.wait_ready(containing="up7")
    assert lab.curl("peer").split()[0] == str(NODE_V4)
    lab.node.ip(f"route del default via {ROUTER_V4} dev eth0 metric 10")
    wait_for("the other way", lambda: lab.curl("peer").split()[0] == "192.0.2.1")
    assert udp_echo(lab.pod, 2000, check=False) or udp_echo(lab.pod, 2000)
    _clear(lab.node, "eth0", vlan)
    _clear(lab.router, "node0", vlan)
