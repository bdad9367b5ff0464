"""When the agent looks at a namespace again."""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv6Network
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import IPRoute

from nat64_dataplane.clat import pace
from nat64_dataplane.clat.follower import Follower
from nat64_dataplane.clat.keeper import Keeper, Pod
from nat64_dataplane.clat.plan import LeftAlone, Part, Setup
from nat64_dataplane.clat.programs import Programs
from nat64_dataplane.clat.state import State
from tests.dataplane.clat_bench import PREFIX
from tests.lab.node import PATIENCE, Node

pytestmark = pytest.mark.root

_MS_BIND, _MNT_DETACH = 4096, 2


class ChangedBehind(Keeper):
    """The pod gets its route just after the first visit has looked for it."""

    def _settle(
        self, pod: Pod, prefix: IPv6Network, *, wanted: bool
    ) -> tuple[Setup | LeftAlone, tuple[Part, ...]]:
        found = super()._settle(pod, prefix, wanted=wanted)
        if found[0] is LeftAlone.NO_ROUTE:
            with IPRoute() as ipr:
                (index,) = ipr.link_lookup(ifname="eth0")
                ipr.route("add", family=socket.AF_INET6, dst="::/0", gateway="fd64:7::1", oif=index)
        return found


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Path]:
    """The network namespace of a pod that has all but a route."""
    libc = ctypes.CDLL(None, use_errno=True)
    pod = Node("pod")
    path = tmp_path / "pod"
    path.touch()
    try:
        pod.ip("link add eth0 type veth peer name peer0", "link set eth0 up", "link set peer0 up")
        pod.ip("addr add fd64:7::10/64 dev eth0 nodad")
        source = os.fsencode(f"/proc/{pod.pid}/ns/net")
        assert libc.mount(source, os.fsencode(path), None, _MS_BIND, None) == 0
        yield path
    finally:
        libc.umount2(os.fsencode(path), _MNT_DETACH)
        pod.close()


def test_a_change_during_the_first_visit_is_seen(
    mount: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "VERIFY_SECONDS", 3600.0)
    programs = Programs.load()
    state = State()

    async def follow() -> None:
        with ThreadPoolExecutor(max_workers=1) as thread:

            async def in_kernel(work: Callable[..., Any], *arguments: object) -> Any:
                return await asyncio.get_running_loop().run_in_executor(thread, work, *arguments)

            follower = Follower(ChangedBehind("default", programs), state, in_kernel, lambda: None)
            follower.configure(PREFIX)
            follower.follow({mount})
            try:
                async with asyncio.timeout(PATIENCE):
                    while "pod" not in state.pods or state.pods["pod"].state != "SetUp":
                        await asyncio.sleep(0.01)
            finally:
                await follower.close()

    asyncio.run(follow())
    programs.close()
