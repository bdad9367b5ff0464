"""The programs' stack, as the oldest supported kernel counts it, without booting it.

Linux 6.1 adds up the frames of a chain of calls, each rounded up to 32 bytes, and refuses more than
512. Newer kernels are more generous, so this machine's own says nothing about it.
"""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict

from nat64_dataplane.bpf import OBJECT

LIMIT, UNIT = 512, 32
_SECTION = re.compile(r"^Disassembly of section (\S+):")
_FUNCTION = re.compile(r"^([0-9a-f]+) <(?!LBB)(\w+)>:")
_FRAME = re.compile(r"\(r10 - (\d+)\)|r\d+ \+= -(\d+)$")
_CALL = re.compile(r"^\s+(\d+):\s+85 10 .*call (-?\d+)$")  # 85 00 calls a helper of the kernel
_RELOCATION = re.compile(r"R_BPF_64_32\s+(\S+)")


def read() -> tuple[dict[str, int], dict[str, set[str]]]:
    """The frame of each function in bytes, and whom it calls."""
    text = subprocess.run(
        ["llvm-objdump", "-d", "-r", OBJECT],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    frames: dict[str, int] = defaultdict(int)
    starts: dict[int, str] = {}
    calls: list[tuple[str, str, int, int, str]] = []
    section = function = ""
    for line in text.splitlines():
        if found := _SECTION.match(line):
            section = found[1]
        elif found := _FUNCTION.match(line):
            function = found[2]
            frames[function] = 0
            if section == ".text":
                starts[int(found[1], 16) // 8] = function
        elif found := _CALL.match(line):
            calls.append((function, section, int(found[1]), int(found[2]), ""))
        elif found := _RELOCATION.search(line):
            calls[-1] = (*calls[-1][:4], found[1])
        for found in _FRAME.finditer(line):
            size = int(found[1] or found[2])
            if size <= LIMIT:
                frames[function] = max(frames[function], size)
    called: dict[str, set[str]] = defaultdict(set)
    for caller, where, at, immediate, name in calls:
        if name and name != ".text":
            called[caller].add(name)
        elif name == ".text":
            called[caller].add(starts[immediate + 1])
        elif where == ".text" and at + immediate + 1 in starts:
            called[caller].add(starts[at + immediate + 1])
    return frames, called


def test_no_chain_of_calls_needs_more_than_the_oldest_kernel_allows() -> None:
    frames, called = read()

    def deepest(function: str) -> tuple[int, list[str]]:
        below = max((deepest(each) for each in called[function]), default=(0, []))
        own = max(UNIT, -(-frames[function] // UNIT) * UNIT)
        return own + below[0], [f"{function}({frames[function]})", *below[1]]

    programs = [name for name in frames if name.startswith("nat64_")]
    assert len(programs) >= 4
    assert any(called[name] for name in programs), "the disassembly is read as it is written"
    for name in programs:
        depth, chain = deepest(name)
        assert depth <= LIMIT, f"{depth} bytes: {' > '.join(chain)}"
