"""The translator on kernels that this machine doesn't run: `python -m tests.kernels`.

Arguments, if any, are pytest's: other tests than the usual ones, to be run there.
"""

import sys
import time
from xml.etree import ElementTree

from tests.cluster.paths import REPO
from tests.cluster.run import ClusterError, say
from tests.kernels import emulator, kernel

# Debian 12's 6.1 is the oldest that is supported: no tcx, and a verifier that knows less.
RELEASES = ("bookworm",)
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
_OPTIONS = ("-m", "not slow", "-p", "no:cacheprovider", "-p", "no:xdist", "--color=no")
# The emulator yields to whatever else runs: several times what it takes when nothing does.
_SECONDS = 3600


def main() -> int:
    failed = False
    for release in RELEASES:
        began = time.monotonic()
        chosen = kernel.debian(release)
        place = REPO / "build/kernels" / release
        code = emulator.test(chosen, [*_OPTIONS, *(sys.argv[1:] or TESTS)], _SECONDS, place)
        if code != 0:
            say((place / "console.log").read_text(errors="replace"))
        suite = next(ElementTree.parse(place / "junit.xml").iter("testsuite"))
        counts = {name: int(suite.get(name, 0)) for name in ("errors", "failures", "skipped")}
        passed = int(suite.get("tests", 0)) - sum(counts.values())
        others = "".join(f", {number} {what}" for what, number in counts.items() if number)
        seconds = time.monotonic() - began
        print(f"Linux {chosen.release}: {passed} passed{others} ({seconds:.0f} s)")
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
