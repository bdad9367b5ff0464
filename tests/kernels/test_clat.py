"""The CLAT in miniature: its agent, all kinds of traffic, repair, restart, removal."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.dataplane.test_clat_traffic import curl, megabyte_both_ways, udp, world
from tests.lab.node import Node, wait_for
from tests.lab.probes import probe
from tests.lab.topology import ECHO_PORT, NODE_V4, SERVER_V4

pytestmark = pytest.mark.root


def looks(pod: Node) -> str:
    """All that an agent could change in the pod."""
    return "".join(
        pod.run(*command.split())
        for command in (
            "ip -o -4 addr",  # without the link's state, which may be late
            "ip -4 route show table all",
            "tc qdisc show dev eth0",
            "tc filter show dev eth0 egress",
            "tc filter show dev eth0 ingress",
        )
    )


def test_a_pod_is_set_up_repaired_adopted_and_cleaned(tmp_path: Path) -> None:
    with world() as (lab, _, agent):
        pod = lab.pod
        assert curl(lab, "peer").split()[0] == str(NODE_V4)
        megabyte_both_ways(lab, tmp_path)
        assert udp(lab, 0, 1444, 1445, 9000) == "ok"
        assert udp(lab, 0, 1444, zero=True) == "ok"
        assert " 0% packet loss" in pod.run("ping", "-4", "-n", "-c", "2", str(SERVER_V4))
        hops = [probe(pod, SERVER_V4, ECHO_PORT, hops) for hops in (1, 2, 3)]
        assert [hop[-1] for hop in hops] == ["192.0.0.1", "198.51.100.254", "probe"]

        before = looks(pod)
        pod.run("tc", "qdisc", "del", "dev", "eth0", "clsact")
        pod.run("ip", "-4", "route", "del", "default")
        wait_for("repair", lambda: looks(pod) == before)
        before = looks(pod)
        agent.kill()
        assert curl(lab, "peer").split()[0] == str(NODE_V4)
        agent.start()
        agent.wait_ready()
        assert looks(pod) == before, "the same programs"

        agent.stop()
        agent.remove()
        after = looks(pod)
        assert "clsact" not in after
        assert "192.0.0.2" not in after
        assert "default via" not in after
        assert "nat64-clat" not in lab.node.run("find", "/sys/fs/bpf", "/run")
