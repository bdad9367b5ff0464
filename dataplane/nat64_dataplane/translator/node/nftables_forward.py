"""Filters that drop what the node forwards over IPv4: found, never changed.

Translated packets go around netfilter, save those that the kernel must fragment, or whose next hop
doesn't answer. A chain at the forward hook whose policy is `drop` has them, unless a rule of its
table names a translator's link: Docker and ufw have chains for an administrator's rules, to which
theirs jump. Chains of legacy iptables can't be read so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from pyroute2.netlink.nfnetlink import nftsocket as nft

from nat64_dataplane.translator.node import nftables_dump

_NF_INET_FORWARD = 2
_NF_DROP = 0
_FAMILIES = {nft.NFPROTO_INET: "inet", nft.NFPROTO_IPV4: "ip"}
_LINKS = "nat64"
"""What the names of translators' links begin with, also in `iifname nat64*`."""


def dropping(interface: str) -> list[str]:
    """The chains that drop what comes in on the translator's link, by family, table and name.

    Empty where nothing can be read: without nf_tables nothing filters by it.
    """
    with contextlib.suppress(OSError):
        return list(_dropping(interface))
    return []


def _dropping(interface: str) -> Iterator[str]:
    for chain in nftables_dump.chains():
        if _drops(chain):
            family, table = chain["nfgen_family"], chain.get("table")
            if not _names_link(family, table, interface):
                yield f"{_FAMILIES[family]} {table} {chain.get('name')}"


def _drops(chain: Any) -> bool:
    hook = chain.get("hook")
    return (
        chain["nfgen_family"] in _FAMILIES
        and hook is not None
        and hook.get("NFTA_HOOK_HOOKNUM") == _NF_INET_FORWARD
        and chain.get("policy") == _NF_DROP
    )


def _names_link(family: int, table: str, interface: str) -> bool:
    texts = map(str, nftables_dump.rules(family, table))
    return any(interface in text or f"b'{_LINKS}" in text for text in texts)
