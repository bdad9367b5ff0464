"""Whether anybody has a chain for NAT on this node: conntrack is at work then, or will be."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path

from pyroute2.netlink import NLM_F_DUMP, NLM_F_REQUEST
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink import nftsocket as nft

_LEGACY_TABLES = (Path("/proc/net/ip6_tables_names"), Path("/proc/net/ip_tables_names"))


def present() -> bool:
    """Whether anybody has a chain for NAT, by nftables or by the older iptables: for IPv6, whose
    masquerade would merge clients, or for IPv4, whose fragments would be collected.
    """
    for names in _LEGACY_TABLES:
        with contextlib.suppress(OSError):
            if "nat" in names.read_text().split():
                return True
    with contextlib.suppress(OSError):  # no nf_tables: no chains
        return asyncio.run(_has_nat_chain())
    return False


async def _has_nat_chain() -> bool:
    flags = NLM_F_REQUEST | NLM_F_DUMP
    try:
        async with nft.AsyncNFTSocket(nfgen_family=socket.AF_UNSPEC) as nfnetlink:
            chains = await nfnetlink.request_get(nft.nft_chain_msg(), nft.NFT_MSG_GETCHAIN, flags)
            return any([message.get("type") == "nat" async for message in chains])
    except NetlinkError as error:
        raise OSError(error.code, f"nf_tables: {error}") from error
