"""Fragments: the first one has the ports and tells the others what to do (RFC 6146 section 3.4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tests.dataplane.reference.headers import Header4, Header6, Refused

_MOST_HELD = 8


@dataclass
class Packet:
    """What is known of a fragmented packet."""

    fate: Literal["", "translate", "pass", "drop"] = ""
    end: Any = None
    """Our address, or the client's."""
    to_ourselves: bool = False
    waiting: int = 0
    released: bool = False
    in_fragments: bool = False
    """One was too long: those after it take its way, whatever their size."""

    def later(self) -> Any:
        """The end that the first fragment has led to."""
        if self.fate == "pass":
            raise Refused("passed")
        if self.fate == "drop":
            raise Refused("fragment_unexpected")
        if not self.fate:
            if self.waiting == _MOST_HELD:
                raise Refused("fragment_buffer_full")
            self.waiting += 1
            raise Refused("held")
        return self.end

    def first(self) -> None:
        """The first fragment sends round itself and those that wait for it, once."""
        if self.waiting and not self.released:
            self.waiting, self.released = 0, True
            raise Refused("held")


class Packets:
    """All fragmented packets that are under way."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], Packet] = {}

    def of(self, head: Header4 | Header6, key: tuple[object, ...]) -> Packet:
        """The packet that a fragment belongs to; a new one for what is whole."""
        return self._known.setdefault(key, Packet()) if head.is_fragment else Packet()
