"""The edit that gives CoreDNS its own `dns64`, instead of the sidecars."""

from __future__ import annotations

from typing import NamedTuple

from nat64_dataplane import corefile
from nat64_operator.coredns import forward_line, root_block
from nat64_operator.coredns.edit_protocols import Site
from nat64_operator.coredns.root_block import NO_FILES, Files
from nat64_operator.errors import UnsupportedCorefileError

PLUGIN = "dns64"


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
        return forward_line.tokens_of(self.stanza) if self.stanza else ()

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
            # It is written as inside a block; the code that inserts it indents it too.
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
        return forward_line.words_outside(self.tree, self.stanza)


def find_plugin(text: str, files: Files = NO_FILES) -> PluginSite:
    """Find the place of `dns64`: right after the line that forwards, if there is one. CoreDNS has
    its own order of plugins, so any place in the block means the same.
    """
    found = root_block.root(text, files)
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
        """The stanza. One that was there before us is replaced, and restored when our part is
        removed.
        """
        del original
        return plugin_stanza(self)

    def cautious(self) -> Plugin:
        """It asks no sidecar, so no caution is needed."""
        return self

    def without(self, current: Site) -> str | None:
        """The file without the stanza, if it reads as ours does."""
        ours = self.names_us(current)
        return current.replaced("") if ours else current.whole

    def names_us(self, current: Site) -> bool:
        """Whether it says what we want."""
        return current.tokens == tokens_of_text(plugin_stanza(self))


def plugin_stanza(plugin: Plugin) -> str:
    """CoreDNS's dns64 with the options that it and we have in common."""
    body = [f"prefix {plugin.prefix}"]
    body += ["translate_all"] if plugin.translate_all else []
    body += ["allow_ipv4"] if plugin.allow_ipv4 else []
    block = corefile.render(PLUGIN, body=body, indent=corefile.edit.INDENT)
    return block.lstrip()


def tokens_of_text(text: str) -> tuple[str, ...]:
    """The words of a stanza, as a site has them."""
    tree = corefile.parse(f".:53 {{\n{text}\n}}\n")
    stanzas = tree.blocks[0].stanzas
    return forward_line.tokens_of(stanzas[0]) if stanzas else ()
