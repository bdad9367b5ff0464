"""Reverse-path filters for IPv6, as firewalld's `IPv6_rpfilter=strict`: found, never changed.

In topology Gateway, packets from nodes of the other role come in on a link that the node's own
routes don't name: out of the tunnel on a gateway node, and, with Direct, replies on a router node.
A strict filter drops them. Its look-up knows neither that link nor a rule for it, so no route of
ours would help. Those of legacy ip6tables can't be read so.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from typing import Any

from pyroute2.netlink import NLM_F_DUMP, NLM_F_REQUEST
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink import nftsocket as nft

from nat64_dataplane.config import Config, Role, Transport

_NF_INET_PRE_ROUTING = 0
_DUMP = NLM_F_REQUEST | NLM_F_DUMP
_FAMILIES = {nft.NFPROTO_INET: "inet", nft.NFPROTO_IPV6: "ip6"}
_OURS = "nat64_"
_FIB = re.compile(
    rb"fib\0.{12}"  # the data's header, and NFTA_FIB_DREG
    rb"\x08\0\x02\0\0\0\0\x01"  # NFTA_FIB_RESULT: NFT_FIB_RESULT_OIF
    rb"\x08\0\x03\0(.{4})",  # NFTA_FIB_FLAGS, which pyroute2 doesn't read
    re.DOTALL,
)
_SADDR_BY_IIF = 1 | 8  # NFTA_FIB_F_SADDR, NFTA_FIB_F_IIF


def in_the_way(config: Config) -> list[str]:
    """The chains with a strict filter, by family, table and name, where packets of the other role
    meet it. Empty where nothing can be read: without nf_tables nothing filters by it.
    """
    topology = config.topology
    if topology is None:
        return []
    if (topology.role is Role.ROUTER) is not (topology.transport is Transport.DIRECT):
        return []
    with contextlib.suppress(OSError, NetlinkError):
        return asyncio.run(_strict())
    return []


async def _strict() -> list[str]:
    async with nft.AsyncNFTSocket(nfgen_family=socket.AF_UNSPEC) as nfnetlink:
        query = nft.nft_chain_msg()
        chains = await nfnetlink.request_get(query, nft.NFT_MSG_GETCHAIN, _DUMP)
        found = [message async for message in chains if _is_first(message)]
    names = []
    for chain in found:
        family, table, name = chain["nfgen_family"], chain.get("table"), chain.get("name")
        if await _has_filter(family, table, name):
            names.append(f"{_FAMILIES[family]} {table} {name}")
    return names


def _is_first(chain: Any) -> bool:
    hook = chain.get("hook")
    return (
        chain["nfgen_family"] in _FAMILIES
        and not chain.get("table").startswith(_OURS)
        and hook is not None
        and hook.get("NFTA_HOOK_HOOKNUM") == _NF_INET_PRE_ROUTING
    )


async def _has_filter(family: int, table: str, chain: str) -> bool:
    query = nft.nft_rule_msg()
    query["attrs"] = [["NFTA_RULE_TABLE", table], ["NFTA_RULE_CHAIN", chain]]
    async with nft.AsyncNFTSocket(nfgen_family=family) as nfnetlink:
        rules = await nfnetlink.request_get(query, nft.NFT_MSG_GETRULE, _DUMP)
        messages = [bytes(message.data) async for message in rules if message.get("table") == table]
    return any(
        int.from_bytes(flags, "big") & _SADDR_BY_IIF == _SADDR_BY_IIF
        for data in messages
        for flags in _FIB.findall(data)
    )
