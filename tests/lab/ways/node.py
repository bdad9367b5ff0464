"""The lab node on which set-ups are tried, as a test sees it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import msgspec

from tests.lab.node import Lab, Node
from tests.lab.ways.compare import Probe, Report
from tests.lab.ways.setup import Setup
from tests.lab.ways.worker import Job

_PINS = "/sys/fs/bpf/nat64-operator"


class WaysNode:
    """Tries one set-up after the other on the same node."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._worker = node.start(
            sys.executable,
            "-m",
            "tests.lab.ways.worker",
            _PINS,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def try_out(self, setup: Setup, *probes: Probe, **config: Any) -> Report:
        """Set the node up so, connect from it and from a pod, and return what was seen."""
        assert self._worker.stdin
        assert self._worker.stdout
        job = Job(setup, probes, config)
        self._worker.stdin.write(msgspec.json.encode(job).decode() + "\n")
        self._worker.stdin.flush()
        line = self._worker.stdout.readline()
        assert line, f"the worker ended while it tried\n{setup}"
        return msgspec.json.decode(line, type=Report)


@contextlib.contextmanager
def ways_node() -> Iterator[WaysNode]:
    """A node with three Ethernet links and one without, a pod behind a fourth."""
    with Lab() as lab:
        yield WaysNode(lab.node("node"))
