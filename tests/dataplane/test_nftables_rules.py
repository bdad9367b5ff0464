"""The nftables rules on kernels that lack a part of nf_tables."""

from __future__ import annotations

import sys

import pytest

from nat64_dataplane.translator.node import nftables_notrack
from tests.lab.node import Lab
from tests.lab.topology import PREFIX

pytestmark = pytest.mark.root

_WRITE = """
from ipaddress import IPv6Network
from nat64_dataplane.translator.node import nftables_notrack as rules
# No kernel knows an expression of this name: what one without CONFIG_NFT_FIB says of `fib`.
absent = {"attrs": [("NFTA_EXPR_NAME", "nofib")]}
rules.nftables_tunnel.unreachable_by_its_link = lambda: iter([absent])
wanted = rules.rules([IPv6Network("%s")], "nat64-x", (), 8464, tracking=True)
print(rules.write("x", wanted))
assert rules.read("x") == rules.without_lookups(wanted)
"""


def test_a_kernel_without_route_lookups_has_all_other_rules() -> None:
    with Lab() as lab:
        node = lab.node("node")
        said = node.run(sys.executable, "-c", _WRITE % PREFIX)
        assert "No such file" in said
        table = node.run("nft", "list", "table", "inet", nftables_notrack.table_name("x"))
        assert "udp dport 8464" in table
        assert "notrack" in table
        assert "fib" not in table
