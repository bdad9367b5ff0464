"""The translator on kernels that this machine doesn't run: `python -m tests.kernels`."""

import argparse
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple
from xml.etree import ElementTree

from tests.cluster.images import own_architecture
from tests.cluster.paths import REPO
from tests.cluster.run import ClusterError, say
from tests.kernels import architecture, emulator, kernel, userland

TESTS = (
    "tests/dataplane/test_program_bindings.py",
    "tests/dataplane/test_program_checksums.py",
    "tests/dataplane/test_program_clat_prefix.py",
    "tests/dataplane/test_program_flows.py",
    "tests/dataplane/test_program_fragments.py",
    "tests/dataplane/test_program_give_back.py",
    "tests/dataplane/test_program_icmp_errors.py",
    "tests/dataplane/test_program_invariants.py",
    "tests/dataplane/test_program_mss.py",
    "tests/dataplane/test_program_offload.py",
    "tests/dataplane/test_program_policy.py",
    "tests/dataplane/test_program_prefixes.py",
    "tests/dataplane/test_program_recent.py",
    "tests/dataplane/test_program_steering.py",
    "tests/dataplane/test_program_straight.py",
    "tests/dataplane/test_program_strangers.py",
    "tests/dataplane/test_program_tcp.py",
    "tests/dataplane/test_program_translation.py",
    "tests/dataplane/test_program_zones.py",
    "tests/dataplane/test_libbpf_layouts.py",
    "tests/dataplane/test_libbpf_maps.py",
    "tests/dataplane/test_carry_over.py",
    "tests/dataplane/test_clat_packets.py",
    "tests/dataplane/test_clat_slots.py",
    "tests/dataplane/test_datapath_life.py",
    "tests/dataplane/test_sweeps.py",
    "tests/kernels",
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
    "tests/kernels/test_two_nodes.py",
    "tests/kernels/test_without_tcx.py",
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


RUNS = {
    # Debian 12's 6.1 is the oldest that is supported: no tcx, and a verifier that knows less.
    "amd64": (Run("bookworm", "amd64", TESTS),),
    "arm64": (
        Run("bookworm", "arm64", FOREIGN_TESTS),
        # With tcx, and with larger pages.
        Run("bookworm-backports", "arm64-16k", LARGE_PAGE_TESTS),
    ),
}
_OPTIONS = ("-m", "not slow", "-p", "no:cacheprovider", "-p", "no:xdist", "--color=no")
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
    parser.epilog = (
        "Other arguments are pytest's: other tests than the usual ones, to be run there."
    )
    options, arguments = parser.parse_known_args()
    chosen = architecture.named(options.architecture)
    failed = False
    for release, flavour, tests in RUNS[chosen.name]:
        if options.flavour not in {None, flavour}:
            continue
        began = time.monotonic()
        kernel_of_run = kernel.debian(release, flavour, chosen.name)
        machine = emulator.Machine(chosen, kernel_of_run, userland.ensure(chosen.name))
        place = REPO / "build/kernels" / f"{release}-{flavour}"
        code = emulator.test(machine, [*_OPTIONS, *(arguments or tests)], _SECONDS, place)
        if code != 0:
            say((place / "console.log").read_text(errors="replace"))
        suite = next(ElementTree.parse(place / "junit.xml").iter("testsuite"))
        counts = {name: int(suite.get(name, 0)) for name in ("errors", "failures", "skipped")}
        passed = int(suite.get("tests", 0)) - sum(counts.values())
        others = "".join(f", {number} {what}" for what, number in counts.items() if number)
        seconds = time.monotonic() - began
        print(f"{machine}: {passed} passed{others} ({seconds:.0f} s)")
        for case in suite.iter("testcase"):
            for skip in case.iter("skipped"):
                print(f"skipped {case.get('name')}: {skip.get('message')}")
        # None has a reason to be: a skipped test would hide what this kernel can't do.
        failed |= code != 0 or bool(counts["skipped"])
    return int(failed)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ClusterError as error:
        sys.exit(f"kernels: {error}")
