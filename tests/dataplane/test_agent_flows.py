"""What live flows lose when something happens to the agent or to the node: nothing."""

from __future__ import annotations

import hashlib
import json
import subprocess
import time

import pytest

from tests.lab import flows
from tests.lab.node import wait_for
from tests.lab.servers import pattern
from tests.lab.topology import NODE_V4, ROUTER_V4, Line
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


def test_maps_of_another_layout_are_left_behind_and_the_log_says_why(lab: Line) -> None:
    one = Translator(lab.node)
    lab.node.run("mkdir", "-p", "/sys/fs/bpf/nat64-operator/default/0123456789ab")
    one.started()
    assert "sessions start anew" in one.log()
    assert "are missing there" in one.log()
    assert "0123456789ab" not in lab.node.run("ls", "/sys/fs/bpf/nat64-operator/default")
    assert lab.curl("ok") == "ok"
    one.close()


def test_a_changed_timeout_disturbs_no_flow(lab: Line, nat64: Translator) -> None:
    live = flows.start_all(lab.pod)
    nat64.configure(timeouts={"udp": 200})
    wait_for("new config", lambda: "replaces" in nat64.log() and nat64.get("readyz")[0] == 200)
    flows.end_all(live)


def test_a_pool_that_grows_disturbs_no_flow(lab: Line, nat64: Translator) -> None:
    lab.router.ip("route add 192.0.2.8/29 via 198.51.100.1")
    live = flows.start_all(lab.pod)
    nat64.configure(pools=[{"addresses": "192.0.2.8/29"}, {"addresses": "node"}])
    wait_for("new pool", lambda: "and 8 more" in nat64.get("readyz")[1])
    flows.end_all(live)


def test_a_changed_default_route_disturbs_no_flow(lab: Line, nat64: Translator) -> None:
    live = flows.start_all(lab.pod)
    lab.node.ip(f"route replace default via {ROUTER_V4} dev eth0 src {NODE_V4} mtu 1400")
    time.sleep(1)
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
    """Lost: what was bound to the address itself. UDP gets a binding at the new one at once."""
    _, udp = flows.start_all(lab.pod)
    lab.node.ip(
        "addr add 198.51.100.77/24 dev eth0",
        f"route replace default via {ROUTER_V4} dev eth0 src 198.51.100.77",
        f"addr delete {NODE_V4}/24 dev eth0",
    )
    lab.node.run("ip", "addr", "replace", "198.51.100.77/24", "dev", "eth0")
    lab.node.run("ip", "route", "replace", "default", "via", str(ROUTER_V4), "dev", "eth0")
    wait_for("new address", lambda: "198.51.100.77" in nat64.get("readyz")[1])
    assert lab.curl("peer").split()[0] == "198.51.100.77"
    time.sleep(1)
    seen = udp.end()
    assert seen["alive"], f"UDP did not move on: {seen}"
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
