"""The `dns64` stanza, prepared for use on wire data."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from nat64_dataplane import pref64
from nat64_dataplane.dns64.message import wire
from nat64_dataplane.dns64.message.domain_names import Zones
from nat64_dataplane.dns64.settings import Dns64
from nat64_dataplane.special_purpose import is_global

IPV4ONLY = (IPv4Address("192.0.0.170"), IPv4Address("192.0.0.171"))
"""The addresses of ipv4only.arpa (RFC 7050 section 2.2): always translated."""

NEVER = (IPv4Network("0.0.0.0/8"), IPv4Network("127.0.0.0/8"))
"""Never translated, with any prefix: resolvers block names with these addresses, and such a name
must fail for IPv6 clients at once, as it does for others."""

_MAX_MEMO = 4096


class Dns64Policy:
    """Which AAAA count, and which addresses an A becomes (RFC 6147 sections 5.1.4 and 5.2)."""

    def __init__(self, settings: Dns64) -> None:
        self.settings = settings
        self.exempt = Zones(settings.exempt)
        self._excluded = [_mask(network) for network in settings.exclude_aaaa]
        self._memo: dict[bytes, tuple[bytes, ...]] = {}

    def may_synthesize(
        self, name: bytes, rdtype: int, rdclass: int, *, cd: bool, family: int
    ) -> bool:
        """Whether DNS64 applies to this question of a client of this family (1 for IPv4, 2 for
        IPv6), independent of the upstream's reply.
        """
        if cd or (rdtype, rdclass) != (wire.AAAA, wire.IN):
            return False
        return (family == 2 or self.settings.allow_ipv4) and name not in self.exempt

    def excluded(self, aaaa: bytes) -> bool:
        """Whether this AAAA is in an excluded range and counts as absent."""
        value = int.from_bytes(aaaa, "big")
        return any(value & mask == network for network, mask in self._excluded)

    def embed(self, a: bytes) -> tuple[bytes, ...]:
        """Return the IPv6 addresses that stand for an A, one per prefix; perhaps none."""
        found = self._memo.get(a)
        if found is None:
            found = tuple(address.packed for address in self.addresses(IPv4Address(a)))
            if len(self._memo) >= _MAX_MEMO:
                self._memo.clear()
            self._memo[a] = found
        return found

    def addresses(self, a: IPv4Address) -> list[IPv6Address]:
        """Return the IPv6 addresses that stand for `a`; none if it must not be translated."""
        if any(a in network for network in (*NEVER, *self.settings.exclude_a)):
            return []
        prefixes = self.prefixes_for(a)
        return [pref64.embed(prefix, a) for prefix in prefixes if self._may(prefix, a)]

    def prefixes_for(self, a: IPv4Address) -> tuple[IPv6Network, ...]:
        """Return the prefixes of the longest mapped range that holds `a`, else the general ones."""
        for network, prefixes in self.settings.maps:
            if a in network:
                return prefixes
        return self.settings.prefixes

    def embedded(self, address: IPv6Address) -> IPv4Address | None:
        """Return the IPv4 address under one of the prefixes in use, else None."""
        for prefix in self.settings.all_prefixes:
            if address in prefix:
                return pref64.extract(prefix, address)
        return None

    def _may(self, prefix: IPv6Network, a: IPv4Address) -> bool:
        """RFC 6052 section 3.1: the well-known prefix stands for global addresses only."""
        if prefix != pref64.WELL_KNOWN or self.settings.allow_special_use or a in IPV4ONLY:
            return True
        return is_global(a)


def _mask(network: IPv6Network) -> tuple[int, int]:
    return int(network.network_address), int(network.netmask)
