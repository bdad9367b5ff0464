"""Parts of nftables rules as netlink carries them: what `nft --debug=netlink` shows."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

from pyroute2.netlink.nfnetlink import nftsocket as nft
from pyroute2.nftables.expressions import genex

TRANSPORT = 2  # NFT_PAYLOAD_TRANSPORT_HEADER
_BY_ITS_LINK = 1 | 8 | 32  # NFTA_FIB_F_SADDR, IIF, PRESENT


def to_port(port: int) -> Iterator[dict[str, Any]]:
    """Match UDP to a port."""
    yield from meta(nft.Meta.NFT_META_L4PROTO, bytes([socket.IPPROTO_UDP]))
    yield load(TRANSPORT, 2, 2)
    yield compare(port.to_bytes(2, "big"))


def meta(
    key: nft.Meta, value: bytes, how: nft.Cmp = nft.Cmp.NFT_CMP_EQ
) -> Iterator[dict[str, Any]]:
    """Match what the kernel knows about a packet, as its link."""
    yield genex("meta", {"dreg": 1, "key": key})
    yield compare(value, how)


def load(base: int, offset: int, size: int) -> dict[str, Any]:
    """Take bytes of a header."""
    return genex("payload", {"dreg": 1, "base": base, "offset": offset, "len": size})  # type: ignore[no-any-return]


def mask(bits: bytes) -> dict[str, Any]:
    """Keep these bits of what was taken."""
    arguments = {"sreg": 1, "dreg": 1, "len": len(bits)}
    return genex("bitwise", {**arguments, "mask": _data(bits), "xor": _data(bytes(len(bits)))})  # type: ignore[no-any-return]


def compare(value: bytes, how: nft.Cmp = nft.Cmp.NFT_CMP_EQ) -> dict[str, Any]:
    """Go on if what was taken is this."""
    return genex("cmp", {"sreg": 1, "op": how, "data": _data(value)})  # type: ignore[no-any-return]


def _data(value: bytes) -> dict[str, Any]:
    return {"attrs": [("NFTA_DATA_VALUE", value)]}


def unreachable_by_its_link() -> Iterator[dict[str, Any]]:
    """Match packets whose source the node wouldn't reach by the link that they came in on."""
    # pyroute2 takes the result for flags: this is the value 1, NFT_FIB_RESULT_OIF
    yield genex("fib", {"dreg": 1, "result": {"NFT_FIB_RESULT_UNSPEC"}, "flags": _BY_ITS_LINK})
    yield compare(bytes(4))
