"""The translator on kernels that this machine doesn't run: `python -m tests.kernels`."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from tests.cluster.images import own_architecture
from tests.cluster.paths import REPO
from tests.cluster.run import ClusterError, say
from tests.kernels import architecture, emulator, kernel, userland

# Each of the emulators that run side by side takes every second one of such a list, so neighbours
# take about the same time.
TESTS = (
    "tests/kernels/test_uplink_kinds.py",
    "tests/kernels/test_two_nodes.py",
    "tests/kernels/test_random_packets.py",
    "tests/kernels/test_clat.py",
    "tests/dataplane/test_carry_over.py",
    "tests/kernels/test_without_tcx.py",
    "tests/dataplane/test_program_checksums.py",
    "tests/dataplane/test_program_invariants.py",
    "tests/dataplane/test_program_bindings.py",
    "tests/dataplane/test_program_offload.py",
    "tests/dataplane/test_program_clat_prefix.py",
    "tests/dataplane/test_program_flows.py",
    "tests/dataplane/test_program_fragments.py",
    "tests/dataplane/test_program_give_back.py",
    "tests/dataplane/test_program_icmp_errors.py",
    "tests/dataplane/test_program_mss.py",
    "tests/dataplane/test_program_policy.py",
    "tests/dataplane/test_program_prefixes.py",
    "tests/dataplane/test_program_recent.py",
    "tests/dataplane/test_program_steering.py",
    "tests/dataplane/test_program_steer_offload.py",
    "tests/dataplane/test_program_straight.py",
    "tests/dataplane/test_program_strangers.py",
    "tests/dataplane/test_program_tcp.py",
    "tests/dataplane/test_program_translation.py",
    "tests/dataplane/test_program_zones.py",
    "tests/dataplane/test_libbpf_layouts.py",
    "tests/dataplane/test_libbpf_maps.py",
    "tests/dataplane/test_clat_packets.py",
    "tests/dataplane/test_clat_slots.py",
    "tests/dataplane/test_datapath_life.py",
    "tests/dataplane/test_sweeps.py",
)
# On another architecture: what depends on it. Structures and system calls, the verifier and what
# the kernel compiles, each program that we install.
FOREIGN_TESTS = (
    "tests/dataplane/test_libbpf_layouts.py",
    "tests/dataplane/test_libbpf_maps.py",
    "tests/dataplane/test_program_checksums.py",
    "tests/dataplane/test_program_fragments.py",
    "tests/dataplane/test_program_icmp_errors.py",
    "tests/dataplane/test_program_mss.py",
    "tests/dataplane/test_program_prefixes.py",
    "tests/dataplane/test_program_tcp.py",
    "tests/dataplane/test_program_translation.py",
    "tests/dataplane/test_clat_packets.py",
    "tests/dataplane/test_clat_slots.py",
    "tests/dataplane/test_clat_traffic.py",
    "tests/dataplane/test_datapath_life.py",
    *(
        f"tests/dns64/test_server.py::{name}"
        for name in (
            "test_synthesizes_over_udp_and_tcp",
            "test_the_ipv4_wildcard_answers_from_the_address_asked",
            "test_the_wildcard_serves_both_families_and_answers_from_the_address_asked",
            "test_what_is_too_large_for_udp_is_truncated_and_whole_over_tcp",
        )
    ),
    "tests/kernels/test_clat.py",
    "tests/kernels/test_two_nodes.py",
    "tests/kernels/test_without_tcx.py",
)
# With tcx, and newer than the oldest: two nodes in miniature.
NEWER_TESTS = (
    "tests/kernels/test_two_nodes.py",
    "tests/dataplane/test_program_steer_offload.py",
)
LARGE_PAGE_TESTS = (
    "tests/dataplane/test_libbpf_maps.py",
    "tests/dataplane/test_program_fragments.py",
    "tests/dataplane/test_program_translation.py",
    "tests/dataplane/test_clat_traffic.py",
    "tests/dataplane/test_datapath_life.py",
    "tests/kernels/test_two_nodes.py",
)


class Run(NamedTuple):
    """A kernel, and what is shown on it."""

    release: str
    flavour: str
    tests: Sequence[str]
    usual: bool = True
    """Whether it is run where no release is given."""


RUNS = {
    # Debian 12's 6.1 is the oldest that is supported: no tcx, and a verifier that knows less.
    "amd64": (
        Run("bookworm", "amd64", TESTS),
        Run("bookworm-backports", "amd64", NEWER_TESTS, usual=False),
    ),
    "arm64": (
        Run("bookworm", "arm64", FOREIGN_TESTS),
        # With tcx, and with larger pages.
        Run("bookworm-backports", "arm64-16k", LARGE_PAGE_TESTS),
    ),
}
_OPTIONS = ("-m", "not slow and not bulk", "-p", "no:cacheprovider", "-p", "no:xdist", "--color=no")
# Tests run one after the other, so an emulator keeps little more than one CPU busy.
_SIDE_BY_SIDE = min(2, os.cpu_count() or 1)
# The emulator yields to whatever else runs: several times what it takes when nothing does.
_SECONDS = 3600


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.kernels", description=__doc__)
    parser.add_argument(
        "--architecture",
        default=own_architecture(),
        help="of the emulated machine, as Debian calls it; this machine's own, if not given",
    )
    flavours = sorted({run.flavour for runs in RUNS.values() for run in runs})
    parser.add_argument(
        "--flavour",
        choices=flavours,
        help="of Debian's kernel; each that is for this architecture, if not given",
    )
    releases = sorted({run.release for runs in RUNS.values() for run in runs})
    parser.add_argument(
        "--release",
        choices=releases,
        help="of Debian, whose kernel it is; each usual one, if not given",
    )
    parser.epilog = (
        "Other arguments are pytest's: other tests than the usual ones, to be run there."
    )
    options, arguments = parser.parse_known_args()
    chosen = architecture.named(options.architecture)
    failed = False
    for release, flavour, tests, usual in RUNS[chosen.name]:
        if options.flavour not in {None, flavour} or options.release not in {None, release}:
            continue
        if not (usual or options.release):
            continue
        kernel_of_run = kernel.debian(release, flavour, chosen.name)
        machine = emulator.Machine(chosen, kernel_of_run, userland.ensure(chosen.name))
        place = REPO / "build/kernels" / f"{release}-{flavour}"
        # Pytest's own arguments may be options, which belong together.
        shares = [arguments] if arguments else _shares(tests)
        failed |= not _passes(machine, shares, place)
    return int(failed)


def _shares(tests: Sequence[str]) -> list[Sequence[str]]:
    """What each of the emulators runs."""
    return [tests[first::_SIDE_BY_SIDE] for first in range(_SIDE_BY_SIDE)]


def _passes(machine: emulator.Machine, shares: Sequence[Sequence[str]], place: Path) -> bool:
    """Run each share in an emulator of its own, and say what came of them."""
    began = time.monotonic()
    places = [place / str(number) for number in range(1, len(shares) + 1)]
    with ThreadPoolExecutor(len(shares)) as pool:
        ends = [
            pool.submit(emulator.test, machine, [*_OPTIONS, *tests], _SECONDS, where)
            for tests, where in zip(shares, places, strict=True)
        ]
    counts = dict.fromkeys(("tests", "errors", "failures", "skipped"), 0)
    failed, skipped = False, []
    for end, where in zip(ends, places, strict=True):
        try:
            code = end.result()
        except ClusterError as error:
            say(f"kernels: {error}")
            failed = True
            continue
        if code != 0:
            failed = True
            say((where / "console.log").read_text(errors="replace"))
        suite = next(ElementTree.parse(where / "junit.xml").iter("testsuite"))
        counts = {name: number + int(suite.get(name, 0)) for name, number in counts.items()}
        skipped += [
            f"skipped {case.get('name')}: {skip.get('message')}"
            for case in suite.iter("testcase")
            for skip in case.iter("skipped")
        ]
    passed = counts.pop("tests") - sum(counts.values())
    others = "".join(f", {number} {what}" for what, number in counts.items() if number)
    print(
        f"{machine}: {passed} passed{others} ({time.monotonic() - began:.0f} s)", *skipped, sep="\n"
    )
    # None has a reason to be: a skipped test would hide what this kernel can't do.
    return not failed and not skipped


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ClusterError as error:
        sys.exit(f"kernels: {error}")
