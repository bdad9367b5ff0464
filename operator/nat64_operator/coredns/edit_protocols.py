"""The protocols of every way to change a Corefile: a place in a text, and what to write there."""

from __future__ import annotations

from typing import Protocol


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

    def cautious(self) -> Edit:
        """The same with a fallback: what is written until CoreDNS has answered once."""

    def without(self, current: Site) -> str | None:
        """The whole file as it probably was before us; None if that is unknown."""

    def names_us(self, current: Site) -> bool:
        """Whether the place, although others have changed it, still does what we want."""
