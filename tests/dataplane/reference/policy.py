"""Who may talk to whom."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from tests.dataplane.reference.headers import ICMP, Refused

WELL_KNOWN = IPv6Network("64:ff9b::/96")
_SPECIAL = [
    IPv4Network(text)
    for text in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4")
]
NEVER_A_SOURCE = [IPv4Network(text) for text in ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3")]
NEVER_A_CLIENT = [IPv6Network(text) for text in ("::/127", "fe80::/10", "ff00::/8")]


@dataclass
class Policy:
    """Who may talk to whom."""

    pool: frozenset[IPv4Address]
    local: frozenset[IPv4Address]
    denied: tuple[IPv4Network, ...] = ()
    sources: tuple[IPv6Network, ...] = ()
    """Empty: all but those behind uplinks."""

    def refusal(self, prefix: IPv6Network, address: IPv4Address) -> str | None:
        """Why the address may not be reached under the prefix, or None where it may."""
        if within(address, self.denied):
            return "destination_denied"
        if within(address, _SPECIAL):
            return "destination_special"
        if address in self.pool | self.local:
            return "destination_local"
        if prefix == WELL_KNOWN and not address.is_global:
            return "destination_not_global"
        return None

    def check_client(self, client: IPv6Address) -> None:
        """Raise Refused where the client may talk to nobody."""
        if self.sources and not within(client, self.sources):
            raise Refused("source_denied")

    def check(
        self,
        prefix: IPv6Network,
        protocol: int,
        client: IPv6Address,
        remote: IPv4Address,
        hairpin: bool,
        *,
        behind_uplink: bool = False,
    ) -> None:
        """Raise Refused where the two may not talk; `hairpin`: the remote end is a client too."""
        self.check_client(client)
        if not self.sources and behind_uplink:
            raise Refused("source_behind_uplink")
        if hairpin:
            return
        if remote in self.pool and protocol != ICMP:
            raise Refused("hairpin_without_binding")
        if refusal := self.refusal(prefix, remote):
            raise Refused(refusal)


def within(address: Any, networks: Iterable[Any]) -> bool:
    return any(address in network for network in networks)
