"""What has been sent and heard, by link, since the agent started."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Counters:
    """Keys are a link's name, and what is said here."""

    sent: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Advertisements by kind: `unsolicited`, `solicited` or `withdrawal`."""
    failed: Counter[str] = field(default_factory=Counter)
    """Advertisements that the kernel didn't send."""
    received: Counter[str] = field(default_factory=Counter)
    """Solicitations, valid or not."""
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Solicitations that aren't valid, by reason (`message.REFUSALS`)."""
