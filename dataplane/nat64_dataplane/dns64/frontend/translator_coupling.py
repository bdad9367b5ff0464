"""Whether answers are synthesized now: only while the node's translator is programmed."""

from __future__ import annotations

from nat64_dataplane.dns64.access.client_acl import Client
from nat64_dataplane.dns64.host.translator_status import TranslatorWatch
from nat64_dataplane.dns64.message.wire import Query
from nat64_dataplane.dns64.settings import Unprogrammed
from nat64_dataplane.dns64.synthesis.dns64_policy import Dns64Policy


class TranslatorCoupling:
    """The translator's status, and what it means for the questions of one server block."""

    def __init__(self, policy: Dns64Policy | None) -> None:
        self._policy = policy
        self.watch = TranslatorWatch(policy.settings.translator if policy else "")
        self.synthesizes = [False, False, False]
        """By the client's family: 1 is IPv4, 2 is IPv6."""
        self._take_status()

    def look(self) -> bool:
        """Read the translator's status again. Returns whether it changed."""
        changed = self.watch.look()
        self._take_status()
        return changed

    def withheld(self, query: Query, client: Client) -> bool:
        """Whether a question that may be synthesized isn't, because no translator is programmed."""
        if self._policy is None or self.watch.status.programmed:
            return False
        return self._policy.may_synthesize(
            query.name, query.type, query.rdclass, cd=query.cd, family=client.family
        )

    def fails(self, query: Query, client: Client) -> bool:
        """Whether a question fails instead of being answered without synthesis."""
        if self._policy is None:
            return False
        if self._policy.settings.unprogrammed is not Unprogrammed.SERVFAIL:
            return False
        return self.withheld(query, client)

    def _take_status(self) -> None:
        on = self._policy is not None and self.watch.status.programmed
        allow_ipv4 = self._policy is not None and self._policy.settings.allow_ipv4
        self.synthesizes = [False, on and allow_ipv4, on]
