"""Whether anybody has a chain for NAT on this node: conntrack is at work then, or will be."""

from __future__ import annotations

import contextlib
from pathlib import Path

from nat64_dataplane.translator.node import nftables_dump

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
        return any(chain.get("type") == "nat" for chain in nftables_dump.chains())
    return False
