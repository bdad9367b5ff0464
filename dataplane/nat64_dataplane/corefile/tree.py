"""What a Corefile holds: server blocks and snippets, and the stanzas in them.

Offsets are into the text of the file that the token names. In a tree from `parse` all are in
`Corefile.text`; in one from `load` stanzas may come from several files and serve only to report.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from nat64_dataplane.corefile.address import Address, parse_key
from nat64_dataplane.corefile.errors import CorefileError
from nat64_dataplane.corefile.lexer import Token


@dataclass(frozen=True, slots=True)
class Stanza:
    """A line with its optional block: a plugin in a server block, or an option in a plugin."""

    name: Token
    args: tuple[Token, ...] = ()
    body: tuple[Stanza, ...] | None = None
    """The lines between braces; None where there are no braces."""
    close: Token | None = None
    """The closing brace, where there is a body."""

    @property
    def start(self) -> int:
        """Offset of the first character of the name."""
        return self.name.start

    @property
    def end(self) -> int:
        """Offset past the last token: the closing brace where there is one."""
        if self.close is not None:
            return self.close.end
        return self.args[-1].end if self.args else self.name.end

    @property
    def line(self) -> int:
        """The line that the name is on, from 1."""
        return self.name.line

    @property
    def values(self) -> tuple[str, ...]:
        """The arguments as text."""
        return tuple(token.text for token in self.args)

    def options(self, name: str) -> Iterator[Stanza]:
        """Each line of the body that is named so."""
        return (line for line in self.body or () if line.name.text == name)


@dataclass(frozen=True, slots=True)
class ServerBlock:
    """Zones and ports with the stanzas that serve them."""

    keys: tuple[Token, ...]
    stanzas: tuple[Stanza, ...]
    close: Token | None
    """None for the brace-less form: one server block that fills the whole file."""

    @property
    def line(self) -> int:
        """The line of the first key, from 1."""
        return self.keys[0].line

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The keys, read. Raises CorefileError for one that can't be."""
        return tuple(address for key in self.keys for address in parse_key(key))

    @property
    def readable_addresses(self) -> tuple[Address, ...]:
        """Those of the keys that can be read. What another program runs may have others: a key
        that can't be read is no zone that anyone looks for, and never raises.
        """
        found: list[Address] = []
        for key in self.keys:
            try:
                found += parse_key(key)
            except CorefileError:
                continue
        return tuple(found)

    def find(self, name: str) -> Iterator[Stanza]:
        """Each stanza that is named so, in order."""
        return (stanza for stanza in self.stanzas if stanza.name.text == name)

    def serves(self, zone: str, port: int | None = 53) -> bool:
        """Whether a key is this very zone (`.`, `example.org`) over plain DNS on this port, or on
        any port for None. Never raises.
        """
        wanted = zone.rstrip(".").lower() + "."
        return any(
            address.zone == wanted and address.transport == "dns" and port in (None, address.port)
            for address in self.readable_addresses
        )


@dataclass(frozen=True, slots=True)
class Snippet:
    """`(name) { ... }`: stanzas that `import name` puts in its place."""

    name: Token
    stanzas: tuple[Stanza, ...]
    close: Token


@dataclass(frozen=True, slots=True)
class Corefile:
    """A whole file. `items` has blocks, snippets and top-level `import` stanzas in order."""

    text: str
    file: str
    items: tuple[ServerBlock | Snippet | Stanza, ...]

    @property
    def blocks(self) -> tuple[ServerBlock, ...]:
        """The server blocks, in order."""
        return tuple(item for item in self.items if isinstance(item, ServerBlock))

    @property
    def snippets(self) -> dict[str, Snippet]:
        """The snippets by name, parentheses left out."""
        return {item.name.text[1:-1]: item for item in self.items if isinstance(item, Snippet)}

    def find_block(self, zone: str, port: int = 53) -> ServerBlock | None:
        """The first server block with this very zone and port among its keys."""
        return next((block for block in self.blocks if block.serves(zone, port)), None)
