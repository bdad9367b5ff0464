"""Output of the command line: aligned columns for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def render(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], output: str) -> str:
    """Rows as a table with these columns, or as a JSON list with every key."""
    if output == "json":
        return json.dumps([dict(row) for row in rows], indent=2, default=str)
    lines = [[column.upper() for column in columns]]
    lines += [[_cell(row.get(column, "")) for column in columns] for row in rows]
    return align(lines)


def _cell(value: object) -> str:
    return str(value) if not isinstance(value, bool) else "yes" if value else "no"


def align(lines: Iterable[Sequence[str]]) -> str:
    """Columns as wide as their widest cell; no trailing blanks."""
    table = list(lines)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in table
    )


def seconds(value: float) -> str:
    """A duration in its largest two units, as in `2h4m`."""
    whole = int(value)
    for size, unit, smaller_size, smaller in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "m"),
        (60, "m", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // smaller_size
            return f"{whole // size}{unit}" + (f"{rest}{smaller}" if rest else "")
    return f"{whole}s"
