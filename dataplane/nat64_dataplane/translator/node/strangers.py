"""Which links have programs or rules of others for what comes in: flow offload stays off there.

It would take packets past them: a CNI's programs, the bandwidth limit of a pod, nftables at a
link's ingress. XDP programs don't matter, as they run before any of these.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from pyroute2.netlink import NLM_F_DUMP, NLM_F_REQUEST
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink import nftsocket as nft

from nat64_dataplane.translator.node import bpf_link, tc_dump, tc_hooks
from nat64_dataplane.translator.node.facts import Link

_NF_NETDEV_INGRESS, _NF_INET_INGRESS = 0, 5
_NFPROTO_NETDEV = 5


def busy(links: Collection[Link], pins: Path) -> frozenset[int]:
    """Those of `links`, by interface index, where others look at what comes in.

    `pins` is where all translators of ours are pinned. Raises OSError.
    """
    if not links:
        return frozenset()
    by_name = {link.name: link.index for link in links}
    found = set(_with_tcx({link.index for link in links}, pins))
    found |= set(_with_filters(set(by_name.values())))
    with contextlib.suppress(OSError, NetlinkError):  # without nf_tables there are no chains
        found |= {by_name[name] for name in asyncio.run(_with_chains()) if name in by_name}
    return frozenset(found)


def _with_tcx(links: set[int], pins: Path) -> Iterator[int]:
    ours = tc_hooks.programs_of_all(pins)
    for index in links:
        try:
            chain = bpf_link.tcx_chain(index, bpf_link.TCX_INGRESS)
        except OSError as error:
            if error.errno == errno.EINVAL:  # this kernel has no tcx
                return
            if error.errno == errno.ENODEV:  # a link that has just gone
                continue
            raise
        if not ours.issuperset(chain):
            yield index


def _with_filters(links: set[int]) -> Iterator[int]:
    for qdisc in tc_dump.qdiscs():
        if qdisc.ifindex not in links:
            continue
        names = tc_dump.filters(qdisc.ifindex, tc_hooks.CLSACT_INGRESS)
        if (
            qdisc.kind != "clsact"
            or qdisc.shared
            or not all(tc_hooks.is_ours(name) for name in names)
        ):
            yield qdisc.ifindex


async def _with_chains() -> set[str]:
    """The names of all links at whose ingress there is an nftables chain."""
    found = set()
    query = nft.nft_chain_msg()
    async with nft.AsyncNFTSocket(nfgen_family=socket.AF_UNSPEC) as nfnetlink:
        chains = await nfnetlink.request_get(
            query, nft.NFT_MSG_GETCHAIN, NLM_F_REQUEST | NLM_F_DUMP
        )
        async for chain in chains:
            found |= set(_links_of(chain))
    return found


def _links_of(chain: Any) -> Iterator[str]:
    hook = chain.get("hook")
    if hook is None:
        return
    ingress = _NF_NETDEV_INGRESS if chain["nfgen_family"] == _NFPROTO_NETDEV else _NF_INET_INGRESS
    if hook.get("NFTA_HOOK_HOOKNUM") != ingress:
        return
    if name := hook.get("NFTA_HOOK_DEV"):
        yield name
    if several := hook.get("NFTA_HOOK_DEVS"):
        for _, name in several["attrs"]:
            yield name
