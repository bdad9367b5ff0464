"""The pods' ranges as a CNI says: when they are read, and what a failure changes."""

import asyncio
from collections.abc import Iterator
from typing import Any, cast

import pytest
from kubernetes import client

from nat64_operator.edge.cni_ranges import CniRanges
from nat64_operator.edge.kube import Kube
from nat64_operator.edge.store import Store
from tests.unit.operator_simulation import SETTINGS

CILIUM = {"metadata": {"name": "a"}, "spec": {"ipam": {"podCIDRs": ["fd00:c1::/64"]}}}
CALICO = {"metadata": {"name": "x"}, "spec": {"affinity": "host:b", "cidr": "fd00:c2::/122"}}


class Lists:
    """An API server that has lists, or fails."""

    def __init__(self) -> None:
        self.known: dict[str, Any] = {"CiliumNode": [CILIUM], "IPAMBlock": [CALICO]}
        self.asked = 0

    def items(self, kind: str) -> Iterator[Any]:
        self.asked += 1
        found = self.known[kind]
        if isinstance(found, int):
            raise client.ApiException(status=found)
        yield from found


class Reading:
    """What is read, as the loop does it."""

    def __init__(self) -> None:
        self.lists, self.store = Lists(), Store(SETTINGS)
        self.ranges = CniRanges(cast(Kube, self.lists), self.store)

    async def again(self, monkeypatch: pytest.MonkeyPatch, later: float) -> None:
        """Look again after some seconds, and wait for what was begun."""
        now = max(self.ranges.times())
        monkeypatch.setattr("time.monotonic", lambda: now + later)
        await self.ranges.refresh()
        monkeypatch.undo()
        if self.ranges._running is not None:
            await self.ranges._running


BOTH = {"a": ("fd00:c1::/64",), "b": ("fd00:c2::/122",)}


def test_both_kinds_are_read_once_and_then_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        one = Reading()
        await one.ranges.refresh()
        assert one.store.cni_ranges == BOTH
        await one.ranges.refresh()
        assert one.lists.asked == 2
        await one.again(monkeypatch, -1)
        assert one.lists.asked == 2
        await one.again(monkeypatch, 1)
        assert one.lists.asked == 4

    asyncio.run(scenario())


def test_most_clusters_have_neither_kind() -> None:
    one = Reading()
    one.lists.known = {"CiliumNode": 404, "IPAMBlock": 403}
    asyncio.run(one.ranges.refresh())
    assert one.store.cni_ranges == {}


def with_routers(one: Reading) -> None:
    metadata = {"name": "default", "uid": "1", "resourceVersion": "1"}
    spec = {"topology": "Gateway"}
    one.store.put({"kind": "NAT64Gateway", "metadata": metadata, "spec": spec})


def test_where_nodes_steer_nothing_is_decided_before_they_were_read_once() -> None:
    one = Reading()
    with_routers(one)
    one.lists.known["IPAMBlock"] = 500
    with pytest.raises(client.ApiException):
        asyncio.run(one.ranges.refresh())
    one.lists.known["IPAMBlock"] = [CALICO]
    asyncio.run(one.ranges.refresh())
    assert one.store.cni_ranges == BOTH


def test_a_kind_of_others_that_fails_for_ever_stops_nothing_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = Reading()
    one.lists.known["IPAMBlock"] = 500
    asyncio.run(one.ranges.refresh())  # no node steers
    one = Reading()
    with_routers(one)
    one.lists.known["IPAMBlock"] = 500
    with pytest.raises(client.ApiException):
        asyncio.run(one.ranges.refresh())
    began = one.ranges._began
    monkeypatch.setattr("nat64_operator.edge.cni_ranges.PATIENCE_SECONDS", -1.0)
    asyncio.run(one.ranges.refresh())
    assert one.ranges._began == began


@pytest.mark.parametrize("status", [403, 404, 500])
def test_what_can_t_be_read_again_stays(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        one = Reading()
        await one.ranges.refresh()
        one.lists.known["IPAMBlock"] = status
        await one.again(monkeypatch, 1)
        assert one.lists.asked == 4
        assert one.store.cni_ranges == BOTH

    asyncio.run(scenario())


def test_what_is_gone_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        one = Reading()
        await one.ranges.refresh()
        one.lists.known["IPAMBlock"] = []
        await one.again(monkeypatch, 1)
        assert one.store.cni_ranges == {"a": ("fd00:c1::/64",)}

    asyncio.run(scenario())
