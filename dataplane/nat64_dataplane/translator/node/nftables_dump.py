"""What everybody has in nftables: chains and rules, as pyroute2's messages."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from pyroute2.netlink import NLM_F_DUMP, NLM_F_REQUEST
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink import nftsocket as nft


def chains() -> list[Any]:
    """All chains of all families. Raises OSError, as a kernel without nf_tables does."""
    return asyncio.run(_dump(socket.AF_UNSPEC, nft.nft_chain_msg(), nft.NFT_MSG_GETCHAIN, bool))


def rules(family: int, table: str, chain: str = "") -> list[Any]:
    """The rules of a chain, or of all chains of a table. Raises OSError."""
    query = nft.nft_rule_msg()
    query["attrs"] = [["NFTA_RULE_TABLE", table]]
    if chain:
        query["attrs"].append(["NFTA_RULE_CHAIN", chain])

    def wanted(message: Any) -> bool:
        return message.get("table") == table and chain in {"", message.get("chain")}

    return asyncio.run(_dump(family, query, nft.NFT_MSG_GETRULE, wanted))


async def _dump(family: int, query: Any, what: int, wanted: Callable[[Any], bool]) -> list[Any]:
    try:
        async with nft.AsyncNFTSocket(nfgen_family=family) as nfnetlink:
            found = await nfnetlink.request_get(query, what, NLM_F_REQUEST | NLM_F_DUMP)
            return [message async for message in found if wanted(message)]
    except NetlinkError as error:
        raise OSError(error.code, f"nf_tables: {error}") from error
