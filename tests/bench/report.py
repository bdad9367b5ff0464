"""What a benchmark leaves: JSON for programs, a table and a plot for people. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any
from xml.sax.saxutils import escape

Runs = Mapping[str, Mapping[str, Sequence[float]]]
"""Metric to subject to one value a run, in order: the n-th runs of two subjects are a pair."""


def results(runs: Runs) -> dict[str, dict[str, dict[str, Any]]]:
    """Median and runs of each metric and subject."""
    return {
        metric: {
            name: {"median": median(values), "runs": list(values)}
            for name, values in by_subject.items()
        }
        for metric, by_subject in runs.items()
    }


def ratios(runs: Runs, ours: str) -> dict[str, dict[str, float]]:
    """For each metric and other subject, the median of the paired ratios ours/other."""
    return {
        metric: {
            name: round(median(a / b for a, b in zip(by_subject[ours], values, strict=True)), 4)
            for name, values in by_subject.items()
            if name != ours and all(values)
        }
        for metric, by_subject in runs.items()
        if ours in by_subject
    }


def table(runs: Runs, ours: str) -> str:
    """Medians, and in brackets what ours is of each."""
    names = list(next(iter(runs.values())))
    compared = ratios(runs, ours)
    lines = [["metric", *names]]
    for metric, by_subject in runs.items():
        row = [metric]
        for name in names:
            value = number(median(by_subject[name])) if name in by_subject else "-"
            ratio = compared.get(metric, {}).get(name)
            row.append(f"{value} (x{ratio:.2f})" if ratio else value)
        lines.append(row)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    )


def number(value: float) -> str:
    """A figure with three or four digits that matter."""
    if value >= 10_000:
        return f"{value / 1000:.0f}k"
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}"


_BAR, _GAP, _LEFT, _WIDTH, _TOP = 15, 14, 150, 560, 46
_COLOURS = ("#2f6f9f", "#7aa6c2", "#b7a369", "#b0605a")


def plot(compared: Mapping[str, Mapping[str, float]], title: str, most: float = 2.0) -> str:
    """Bars of ours/other on a scale from 0 to `most`; a longer one is cut and says its value."""
    names = list(dict.fromkeys(name for ratio in compared.values() for name in ratio))
    group = len(names) * _BAR + _GAP
    height = _TOP + len(compared) * group + 24
    scale = (_WIDTH - _LEFT - 50) / most
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        f'<text x="8" y="16" font-size="13">{escape(title)}</text>',
    ]
    for index, name in enumerate(names):
        x = 8 + index * 135
        parts.append(f'<rect x="{x}" y="25" width="10" height="10" fill="{_COLOURS[index]}"/>')
        parts.append(f'<text x="{x + 14}" y="34">of {escape(name)}</text>')
    for row, (metric, ratio) in enumerate(compared.items()):
        y = _TOP + row * group
        parts.append(
            f'<text x="{_LEFT - 6}" y="{y + group / 2}" text-anchor="end">{escape(metric)}</text>'
        )
        for index, name in enumerate(names):
            value = ratio.get(name, 0.0)
            top = y + index * _BAR
            length = min(value, most) * scale
            parts.append(
                f'<rect x="{_LEFT}" y="{top}" width="{length:.1f}" height="{_BAR - 2}" '
                f'fill="{_COLOURS[index]}"/>'
                f'<text x="{_LEFT + length + 4:.1f}" y="{top + 11}">{value:.2f}</text>'
            )
    at = f"{_LEFT + scale:.1f}"
    parts.append(f'<line x1="{at}" y1="{_TOP - 4}" x2="{at}" y2="{height - 20}" stroke="#444"/>')
    parts.append(f'<text x="{at}" y="{height - 6}" text-anchor="middle">equal</text></svg>')
    return "\n".join(parts) + "\n"
