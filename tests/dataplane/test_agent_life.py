"""The life of an agent: what it sets up, repairs, survives, refuses, and leaves behind."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from tests.lab.node import Node, wait_for
from tests.lab.topology import NODE_V4, PREFIX, Line
from tests.lab.translator import PROGRAM, Translator, translator

pytestmark = pytest.mark.root

DRIFT = {
    "link": "ip link delete nat64-default",
    "link down": "ip link set nat64-default down",
    "peer link down": "ip link set $(ls /sys/class/net | grep n64p-) down",
    "route": f"ip -6 route delete {PREFIX}",
    "address": "ip addr delete 192.0.0.8/32 dev nat64-default",
    "neighbour": "ip -6 neigh delete fe80::64 dev nat64-default",
    "reverse-path setting": "sysctl -qw net.ipv4.conf.nat64-default.rp_filter=1",
    "notrack table": "nft delete table inet nat64_default",
    "notrack rule": "nft flush chain inet nat64_default output",
    "hook": "rm /sys/fs/bpf/nat64-operator/default/links/*-ingress",
    "every hook": "rm -r /sys/fs/bpf/nat64-operator/default/links",
}


def footprint(node: Node) -> dict[str, str]:
    """All of a node's state that a translator touches."""
    return {
        what: node.run("sh", "-c", command)
        for what, command in {
            "links": "ip -o link | sed 's/ [0-9]*: //; s/qlen.*//'",
            "addresses": "ip -br addr",
            "routes": "ip -4 route show table all; ip -6 route show table all | grep -v multicast",
            "rules": "ip rule; ip -6 rule",
            "neighbours": "ip -6 neigh | grep -i permanent || true",
            "nftables": "nft list ruleset",
            "tc": "for d in $(ls /sys/class/net); do tc filter show dev $d ingress;"
            " tc filter show dev $d egress; done; tc qdisc",
            "pins": "find /sys/fs/bpf -mindepth 1 -not -name '*.debug'",
            "run": "find /run -mindepth 1",
            "sysctls": "sysctl -a 2>/dev/null | grep -E 'forwarding|accept_ra |rp_filter|"
            "accept_local|reserved_ports' | sort",
        }.items()
    }


@pytest.fixture(params=["tcx", "clsact"])
def hooked(lab: Line, request: pytest.FixtureRequest) -> Iterator[Translator]:
    """A ready translator, once with each way to attach programs."""
    one = Translator(lab.node)
    one.arguments = ["--attach", request.param]
    yield one.started()
    one.close()


def test_both_ways_to_attach_carry_traffic(lab: Line, hooked: Translator) -> None:
    assert lab.curl("peer").split()[0] == str(NODE_V4)


def test_removal_leaves_nothing(lab: Line) -> None:
    lab.node.ip("addr add 2001:db8:5::1/64 dev eth0 nodad")
    lab.node.run("sh", "-c", "echo 8080,9000-9010 > /proc/sys/net/ipv4/ip_local_reserved_ports")
    lab.router.ip("route add 192.0.2.8/29 via 198.51.100.1")
    lab.node.settle()
    before = footprint(lab.node)
    with translator(lab.node, pools=[{}, {"addresses": "192.0.2.8/29"}]) as nat64:
        assert lab.curl("ok") == "ok"
        assert footprint(lab.node) != before
        nat64.stop()
        nat64.remove()
        assert footprint(lab.node) == before
        assert nat64.remove() == "", "removing again is no error and finds nothing"


def test_removal_after_clsact_leaves_nothing(lab: Line) -> None:
    lab.node.settle()
    before = footprint(lab.node)
    one = Translator(lab.node)
    one.arguments = ["--attach", "clsact"]
    one.started().stop()
    one.remove()
    assert footprint(lab.node) == before
    one.close()


def test_a_switch_of_the_way_to_attach_leaves_one_set_of_hooks(lab: Line) -> None:
    one = Translator(lab.node)
    for way in ("clsact", "tcx"):
        one.arguments = ["--attach", way]
        one.started()
        assert lab.curl("ok") == "ok"
        one.stop()
    assert "nat64:default" not in lab.node.run("tc", "filter", "show", "dev", "eth0", "ingress")
    one.close()


@pytest.mark.parametrize("what", DRIFT)
def test_what_someone_deletes_comes_back(lab: Line, nat64: Translator, what: str) -> None:
    lab.node.run("sh", "-c", DRIFT[what])
    wait_for("repair", lambda: "repaired" in nat64.log())
    wait_for("traffic", lambda: lab.curl("ok", "--max-time", "2") == "ok")
    time.sleep(0.5)
    assert nat64.get("readyz")[0] == 200
    assert nat64.metric("nat64_repairs_total") >= 1


