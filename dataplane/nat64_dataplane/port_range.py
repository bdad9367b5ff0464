"""A range of ports, and how it is written."""

from __future__ import annotations

from typing import NamedTuple, Self


class PortRange(NamedTuple):
    """An inclusive range of transport ports or ICMP query identifiers, both within 1-65535."""

    first: int
    last: int

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read `61001-65535`, or `4000` for a single port. Raises ValueError."""
        first, dash, last = text.partition("-")
        if not first.isascii() or not first.isdigit() or (dash and not last.isdigit()):
            raise ValueError(
                f"ports {text!r} is not a port range: write FIRST-LAST, as in 61001-65535"
            )
        low, high = int(first), int(last or first)
        if not 1 <= low <= high <= 65535:
            raise ValueError(f"ports {text!r} is not a port range: 1 <= FIRST <= LAST <= 65535")
        return cls(low, high)

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"

    def overlaps(self, other: PortRange) -> bool:
        """Whether any port is in both."""
        return self.first <= other.last and other.first <= self.last
