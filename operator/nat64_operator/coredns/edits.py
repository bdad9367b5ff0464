"""The ways to change a Corefile, behind one face: what is ours in it, and how to put it there.

`Forward` changes the `forward .` line, `Plugin` adds CoreDNS's own `dns64` beside it, `Import`
owns a whole file that the Corefile imports. What is decided about them, `wiring` decides alike.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from nat64_dataplane import corefile
from nat64_operator.api.policy import FailMode, Mode
from nat64_operator.coredns import line, root
from nat64_operator.coredns.line import Line
from nat64_operator.coredns.root import NO_FILES, Files
from nat64_operator.errors import UnsupportedCorefileError

PLUGIN = "dns64"


class Site(Protocol):
    """The place in a text that is ours to change, as it reads now."""

    @property
    def tokens(self) -> tuple[str, ...]:
        """Its words; none where nothing of ours is there yet."""

    @property
    def text(self) -> str:
        """Its characters."""

    @property
    def whole(self) -> str:
        """The text that it is in."""

    def replaced(self, text: str) -> str:
        """The whole with other characters in this place."""

    def outside(self) -> list[str]:
        """Every word that is not in this place."""


class Edit(Protocol):
    """One way to change a Corefile."""

    @property
    def what(self) -> str:
        """The place, for messages."""

    def wired(self, original: Site) -> str:
        """What the place is to read, where it read `original` before us."""

    def without(self, current: Site) -> str | None:
        """The whole as it probably was before us; None where that can't be told."""

    def names_us(self, current: Site) -> bool:
        """Whether the place, changed by others, does still what we want of it."""


def find(mode: Mode, text: str, files: Files = NO_FILES) -> Site:
    """Find the place. Raises UnsupportedCorefileError where there is none to change safely.

    `files` is what the Corefile may import, without what is ours.
    """
    if mode is Mode.IMPORT:
        return Whole(text)
    if mode is Mode.PLUGIN:
        return find_plugin(text, files)
    return line.find(text, files)


def find_ours(mode: Mode, text: str, applied: Site) -> Site:
    """Find the place again that reads as `applied`, though the file around it may have become one
    that we would not edit. Raises UnsupportedCorefileError.
    """
    return line.find_ours(text, applied.tokens) if mode is Mode.FORWARD else find(mode, text)


class Forward(NamedTuple):
    """The sidecars as the first upstream of `forward .`."""

    address: str
    fail_mode: FailMode
    what: str = "the `forward .` line"

    def wired(self, original: Site) -> str:
        """The line with the sidecars before its upstreams."""
        assert isinstance(original, Line)
        return line.wired(original, self.address, self.fail_mode)

    def without(self, current: Site) -> str | None:
        """The file with the sidecars taken out of the line."""
        assert isinstance(current, Line)
        return line.without(current, self.address)

    def names_us(self, current: Site) -> bool:
        """Whether the sidecars are among the upstreams."""
        assert isinstance(current, Line)
        return line.upstream(self.address) in current.upstreams


class PluginSite(NamedTuple):
    """Where `dns64` is, or after which stanza it would be."""

    tree: corefile.Corefile
    block: corefile.ServerBlock
    anchor: corefile.Stanza | None
    """None for the end of the block."""
    stanza: corefile.Stanza | None

    @property
    def tokens(self) -> tuple[str, ...]:
        """The stanza's words."""
        return line.tokens_of(self.stanza) if self.stanza else ()

    @property
    def text(self) -> str:
        """The stanza as written."""
        return self.tree.text[self.stanza.start : self.stanza.end] if self.stanza else ""

    @property
    def whole(self) -> str:
        """The file."""
        return self.tree.text

    def replaced(self, text: str) -> str:
        """The file with another stanza, or none."""
        if self.stanza is None:
            # It is written as it stands inside a block; what inserts it indents it, too.
            text = text.replace(f"\n{corefile.edit.INDENT}", "\n")
            edits = [self._inserted(text)] if text else []
        elif text:
            lines = text.replace("\r\n", "\n").split("\n")
            text = corefile.newline_of(self.whole).join(lines)
            edits = [corefile.replace(self.stanza, text)]
        else:
            edits = [corefile.remove(self.tree, self.stanza)]
        return corefile.apply(self.tree.text, edits)

    def _inserted(self, text: str) -> corefile.Edit:
        if self.anchor is None:
            return corefile.insert_into(self.tree, self.block, text)
        return corefile.insert_after(self.tree, self.anchor, text)

    def outside(self) -> list[str]:
        """Every word but the stanza's."""
        return line.words_outside(self.tree, self.stanza)


