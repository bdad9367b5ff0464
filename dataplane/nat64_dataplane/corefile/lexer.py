"""Corefile text to tokens that know where they stand.

The rules are those of CoreDNS's own lexer, oddities included, because an edit is safe only if we
see the tokens that CoreDNS sees:

- whitespace separates; a token that starts with `"` runs to the next `"`, where `\\"` stands for a
  quote and no other escape exists;
- `#` starts a comment. After a token's first character it ends the token, and what follows is
  skipped only to the next whitespace: `a#b c` is `a` and `c`;
- carriage returns and a leading byte order mark are ignored.

Where it differs: a quote that never closes is an error here, a token that runs to the end there.
"""

from __future__ import annotations

from dataclasses import dataclass

from nat64_dataplane.corefile.errors import CorefileError

_SPACE = frozenset("\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000") | {
    chr(code) for code in range(0x2000, 0x200B)
}
_BYTE_ORDER_MARK = "\ufeff"


@dataclass(frozen=True, slots=True)
class Token:
    """One word: `source[start:end]`, quotes included, reads as `text` on `line` (from 1)."""

    text: str
    file: str
    line: int
    start: int
    end: int
    quoted: bool = False

    @property
    def last_line(self) -> int:
        """The line where the token ends: a quoted one may span several."""
        return self.line + self.text.count("\n")

    def is_brace(self, brace: str) -> bool:
        """Whether the token opens or closes a block, rather than quotes a brace."""
        return self.text == brace and not self.quoted


def tokenize(source: str, file: str = "Corefile") -> list[Token]:
    """Return the tokens of `source`. Raises CorefileError for a quote that never closes."""
    tokens: list[Token] = []
    position, line, length = 0, 1, len(source)
    if source.startswith(_BYTE_ORDER_MARK):
        position = 1
    while position < length:
        char = source[position]
        if char == "\n":
            line += 1
        if char in _SPACE:
            position += 1
        elif char == "#":
            newline = source.find("\n", position)
            position = length if newline < 0 else newline
        elif char == '"':
            token = _quoted(source, file, line, position)
            tokens.append(token)
            position, line = token.end, token.last_line
        else:
            end = position
            while end < length and source[end] != "#" and _continues(source[end]):
                end += 1
            text = source[position:end].replace("\r", "")
            trimmed = position + len(source[position:end].rstrip("\r"))
            tokens.append(Token(text, file, line, position, trimmed))
            position = end
            while position < length and _continues(source[position]):  # the rest of a#b
                position += 1
    return tokens


def _continues(char: str) -> bool:
    return char == "\r" or char not in _SPACE


def _quoted(source: str, file: str, line: int, start: int) -> Token:
    text: list[str] = []
    position = start + 1
    while position < len(source):
        char = source[position]
        if char == '"':
            return Token("".join(text), file, line, start, position + 1, quoted=True)
        if char == "\\" and position + 1 < len(source):
            following = source[position + 1]
            text.append(following if following == '"' else "\\" + following)
            position += 2
            continue
        text.append(char)
        position += 1
    raise CorefileError(file, line, "a quote opens here and never closes")
