"""Fixtures of the dataplane tests that need namespaces."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.topology import Line, line
from tests.lab.translator import Translator, translator


def _machine() -> tuple[str, ...]:
    """What a test must not change: links and mounts of the machine's own namespaces."""
    return (*sorted(os.listdir("/sys/class/net")), Path("/proc/self/mounts").read_text())  # noqa: PTH208


@pytest.fixture
def lab() -> Iterator[Line]:
    """pod (IPv6 only) -- node (both) -- router -- internet (IPv4 only), no translator yet."""
    before = _machine()
    with line() as built:
        yield built
    assert _machine() == before, "the test changed the machine's own namespaces"


@pytest.fixture
def nat64(lab: Line) -> Iterator[Translator]:
    """A translator on the lab's node, ready: 64:ff9b:1::/96 to the node's own address."""
    with translator(lab.node) as running:
        yield running
