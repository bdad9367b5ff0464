"""Another program before ours at a tcx hook: moved behind ours, and said where it comes back."""

from __future__ import annotations

import sys

import pytest

from tests.lab.node import ROOT, wait_for
from tests.lab.topology import Line
from tests.lab.translator import Translator

pytestmark = pytest.mark.root

STRANGER = """
import os, socket, sys
from pathlib import Path
from nat64_dataplane.translator.node import bpf_link
from tests.dataplane import passprog
name, verdict = sys.argv[1], int(sys.argv[2])
index = socket.if_nametoindex("eth0")
program = passprog.load(verdict)
bpf_link.pin(bpf_link.attach_tcx(program, index, bpf_link.TCX_INGRESS), Path("/sys/fs/bpf") / name)
print(bpf_link.program_id(program), *bpf_link.tcx_chain(index, bpf_link.TCX_INGRESS))
"""
PASS_AND_END = 0


def come_first(lab: Line, name: str) -> int:
    """Attach a program before all others that ends the chain. Returns its id."""
    words = lab.node.run(sys.executable, "-c", STRANGER, name, str(PASS_AND_END), cwd=ROOT).split()
    assert words[1] == words[0], "it is the first of the chain"
    assert len(words) > 2, "ours is there too"
    return int(words[0])


def test_a_program_before_ours_is_moved_behind_it(lab: Line, tcx: Translator) -> None:
    stranger = come_first(lab, "stranger")
    wait_for("repair", lambda: f"move ingress of eth0 before program {stranger}" in tcx.log())
    assert lab.curl("ok") == "ok"
    assert tcx.metric("nat64_warning", reason="HookNotFirst") == 0


def test_one_that_comes_back_again_and_again_is_a_warning(lab: Line, tcx: Translator) -> None:
    for time in range(2):
        stranger = come_first(lab, f"stranger{time}")
        wait_for("repair", lambda n=stranger: f"before program {n}" in tcx.log())  # type: ignore[misc]
    last = come_first(lab, "last")
    wait_for("a warning", lambda: tcx.metric("nat64_warning", reason="HookNotFirst"))
    code, body = tcx.get("readyz")
    assert code == 200
    assert "warning HookNotFirst: " in body
    assert f"ingress of eth0: program {last}" in body
    lab.node.run("rm", "/sys/fs/bpf/last")
    wait_for("its end", lambda: not tcx.metric("nat64_warning", reason="HookNotFirst"))
