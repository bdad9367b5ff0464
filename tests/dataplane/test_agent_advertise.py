"""Advertising the prefix: a host outside of the cluster, with a kernel of its own, on a link of the
node. Its routes are what its kernel made of the node's Router Advertisements.
"""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Iterator

import pytest

from tests.lab.ndisc import Listener
from tests.lab.node import Lab, Node, wait_for
from tests.lab.topology import PREFIX, ROUTER_V4, Line
from tests.lab.translator import Translator, translator

pytestmark = pytest.mark.root

SOURCES = {"allowedSources": ["fd64:1::/64", "fd64:2::/64", "fd64:3::/64"]}
LONG = {"interfaces": ["lan0"], "interval": 1800}
"""Nothing expires while a test runs: what goes has been withdrawn."""
INVALID = ["hop_limit", "checksum", "code", "length", "option_length", "link_layer_address"]


def takes_routes(host: Node, link: str) -> None:
    """As the documentation says for Linux hosts."""
    settings = {"accept_ra": 2, "accept_ra_rt_info_max_plen": 128}
    for key, value in settings.items():
        host.run("sysctl", "-qw", f"net.ipv6.conf.{link}.{key}={value}")


@pytest.fixture
def host(lab: Line) -> Iterator[Node]:
    """A host with IPv6 only, on the node's link lan0, of which the node is no default router."""
    with Lab() as more:
        one = more.node("host")
        one.join(lab.node, "eth0", "lan0")
        one.ip("addr add fd64:2::10/64 dev eth0 nodad")
        lab.node.ip("addr add fd64:2::1/64 dev lan0 nodad")
        takes_routes(one, "eth0")
        yield one


def route(host: Node) -> str:
    return host.run("ip", "-6", "route", "show", str(PREFIX), "proto", "ra").strip()


def has_route(host: Node) -> None:
    wait_for("a route", lambda: route(host))


def has_none(host: Node) -> None:
    wait_for("its end", lambda: not route(host))


def fetched(host: Node, lab: Line) -> str:
    return host.run("curl", "-gsS", "--fail", "--max-time", "30", lab.url("ok"))


def solicit(host: Node, kind: str, count: int = 1, pause: float = 0) -> None:
    program = (sys.executable, "-m", "tests.lab.ndisc", "solicit")
    host.run(*program, "eth0", kind, str(count), str(pause))


def sent(nat64: Translator, kind: str) -> float:
    lines = nat64.get("metrics")[1].splitlines()
    wanted = re.compile(rf'nat64_advertisements_sent_total{{.*kind="{kind}".*}} (.*)')
    return sum(float(found[1]) for line in lines if (found := wanted.match(line)))


def dropped(nat64: Translator) -> dict[str, float]:
    lines = nat64.get("metrics")[1].splitlines()
    wanted = re.compile(r'nat64_solicitations_dropped_total{.*interface="lan0",reason="(.*)"} (.*)')
    return {found[1]: float(found[2]) for line in lines if (found := wanted.match(line))}


def advertised(nat64: Translator) -> list[str]:
    found: list[str] = json.loads(nat64.get("status")[1])["advertised"]
    return found


def warned(nat64: Translator, reason: str) -> str:
    found = nat64.json("status")[0].get("warnings", [])
    return next((each["message"] for each in found if each["reason"] == reason), "")


def link_local(node: Node, link: str) -> str:
    (address,) = re.findall(r"inet6 (fe80\S+)/64", node.run("ip", "-6", "addr", "show", link))
    return str(address)


def test_a_host_outside_learns_the_route_and_reaches_ipv4(lab: Line, host: Node) -> None:
    heard = Listener(host, "eth0")
    with translator(lab.node, advertise=LONG, policy=SOURCES) as nat64:
        has_route(host)
        assert f"via {link_local(lab.node, 'lan0')} dev eth0" in route(host)
        assert fetched(host, lab) == "ok"
        assert lab.curl("ok") == "ok", "pods go on"
        wait_for("status", lambda: advertised(nat64) == ["lan0"])
        assert nat64.metric("nat64_advertised", interface="lan0") == 1
        assert "advertising 64:ff9b:1::/96 on lan0" in nat64.log()
        first = wait_for("an advertisement", lambda: heard.heard)[0]
        at = first.pop("at")
        assert at
        assert first == {
            "source": link_local(lab.node, "lan0"),
            "destination": "ff02::1",
            "hop_limit": 255,
            "checksum": True,
            "router_lifetime": 0,
            "routes": [{"prefix": "64:ff9b:1::/96", "lifetime": 5400}],
            "pref64": [{"prefix": "64:ff9b:1::", "code": 0, "lifetime": 5400}],
        }
        assert not host.run("ip", "-6", "route", "show", "default"), "it is no default router"
        addresses = host.run("ip", "-6", "addr", "show", "eth0")
        assert "dynamic" not in addresses, "nor does anybody get an address from it"


