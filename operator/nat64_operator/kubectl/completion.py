"""Completion for shells through kubectl's own: it runs `kubectl_complete-nat64` with the words.

The answer has cobra's form: one candidate per line, then `:` and a number; 4 means "no file names".
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

NO_FILES = ":4"
SHIM = """\
#!/bin/sh
# Put this into PATH as kubectl_complete-nat64, and make it executable.
exec kubectl nat64 __complete "$@"
"""


def complete(parser: argparse.ArgumentParser, words: Sequence[str]) -> list[str]:
    """Candidates for the last word, each followed by a tab and its help."""
    *before, current = words or [""]
    commands = subcommands(parser)
    chosen = next((word for word in before if word in commands), None)
    if chosen is None:
        offered = {name: one.description or "" for name, one in commands.items()}
    elif before and (values := _values(commands[chosen], before[-1])):
        offered = dict.fromkeys(values, "")
    elif current.startswith("-"):
        offered = dict(_options(commands[chosen]))
    else:
        offered = {}
    found = [
        f"{name}\t{text}" if text else name
        for name, text in offered.items()
        if name.startswith(current)
    ]
    return [*found, NO_FILES]


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The commands of a parser."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _options(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    for action in parser._actions:
        text = (action.help or "") % {"default": action.default} if action.help else ""
        for option in action.option_strings:
            if option.startswith("--"):
                yield option, text


def _values(parser: argparse.ArgumentParser, option: str) -> list[str]:
    for action in parser._actions:
        if option in action.option_strings and action.choices:
            return [str(choice) for choice in action.choices]
    return []
