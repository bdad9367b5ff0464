"""Reverse-path filters for IPv6, as firewalld's `IPv6_rpfilter=strict`: found, never changed.

In topology Gateway, packets from nodes of the other role come in on a link that the node's own
routes don't name: out of the tunnel on a gateway node, and, with Direct, replies on a router node.
A strict filter drops them. Its look-up knows neither that link nor a rule for it, so no route of
ours would help. Those of legacy ip6tables can't be read so.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from pyroute2.netlink.nfnetlink import nftsocket as nft

from nat64_dataplane.config import Config, Role, Transport
from nat64_dataplane.translator.node import nftables_dump

_NF_INET_PRE_ROUTING = 0
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
    with contextlib.suppress(OSError):
        return list(_strict())
    return []


def _strict() -> Iterator[str]:
    for chain in nftables_dump.chains():
        if _is_first(chain) and _has_filter(chain):
            family = _FAMILIES[chain["nfgen_family"]]
            yield f"{family} {chain.get('table')} {chain.get('name')}"


def _is_first(chain: Any) -> bool:
    hook = chain.get("hook")
    return (
        chain["nfgen_family"] in _FAMILIES
        and not chain.get("table").startswith(_OURS)
        and hook is not None
        and hook.get("NFTA_HOOK_HOOKNUM") == _NF_INET_PRE_ROUTING
    )


def _has_filter(chain: Any) -> bool:
    rules = nftables_dump.rules(chain["nfgen_family"], chain.get("table"), chain.get("name"))
    return any(
        int.from_bytes(flags, "big") & _SADDR_BY_IIF == _SADDR_BY_IIF
        for rule in rules
        for flags in _FIB.findall(bytes(rule.data))
    )
