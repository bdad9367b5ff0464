"""What reading a message raises."""

from __future__ import annotations


class Malformed(ValueError):  # noqa: N818 -- it names what the bytes are
    """The bytes are no DNS message, or not one of the kind that was expected."""
