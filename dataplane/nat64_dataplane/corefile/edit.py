"""Edits that change what they mean to and leave every other byte of a Corefile alone.

Each function returns an `Edit`; `apply` puts any number of them into the text. They go with a
tree from `parse`, whose offsets are those of the text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

from nat64_dataplane.corefile.tree import Corefile, ServerBlock, Stanza

INDENT = "    "


class Edit(NamedTuple):
    """Put `text` in the place of `source[start:end]`."""

    start: int
    end: int
    text: str


def apply(text: str, edits: Iterable[Edit]) -> str:
    """Make all edits at once. Raises ValueError where two overlap."""
    result: list[str] = []
    position = 0
    for edit in sorted(edits):
        if edit.start < position:
            raise ValueError(f"two edits of a Corefile overlap at offset {edit.start}")
        result += text[position : edit.start], edit.text
        position = edit.end
    result.append(text[position:])
    return "".join(result)


def replace(stanza: Stanza, text: str) -> Edit:
    """Put `text` where the stanza stands, block included; the indentation before it stays."""
    return Edit(stanza.start, stanza.end, text)


def remove(corefile: Corefile, stanza: Stanza) -> Edit:
    """Take the stanza out, with its whole line or lines where nothing else is on them."""
    text = corefile.text
    start, end = _line_start(text, stanza.start), stanza.end
    newline = text.find("\n", end)
    line_end = len(text) if newline < 0 else newline + 1
    rest = text[end:line_end].strip()
    if text[start : stanza.start].strip() or (rest and not rest.startswith("#")):
        return Edit(stanza.start, stanza.end, "")
    return Edit(start, line_end, "")


def insert_after(corefile: Corefile, stanza: Stanza, text: str) -> Edit:
    """Put `text` on a new line after the stanza's last line, indented as the stanza is."""
    source = corefile.text
    start = _line_start(source, stanza.start)
    indent = source[start : stanza.start]
    if indent.strip():
        indent = INDENT
    text, ending = text.replace("\n", newline_of(source)), newline_of(source)
    newline = source.find("\n", stanza.end)
    if newline < 0 or source[stanza.end : newline].strip().startswith("}"):
        return Edit(stanza.end, stanza.end, ending + _indented(text, indent))
    end = newline + 1
    return Edit(end, end, _indented(text, indent) + ending)


def insert_into(corefile: Corefile, block: ServerBlock, text: str) -> Edit:
    """Put `text` in the block after its last stanza, or right after its brace if it has none."""
    if block.stanzas:
        return insert_after(corefile, block.stanzas[-1], text)
    assert block.close is not None, "a block without braces has stanzas"
    at, ending = block.close.start, newline_of(corefile.text)
    text = text.replace("\n", ending)
    start = _line_start(corefile.text, at)
    if corefile.text[start:at].strip():
        return Edit(at, at, ending + _indented(text, INDENT) + ending)
    return Edit(start, start, _indented(text, corefile.text[start:at] + INDENT) + ending)


def render(
    name: str,
    args: Iterable[str] = (),
    body: Iterable[str] | None = None,
    indent: str = "",
) -> str:
    """Write a stanza; `body` has one line for each option, written with `render` too.

    >>> print(render("forward", [".", "192.0.2.1"], ["policy sequential"]))
    forward . 192.0.2.1 {
        policy sequential
    }
    """
    head = indent + " ".join(quote(word) for word in (name, *args))
    if body is None:
        return head
    lines = "".join(_indented(line, indent + INDENT) + "\n" for line in body)
    return f"{head} {{\n{lines}{indent}}}"


def quote(word: str) -> str:
    """Write a word so that it is read back as one token. Raises ValueError where none can be."""
    plain = word and not word.startswith('"') and "#" not in word and word not in ("{", "}")
    if plain and not any(char.isspace() for char in word):
        return word
    if word.endswith("\\") or '\\"' in word:
        raise ValueError(f"{word!r} can't be written in a Corefile: a backslash before a quote")
    return '"' + word.replace('"', '\\"') + '"'


def content_hash(text: str) -> str:
    """SHA-512 in hex of the text: the `value` of `coredns_reload_version_info` for a Corefile
    without imports, and what the sidecar's `/status` gives as `corefile`.
    """
    return hashlib.sha512(text.encode()).hexdigest()


def newline_of(text: str) -> str:
    """How the text ends its lines: as its first one does."""
    return "\r\n" if text[: text.find("\n") + 1].endswith("\r\n") else "\n"


def _indented(text: str, indent: str) -> str:
    return "\n".join(indent + line if line.strip() else line for line in text.split("\n"))


def _line_start(text: str, at: int) -> int:
    return text.rfind("\n", 0, at) + 1