def find_plugin(text: str, files: Files = NO_FILES) -> PluginSite:
    """Find the place of `dns64`: right after the line that forwards, where there is one; CoreDNS
    goes by an order of its own, so any place in the block means the same.
    """
    found = root.root(text, files)
    own = [piece.stanza for piece in found.find(PLUGIN) if piece.via is None]
    if len(own) > 1:
        raise UnsupportedCorefileError("the Corefile has several `dns64` stanzas for `.`")
    anchors = [piece.stanza for piece in found.forwards() if piece.via is None]
    return PluginSite(
        found.tree, found.block, anchors[0] if anchors else None, own[0] if own else None
    )


class Plugin(NamedTuple):
    """CoreDNS's own dns64."""

    prefix: str
    translate_all: bool = False
    allow_ipv4: bool = False
    what: str = "the `dns64` stanza"

    def wired(self, original: Site) -> str:
        """The stanza. One that was there before us is replaced, and comes back when we go."""
        del original
        return plugin_stanza(self)

    def without(self, current: Site) -> str | None:
        """The file without the stanza, if it reads as ours does."""
        ours = self.names_us(current)
        return current.replaced("") if ours else current.whole

    def names_us(self, current: Site) -> bool:
        """Whether it says what we want."""
        return current.tokens == _tokens_of_text(plugin_stanza(self))


def plugin_stanza(plugin: Plugin) -> str:
    """CoreDNS's dns64 with the options that it and we have in common."""
    body = [f"prefix {plugin.prefix}"]
    body += ["translate_all"] if plugin.translate_all else []
    body += ["allow_ipv4"] if plugin.allow_ipv4 else []
    block = corefile.render(PLUGIN, body=body, indent=corefile.edit.INDENT)
    return block.lstrip()


class Whole(NamedTuple):
    """A file of our own: all of it is the place."""

    whole: str

    @property
    def tokens(self) -> tuple[str, ...]:
        """All words."""
        return tuple(token.text for token in corefile.tokenize(self.whole))

    @property
    def text(self) -> str:
        """All of it."""
        return self.whole

    def replaced(self, text: str) -> str:
        """The other text."""
        return text

    def outside(self) -> list[str]:
        """Nothing is."""
        return []


class Import(NamedTuple):
    """A file that the Corefile imports into the server block for `.`."""

    content: str
    key: str

    @property
    def what(self) -> str:
        """The key."""
        return f"the key {self.key}"

    def wired(self, original: Site) -> str:
        """Our file."""
        del original
        return self.content

    def without(self, current: Site) -> str | None:
        """No file."""
        del current
        return ""

    def names_us(self, current: Site) -> bool:
        """Whether it is our file."""
        return current.tokens == _tokens_of_text(self.content)


def overrides(text: str, key: str, files: Files = NO_FILES) -> bool:
    """Whether a `forward .` in the imported file `key` is the one that is asked.

    CoreDNS asks the first of several, and reads files in the order of their names. Raises
    UnsupportedCorefileError where nothing is imported.
    """
    found = root.root(text, files)
    imports = [s for s in found.block.find("import") if _takes_overrides(s)]
    if not imports:
        raise UnsupportedCorefileError(
            "the Corefile's server block for `.` imports no `*.override` files, as k3s and AKS "
            "do; use the mode Forward"
        )
    forwards = root.root(text, {**files, key: "forward . ::1\n"}).forwards()
    return bool(forwards) and forwards[0].stanza.name.file == key


def imported(plugin: Plugin, forward: Forward | None, upstreams: tuple[str, ...]) -> str:
    """The content of our file: the sidecars where that can win, else CoreDNS's own dns64."""
    if forward is None:
        return plugin_stanza(plugin).replace(f"\n{corefile.edit.INDENT}", "\n") + "\n"
    own = line.upstream(forward.address)
    behind = upstreams if forward.fail_mode is FailMode.FALLBACK else ()
    words = [".", own, *(u for u in behind if u != own)][: line.MAX_UPSTREAMS + 1]
    body = ["policy sequential"] if len(words) > 2 else None
    return corefile.render("forward", words, body) + "\n"


def _takes_overrides(stanza: corefile.Stanza) -> bool:
    return any(value.endswith("*.override") for value in stanza.values)


def _tokens_of_text(text: str) -> tuple[str, ...]:
    """The words of a stanza, as a site has them."""
    tree = corefile.parse(f".:53 {{\n{text}\n}}\n")
    stanzas = tree.blocks[0].stanzas
    return line.tokens_of(stanzas[0]) if stanzas else ()
