"""Random bytes that can't be predicted, read by the kilobyte: a system call each is too slow."""

from __future__ import annotations

import os

_BLOCK = 8192


class Entropy:
    """Bytes of `os.urandom`, each given out once."""

    def __init__(self) -> None:
        self._block = b""
        self._at = 0

    def bytes(self, count: int) -> bytes:
        """Return `count` bytes, at most 8192."""
        at = self._at
        end = at + count
        if end > len(self._block):
            self._block = os.urandom(_BLOCK)
            at, end = 0, count
        self._at = end
        return self._block[at:end]

    def below(self, bound: int) -> int:
        """Return a number from 0 to `bound` - 1; `bound` is small beside 2**32."""
        return int.from_bytes(self.bytes(4), "big") % bound


_LETTER_CASE = bytes(0x20 if chr(code).isalpha() and code < 128 else 0 for code in range(256))


def mix_case(name: bytes, entropy: Entropy) -> bytes:
    """Give each letter of a lower-case name in wire format a random case ("0x20").

    A forged reply has to repeat it, so it adds a bit per letter to what must be guessed. Length
    bytes are below 64 and no letters.
    """
    size = len(name)
    flips = int.from_bytes(name.translate(_LETTER_CASE), "big")
    flips &= int.from_bytes(entropy.bytes(size), "big")
    return (int.from_bytes(name, "big") ^ flips).to_bytes(size, "big")
