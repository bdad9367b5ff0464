"""What live flows lose when something happens to the agent or to the node: nothing, unless a
test says what."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from ipaddress import IPv4Address

import pytest

from nat64_dataplane import pref64
from tests.lab import flows
from tests.lab.node import Lab, Node, wait_for
from tests.lab.servers import pattern
from tests.lab.topology import NODE_V4, PREFIX, ROUTER_V4, SERVER_V4, Line
from tests.lab.translator import Translator

pytestmark = pytest.mark.root

LARGE = 40_000_000


def test_a_killed_agent_loses_nothing_in_mid_transfer(lab: Line, nat64: Translator) -> None:
    transfer = lab.pod.start(
        "sh",
        "-c",
        f"curl -gsS --limit-rate 20M --max-time 60 '{lab.url(f'bytes/{LARGE}')}' | sha256sum",
        stdout=subprocess.PIPE,
    )
    live = flows.start_all(lab.pod)
    nat64.kill()
    time.sleep(0.5)
    nat64.start()
    nat64.wait_ready()
    out, _ = transfer.communicate(timeout=60)
    assert out.split()[0] == hashlib.sha256(pattern(LARGE)).hexdigest()
    flows.end_all(live)


def test_flows_go_on_while_no_agent_runs(lab: Line, nat64: Translator) -> None:
    live = flows.start_all(lab.pod)
    nat64.kill()
    assert lab.curl("ok") == "ok", "new flows too"
    flows.end_all(live)


def test_a_restarted_agent_finds_every_session(lab: Line, nat64: Translator) -> None:
    live = flows.start_all(lab.pod)
    before = {(s["client"], s["address"]) for s in nat64.json("sessions")}
    nat64.stop()
    nat64.start()
    nat64.wait_ready()
    assert before <= {(s["client"], s["address"]) for s in nat64.json("sessions")}
    flows.end_all(live)


def test_an_upgraded_program_with_the_same_maps_takes_over_in_place(
    lab: Line, nat64: Translator
) -> None:
    """Every start loads the programs anew: to the kernel a restart is an upgrade."""
    live = flows.start_all(lab.pod)
    before = _program_ids(nat64)
    nat64.kill()
    nat64.start()
    wait_for("other programs", lambda: not before & _program_ids(nat64))
    nat64.wait_ready()
    flows.end_all(live)


def test_maps_of_another_size_take_every_session_along(lab: Line, nat64: Translator) -> None:
    live = flows.start_all(lab.pod)
    nat64.configure(limits={"sessions": 200_000})
    wait_for("larger maps", lambda: nat64.metric("nat64_sessions_max") == 200_000)
    assert "sessions carried over" in nat64.log()
    flows.end_all(live)


def test_another_size_at_a_restart_takes_every_session_along(lab: Line, nat64: Translator) -> None:
    live = flows.start_all(lab.pod)
    nat64.stop()
    nat64.configure(limits={"sessions": 200_000})
    nat64.start()
    nat64.wait_ready()
    assert "sessions carried over" in nat64.log()
    pinned = nat64.node.run("ls", "/sys/fs/bpf/nat64-operator/default").split()
    assert len(pinned) == 2, f"the old maps and `links`: {pinned}"
    flows.end_all(live)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("mv $pins/$maps $pins/0123456789ab", "their layout is of another version"),
        ("mv $pins/$maps $pins/0123456789ab; rm $pins/*/bib4", "maps bib4 are missing there"),
    ],
    ids=["another version", "incomplete"],
)
def test_maps_of_another_layout_are_left_behind_and_the_log_says_why(
    lab: Line, nat64: Translator, change: str, reason: str
) -> None:
    """Lost: every session. TCP is reset, UDP gets a binding of the new maps at once."""
    live = flows.start_all(lab.pod, patience=3)
    nat64.stop()
    maps = "pins=/sys/fs/bpf/nat64-operator/default; maps=$(ls $pins | grep -v links); "
    nat64.node.run("sh", "-c", maps + change)
    nat64.start()
    nat64.wait_ready()
    assert "sessions start anew, those of 0123456789ab stay behind: " + reason in nat64.log()
    assert "0123456789ab" not in nat64.node.run("ls", "/sys/fs/bpf/nat64-operator/default")
    assert lab.curl("ok") == "ok"
    live[0].gone()
    flows.end_without_tcp(live)


_MANY = """
import socket, sys
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
for port in range(20000, 21100):
    s.sendto(b"", (sys.argv[1], port))
