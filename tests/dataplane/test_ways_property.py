"""Random nodes: a pod reaches over IPv4 what its node reaches, as its node would.

Not a list of what was thought of: for each set-up the node connects, then a pod does through
Pref64, and the two are compared as the far ends saw them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings

from tests.lab.ways.compare import Probe, differences
from tests.lab.ways.node import WaysNode, ways_node
from tests.lab.ways.random_setups import PROBES, setups
from tests.lab.ways.setup import Setup

pytestmark = pytest.mark.root

NODES = int(os.environ.get("NAT64_RANDOM_NODES", "60"))
"""How many nodes are tried; `make test-ways` tries 400."""

COMMON = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    "phases": (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
}


@pytest.fixture(scope="module")
def node() -> Iterator[WaysNode]:
    with ways_node() as built:
        yield built


def compare(node: WaysNode, setup: Setup, probes: list[Probe]) -> None:
    """AssertionError where a pod's connection isn't as its node's own."""
    note(str(setup))
    found = differences(node.try_out(setup, *probes))
    assert not found, "\n".join(found)


@settings(max_examples=NODES, **COMMON)  # type: ignore[arg-type]
@given(setup=setups(), probes=PROBES)
def test_a_pod_goes_as_its_node_goes(node: WaysNode, setup: Setup, probes: list[Probe]) -> None:
    compare(node, setup, probes)
