"""The agent with no more rights than the operator gives its container."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nat64_operator.render.containers import CLAT_CAPABILITIES
from tests.dataplane.test_clat_agent import drop, has_clat, make
from tests.lab.clat import PROGRAM, Clat
from tests.lab.node import Node

pytestmark = pytest.mark.root

ONLY = ",".join(["-all", *(f"+{name.lower()}" for name in CLAT_CAPABILITIES)])
LIMITED = ("setpriv", f"--bounding-set={ONLY}", f"--inh-caps={ONLY}")


@pytest.fixture
def node() -> Iterator[Node]:
    """A node without anything."""
    node = Node("node")
    yield node
    node.close()


def test_its_capabilities_are_enough_to_set_pods_up_and_to_clean_them(node: Node) -> None:
    agent = Clat(node)
    try:
        agent.start(*LIMITED)
        agent.wait_ready()
        make(node, "pod")
        agent.wait_pod("pod-0")
        assert has_clat(node, "pod-0")
        agent.stop()
        node.run(*LIMITED, PROGRAM, "remove", "--name", agent.name)
        assert not has_clat(node, "pod-0")
        drop(node, "pod")
    finally:
        agent.close()


def test_without_the_one_that_enters_namespaces_it_says_so(node: Node) -> None:
    agent = Clat(node)
    most = ",".join(["-all", "+net_admin", "+bpf", "+perfmon"])
    try:
        make(node, "pod")
        agent.start("setpriv", f"--bounding-set={most}", f"--inh-caps={most}")
        agent.wait_pod("pod-0", "Failed", "EPERM")
        assert not has_clat(node, "pod-0")
        agent.kill()
        drop(node, "pod")
    finally:
        agent.close()
