"""The node file on a running agent, and what two translators of one node may not both have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.lab.node import wait_for
from tests.lab.topology import NODE_V4, Line
from tests.lab.translator import Translator, translator

pytestmark = pytest.mark.root

SHARED = [{"addresses": "192.0.2.0/24", "addressesPerNode": 1, "ports": "1024-65535"}]


def write(nat64: Translator, name: str = "", **entry: Any) -> Path:
    path = nat64.file.with_name("nodes.json")
    path.write_text(json.dumps({"nodes": {name: entry}} if name else entry))
    return path


def test_addresses_come_and_change_without_a_restart(lab: Line) -> None:
    lab.router.ip("route add 192.0.2.0/24 via 198.51.100.1")
    nat64 = Translator(lab.node, pools=SHARED)
    path = write(nat64, "other", allocated=["192.0.2.7/32"])
    nat64.arguments = ["--node-file", str(path), "--node", "this"]
    nat64.prepare()
    nat64.start()
    nat64.wait_ready(503, "NoAddress: no address of the pools' ranges is allocated to node 'this'")
    write(nat64, "this", allocated=["192.0.2.8/32"])
    nat64.wait_ready()
    assert lab.curl("peer").split()[0] == "192.0.2.8"
    write(nat64, "this", allocated=["192.0.2.9/32"])
    nat64.wait_ready(200, "192.0.2.9")
    assert lab.curl("peer").split()[0] == "192.0.2.9"
    path.write_text('{"nodes": {"this": {"allocated": ["192.0.2.1/24"]}}}')
    nat64.wait_ready(503, "nodes.json: nodes.this: allocated[0]")
    assert lab.curl("peer").split()[0] == "192.0.2.9", "the last good state stays"
    nat64.close()


def test_pod_ranges_are_asked_for_once_the_file_knows_the_node(lab: Line) -> None:
    nat64 = Translator(lab.node)
    path = write(nat64, podRanges=["2001:db8:ffff::/64"])
    nat64.arguments = ["--node-file", str(path), "--node", "this"]
    nat64.started()
    assert lab.curl("ok") == "ok", "the file was written before this node joined"
    path.write_text(json.dumps({"podRanges": ["2001:db8:ffff::/64"], "nodes": {"this": {}}}))
    wait_for("refusal", lambda: lab.curl("ok", "--max-time", "1", check=False) != "ok")
    nat64.close()


@pytest.mark.parametrize("written_first", [True, False])
def test_a_written_address_is_not_a_node_pool_too(lab: Line, written_first: bool) -> None:
    written = {"pools": [{"addresses": str(NODE_V4)}]}
    node: dict[str, Any] = {"pools": [{"ports": "62000-63000"}]}
    first, second = (written, node) if written_first else (node, written)
    other = {"prefix": "2001:db8:64::/96", "listen": "[::]:9474"}
    with translator(lab.node, **first):
        late = Translator(lab.node, "late", **second, **other)
        late.start()
        late.wait_ready(503, f"TakenOnNode: pools: translator 'default' has {NODE_V4}")
        assert lab.curl("ok") == "ok"
        late.close()
