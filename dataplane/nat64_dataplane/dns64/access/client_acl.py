"""Clients: their address and family, and what `acl` allows them.

Clients that no rule names get a safe default: loopback, link-local, unique local and private
clients may ask, others are refused. So a Corefile makes an open resolver only if it says `allow net
*`.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from nat64_dataplane.dns64.message.domain_names import Zones
from nat64_dataplane.dns64.settings import Acl, AclRule

MAX_REMEMBERED = 16384

LOCAL = tuple(
    IPv6Network(text) if ":" in text else IPv4Network(text)
    for text in (
        "::1/128",
        "fe80::/10",
        "fc00::/7",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
    )
)
"""ClientAcl that are allowed where no rule speaks of them."""

Address = IPv4Address | IPv6Address


class Client:
    """One source address."""

    __slots__ = ("address", "always", "family", "under_way")

    def __init__(self, address: Address, *, always: bool) -> None:
        self.address = address
        self.family = 1 if address.version == 4 else 2
        """CoreDNS's label: 1 is IPv4, 2 is IPv6."""
        self.always = always
        """Allowed for every question, so that the cache may answer without another check."""
        self.under_way = 0

    @property
    def text(self) -> str:
        """The address as CoreDNS logs it: IPv6 in brackets."""
        return f"[{self.address}]" if self.family == 2 else str(self.address)


class ClientAcl:
    """The access rules of one server block, with a cache of the decisions."""

    def __init__(self, acls: tuple[Acl, ...], served: tuple[str, ...] = (".",)) -> None:
        """`served` are the block's own zones: the rules apply to no other names."""
        self._acls = [(Zones(acl.zones), acl.rules) for acl in acls]
        self._known: dict[str, Client] = {}
        self._simple = all(
            acl.zones in ((".",), served) and not any(rule.types for rule in acl.rules)
            for acl in acls
        )

    def get(self, host: str) -> Client:
        """Return the client at an address as sockets give it: mapped, or with a scope."""
        client = self._known.get(host)
        if client is None:
            address = ip_address(host.partition("%")[0])
            if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
                address = address.ipv4_mapped
            always = self._simple and self._judge(address, b"\0", 0) == "allow"
            client = Client(address, always=always)
            if len(self._known) >= MAX_REMEMBERED:
                self._known = {h: c for h, c in self._known.items() if c.under_way}
            self._known[host] = client
        return client

    def may_ask(self, host: str) -> bool:
        """Whether this client is answered at all: for messages to which no rule applies."""
        client = self.get(host)
        return client.always or (
            not self._simple or self._judge(client.address, b"\0", 0) in ("allow", "filter")
        )

    def drops(self, host: str) -> bool:
        """Whether this client is to get no response at all, whatever it asks."""
        client = self.get(host)
        return not client.always and self._judge(client.address, b"\0", 0) == "drop"

    def verdict(self, client: Client, name: bytes, rdtype: int) -> str:
        """Return `allow`, `block`, `filter` or `drop` for a question of this client's."""
        return "allow" if client.always else self._judge(client.address, name, rdtype)

    def _judge(self, address: Address, name: bytes, rdtype: int) -> str:
        for zones, rules in self._acls:
            if name in zones or (self._simple and rdtype == 0):
                for rule in rules:
                    if _matches(rule, address, rdtype):
                        return rule.action
        return "allow" if any(address in network for network in LOCAL) else "block"


def _matches(rule: AclRule, address: Address, rdtype: int) -> bool:
    if rule.types and rdtype not in rule.types:
        return False
    return not rule.networks or any(address in network for network in rule.networks)
