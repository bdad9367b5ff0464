"""Fixtures of the dataplane tests that need namespaces."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dataplane.machine import Machine, machine
from tests.lab.topology import Line, line
from tests.lab.translator import Translator, translator


def _leaks() -> list[str]:
    """What of ours is in the machine's own namespaces, where others may be at work too."""
    links = [name for name in os.listdir("/sys/class/net") if name.startswith(("nat64", "n64p"))]  # noqa: PTH208
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False)
    return links + [line for line in tables.stdout.splitlines() if "nat64" in line]


@pytest.fixture
def lab() -> Iterator[Line]:
    """pod (IPv6 only) -- node (both) -- router -- internet (IPv4 only), no translator yet."""
    before = _leaks()
    with line() as built:
        yield built
    assert _leaks() == before, "the test changed the machine's own namespaces"


@pytest.fixture
def nat64(lab: Line) -> Iterator[Translator]:
    """A translator on the lab's node, ready: 64:ff9b:1::/96 to the node's own address."""
    with translator(lab.node) as running:
        yield running


@pytest.fixture
def tcx(nat64: Translator) -> Translator:
    """The translator, where the kernel attaches by tcx: Linux 6.6 and later."""
    if not nat64.metric("nat64_translator_info", attached_by="tcx"):
        pytest.skip("this kernel has no tcx")
    return nat64


@pytest.fixture(scope="module")
def shared() -> Iterator[Machine]:
    """The programs on a machine of their own, one for all tests of a file."""
    with machine() as built:
        yield built


@pytest.fixture
def nat(shared: Machine) -> Machine:
    """The same without any state, and with the usual config."""
    shared.reset()
    return shared


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """Where to pin, in a BPF file system of the test's own."""
    libc = ctypes.CDLL(None, use_errno=True)
    where = str(tmp_path).encode()
    assert libc.mount(b"bpf", where, b"bpf", 0, None) == 0
    try:
        yield tmp_path / "nat64-operator"
    finally:
        assert libc.umount2(where, 2) == 0