"""


def test_fewer_sessions_than_there_are_start_anew_and_the_log_says_why(
    lab: Line, nat64: Translator
) -> None:
    """Lost: every session, while the old programs never stop before the new ones run."""
    live = flows.start_all(lab.pod, patience=3)
    unanswered = pref64.embed(PREFIX, IPv4Address("203.0.113.99"))
    lab.pod.run(sys.executable, "-c", _MANY, str(unanswered))
    nat64.configure(limits={"sessions": 1024})
    wait_for("smaller maps", lambda: nat64.metric("nat64_sessions_max") == 1024)
    assert "and limits.sessions is 1024" in nat64.log()
    assert lab.curl("ok") == "ok"
    live[0].gone()
    flows.end_without_tcp(live)


def test_a_changed_timeout_disturbs_no_flow(lab: Line, nat64: Translator) -> None:
    live = flows.start_all(lab.pod)
    nat64.configure(timeouts={"udp": 200})
    wait_for("new config", lambda: "replaces" in nat64.log() and nat64.get("readyz")[0] == 200)
    flows.end_all(live)


def test_a_pool_that_grows_and_shrinks_disturbs_no_flow(lab: Line, nat64: Translator) -> None:
    lab.router.ip("route add 192.0.2.8/29 via 198.51.100.1")
    live = flows.start_all(lab.pod)
    nat64.configure(pools=[{"addresses": "192.0.2.8/29"}, {"addresses": "node"}])
    wait_for("new pool", lambda: "and 8 more" in nat64.get("readyz")[1])
    time.sleep(1.5)  # a flow's note expires
    nat64.configure(pools=[{"addresses": "node"}])
    wait_for("old pool", lambda: "and 8 more" not in nat64.get("readyz")[1])
    time.sleep(1.5)
    flows.end_all(live)


def test_flows_follow_a_changed_default_route_to_another_router(
    lab: Line, nat64: Translator
) -> None:
    """Lost: nothing. What the second router's link carries is what the flows send."""
    with Lab() as more:
        second = more.node("second")
        lab.node.join(second, "eth1", "node0")
        second.join(lab.internet, "eth0", "router1")
        second.sysctl(net__ipv4__ip_forward=1)
        second.ip(
            "addr add 198.51.101.254/24 dev node0",
            "addr add 192.0.2.1/24 dev eth0",
            f"route add {NODE_V4}/32 via 198.51.101.1 dev node0",
            f"route add {SERVER_V4}/32 via 192.0.2.10 dev eth0",
        )
        lab.internet.ip(
            "addr add 192.0.2.10/24 dev router1",
            f"route add {NODE_V4}/32 via 192.0.2.1 src {SERVER_V4}",
        )
        way = f"default via 198.51.101.254 dev eth1 src {NODE_V4}"
        lab.node.ip("addr add 198.51.101.1/24 dev eth1", f"route add {way} metric 9")
        wait_for("second uplink", lambda: "eth0, eth1" in nat64.get("readyz")[1])

        def carried(router: Node) -> int:
            shown = json.loads(router.run("ip", "-s", "-j", "link", "show", "node0"))
            return int(shown[0]["stats64"]["rx"]["packets"])

        live = flows.start_all(lab.pod)
        assert carried(lab.router) > 20
        unused = carried(second)
        lab.node.ip(f"route replace {way}")
        wait_for("flows on the second router", lambda: carried(second) > unused + 100)
        time.sleep(1.5)  # a flow's note of its way expires
        before, after = carried(lab.router), carried(second)
        wait_for("more of them", lambda: carried(second) > after + 100)
        assert carried(lab.router) < before + 10, "the old way is left to its ARP"
        flows.end_all(live)


