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


_WRITE_ALL = """
from ipaddress import IPv6Network
from nat64_dataplane.translator.node import nftables_notrack as rules
wanted = rules.rules([IPv6Network("%s")], "nat64-x", (), 8464, tracking=True)
assert rules.write("x", wanted) == ""
assert rules.read("x") == wanted
"""


def test_the_tunnels_rules_are_in_the_order_in_which_they_make_sense() -> None:
    """A source is kept only once it has passed the look-up, and only then is it accepted."""
    with Lab() as lab:
        node = lab.node("node")
        node.run(sys.executable, "-c", _WRITE_ALL % PREFIX)
        chain = node.run("nft", "list", "chain", "inet", nftables_notrack.table_name("x"), "input")
        found = [
            chain.index(part) for part in ("@reached accept", "fib saddr . iif", "add @reached")
        ]
        assert found == sorted(found)
