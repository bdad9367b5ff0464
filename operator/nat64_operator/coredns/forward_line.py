"""The one `forward .` line of a cluster's Corefile: how to find, change and restore it, and nothing
else.

Pure. Positions come from the Corefile package, so every byte outside the line stays, including
comments and plugins that we don't know.
"""

from __future__ import annotations

from ipaddress import ip_address
from itertools import pairwise
from typing import NamedTuple

from nat64_dataplane import corefile
from nat64_operator.api.policy import FailMode
from nat64_operator.coredns import root_block
from nat64_operator.coredns.root_block import Files
from nat64_operator.errors import UnsupportedCorefileError

DNS_PORT = 53
"""The port of the sidecars' Service, whatever port CoreDNS itself listens on."""
MAX_UPSTREAMS = 15
"""CoreDNS's own bound on one `forward` stanza."""


POLICIES = ("random", "round_robin", "sequential")
"""How CoreDNS chooses among upstreams; random where a stanza doesn't say."""


class Line(NamedTuple):
    """The stanza with the file that it stands in."""

    tree: corefile.Corefile
    stanza: corefile.Stanza

    @property
    def upstreams(self) -> tuple[str, ...]:
        """The upstreams, in order."""
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


def find(text: str, files: Files = root_block.NO_FILES) -> Line:
    """Find the line that forwards external names. Raises UnsupportedCorefileError if there is none,
    or if CoreDNS uses another one first.
    """
    found = root_block.root(text, files)
    forwards = found.forwards()
    own = [piece for piece in forwards if piece.via is None]
    if len(own) > 1:
        numbers = ", ".join(str(piece.stanza.line) for piece in own)
        raise UnsupportedCorefileError(
            f"the Corefile has several `forward .` lines ({numbers}), and it isn't clear which one "
            "answers for external names; use the mode Manual"
        )
    if forwards and forwards[0].via is not None:
        raise UnsupportedCorefileError(
            f"the import at {forwards[0].where} brings the `forward .` that CoreDNS uses; put it "
            "into the server block for `.` in the import's place, or use the mode Manual"
        )
    if own:
        return Line(found.tree, own[0].stanza)
    raise UnsupportedCorefileError(_no_line(found))


def _no_line(found: root_block.Root) -> str:
    old = [p for p in found.find("proxy") if p.stanza.args and root_block.is_root(p.stanza)]
    if old:
        return (
            f"{old[0].where}: `proxy` is of CoreDNS before 1.5; replace `proxy` by `forward`, or "
            "use the mode Manual"
        )
    imports = [s.values[0] for s in found.block.find("import") if s.values]
    hint = f" (it may be in what it imports: {', '.join(imports)})" if imports else ""
    return (
        f"the Corefile's server block for `.` (line {found.block.line}) has no `forward .` line"
        f"{hint}; use the mode Manual"
    )


def find_ours(text: str, tokens: tuple[str, ...], files: Files = root_block.NO_FILES) -> Line:
    """Find the line with these words, wherever it is: we may restore what we wrote, whatever else
    the file has now. Raises UnsupportedCorefileError if it isn't there.
    """
    tree = root_block.parse(text)
    found = [
        stanza
        for block in tree.blocks
        for stanza in block.find("forward")
        if tokens_of(stanza) == tokens
    ]
    if len(found) != 1:
        return find(text, files)
    return Line(tree, found[0])


def upstream(address: str) -> str:
    """An address as an upstream."""
    ip = ip_address(address)
    return f"[{ip}]:{DNS_PORT}" if ip.version == 6 else f"{ip}:{DNS_PORT}"


def wired(original: Line, address: str, fail_mode: FailMode) -> str:
    """The stanza with the sidecars as its first upstream, its own options and newlines kept.

    Several upstreams are asked in order, not at random: those behind the sidecars answer without
    synthesis, and only when no sidecar does.
    """
    own = upstream(address)
    upstreams = [own]
    if fail_mode is FailMode.FALLBACK:
        upstreams += [u for u in original.upstreams if u != own][: MAX_UPSTREAMS - 1]
    stanza, source = original.stanza, original.tree.text
    head = corefile.render("forward", [".", *upstreams])
    edits = [corefile.Edit(stanza.start, _head_end(stanza), head)]
    policy = _policies(original)
    if len(upstreams) == 1 or (policy and all(token.text == "sequential" for token in policy)):
        return _within(source, stanza, edits)
    if policy:
        edits += [corefile.Edit(token.start, token.end, "sequential") for token in policy]
        return _within(source, stanza, edits)
    newline, indent = corefile.newline_of(source), _indent(original)
    inner = _inner_indent(original) or indent + ("\t" if "\t" in indent else corefile.edit.INDENT)
    option = f"{newline}{inner}policy sequential"
    if stanza.body is None or stanza.close is None:
        return f"{head} {{{option}{newline}{indent}}}"
    opening = _opening(original)
    following = stanza.body[0].start if stanza.body else stanza.close.start
    if "\n" in source[opening:following]:
        edits.append(corefile.Edit(opening, opening, option))
    else:  # all on one line, which goes on below what is put in
        rest = f"{newline}{inner if stanza.body else indent}"
        edits.append(corefile.Edit(opening, following, option + rest))
    return _within(source, stanza, edits)


def _opening(line: Line) -> int:
    """Where the block's content begins, after its brace."""
    tokens = corefile.tokenize(line.tree.text)
    after = (t for t in tokens if t.start >= _head_end(line.stanza) and t.is_brace("{"))
    return next(after).end


def _policies(line: Line) -> list[corefile.Token]:
    """The word after each `policy` in the block. CoreDNS reads words, not lines: in `{ max_fails 3
    policy random }` it sees two options.
    """
    if line.stanza.close is None:
        return []
    inside = [
        token
        for token in corefile.tokenize(line.tree.text)
        if _head_end(line.stanza) <= token.start < line.stanza.close.start
    ]
    return [
        value
        for word, value in pairwise(inside)
        if word.text == "policy" and value.line == word.last_line and value.text in POLICIES
    ]


def without(current: Line, address: str) -> str | None:
    """The file with the line as it probably was before it was wired to `address`; None if it names
    no other upstream. What was added for the wiring is removed too: `policy sequential` if one
    upstream is left, and a block that had nothing else.
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