def test_another_uplink_that_comes_and_goes_disturbs_no_flow(lab: Line, nat64: Translator) -> None:
    live = flows.start_all(lab.pod)
    lab.node.join(lab.router, "eth1", "node1")
    lab.node.ip("addr add 198.51.101.1/24 dev eth1", "route add default dev eth1 metric 9")
    wait_for("second uplink", lambda: "eth0, eth1" in nat64.get("readyz")[1])
    lab.node.ip("link delete eth1")
    wait_for("one uplink", lambda: "eth1" not in nat64.get("readyz")[1])
    flows.end_all(live)


def test_a_deleted_link_is_back_before_tcp_gives_up(lab: Line, nat64: Translator) -> None:
    """Lost: what was under way until the agent noticed. Kept: every session."""
    live = flows.start_all(lab.pod)
    lab.node.ip("link delete nat64-default")
    wait_for("repair", lambda: "repaired" in nat64.log())
    time.sleep(1.5)
    flows.end_all(live, gap=True)


def test_with_the_address_its_tcp_flows_go_and_udp_moves_on(lab: Line, nat64: Translator) -> None:
    """Lost: what was bound to the address itself: TCP hears nothing more, UDP gets a binding at the
    new one at once."""
    live = flows.start_all(lab.pod, patience=3)
    lab.node.ip(
        "addr add 198.51.100.77/24 dev eth0",
        f"route replace default via {ROUTER_V4} dev eth0 src 198.51.100.77",
        f"addr delete {NODE_V4}/24 dev eth0",
    )
    lab.node.run("ip", "addr", "replace", "198.51.100.77/24", "dev", "eth0")
    lab.node.run("ip", "route", "replace", "default", "via", str(ROUTER_V4), "dev", "eth0")
    wait_for("new address", lambda: "198.51.100.77" in nat64.get("readyz")[1])
    assert lab.curl("peer").split()[0] == "198.51.100.77"
    live[0].gone()
    flows.end_without_tcp(live)
    assert "198.51.100.1:" not in str(nat64.json("bib")), "no binding of the old address is left"


def test_a_node_that_loses_ipv4_says_so_and_every_flow_outlives_it(
    lab: Line, nat64: Translator
) -> None:
    """Lost: what was sent while there was no route. Kept: every session."""
    live = flows.start_all(lab.pod)
    lab.node.ip("route delete default")
    nat64.wait_ready(503, "NoIPv4DefaultRoute")
    lab.node.ip(f"route add default via {ROUTER_V4} dev eth0")
    nat64.wait_ready()
    assert lab.curl("ok") == "ok"
    time.sleep(1.5)
    flows.end_all(live, gap=True)


def test_an_uplink_that_was_replaced_carries_the_old_flows(lab: Line, nat64: Translator) -> None:
    """The same address on another link, as when a driver reloads. Kept: every session."""
    live = flows.start_all(lab.pod)
    lab.node.ip("link delete eth0")
    lab.node.join(lab.router, "eth0", "node0")
    lab.router.ip(f"addr add {ROUTER_V4}/24 dev node0")
    lab.node.ip(f"addr add {NODE_V4}/24 dev eth0", f"route add default via {ROUTER_V4} dev eth0")
    wait_for("traffic", lambda: lab.curl("ok", "--max-time", "2") == "ok")
    time.sleep(1.5)
    flows.end_all(live, gap=True)


def _program_ids(nat64: Translator) -> set[str]:
    """Ids of this translator's pinned programs."""
    shown = json.loads(nat64.node.run("bpftool", "-f", "-j", "prog", "show"))
    return {
        str(each["id"])
        for each in shown
        if any(f"/{nat64.name}/" in path for path in each.get("pinned", ()))
    }