def test_a_host_behind_the_uplink_is_served_if_the_policy_names_it(lab: Line) -> None:
    lab.router.ip("addr add fd64:3::10/64 dev node0 nodad")
    lab.node.ip("addr add fd64:3::1/64 dev eth0 nodad")
    takes_routes(lab.router, "node0")
    on_uplink = {"interfaces": ["eth0"], "interval": 1800}
    with translator(lab.node, advertise=on_uplink) as nat64:
        has_route(lab.router)
        wait_for("a warning", lambda: warned(nat64, "AdvertisedToNobody").endswith("(eth0)"))
        nat64.configure(advertise=on_uplink, policy=SOURCES)
        wait_for("its end", lambda: not warned(nat64, "AdvertisedToNobody"))
        assert wait_for("service", lambda: fetched(lab.router, lab)) == "ok"


def test_rdisc6_is_answered(lab: Line, host: Node) -> None:
    with translator(lab.node, advertise=LONG, policy=SOURCES) as nat64:
        has_route(host)
        shown = wait_for("an answer", lambda: host.run("rdisc6", "-1", "-w", "5000", "eth0"))
        assert re.search(r"Router lifetime +: +0 ", shown), shown
        assert re.search(r"Route +: 64:ff9b:1::/96\n", shown), shown
        assert re.search(r"Route lifetime +: +5400 ", shown), shown
        assert f"from {link_local(lab.node, 'lan0')}" in shown
        wait_for("its count", lambda: sent(nat64, "solicited") >= 1)


def test_a_node_that_loses_its_way_out_withdraws_and_comes_back(lab: Line, host: Node) -> None:
    heard = Listener(host, "eth0")
    with translator(lab.node, advertise=LONG, policy=SOURCES) as nat64:
        has_route(host)
        lab.node.ip("route del default")
        has_none(host)
        nat64.wait_ready(503, "NoIPv4DefaultRoute")
        assert advertised(nat64) == []
        assert "withdrawing 64:ff9b:1::/96 on lan0: packets aren't translated" in nat64.log()
        wait_for("a count", lambda: sent(nat64, "withdrawal"))
        lab.node.ip(f"route add default via {ROUTER_V4} dev eth0")
        has_route(host)
        assert fetched(host, lab) == "ok"
    withdrawn = [each for each in heard.heard if each["routes"][0]["lifetime"] == 0]
    assert withdrawn
    assert all(each["pref64"][0]["lifetime"] == 0 for each in withdrawn)


def test_an_agent_that_never_was_healthy_says_nothing(lab: Line, host: Node) -> None:
    lab.node.ip("route del default")
    heard = Listener(host, "eth0")
    nat64 = Translator(lab.node, advertise=LONG, policy=SOURCES)
    nat64.prepare()
    nat64.start()
    nat64.wait_ready(503, "NoIPv4DefaultRoute")
    solicit(host, "valid")
    assert heard.heard == []
    lab.node.ip(f"route add default via {ROUTER_V4} dev eth0")
    has_route(host)
    nat64.close()


def test_a_link_that_leaves_the_list_and_a_changed_prefix_are_withdrawn(
    lab: Line, host: Node
) -> None:
    with translator(lab.node, advertise=LONG, policy=SOURCES) as nat64:
        has_route(host)
        nat64.configure(advertise=LONG, policy=SOURCES, prefix="64:ff9b:1:1::/96")
        has_none(host)
        wait_for("the new one", lambda: host.run("ip", "-6", "route", "show", "64:ff9b:1:1::/96"))
        nat64.configure(policy=SOURCES, prefix="64:ff9b:1:1::/96")
        wait_for("its end", lambda: "64:ff9b:1:1::" not in host.run("ip", "-6", "route"))
        nat64.wait_ready()
        wait_for("status", lambda: advertised(nat64) == [])


def test_removal_withdraws(lab: Line, host: Node) -> None:
    with translator(lab.node, advertise=LONG, policy=SOURCES) as nat64:
        has_route(host)
        nat64.kill()
        assert route(host)
        assert "removed advertisement of 64:ff9b:1::/96 on lan0\n" in nat64.remove()
        has_none(host)
        assert "removed advertisement" not in nat64.remove()
        assert lab.node.run("ls", "/run", check=False) == "", "nothing is left of it"


def test_what_the_next_config_does_not_advertise_is_withdrawn_before_its_agent_runs(
    lab: Line, host: Node
) -> None:
    with translator(lab.node, advertise=LONG, policy=SOURCES) as nat64:
        has_route(host)
        nat64.stop()
        nat64.prepare()
        assert route(host), "the config is the same"
        nat64.configure(policy=SOURCES)
        shown = nat64.run("prepare", "--config", str(nat64.file))
        assert "withdrawn: advertisement of 64:ff9b:1::/96 on lan0" in shown
        has_none(host)


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_restart_withdraws_nothing(lab: Line, host: Node, how: str) -> None:
    heard = Listener(host, "eth0")
    with translator(lab.node, advertise=LONG, policy=SOURCES) as nat64:
        wait_for("an advertisement", lambda: heard.heard)
        getattr(nat64, how)()
        assert fetched(host, lab) == "ok", "packets go on without an agent"
        before = len(heard.heard)
        nat64.start()
        nat64.wait_ready()
        wait_for("the new agent's", lambda: len(heard.heard) > before)
        assert set(heard.lifetimes) == {5400}
        assert route(host)


