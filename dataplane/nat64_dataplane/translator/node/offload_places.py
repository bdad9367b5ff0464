"""Where flow offload may be: on links where nobody else looks at what passes."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable
from pathlib import Path

from nat64_dataplane.translator.node import strangers
from nat64_dataplane.translator.node.facts import Link
from nat64_dataplane.translator.node.tc_hooks import Hook

_CNI_SECONDS = 30.0

log = logging.getLogger(__name__)


class OffloadPlaces:
    """Remembers what was seen of the pods' links. Not for several threads at once."""

    def __init__(self, pins: Path) -> None:
        self._pins = pins
        """Where all translators of ours are pinned."""
        self._busy = strangers.Busy(frozenset(), frozenset())
        self._chains: strangers.Chains = {}
        self._seen: dict[int, float] = {}
        """When a link was first seen, by interface index."""

    def look(self, links: Collection[Link]) -> None:
        """Find out who looks at what passes `links`, by which pods' packets come in. Raises
        OSError.
        """
        now = time.monotonic()
        self._seen = {link.index: self._seen.get(link.index, now) for link in links}
        self._chains = strangers.tcx_chains(self._seen)
        busy = strangers.busy(links, self._pins, self._chains)
        for before, found, what in (
            (self._busy.incoming, busy.incoming, "flow offload"),
            (self._busy.outgoing, busy.outgoing, "flow offload into pods"),
        ):
            if before != found:
                names = ", ".join(link.name for link in links if link.index in found)
                log.info("no %s where programs of others are: %s", what, names or "no more links")
        self._busy = busy

    def changed(self) -> bool:
        """Whether other programs are at the links than were when they were last looked at. The
        kernel tells of all other changes. Raises OSError.
        """
        return bool(self._seen) and strangers.tcx_chains(self._seen) != self._chains

    def for_hooks(
        self, links: Iterable[Link], hooks: Collection[Hook], *, clsact: bool
    ) -> tuple[Link, ...]:
        """Those of `links` where the hook may be. `hooks` are those that we have.

        A new clsact waits: a CNI's bandwidth plugin could not add its own discipline for what comes
        in after it, and the pod would not start. tcx is in nobody's way.
        """
        return tuple(
            link
            for link in self.unwatched(links)
            if not clsact or Hook(link.index, "offload") in hooks or self._is_set_up(link)
        )

    def unwatched(self, links: Iterable[Link]) -> tuple[Link, ...]:
        """Those of `links` where nobody else looks at what comes in."""
        return tuple(link for link in links if link.index not in self._busy.incoming)

    def straight(self, links: Iterable[Link]) -> frozenset[int]:
        """Those of `links`, by interface index, that packets to their pods may skip."""
        return frozenset(link.index for link in links) - self._busy.outgoing

    def _is_set_up(self, link: Link) -> bool:
        return time.monotonic() - self._seen[link.index] >= _CNI_SECONDS
