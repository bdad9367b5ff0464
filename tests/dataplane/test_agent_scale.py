"""A node with very many addresses and routes: what one pass of the agent costs."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Iterator

import pytest
from pyroute2 import IPRoute

from nat64_dataplane.config import Config, Limits
from nat64_dataplane.translator.datapath.datapath import Datapath
from nat64_dataplane.translator.node import uplinks_and_pools
from nat64_dataplane.translator.node.fact_cache import FactCache
from tests.lab.node import Node

pytestmark = pytest.mark.root

ADDRESSES, ROUTES = 10_000, 100_000
MOST_SECONDS = 3.0
"""Of CPU time. It takes 0.8; reading alone took 26 by way of a parser of everything."""
_CLONE_NEWNET = 0x40000000


@pytest.fixture
def crowded() -> Iterator[Node]:
    node = Node("crowded")
    try:
        node.ip(
            "link add up0 type veth peer name far0",
            "link set up0 up",
            "link set far0 up",
            "link add nat64-t type veth peer name n64p-t",
            "link set nat64-t up",
            "addr add 192.0.2.1/24 dev up0",
            "route add default via 192.0.2.254 dev up0",
        )
        node.ip(*(f"addr add 198.18.{n >> 8}.{n & 255}/32 dev up0" for n in range(ADDRESSES)))
        node.ip(
            *(
                f"route add 10.{n >> 16}.{n >> 8 & 255}.{n & 255}/32 via 192.0.2.254 dev up0"
                for n in range(ROUTES)
            )
        )
        yield node
    finally:
        node.close()


def one_pass(pid: int, seen: dict[str, float]) -> None:
    """What a pass reads, concludes and writes, in the network namespace of a thread of its own."""
    space = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    assert ctypes.CDLL(None, use_errno=True).setns(space, _CLONE_NEWNET) == 0
    os.close(space)
    with (
        IPRoute(strict_check=True) as ipr,
        Datapath.open(None, "t", Limits(sessions=4096)) as datapath,
    ):
        start = time.thread_time()
        cache = FactCache()
        found = cache.read(ipr, "nat64-t")
        seen["read"] = time.thread_time() - start
        view = uplinks_and_pools.host_view(Config(name="t"), found, found.link("nat64-t"))
        datapath.apply(Config(name="t"), view)
        seen["all"] = time.thread_time() - start
        start = time.thread_time()
        seen["read again"] = cache.read(ipr, "nat64-t") is not found
        uplinks_and_pools.host_view(Config(name="t"), found, found.link("nat64-t"))
        seen["idle"] = time.thread_time() - start
        cache.close()
        seen["addresses"] = len(found.addresses)
        seen["local"] = len(found.local_ranges)
        seen["defaults"] = len(found.defaults)


def test_pass_over_very_many_addresses_and_routes_is_cheap(crowded: Node) -> None:
    seen: dict[str, float] = {}
    thread = threading.Thread(target=one_pass, args=(crowded.pid, seen))
    thread.start()
    thread.join()
    assert seen["addresses"] == ADDRESSES + 2, seen  # that of up0 and of lo
    assert seen["local"] > ADDRESSES
    assert seen["defaults"] == 1
    assert seen["all"] < MOST_SECONDS, seen
    assert not seen["read again"], "nothing has changed"
