"""The ways to change a Corefile, with one interface: what is ours in it, and how to write it.

`Forward` changes the `forward .` line, `Plugin` adds CoreDNS's own `dns64` beside it, `Import` owns
a whole file that the Corefile imports. `wiring` decides in the same way about all of them.
"""

from __future__ import annotations

from typing import NamedTuple

from nat64_dataplane import corefile
from nat64_operator.api.policy import FailMode, Mode
from nat64_operator.coredns import forward_line, root_block
from nat64_operator.coredns.dns64_plugin import (
    PLUGIN,
    Plugin,
    find_plugin,
    plugin_stanza,
    tokens_of_text,
)
from nat64_operator.coredns.edit_protocols import Edit, Site
from nat64_operator.coredns.forward_line import Line
from nat64_operator.coredns.root_block import NO_FILES, Files
from nat64_operator.errors import UnsupportedCorefileError

__all__ = ["PLUGIN", "Edit", "Forward", "Import", "Plugin", "Site", "find_plugin"]


def find(mode: Mode, text: str, files: Files = NO_FILES) -> Site:
    """Find the place. Raises UnsupportedCorefileError if there is none that can be changed safely.

    `files` is what the Corefile may import, without our own file.
    """
    if mode is Mode.IMPORT:
        return Whole(text)
    if mode is Mode.PLUGIN:
        return find_plugin(text, files)
    return forward_line.find(text, files)


def find_ours(mode: Mode, text: str, applied: Site, files: Files = NO_FILES) -> Site:
    """Find the place that reads as `applied`, even if the file around it has become one that we
    would not edit. Raises UnsupportedCorefileError.
    """
    if mode is not Mode.FORWARD:
        return find(mode, text, files)
    return forward_line.find_ours(text, applied.tokens, files)


class Forward(NamedTuple):
    """The sidecars as the first upstream of `forward .`."""

    address: str
    fail_mode: FailMode
    what: str = "the `forward .` line"

    def wired(self, original: Site) -> str:
        """The line with the sidecars before its upstreams."""
        assert isinstance(original, Line)
        return forward_line.wired(original, self.address, self.fail_mode)

    def cautious(self) -> Forward:
        """With the upstreams behind the sidecars, whatever `fail_mode` says."""
        return self._replace(fail_mode=FailMode.FALLBACK)

    def without(self, current: Site) -> str | None:
        """The file with the sidecars taken out of the line."""
        assert isinstance(current, Line)
        return forward_line.without(current, self.address)

    def names_us(self, current: Site) -> bool:
        """Whether the sidecars are among the upstreams."""
        assert isinstance(current, Line)
        return forward_line.upstream(self.address) in current.upstreams


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
    cautious_content: str = ""
    """With upstreams behind the sidecars; empty where `content` has them."""

    @property
    def what(self) -> str:
        """The key."""
        return f"the key {self.key}"

    def wired(self, original: Site) -> str:
        """Our file."""
        del original
        return self.content

    def cautious(self) -> Import:
        """Our file with upstreams behind the sidecars."""
        return self._replace(content=self.cautious_content or self.content)

    def without(self, current: Site) -> str | None:
        """No file."""
        del current
        return ""

    def names_us(self, current: Site) -> bool:
        """Whether it is our file."""
        return current.tokens == tokens_of_text(self.content)


def overrides(text: str, key: str, files: Files = NO_FILES) -> bool:
    """Whether CoreDNS would use a `forward .` in the imported file `key`.

    CoreDNS uses the first of several, and reads files in the order of their names. Raises
    UnsupportedCorefileError if nothing is imported.
    """
    found = root_block.root(text, files)
    imports = [s for s in found.block.find("import") if _takes_overrides(s)]
    if not imports:
        raise UnsupportedCorefileError(
            "the Corefile's server block for `.` imports no `*.override` files, as k3s and AKS "
            "do; use the mode Forward"
        )
    forwards = root_block.root(text, {**files, key: "forward . ::1\n"}).forwards()
    return bool(forwards) and forwards[0].stanza.name.file == key


def imported(plugin: Plugin, forward: Forward | None, upstreams: tuple[str, ...]) -> str:
    """The content of our file: the sidecars if its `forward .` is used, else CoreDNS's dns64."""
    if forward is None:
        return plugin_stanza(plugin).replace(f"\n{corefile.edit.INDENT}", "\n") + "\n"
    own = forward_line.upstream(forward.address)
    behind = upstreams if forward.fail_mode is FailMode.FALLBACK else ()
    words = [".", own, *(u for u in behind if u != own)][: forward_line.MAX_UPSTREAMS + 1]
    body = ["policy sequential"] if len(words) > 2 else None
    return corefile.render("forward", words, body) + "\n"


def _takes_overrides(stanza: corefile.Stanza) -> bool:
    return any(value.endswith("*.override") for value in stanza.values)
