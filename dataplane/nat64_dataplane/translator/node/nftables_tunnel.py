"""The rules for what comes to the tunnel's port of this node: a reverse-path filter.

A lookup of routes takes longer than all other rules together, and each packet of the tunnel comes
by here. So sources that were found where their packets come from are kept for a second, by link.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pyroute2.netlink.nfnetlink import nftsocket as nft
from pyroute2.nftables.expressions import genex, verdict

from nat64_dataplane.translator.node.nftables_expressions import (
    load,
    meta,
    to_port,
    unreachable_by_its_link,
)

SET = "reached"
"""The sources that the node reaches by the link that they came in on."""

_LOOKED_UP = "saddr . iif"
_SECONDS = 1
_MOST = 16384
"""So many sources at once. Those of more packets are looked up each time."""

_NETWORK = 1  # NFT_PAYLOAD_NETWORK_HEADER
_SOURCE = 8
_FIRST, _SECOND = 1, 2  # registers, of 16 bytes each
_KEY_TYPE, _KEY_LENGTH = 8 << 6 | 20, 16 + 4  # nft's ipv6_addr . iface_index
_NF_DROP, _NF_ACCEPT = 0, 1


def texts(port: int) -> tuple[str, ...]:
    """The rules as text: their order is that of the text."""
    return (
        f"ip6 udp dport {port} @{SET} has {_LOOKED_UP} accept",
        f"ip6 udp dport {port} fib {_LOOKED_UP} oif missing drop",
        f"ip6 udp dport {port} then add {_LOOKED_UP} to @{SET} for {_SECONDS}s",
    )


def needs_lookups(text: str) -> bool:
    """Whether the rule is for kernels that look up routes in nftables."""
    return f" {_LOOKED_UP} " in text


def set_attributes() -> dict[str, Any]:
    """The set, as NFT_MSG_NEWSET has it."""
    return {
        "name": SET,
        "flags": {"NFT_SET_TIMEOUT", "NFT_SET_EVAL"},
        "key_type": _KEY_TYPE,
        "key_len": _KEY_LENGTH,
        "timeout": _SECONDS * 1000,
        "desc": {"attrs": [("NFTA_SET_DESC_SIZE", _MOST)]},
        "id": 1,
    }


def expressions(text: str) -> Iterator[dict[str, Any]]:
    """One of the rules, as the kernel has it."""
    words = text.split()
    yield from meta(nft.Meta.NFT_META_NFPROTO, bytes([nft.NFPROTO_IPV6]))
    yield from to_port(int(words[3]))
    if words[4] == "fib":
        yield from unreachable_by_its_link()
        yield genex("counter", {"bytes": 0, "packets": 0})
        yield from verdict(code=_NF_DROP)
        return
    yield load(_NETWORK, _SOURCE, 16)
    yield genex("meta", {"dreg": _SECOND, "key": nft.Meta.NFT_META_IIF})
    if words[4] == "then":
        # the operation is NFT_DYNSET_OP_ADD: it doesn't prolong what is there
        yield genex(
            "dynset",
            {"set_name": SET, "set_id": 1, "op": 0, "sreg_key": _FIRST, "timeout": _SECONDS * 1000},
        )
        return
    yield genex("lookup", {"set": SET, "sreg": _FIRST, "set_id": 1})
    yield from verdict(code=_NF_ACCEPT)  # of this chain only: other tables have their say
