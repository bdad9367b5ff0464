"""What only a kernel before 6.6 can show: the agent falls back to clsact, and traffic passes."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dataplane.test_agent_life import footprint
from tests.dataplane.test_e2e_traffic import MEGABYTE
from tests.lab.flows import end_all, start_all
from tests.lab.servers import pattern
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
    before = footprint(lab.node)
    nat64 = Translator(lab.node).started()
    assert "nat64:default" in lab.node.run("tc", "filter", "show", "dev", "eth0", "ingress")
    assert "nat64:default" in lab.node.run("tc", "filter", "show", "dev", "nat64-default", "egress")

    out = lab.pod.run("ping", "-6", "-n", "-c", "3", "-i", "0.2", "-W", "10", str(SERVER))
    assert "3 received" in out
    assert lab.curl("peer").split()[0] == str(NODE_V4)
    body = tmp_path / "body"
    body.write_bytes(pattern(MEGABYTE))
    answer = lab.curl("sink", "--data-binary", f"@{body}")
    assert answer.split() == [str(MEGABYTE), hashlib.sha256(body.read_bytes()).hexdigest()]

    flows = start_all(lab.pod)  # TCP and UDP, each byte and datagram checked
    nat64.kill()
    nat64.started()
    end_all(flows)

    nat64.stop()
    nat64.remove()
    assert footprint(lab.node) == before
    nat64.close()