def test_invalid_solicitations_are_counted_and_not_answered(lab: Line, host: Node) -> None:
    with translator(lab.node, advertise=LONG, policy=SOURCES) as nat64:
        has_route(host)
        for kind in INVALID:
            solicit(host, kind)
        wait_for("all of them", lambda: dropped(nat64) == dict.fromkeys(INVALID, 1.0))
        solicit(host, "valid")
        wait_for("an answer", lambda: sent(nat64, "solicited"))
        assert sent(nat64, "solicited") == 1
        assert dropped(nat64) == dict.fromkeys(INVALID, 1.0)


def test_a_flood_of_solicitations_does_not_raise_the_rate(lab: Line, host: Node) -> None:
    heard = Listener(host, "eth0")
    with translator(lab.node, advertise=LONG, policy=SOURCES) as nat64:
        has_route(host)
        solicit(host, "hop_limit", count=20000)
        program = (sys.executable, "-m", "tests.lab.ndisc", "solicit")
        flood = host.start(*program, "eth0", "valid", "1000000", "0.002")
        wait_for("five of them", lambda: len(heard.heard) >= 5)
        flood.kill()
        times = [each["at"] for each in list(heard.heard)]
        # The kernel's two clocks may drift apart a little in that time.
        assert all(later - earlier > 2.9 for earlier, later in itertools.pairwise(times)), times
        assert nat64.get("readyz")[0] == 200
        assert fetched(host, lab) == "ok"


def test_a_link_that_is_not_there_is_a_warning_until_it_is(lab: Line, host: Node) -> None:
    lab.node.ip("link set lan0 down")
    wanted = {"interfaces": ["lan0", "eth9"], "interval": 1800}
    with translator(lab.node, advertise=wanted, policy=SOURCES) as nat64:
        wait_for("a warning", lambda: "lan0: it is down" in warned(nat64, "NotAdvertised"))
        assert "eth9: this node has no such link" in warned(nat64, "NotAdvertised")
        assert nat64.get("readyz")[0] == 200
        assert lab.curl("ok") == "ok"
        lab.node.ip("link set lan0 up")
        has_route(host)
        wait_for("less to warn of", lambda: "lan0" not in warned(nat64, "NotAdvertised"))
        wait_for("status", lambda: advertised(nat64) == ["lan0"])
        nat64.configure(advertise=LONG, policy=SOURCES)
        wait_for("no warning", lambda: not nat64.metric("nat64_warning", reason="NotAdvertised"))


_DEFAULT_ROUTER = """
import sys
from scapy.layers.inet6 import ICMPv6ND_RA, IPv6
import socket
source, link = sys.argv[1:]
message = bytes(IPv6(src=source, dst="ff02::1", hlim=255) / ICMPv6ND_RA(routerlifetime=1800))[40:]
raw = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
raw.sendto(message, ("ff02::1", 0, 0, socket.if_nametoindex(link)))
"""


def test_it_gives_way_to_a_program_that_makes_the_node_a_default_router(
    lab: Line, host: Node
) -> None:
    with translator(lab.node, advertise=LONG, policy=SOURCES) as nat64:
        has_route(host)
        said = (sys.executable, "-c", _DEFAULT_ROUTER, link_local(lab.node, "lan0"), "lan0")
        lab.node.run(*said)
        wait_for("a warning", lambda: "default route there" in warned(nat64, "NotAdvertised"))
        assert advertised(nat64) == []
        before = nat64.metric("nat64_advertisements_sent_total")
        lab.node.run(*said)
        wait_for("the other's", lambda: host.run("ip", "-6", "route", "show", "default"))
        solicit(host, "valid")
        lab.node.ip("route del default")
        nat64.wait_ready(503, "NoIPv4DefaultRoute")
        assert nat64.metric("nat64_advertisements_sent_total") == before
        nat64.stop()
        nat64.start()
        nat64.wait_ready(503, "NoIPv4DefaultRoute")
        nat64.stop()
        assert "removed advertisement" not in nat64.remove()
        assert "default via" in host.run("ip", "-6", "route", "show", "default")
        assert route(host), "hosts keep what they have"


def test_without_the_right_to_it_the_node_translates_and_says_what_is_missing(
    lab: Line, host: Node
) -> None:
    nat64 = Translator(lab.node, advertise=LONG, policy=SOURCES)
    nat64.prepare()
    nat64.start("setpriv", "--bounding-set", "-net_raw", "--")
    nat64.wait_ready(200, "CAP_NET_RAW")
    assert "NotAdvertised" in nat64.get("readyz")[1]
    assert advertised(nat64) == []
    assert lab.curl("ok") == "ok"
    nat64.close()
