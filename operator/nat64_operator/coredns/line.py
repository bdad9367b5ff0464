"""The one `forward .` line of a cluster's Corefile: found, changed, put back; nothing else is.

Pure. Positions come from the Corefile package, so every byte outside the line stays, comments and
plugins that we don't know included.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_address
from typing import NamedTuple

from nat64_dataplane import corefile
from nat64_operator.api.policy import FailMode
from nat64_operator.errors import UnsupportedCorefileError

DNS_PORT = 53
MAX_UPSTREAMS = 15
"""CoreDNS's own bound on one `forward` stanza."""


class Line(NamedTuple):
    """The stanza with the file that it stands in."""

    tree: corefile.Corefile
    stanza: corefile.Stanza

    @property
    def upstreams(self) -> tuple[str, ...]:
        """What is asked, in order."""
        return self.stanza.values[1:]

    @property
    def text(self) -> str:
        """The stanza as written, block included."""
        return self.tree.text[self.stanza.start : self.stanza.end]

    @property
    def tokens(self) -> tuple[str, ...]:
        """The stanza's words: equal for two that differ in spaces and comments only."""
        return tokens_of(self.stanza)

    @property
    def whole(self) -> str:
        """The file."""
        return self.tree.text

    def replaced(self, text: str) -> str:
        """The file with `text` in the stanza's place."""
        return corefile.apply(self.tree.text, [corefile.replace(self.stanza, text)])

    def outside(self) -> list[str]:
        """Every word but the stanza's."""
        return words_outside(self.tree, self.stanza)


@lru_cache(maxsize=64)
def find(text: str) -> Line:
    """Find the line that sends external names on. Raises UnsupportedCorefileError if none does."""
    try:
        tree = corefile.parse(text)
    except corefile.CorefileError as error:
        raise UnsupportedCorefileError(f"the Corefile can't be read: {error}") from error
    block = tree.find_block(".", DNS_PORT)
    if block is None:
        raise UnsupportedCorefileError(
            "the Corefile has no server block for `.` on port 53, so nothing to forward from"
        )
    lines = [s for s in block.find("forward") if s.values[:1] == (".",)]
    if len(lines) == 1:
        return Line(tree, lines[0])
    if lines:
        numbers = ", ".join(str(stanza.line) for stanza in lines)
        raise UnsupportedCorefileError(
            f"the Corefile has several `forward .` lines ({numbers}): which one answers for "
            "external names can't be told; use the mode Manual"
        )
    imports = [s.values[0] for s in block.find("import") if s.values]
    hint = f" (it may be in what it imports: {', '.join(imports)})" if imports else ""
    raise UnsupportedCorefileError(
        f"the Corefile's server block for `.` (line {block.line}) has no `forward .` line{hint}; "
        "use the mode Manual"
    )


def upstream(address: str) -> str:
    """An address as an upstream."""
    ip = ip_address(address)
    return f"[{ip}]:{DNS_PORT}" if ip.version == 6 else f"{ip}:{DNS_PORT}"


def wired(original: Line, address: str, fail_mode: FailMode) -> str:
    """The stanza with the sidecars as its first upstream, its own options kept.

    Several upstreams are asked in order, not at random: those behind the sidecars answer without
    synthesis, and only when no sidecar does.
    """
    own = upstream(address)
    upstreams = [own]
    if fail_mode is FailMode.FALLBACK:
        upstreams += [u for u in original.upstreams if u != own][: MAX_UPSTREAMS - 1]
    stanza, source = original.stanza, original.tree.text
    head = corefile.render("forward", [".", *upstreams])
    policy = [s for s in stanza.body or () if s.name.text == "policy"]
    if len(upstreams) == 1 or [s.values for s in policy] == [("sequential",)]:
        return head + source[_head_end(stanza) : stanza.end]
    if policy:
        edits = [corefile.replace(s, "policy sequential") for s in policy]
        edits.append(corefile.Edit(stanza.start, _head_end(stanza), head))
        return _within(source, stanza, edits)
    indent = _indent(original)
    if stanza.body is None or stanza.close is None:
        return f"{head} {{\n{indent}{corefile.edit.INDENT}policy sequential\n{indent}}}"
    inner = _inner_indent(original) or indent + corefile.edit.INDENT
    opening = source.index("{", _head_end(stanza)) + 1
    edits = [
        corefile.Edit(stanza.start, _head_end(stanza), head),
        corefile.Edit(opening, opening, f"\n{inner}policy sequential"),
    ]
    return _within(source, stanza, edits)


def without(current: Line, address: str) -> str | None:
    """The file with the line as it probably was before it was wired to `address`; None where it
    names no other upstream. What was made for the wiring goes too: `policy sequential` where one
    upstream is left, and a block that held nothing else.
    """
    own = upstream(address)
    others = [u for u in current.upstreams if u != own]
    if own not in current.upstreams:
        return current.tree.text
    if not others:
        return None
    stanza = current.stanza
    head = corefile.Edit(
        stanza.start, _head_end(stanza), corefile.render("forward", [".", *others])
    )
    ours = [s for s in stanza.options("policy") if s.values == ("sequential",)]
    if len(others) > 1 or not ours:
        return corefile.apply(current.tree.text, [head])
    if stanza.body is not None and len(stanza.body) == len(ours):
        return corefile.apply(current.tree.text, [head._replace(end=stanza.end)])
    removed = [corefile.remove(current.tree, option) for option in ours]
    return corefile.apply(current.tree.text, [head, *removed])


def words_outside(tree: corefile.Corefile, stanza: corefile.Stanza | None) -> list[str]:
    """Every word of a file that isn't part of a stanza."""
    start, end = (stanza.start, stanza.end) if stanza else (0, 0)
    return [t.text for t in corefile.tokenize(tree.text) if not start <= t.start < end]


def _within(source: str, stanza: corefile.Stanza, edits: list[corefile.Edit]) -> str:
    after = len(source) - stanza.end
    return corefile.apply(source, edits)[stanza.start : -after or None]


def _head_end(stanza: corefile.Stanza) -> int:
    return (stanza.args[-1] if stanza.args else stanza.name).end


def _indent(line: Line) -> str:
    source, start = line.tree.text, line.stanza.start
    indent = source[source.rfind("\n", 0, start) + 1 : start]
    return indent if not indent.strip() else corefile.edit.INDENT


def _inner_indent(line: Line) -> str | None:
    if not line.stanza.body:
        return None
    source, start = line.tree.text, line.stanza.body[0].start
    indent = source[source.rfind("\n", 0, start) + 1 : start]
    return indent if not indent.strip() else None


def tokens_of(stanza: corefile.Stanza) -> tuple[str, ...]:
    """A stanza's words: equal for two that differ in spaces and comments only."""
    words = [stanza.name.text, *stanza.values]
    if stanza.body is not None:
        words.append("{")
        for option in stanza.body:
            words += [*tokens_of(option), "\n"]
        words.append("}")
    return tuple(words)
