"""`python -m tests.bench.publish`: the plots and tables in docs, from the results in docs/results.

Benchmarks write to build/bench, which git ignores. `--keep NAME` copies what is there to
docs/results/NAME.BENCHMARK.json, where NAME says what machine it was. The docs are then made of
everything that is kept, so that each figure in them has its raw runs beside it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench import report
from tests.lab.node import ROOT

BUILD = ROOT / "build" / "bench"
KEPT = ROOT / "docs" / "results"
PAGE = ROOT / "docs" / "performance.md"
BENCHMARKS = ("nat64", "dns64", "rfc9693")
PLOTTED = (
    "tcp_up_1_gbps",
    "tcp_down_1_gbps",
    "tcp_up_8_gbps",
    "tcp_down_8_gbps",
    "udp64_up_pps",
    "udp64_down_pps",
    "new_flows_per_s",
)
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
_BLOCK = re.compile(r"(<!-- results of (\w+) -->\n).*?(<!-- end of results -->)", re.DOTALL)


def keep(name: str, build: Path = BUILD, kept: Path = KEPT) -> list[Path]:
    """Copy the results of this machine's last runs. Raises ValueError."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"--keep: {name!r}: must be lower-case letters, digits and hyphens")
    found = [build / f"{benchmark}.json" for benchmark in BENCHMARKS]
    found = [path for path in found if path.exists()]
    if not found:
        raise ValueError(f"--keep: {name!r}: {build} has no results: run a benchmark first")
    kept.mkdir(parents=True, exist_ok=True)
    written = []
    for path in found:
        target = kept / f"{name}.{path.name}"
        target.write_bytes(path.read_bytes())
        written.append(target)
    return written


def files(kept: Path = KEPT, page: Path = PAGE) -> dict[Path, str]:
    """What the plots and the page should contain."""
    results = {
        benchmark: {
            path.name.partition(".")[0]: json.loads(path.read_text())
            for path in sorted(kept.glob(f"*.{benchmark}.json"))
        }
        for benchmark in BENCHMARKS
    }
    wanted = {
        kept / f"{name}.nat64.svg": _plot(name, result) for name, result in results["nat64"].items()
    }

    def block(match: re.Match[str]) -> str:
        return f"{match[1]}\n{_tables(match[2], results[match[2]])}\n{match[3]}"

    wanted[page] = _BLOCK.sub(block, page.read_text())
    return wanted


def _plot(name: str, result: Mapping[str, Any]) -> str:
    about, ratios = result["machine"], result["ratios"]
    shown = {metric: ratios[metric] for metric in PLOTTED if metric in ratios}
    title = f"Our translator, as a multiple of others ({name}: {about['cpu']}, {about['kernel']})"
    return report.plot(shown, title)


def _tables(benchmark: str, results: Mapping[str, Mapping[str, Any]]) -> str:
    if not results:
        return "No results are kept yet.\n"
    if benchmark == "rfc9693":
        tables = [_rfc9693(name, each) for name, each in results.items()]
    else:
        tables = [_table(benchmark, name, each) for name, each in results.items()]
    return "\n".join(line for table in tables for line in table)


def _rfc9693(name: str, result: Mapping[str, Any]) -> Iterator[str]:
    """Median, least and most of each measurement (RFC 9693)."""
    about, asked = result["machine"], result["parameters"]
    yield (
        f"`{name}`: {about['cpu']}, {about['cpus']} CPUs, Linux {about['kernel']}, on "
        f"{about['date'][:10]} of commit {about['commit']}. {asked['connections']} connections for "
        f"the rates; addresses: {asked['addresses']}; source ports: {asked['source_ports']}; "
        f"destination ports: {asked['destination_ports']}; frames: {asked['frame_bytes']}."
    )
    yield ""
    yield "| | runs | establishment/s | tear-down/s | capacity | limit | tester/s |"
    yield "|---|---|---|---|---|---|---|"
    for gateway, found in result["results"].items():
        cells = [gateway, str(len(found["capacity"]["runs"]))]
        for metric in ("establishment_per_s", "teardown_per_s", "capacity"):
            each = found[metric]
            cells.append(f"{each['median']:.0f} ({each['least']:.0f} to {each['most']:.0f})")
        yield f"| {' | '.join(cells)} | {found['limit']} | {found['tester_rate']} |"
    yield ""


def _table(benchmark: str, name: str, result: Mapping[str, Any]) -> Iterator[str]:
    """Ours, and in the other columns what it is of each of the others."""
    about, ratios = result["machine"], result["ratios"]
    others = list(dict.fromkeys(other for each in ratios.values() for other in each))
    runs = max(len(each["ours"]["runs"]) for each in result["results"].values())
    yield (
        f"`{name}`: {about['cpu']}, {about['cpus']} CPUs, Linux {about['kernel']}; {runs} paired "
        f"runs on {about['date'][:10]} of commit {about['commit']}."
    )
    yield ""
    if benchmark == "nat64":
        yield f"![Ratios of our translator to others on {name}](results/{name}.nat64.svg)"
        yield ""
    yield "| | ours | " + " | ".join(f"of {other}" for other in others) + " |"
    yield "|---" * (len(others) + 2) + "|"
    for metric, each in result["results"].items():
        cells = [ratios.get(metric, {}).get(other) for other in others]
        shown = ["" if cell is None else f"{cell:.2f}" for cell in cells]
        ours = report.number(each["ours"]["median"])
        yield f"| `{metric}` | {ours} | " + " | ".join(shown) + " |"
    yield ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Keep results if asked, then write the docs."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.publish", description=__doc__)
    parser.add_argument("--keep", metavar="NAME", help="first keep this machine's results so")
    options = parser.parse_args(arguments)
    if options.keep is not None:
        try:
            for path in keep(options.keep):
                print(f"kept: {path}")
        except ValueError as error:
            parser.error(str(error))
    for path, text in files().items():
        path.write_text(text)
        print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
