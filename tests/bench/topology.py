"""`python -m tests.bench.topology`: through a gateway node, against plain IPv6 over the same hops.

`direct` is compared with IPv6 routing by the same two nodes, `tunnel` with IPv6 through the same
VXLAN, both without translation. As in tests.bench.nat64: one run on one machine, subjects in
alternating order, medians, and ratios of runs that belong together.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench import report
from tests.bench.nat64 import BUILD, MEASURES_OF_ONE_CLIENT, compare, machine
from tests.bench.topology_subjects import PAIRS, SETUPS, subject


def ratios(runs: report.Runs) -> dict[str, dict[str, float]]:
    """For each metric and pair, the median of the paired ratios: `{"direct/plain_ipv6": 0.97}`."""
    found: dict[str, dict[str, float]] = {}
    for ours, other in PAIRS:
        pair = {
            metric: {name: values for name, values in by_subject.items() if name in (ours, other)}
            for metric, by_subject in runs.items()
        }
        for metric, compared in report.ratios(pair, ours).items():
            for name, ratio in compared.items():
                found.setdefault(metric, {})[f"{ours}/{name}"] = ratio
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.topology", description=__doc__)
    parser.add_argument("--runs", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=1.0, help="per measurement")
    parser.add_argument("--out", type=Path, default=BUILD / "topology.json")
    options = parser.parse_args(arguments)
    if os.geteuid():
        parser.error("needs root: it makes network namespaces")
    about = machine()
    measures = MEASURES_OF_ONE_CLIENT
    runs = compare(list(SETUPS), options.runs, options.seconds, subject, measures)
    compared = ratios(runs)
    found: dict[str, Any] = {
        "machine": about,
        "results": report.results(runs),
        "ratios": compared,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=2) + "\n")
    for metric, by_pair in compared.items():
        print(f"{metric:24}", *(f"{pair} {ratio:.3f}" for pair, ratio in by_pair.items()))
    print(f"written: {options.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