def test_the_nodes_own_tcp_resets_no_flow(lab: Line, nat64: Translator) -> None:
    """What reaches the node before a hook does, as on an uplink that has just appeared, belongs
    to a flow that the node's TCP knows nothing of."""

    def dial(port: int) -> str:
        command = f"curl -sS --max-time 1 http://{NODE_V4}:{port}/ 2>&1"
        return lab.internet.run("sh", "-c", command, check=False)

    assert "(28)" in dial(61500), "a pool port"
    assert "(7)" in dial(60500), "any other port is the node's own business"


def test_a_quiet_node_is_left_alone(nat64: Translator) -> None:
    time.sleep(1.0)
    before = nat64.log()
    nat64.node.ip("addr add 2001:db8:9::1/64 dev eth0 nodad", "link set lo mtu 65000")
    time.sleep(2.0)
    assert "repaired" not in nat64.log()
    assert nat64.log() == before


def test_the_status_file_says_what_is_programmed(nat64: Translator) -> None:
    status = json.loads(nat64.node.run("cat", "/run/nat64-operator/default/status.json"))
    assert status["prefix"] == str(PREFIX)
    assert status["programmed"] is True
    assert str(NODE_V4) in status["reason"]
    assert status["since"] <= time.time()


def test_a_second_agent_says_why_it_refuses(nat64: Translator) -> None:
    out = nat64.node.run(
        "sh", "-c", f"{PROGRAM} run --config {nat64.file} 2>&1; echo exit $?", check=False
    )
    assert nat64.process
    assert f"another agent (pid {nat64.process.pid}) runs translator 'default'" in out
    assert "exit 3" in out


def test_of_two_agents_started_at_once_one_runs(lab: Line) -> None:
    one, two = Translator(lab.node), Translator(lab.node)
    one.prepare()
    one.start()
    two.start()
    first, second = one.process, two.process
    assert first
    assert second
    wait_for("one to refuse", lambda: 3 in (first.poll(), second.poll()))
    refused, runs = (one, two) if first.poll() == 3 else (two, one)
    runs.wait_ready()
    assert "another agent" in refused.log()
    assert lab.curl("ok") == "ok"
    one.close()
    two.close()


def test_two_translators_share_a_node(lab: Line, nat64: Translator) -> None:
    """Own names, prefixes, ports and addresses to listen at; the same uplink."""
    second = {
        "prefix": "2001:db8:64::/96",
        "pools": [{"ports": "50000-50999"}],
        "listen": "[::]:9465",
    }
    with translator(lab.node, "second", **second) as other:
        url = "http://[2001:db8:64::203.0.113.10]:8080/peer"
        port = int(lab.pod.run("curl", "-gsS", "--max-time", "60", url).split()[1])
        assert 50000 <= port <= 50999
        assert int(lab.curl("peer").split()[1]) >= 61001
        other.stop()
        other.remove()
        assert lab.curl("ok") == "ok"
        reserved = lab.node.run("sysctl", "-n", "net.ipv4.ip_local_reserved_ports")
        assert reserved.strip() == "61001-65535"


def test_what_a_translator_has_is_refused_to_another_one(lab: Line, nat64: Translator) -> None:
    """Also after the first one's agent has died: what it set up is still there."""
    nat64.kill()
    other = Translator(lab.node, "other", listen="[::]:9465", pools=[{"ports": "50000-50999"}])
    other.prepare()
    other.start()
    other.wait_ready(503, "TakenOnNode: prefix: translator 'default' has 64:ff9b:1::/96")
    assert lab.node.run("ip", "link", "show", other.interface, check=False).count("state") == 0
    free = "2001:db8:64::/96"
    other.configure(listen="[::]:9465", prefix=free, pools=[{"ports": "61001-61002"}])
    other.wait_ready(503, "ConfigRefused: pools: translator 'default' has the node's own address")
    other.configure(listen="[::]:9465", prefix=free, pools=[{"ports": "50000-50999"}])
    other.wait_ready(200)
    # A later config that collides is refused, and the running one stays.
    other.configure(listen="[::]:9465", pools=[{"ports": "50000-50999"}])
    other.wait_ready(503, "ConfigRefused: prefix: translator 'default' has 64:ff9b:1::/96")
    [status] = other.json("status")
    assert status["prefix"] == free
    nat64.remove()
    other.configure(listen="[::]:9465", pools=[{"ports": "50000-50998"}])
    other.wait_ready(200, str(PREFIX))
    other.stop()
    other.remove()
    other.close()


