"""Tokens to a tree, with nothing expanded: what is written, where it is written."""

from __future__ import annotations

from nat64_dataplane.corefile.errors import CorefileError
from nat64_dataplane.corefile.lexer import Token, tokenize
from nat64_dataplane.corefile.tree import Corefile, ServerBlock, Snippet, Stanza

MAX_DEPTH = 16
"""Blocks within blocks; CoreDNS's own plugins use two."""


def parse(text: str, file: str = "Corefile") -> Corefile:
    """Read a Corefile as it is written. Raises CorefileError with the line."""
    return _Parser(text, file).corefile()


def parse_fragment(text: str, file: str) -> tuple[Stanza, ...]:
    """Read stanzas without a server block around them, as an imported file may hold."""
    parser = _Parser(text, file)
    stanzas = parser.stanzas(until_brace=False, depth=0)
    return tuple(stanzas)


class _Parser:
    """A cursor over the tokens. Each method starts on its first token and ends past its last."""

    def __init__(self, text: str, file: str) -> None:
        self.text = text
        self.file = file
        self.tokens = tokenize(text, file)
        self.at = 0

    def corefile(self) -> Corefile:
        items: list[ServerBlock | Snippet | Stanza] = []
        names: set[str] = set()
        while (token := self.peek()) is not None:
            if token.text == "import" and not token.quoted:
                items.append(self.stanza(0))
                continue
            item = self.block()
            if isinstance(item, Snippet):
                if item.name.text in names:
                    raise self.error(item.name, f"the snippet {item.name.text} is defined twice")
                names.add(item.name.text)
            items.append(item)
        return Corefile(self.text, self.file, tuple(items))

    def block(self) -> ServerBlock | Snippet:
        keys = self.keys()
        opening = self.peek()
        snippet = len(keys) == 1 and keys[0].text.startswith("(") and keys[0].text.endswith(")")
        if opening is None or not opening.is_brace("{"):
            if snippet:
                raise self.error(keys[0], f"the snippet {keys[0].text} needs a block in braces")
            return ServerBlock(keys, tuple(self.stanzas(until_brace=False, depth=0)), None)
        self.at += 1
        stanzas = tuple(self.stanzas(until_brace=True, depth=0))
        close = self.close(opening)
        if snippet:
            return Snippet(keys[0], stanzas, close)
        return ServerBlock(keys, stanzas, close)

    def keys(self) -> tuple[Token, ...]:
        """Read zones up to the brace or the line's end; a comma carries on to the next line."""
        keys: list[Token] = []
        more = True
        while (token := self.peek()) is not None:
            if token.is_brace("{"):
                if keys and more:
                    raise self.error(token, "a zone must follow the comma, not a brace")
                break
            if token.is_brace("}"):
                raise self.error(token, "a closing brace without an opening one")
            if keys and not more and token.line > self.tokens[self.at - 1].last_line:
                break
            self.at += 1
            more = token.text.endswith(",") and not token.quoted
            text = token.text[:-1] if more else token.text
            end = token.end - 1 if more else token.end
            if text:
                keys.append(Token(text, token.file, token.line, token.start, end, token.quoted))
        if not keys:
            where = self.peek()
            raise CorefileError(
                self.file, where.line if where else 1, "a block needs a zone, as in `.:53 {`"
            )
        if more:
            raise self.error(keys[-1], "a zone must follow the comma, not the end of the file")
        return tuple(keys)

    def stanzas(self, *, until_brace: bool, depth: int) -> list[Stanza]:
        found: list[Stanza] = []
        while (token := self.peek()) is not None:
            if token.is_brace("}"):
                if not until_brace:
                    raise self.error(token, "a closing brace without an opening one")
                break
            if token.is_brace("{"):
                raise self.error(token, "a brace must follow a name on the same line")
            found.append(self.stanza(depth))
        return found

    def stanza(self, depth: int) -> Stanza:
        name = self.take()
        args: list[Token] = []
        previous = name
        while (token := self.peek()) is not None:
            if token.line > previous.last_line or token.is_brace("}"):
                return Stanza(name, tuple(args))
            self.at += 1
            if token.is_brace("{"):
                if depth + 1 >= MAX_DEPTH:
                    raise self.error(token, f"more than {MAX_DEPTH} blocks within each other")
                body = tuple(self.stanzas(until_brace=True, depth=depth + 1))
                close = self.close(token)
                following = self.peek()
                if following and following.line == close.line and not following.is_brace("}"):
                    raise self.error(
                        following, f"{following.text!r} must be on a line after the brace"
                    )
                return Stanza(name, tuple(args), body, close)
            args.append(token)
            previous = token
        return Stanza(name, tuple(args))

    def close(self, opening: Token) -> Token:
        if self.peek() is None:
            raise self.error(opening, "a brace opens here and never closes")
        return self.take()

    def peek(self) -> Token | None:
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def take(self) -> Token:
        self.at += 1
        return self.tokens[self.at - 1]

    @staticmethod
    def error(token: Token, problem: str) -> CorefileError:
        return CorefileError(token.file, token.line, problem)
