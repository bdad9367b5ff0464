"""Imports and environment variables: from what is written to what is meant.

`expand` is pure: files and variables come through its arguments. `load` is its thin edge.
Like CoreDNS, variables (`{$NAME}`, `{%NAME%}`) are replaced inside tokens and never make new
ones; an unset variable is empty. `import` takes a snippet of that name, else a file, else a
pattern with one `*`; relative paths start from the importing file's directory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from nat64_dataplane.corefile.errors import CorefileError
from nat64_dataplane.corefile.lexer import Token
from nat64_dataplane.corefile.parser import parse, parse_fragment
from nat64_dataplane.corefile.tree import Corefile, ServerBlock, Snippet, Stanza

MAX_IMPORTS = 1000
MAX_IMPORT_DEPTH = 32

ReadFiles = Callable[[Token, str], list[tuple[str, str]]]
"""The import's token and its pattern in; (name, text) of each file that matches, out."""

_VARIABLE = re.compile(r"\{\$([^}]+)\}|\{%([^%]+)%\}")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A Corefile with nothing left to expand, and the files that it was made of, in order."""

    blocks: tuple[ServerBlock, ...]
    files: tuple[tuple[str, str], ...]
    """(name, text) of the Corefile itself and of each imported file, as read."""


def load(path: str | Path, environ: Mapping[str, str] | None = None) -> Loaded:
    """Read and expand the Corefile at `path`.

    Raises CorefileError for what it refuses and OSError where `path` itself can't be read.
    """
    path = Path(path)
    text = _text(path)
    return expand(parse(text, str(path)), os.environ if environ is None else environ, read_files)


def expand(corefile: Corefile, environ: Mapping[str, str], read: ReadFiles) -> Loaded:
    """Replace every import and variable. Raises CorefileError."""
    return _Expansion(corefile, environ, read).run()


def read_files(token: Token, pattern: str) -> list[tuple[str, str]]:
    """Find and read what an import names, from the disk. Raises CorefileError."""
    base = Path(token.file).absolute().parent
    wild = [char for char in pattern if char in "*?["]
    if not wild:
        paths = [base / pattern]
    elif wild != ["*"] or "*" in str(Path(pattern).parent):
        raise CorefileError(
            token.file, token.line, f"import {pattern}: one * in the file's name is all it may hold"
        )
    else:
        parent = base / Path(pattern).parent
        paths = sorted(parent.glob(Path(pattern).name)) if parent.is_dir() else []
    try:
        return [(str(path), _text(path)) for path in paths if path.is_file() or not wild]
    except OSError as error:
        raise CorefileError(
            token.file, token.line, f"import {pattern}: {error.strerror or error}"
        ) from error


def _text(path: Path) -> str:
    try:
        # bytes first: reading as text would turn \r\n into \n and move every offset
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise CorefileError(str(path), 1, f"not UTF-8: {error.reason}") from error


class _Expansion:
    def __init__(self, corefile: Corefile, environ: Mapping[str, str], read: ReadFiles) -> None:
        self.corefile = corefile
        self.environ = environ
        self.read = read
        self.snippets: dict[str, Snippet] = {}
        self.files = [(corefile.file, corefile.text)]
        self.imports = 0

    def run(self) -> Loaded:
        return Loaded(tuple(self.top_level(self.corefile, 0)), tuple(self.files))

    def top_level(self, corefile: Corefile, depth: int) -> Iterator[ServerBlock]:
        for item in corefile.items:
            if isinstance(item, Snippet):
                name = item.name.text[1:-1]
                if name in self.snippets:
                    raise _error(item.name, f"the snippet ({name}) is defined twice")
                self.snippets[name] = item
            elif isinstance(item, ServerBlock):
                keys = tuple(self.substitute(key) for key in item.keys)
                stanzas = tuple(self.stanzas(item.stanzas, depth))
                yield replace(item, keys=keys, stanzas=stanzas)
            else:
                pattern = self.pattern(item, depth)
                for file, text in self.read(item.name, pattern):
                    self.files.append((file, text))
                    yield from self.top_level(parse(text, file), depth + 1)

    def stanzas(self, stanzas: tuple[Stanza, ...], depth: int) -> Iterator[Stanza]:
        for stanza in stanzas:
            if stanza.name.text == "import":
                yield from self.imported(stanza, depth)
                continue
            yield replace(
                stanza,
                name=self.substitute(stanza.name),
                args=tuple(self.substitute(token) for token in stanza.args),
                body=None if stanza.body is None else tuple(self.stanzas(stanza.body, depth)),
            )

    def imported(self, stanza: Stanza, depth: int) -> Iterator[Stanza]:
        pattern = self.pattern(stanza, depth)
        if (snippet := self.snippets.get(pattern)) is not None:
            yield from self.stanzas(snippet.stanzas, depth + 1)
            return
        for file, text in self.read(stanza.name, pattern):
            self.files.append((file, text))
            yield from self.stanzas(parse_fragment(text, file), depth + 1)

    def pattern(self, stanza: Stanza, depth: int) -> str:
        if len(stanza.args) != 1 or stanza.body is not None:
            raise _error(stanza.name, "import takes one argument: a snippet, a file or a pattern")
        pattern = self.substitute(stanza.args[0]).text
        if not pattern:
            raise _error(stanza.name, "import takes a snippet, a file or a pattern, not nothing")
        self.imports += 1
        if depth >= MAX_IMPORT_DEPTH or self.imports > MAX_IMPORTS:
            raise _error(stanza.name, f"import {pattern}: imports import each other without end")
        return pattern

    def substitute(self, token: Token) -> Token:
        if "{$" not in token.text and "{%" not in token.text:
            return token
        text = _VARIABLE.sub(lambda m: self.environ.get(m[1] or m[2], ""), token.text)
        return replace(token, text=text)


def _error(token: Token, problem: str) -> CorefileError:
    return CorefileError(token.file, token.line, problem)