def test_removal_refuses_while_an_agent_runs(nat64: Translator) -> None:
    out = nat64.node.run(
        "sh", "-c", f"{PROGRAM} remove --name default 2>&1; echo exit $?", check=False
    )
    assert "stop it first" in out
    assert nat64.get("readyz")[0] == 200


def test_a_bad_config_keeps_the_last_good_one(lab: Line, nat64: Translator) -> None:
    good = nat64.file.read_text()
    nat64.file.write_text(good + "pools: [{ports: 9-1}]\n")
    nat64.wait_ready(503, "ConfigRefused: pools[0]")
    assert lab.curl("ok") == "ok"
    status = json.loads(nat64.node.run("cat", "/run/nat64-operator/default/status.json"))
    assert status["programmed"] is True, "packets are still translated, so DNS64 goes on"
    nat64.file.write_text(good)
    nat64.wait_ready()


def test_a_node_that_was_not_prepared_is_told_how(lab: Line) -> None:
    one = Translator(lab.node)
    one.start()
    one.wait_ready(503, "NotPrepared: net.ipv6.conf.all.forwarding is 0")
    one.prepare()
    one.wait_ready()
    assert lab.curl("ok") == "ok"
    one.close()


def test_a_bad_config_at_the_start_is_one_line(lab: Line) -> None:
    one = Translator(lab.node, prefix="2001:db8::/90")
    out = lab.node.run(
        "sh", "-c", f"{PROGRAM} run --config {one.file} 2>&1; echo exit $?", check=False
    )
    assert out.splitlines() == [
        "nat64-translator: prefix 2001:db8::/90 has length /90: allowed are "
        "/32, /40, /48, /56, /64, /96",
        "exit 2",
    ]
    one.close()


def test_a_new_prefix_takes_over_on_a_live_translator(lab: Line, nat64: Translator) -> None:
    nat64.configure(prefix="2001:db8:64::/96")
    nat64.wait_ready(200, "2001:db8:64::/96")
    url = "http://[2001:db8:64::203.0.113.10]:8080/ok"
    assert lab.pod.run("curl", "-gsS", "--max-time", "60", url) == "ok"
    assert lab.curl("ok", "--max-time", "1", check=False) == ""


def test_a_renamed_interface_replaces_the_old_one(lab: Line, nat64: Translator) -> None:
    nat64.configure(interface="xlat")
    wait_for("new link", lambda: "xlat" in lab.node.run("ip", "-br", "link"))
    wait_for("traffic", lambda: lab.curl("ok", "--max-time", "2") == "ok")
    assert "nat64-default" not in lab.node.run("ip", "-br", "link")


def test_an_interface_of_someone_else_is_not_touched(lab: Line) -> None:
    lab.node.ip("link add nat64-default type bridge")
    one = Translator(lab.node)
    one.prepare()
    one.start()
    one.wait_ready(503, "InterfaceTaken")
    assert "bridge" in lab.node.run("ip", "-d", "link", "show", "nat64-default")
    lab.node.ip("link delete nat64-default")
    one.wait_ready()
    one.close()


def test_three_capabilities_are_enough(lab: Line) -> None:
    """As in an unprivileged pod: /proc/sys read-only, no other capability, none to be gained."""
    one = Translator(lab.node)
    one.prepare()
    lab.node.run("mount", "-o", "bind,ro", "/proc/sys", "/proc/sys")
    some = "-all,+net_admin,+bpf,+perfmon"
    flags = ("--bounding-set", "--inh-caps", "--ambient-caps")
    one.start("setpriv", *(word for flag in flags for word in (flag, some)), "--no-new-privs", "--")
    one.wait_ready()
    assert lab.curl("ok") == "ok"
    lab.node.ip("link delete nat64-default")
    wait_for("repair", lambda: "repaired" in one.log())
    wait_for("traffic", lambda: lab.curl("ok", "--max-time", "2") == "ok")
    one.close()


def test_without_the_capabilities_the_error_names_them(lab: Line) -> None:
    one = Translator(lab.node)
    one.prepare()
    command = f"setpriv --bounding-set -all {PROGRAM} run --config {one.file} 2>&1; echo exit $?"
    out = lab.node.run("sh", "-c", command, check=False).splitlines()
    assert "CAP_BPF" in out[0]
    assert out[-1] == "exit 1"
    one.close()
