"""Filters that drop what the node forwards over IPv4: found, never changed.

Translated packets go around netfilter, save those that the kernel must fragment, or whose next hop
doesn't answer. A chain at the forward hook whose policy is `drop` has them, unless a rule of its
table names a translator's link: Docker and ufw have chains for an administrator's rules, to which
theirs jump. Chains of legacy iptables can't be read so.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

from pyroute2.netlink import NLM_F_DUMP, NLM_F_REQUEST
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink import nftsocket as nft

_NF_INET_FORWARD = 2
_NF_DROP = 0
_DUMP = NLM_F_REQUEST | NLM_F_DUMP
_FAMILIES = {nft.NFPROTO_INET: "inet", nft.NFPROTO_IPV4: "ip"}
_LINKS = "nat64"
"""What the names of translators' links begin with, also in `iifname nat64*`."""


def dropping(interface: str) -> list[str]:
    """The chains that drop what comes in on the translator's link, by family, table and name.

    Empty where nothing can be read: without nf_tables nothing filters by it.
    """
    with contextlib.suppress(OSError, NetlinkError):
        return asyncio.run(_dropping(interface))
    return []


async def _dropping(interface: str) -> list[str]:
    found = []
    async with nft.AsyncNFTSocket(nfgen_family=socket.AF_UNSPEC) as nfnetlink:
        query = nft.nft_chain_msg()
        chains = await nfnetlink.request_get(query, nft.NFT_MSG_GETCHAIN, _DUMP)
        wanted = [message async for message in chains if _drops(message)]
    for chain in wanted:
        family, table, name = chain["nfgen_family"], chain.get("table"), chain.get("name")
        if not await _names_link(family, table, interface):
            found.append(f"{_FAMILIES[family]} {table} {name}")
    return found


def _drops(chain: Any) -> bool:
    hook = chain.get("hook")
    return (
        chain["nfgen_family"] in _FAMILIES
        and hook is not None
        and hook.get("NFTA_HOOK_HOOKNUM") == _NF_INET_FORWARD
        and chain.get("policy") == _NF_DROP
    )


async def _names_link(family: int, table: str, interface: str) -> bool:
    query = nft.nft_rule_msg()
    query["attrs"] = [["NFTA_RULE_TABLE", table]]
    async with nft.AsyncNFTSocket(nfgen_family=family) as nfnetlink:
        rules = await nfnetlink.request_get(query, nft.NFT_MSG_GETRULE, _DUMP)
        texts = [str(message) async for message in rules]
    return any(interface in text or f"b'{_LINKS}" in text for text in texts)
