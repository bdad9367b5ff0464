"""Writes the table of docs/cni.md from the results of the runs in docs/results/environments.

`python -m scripts.environments`; `make record-environments` does it after its runs.
"""

import re
from collections.abc import Mapping
from typing import Any

from tests.cluster.paths import REPO
from tests.environments import results

TARGET = REPO / "docs" / "cni.md"
BEGIN, END = "<!-- results: begin -->\n", "<!-- results: end -->\n"


def render(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The table; what failed and what did not run is told with its reason below it."""
    lines = [
        "| environment | what differs | result | date | versions |",
        "|---|---|---|---|---|",
        *(_row(name, result) for name, result in found.items()),
        "",
    ]
    left_out: dict[tuple[str, str], list[str]] = {}
    for name, result in found.items():
        if reason := result.get("not_run"):
            lines.append(f"- `{name}` did not run: {_cell(reason)}")
        for test, reason in result.get("failed", {}).items():
            lines.append(f"- `{name}` fails `{test}`: {_cell(reason)}")
        for skipped in result.get("skipped", {}).items():
            left_out.setdefault(skipped, []).append(f"`{name}`")
    for (test, reason), names in left_out.items():
        lines.append(f"- `{test}` is left out by {', '.join(names)}: {_cell(reason)}")
    return "\n".join([*lines, ""])


def page(text: str, table: str) -> str:
    """The page with this table in the place of its own."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{TARGET} has no lines {BEGIN.strip()!r} and {END.strip()!r}")
    return before + BEGIN + table + END + after


def _row(name: str, result: Mapping[str, Any]) -> str:
    if "not_run" in result:
        outcome = "not run"
    elif result["failed"]:
        total = len(result["passed"]) + len(result["failed"])
        outcome = f"**{len(result['failed'])} of {total} failed**"
    else:
        outcome = f"{len(result['passed'])} passed"
    versions = ", ".join(f"{what} {version}" for what, version in result["versions"].items())
    cells = (f"`{name}`", result["what"], outcome, result["date"], versions)
    return "| " + " | ".join(map(_cell, cells)) + " |"


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


if __name__ == "__main__":
    TARGET.write_text(page(TARGET.read_text(), render(results.read())))
