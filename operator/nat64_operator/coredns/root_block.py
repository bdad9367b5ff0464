"""The server block that answers for `.`, with everything that its imports bring, in CoreDNS's
order.

CoreDNS replaces each `import` before a plugin sees anything. So the first of several `forward .`
may be one that the Corefile itself doesn't show. Pure: the files that imports may name come as an
argument, and other files count as empty.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from nat64_dataplane import corefile
from nat64_dataplane.corefile.parser import parse_fragment
from nat64_operator.errors import UnsupportedCorefileError

Files = Mapping[str, str]
"""Text by file name, without folders: what an `import` may find beside the Corefile."""
NO_FILES: Files = MappingProxyType({})
MAX_DEPTH = 8
"""Imports within imports that are followed; people use two."""


class Piece(NamedTuple):
    """One stanza of a server block, written in it or brought by an import."""

    stanza: corefile.Stanza
    via: corefile.Stanza | None
    """The import in the block that brings it; None where it is written there."""

    @property
    def name(self) -> str:
        """The plugin."""
        return self.stanza.name.text

    @property
    def where(self) -> str:
        """For messages: the line in the Corefile, and the file where it is another."""
        if self.via is None:
            return f"line {self.stanza.line}"
        brought = " ".join(self.via.values)
        return f"line {self.via.line}, `import {brought}`: line {self.stanza.line} of what it names"


class Root(NamedTuple):
    """A server block for `.`."""

    tree: corefile.Corefile
    block: corefile.ServerBlock
    pieces: tuple[Piece, ...]
    imported: bool
    snippets: frozenset[str] = frozenset()
    """The names of the snippets that it may import."""
    """Whether the block itself stands in another file than the Corefile."""

    @property
    def where(self) -> str:
        """For messages."""
        return f"line {self.block.line}" + (f" of {self.tree.file}" if self.imported else "")

    def find(self, name: str) -> list[Piece]:
        """Each stanza of a plugin, in order."""
        return [piece for piece in self.pieces if piece.name == name]

    def forwards(self) -> list[Piece]:
        """The stanzas that forward names that no other zone matches."""
        return [p for p in self.find("forward") if p.stanza.values[:1] and is_root(p.stanza)]


def is_root(stanza: corefile.Stanza) -> bool:
    """Whether its first argument is the root, as `.`, `dns://.` or `.:53`."""
    try:
        addresses = corefile.parse_key(stanza.args[0])
    except (corefile.CorefileError, IndexError):
        return False
    return any(address.zone == "." for address in addresses)


def parse(text: str) -> corefile.Corefile:
    """Read a Corefile. Raises UnsupportedCorefileError where it is none."""
    try:
        return corefile.parse(text)
    except (corefile.CorefileError, RecursionError) as error:
        raise UnsupportedCorefileError(f"the Corefile can't be read: {error}") from error


def roots(text: str, files: Files = NO_FILES) -> list[Root]:
    """Every server block for `.` over plain DNS, on any port, that of imports included.

    Raises UnsupportedCorefileError where the text is no Corefile, or has no such block.
    """
    found = list(_roots(text, tuple(sorted(files.items()))))
    if not found:
        raise UnsupportedCorefileError(
            "the Corefile has no server block for `.`, so nothing to forward from"
        )
    return found


@lru_cache(maxsize=64)
def _roots(text: str, files: tuple[tuple[str, str], ...]) -> tuple[Root, ...]:
    tree, by_name = parse(text), dict(files)
    found = list(_of(tree, tree, by_name, imported=False))
    for item in tree.items:
        if isinstance(item, corefile.Stanza):
            for file, content in matching(item, by_name):
                try:
                    other = corefile.parse(content, file)
                except corefile.CorefileError:
                    continue  # CoreDNS doesn't start with such a file, and it is running
                found += _of(other, tree, by_name, imported=True)
    return tuple(found)


def root(text: str, files: Files = NO_FILES) -> Root:
    """The one server block that answers for external names, whatever its port.

    Raises UnsupportedCorefileError if there are several that forward, or none at all.
    """
    found = roots(text, files)
    forwarding = [one for one in found if one.forwards()] or found
    if len(forwarding) > 1:
        places = ", ".join(one.where for one in forwarding)
        raise UnsupportedCorefileError(
            f"the Corefile has several server blocks for `.` ({places}), and it isn't clear which "
            "one answers the pods; join them into one, or use the mode Manual"
        )
    if forwarding[0].imported:
        raise UnsupportedCorefileError(
            f"the server block for `.` is in {forwarding[0].tree.file}, which the Corefile "
            "imports: put it into the Corefile itself, or use the mode Manual"
        )
    return forwarding[0]


UNREAD = "\0"
"""A key among the files: names a ConfigMap with imported files that the operator may not read."""


def problem_of(file: str, text: str) -> str:
    """Why an imported file can't be read; empty where it can."""
    try:
        parse_fragment(text, file)
    except corefile.CorefileError as error:
        return str(error)
    return ""


def matching(stanza: corefile.Stanza, files: Files) -> list[tuple[str, str]]:
    """The files that an import names, in the order in which CoreDNS reads them."""
    pattern = stanza.values[0].rpartition("/")[2] if stanza.values else ""
    known = (name for name in sorted(files) if name != UNREAD)
    return [(name, files[name]) for name in known if fnmatchcase(name, pattern)]


def has_unread_imports(text: str, files: Files = NO_FILES) -> bool:
    """Whether something is imported whose text isn't known."""
    tree = parse(text)
    stanzas = [s for s in tree.items if isinstance(s, corefile.Stanza)]
    stanzas += [s for block in tree.blocks for s in block.find("import")]
    for snippet in tree.snippets.values():
        stanzas += [s for s in snippet.stanzas if s.name.text == "import"]
    return any(
        stanza.values and stanza.values[0] not in tree.snippets and not matching(stanza, files)
        for stanza in stanzas
    )


def _of(
    tree: corefile.Corefile, main: corefile.Corefile, files: Files, *, imported: bool
) -> Iterator[Root]:
    snippets = {**main.snippets, **tree.snippets}
    for block in tree.blocks:
        if block.serves(".", None):
            pieces = tuple(pieces_of(block.stanzas, snippets, files))
            yield Root(tree, block, pieces, imported, frozenset(snippets))


def pieces_of(
    stanzas: tuple[corefile.Stanza, ...],
    snippets: Mapping[str, corefile.Snippet],
    files: Files,
    via: corefile.Stanza | None = None,
    depth: int = 0,
) -> Iterator[Piece]:
    """The stanzas with each import replaced by what it names."""
    for stanza in stanzas:
        if stanza.name.text != "import":
            yield Piece(stanza, via)
            continue
        if not stanza.values or depth >= MAX_DEPTH:
            continue
        outer = via or stanza
        snippet = snippets.get(stanza.values[0])
        if snippet is not None:
            yield from pieces_of(snippet.stanzas, snippets, files, outer, depth + 1)
            continue
        for file, content in matching(stanza, files):
            try:
                brought = parse_fragment(content, file)
            except corefile.CorefileError:
                continue
            yield from pieces_of(brought, snippets, files, outer, depth + 1)
