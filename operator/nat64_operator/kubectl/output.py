"""Text for people: aligned tables, and colour if a terminal shows it."""

from __future__ import annotations

import argparse
import enum
import json
import os
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TextIO

WIDTH = 100
EXIT_OK, EXIT_UNWELL, EXIT_FAILED = 0, 1, 2


class Tone(enum.Enum):
    """The meaning of a word; the value is its ANSI colour."""

    PLAIN = ""
    GOOD = "32"
    BAD = "31"
    CAREFUL = "33"
    TITLE = "1"


class Cell(NamedTuple):
    """A word of a table with its meaning."""

    text: str
    tone: Tone = Tone.PLAIN


class Paint:
    """Colours words, or doesn't."""

    def __init__(self, colours: bool) -> None:
        self.colours = colours

    @classmethod
    def of(cls, stream: TextIO, environ: Mapping[str, str] = os.environ) -> Paint:
        """Colour for a terminal that can show it and whose owner wants it (no-color.org)."""
        wanted = not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
        return cls(stream.isatty() and wanted)

    def __call__(self, text: str, tone: Tone) -> str:
        """The text in its colour."""
        if not self.colours or tone is Tone.PLAIN:
            return text
        return f"\x1b[{tone.value}m{text}\x1b[0m"


def table(columns: Sequence[str], rows: Iterable[Sequence[str | Cell]], paint: Paint) -> str:
    """Columns as wide as their widest cell, two blanks between, none at a line's end."""
    lines = [[Cell(column) for column in columns]]
    lines += [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
    widths = [max(len(line[index].text) for line in lines) for index in range(len(columns))]
    written = []
    for line in lines:
        parts = [
            paint(cell.text, cell.tone) + " " * (width - len(cell.text))
            for cell, width in zip(line, widths, strict=True)
        ]
        written.append("  ".join(parts).rstrip())
    return "\n".join(written)


def yes_no(value: bool) -> Cell:
    """A truth value for which true is good news."""
    return Cell("yes", Tone.GOOD) if value else Cell("no", Tone.BAD)


def to_json(value: Any) -> str:
    """JSON for programs."""
    return json.dumps(value, indent=2, default=str)


def wrapped(text: str, indent: int) -> str:
    """Text in lines that fit the terminal, all but the first indented."""
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=" " * indent,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    ).strip()


def progress(options: argparse.Namespace, text: str) -> None:
    """On a terminal, say what the program waits for."""
    if sys.stderr.isatty() and options.output != "json":
        say(text)


def say(text: str) -> None:
    """Tell the user, beside the output."""
    print(f"kubectl nat64: {text}", file=sys.stderr)


def show(options: argparse.Namespace, plain: object, people: Callable[[Paint], str]) -> None:
    """Print a result in the form that the user chose."""
    print(to_json(plain) if options.output == "json" else people(Paint.of(sys.stdout)))
