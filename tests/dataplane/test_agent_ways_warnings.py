"""Nothing about ways out is silent: warnings of the real agent, and a router with one arm."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from tests.lab.node import wait_for
from tests.lab.topology import HTTP_PORT, POD, SERVER, Line
from tests.lab.translator import Translator, translator

pytestmark = pytest.mark.root

CLIENT = "fd64:9::10"
_SYNS = """
import socket, sys
for port in range(40):
    tcp = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    tcp.setblocking(False)
    tcp.connect_ex((sys.argv[1], 9000 + port))
"""


def warned(nat64: Translator, reason: str) -> str:
    found = nat64.json("status")[0].get("warnings", [])
    return next((each["message"] for each in found if each["reason"] == reason), "")


def gone(nat64: Translator, reason: str) -> bool:
    return not warned(nat64, reason) and not nat64.metric("nat64_warning", reason=reason)


@pytest.mark.parametrize("where", ["FORWARD", "DOCKER-USER"])
def test_a_filter_that_drops_forwarding_is_named_until_it_accepts(
    lab: Line, nat64: Translator, where: str
) -> None:
    """In the chain itself, or where Docker and ufw have an administrator's rules."""
    chain = "{ type filter hook forward priority 0; policy drop; }"
    lab.node.run("nft", f"add table ip filter; add chain ip filter FORWARD {chain}")
    wait_for("a warning", lambda: "ip filter FORWARD" in warned(nat64, "ForwardingDropped"))
    assert nat64.metric("nat64_warning", reason="ForwardingDropped") == 1
    assert lab.curl("ok") == "ok", "but what can be goes around it"
    lab.node.run("nft", "add chain ip filter DOCKER-USER")
    lab.node.run("nft", "add rule ip filter FORWARD jump DOCKER-USER")
    lab.node.run("nft", f'add rule ip filter {where} iifname "nat64-default" accept')
    wait_for("its end", lambda: gone(nat64, "ForwardingDropped"))


def test_a_rule_about_the_node_itself_is_named(lab: Line, nat64: Translator) -> None:
    lab.node.ip("rule add iif lo lookup 100 priority 77")
    wait_for("a warning", lambda: "rule 77: iif lo" in warned(nat64, "RuleNotFollowed"))
    lab.node.ip("rule del priority 77")
    wait_for("its end", lambda: gone(nat64, "RuleNotFollowed"))


def test_a_route_that_takes_the_prefix_away_is_named(lab: Line, nat64: Translator) -> None:
    assert not warned(nat64, "PrefixRoutedElsewhere")
    lab.node.ip("route add 64:ff9b:1::/96 via fd64:1::99 dev pod0 metric 100")
    wait_for("a warning", lambda: "by pod0" in warned(nat64, "PrefixRoutedElsewhere"))
    assert nat64.get("readyz")[0] == 200
    lab.node.ip("route del 64:ff9b:1::/96 via fd64:1::99 dev pod0 metric 100")
    wait_for("its end", lambda: gone(nat64, "PrefixRoutedElsewhere"))
    assert lab.curl("ok") == "ok"


def test_a_way_out_without_any_reply_is_named_until_one_comes(lab: Line, nat64: Translator) -> None:
    lab.router.sysctl(net__ipv4__ip_forward=0)
    lab.pod.run(sys.executable, "-c", _SYNS, str(SERVER))
    wait_for("a warning", lambda: "198.51.100.1" in warned(nat64, "NoReplies"))
    lab.router.sysctl(net__ipv4__ip_forward=1)
    assert lab.curl("ok") == "ok"
    wait_for("its end", lambda: gone(nat64, "NoReplies"))


def trace(nat64: Translator) -> dict[str, Any]:
    where = ("--config", str(nat64.file), "--client", CLIENT, "--destination", str(SERVER))
    found: dict[str, Any] = json.loads(nat64.run("trace", *where, "--port", str(HTTP_PORT)))
    decision: dict[str, Any] = found["destinations"][0]["decision"]
    return decision


def test_a_router_with_one_arm_serves_whom_the_config_names(lab: Line) -> None:
    """The clients are behind the uplink: whatever is not named there may be anybody."""
    lab.node.ip("addr add fd64:9::1/64 dev eth0 nodad")
    lab.router.ip(f"addr add {CLIENT}/64 dev node0 nodad", f"route add {SERVER}/96 via fd64:9::1")
    get = ("curl", "-gsS", "--fail", "--max-time", "3", "--interface", CLIENT, lab.url("peer"))
    with translator(lab.node) as nat64:
        assert "198.51.100.1" not in lab.router.run(*get, check=False)
        assert nat64.metric("nat64_dropped_packets_total", reason="source_behind_uplink") > 0
        decision = trace(nat64)
        assert (decision["outcome"], decision["reason"]) == ("dropped", "source_behind_uplink")
        assert "one-armed" in decision["meaning"]
        nat64.configure(policy={"allowedSources": ["fd64:9::/64", f"{POD}/128"]})
        wait_for("an answer", lambda: "198.51.100.1" in lab.router.run(*get, check=False))
        assert trace(nat64)["outcome"] == "translated"
        assert lab.curl("ok") == "ok"
