"""What only a kernel before 6.6 can show: the agent falls back to clsact, and traffic passes."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dataplane.test_agent_life import footprint
from tests.lab.flows import Flow
from tests.lab.node import wait_for
from tests.lab.probes import megabyte_both_ways, udp_echo
from tests.lab.topology import NODE_V4, SERVER, Line, line
from tests.lab.translator import Translator

_VERSION = tuple(int(part) for part in platform.release().split(".")[:2])

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(_VERSION >= (6, 6), reason="this kernel has tcx: nothing to fall back from"),
]


@pytest.fixture
def lab() -> Iterator[Line]:
    with line() as built:
        yield built


def test_the_agent_falls_back_to_clsact_and_traffic_passes(lab: Line, tmp_path: Path) -> None:
    """One start for all of it, because here it takes its time."""
    lab.node.settle()
    before = footprint(lab.node)
    nat64 = Translator(lab.node).started()
    assert "nat64:default" in lab.node.run("tc", "filter", "show", "dev", "eth0", "ingress")
    assert "nat64:default" in lab.node.run("tc", "filter", "show", "dev", "nat64-default", "egress")

    assert udp_echo(lab.pod, 0, 1, 100, 1452)
    out = lab.pod.run("ping", "-6", "-n", "-c", "3", "-i", "0.2", "-W", "10", str(SERVER))
    assert "3 received" in out
    assert lab.curl("peer").split()[0] == str(NODE_V4)
    megabyte_both_ways(lab, tmp_path)

    def offloads() -> bool:
        """From half a minute on: a CNI may still be about to set the pod's link up."""
        udp_echo(lab.pod, *range(100, 110))
        return nat64.metric("nat64_offloaded_packets_total", direction="6to4") > 0

    wait_for("flow offload on the pod's link", offloads, 300)
    assert "nat64-offload:" in lab.node.run("tc", "filter", "show", "dev", "pod0", "ingress")

    flow = Flow(lab.pod, "tcp")
    flow.moves()
    nat64.kill()
    nat64.started()
    flow.moves()
    seen = flow.end()
    assert not seen["error"], seen
    assert seen["blocks"] > 1, seen

    nat64.stop()
    nat64.remove()
    assert footprint(lab.node) == before
    nat64.close()
