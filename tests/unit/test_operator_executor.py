"""Plans are carried out side by side: an object that takes the API server long delays no other."""

import asyncio
import threading
import time
from typing import Any

from kubernetes import client

from nat64_operator.edge import metrics
from nat64_operator.edge.backoff import OFTEN, Backoffs
from nat64_operator.edge.executor import AT_ONCE, Executor
from nat64_operator.edge.loop import Loop
from nat64_operator.edge.store import Store
from nat64_operator.reconcile.actions import Announce, Apply, Emit, Group, Plan
from nat64_operator.render.manifest import Ref
from tests.unit.operator_simulation import SETTINGS


class SlowServer:
    """Answers at once, but for objects that it is told to hold until `go`."""

    def __init__(self, *held: str) -> None:
        self.held = set(held)
        self.go = threading.Event()
        self.log: list[str] = []
        self.now, self.most = 0, 0
        self.lock = threading.Lock()

    def perform(self, action: Any) -> Any:
        if isinstance(action, Emit):
            return None
        name = action.manifest["metadata"]["name"]
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            if name in self.held:
                assert self.go.wait(90)
            time.sleep(0.01)
        finally:
            with self.lock:
                self.now -= 1
        self.log.append(name)
        if name == "refused":
            raise client.ApiException(status=422, reason="Invalid")
        return action.manifest


def group(name: str, *objects: str) -> Group:
    manifests = [
        {"kind": "ConfigMap", "metadata": {"name": each, "resourceVersion": "1"}}
        for each in objects or (name,)
    ]
    return Group(Ref("NAT64Gateway", name), tuple(map(Apply, manifests)))


async def act(executor: Executor, *groups: Group, held: str = "") -> bool:
    """One pass, and the end of what it began, but for the group that is held. A pass itself waits
    for a second, which may be too short for the rest on a busy machine.
    """
    done = await executor.act(Plan(groups), Plan, lambda: None)
    begun = [task for subject, task in executor._running.items() if subject.name != held]
    if begun:
        ended, late = await asyncio.wait(begun, timeout=60)
        assert not late
        done = done or any(task.result() for task in ended)
    return done


def made(server: SlowServer) -> Executor:
    return Executor(server, Store(SETTINGS), None)  # type: ignore[arg-type]


def test_a_slow_object_delays_no_other_and_is_not_written_twice() -> None:
    async def run() -> None:
        server = SlowServer("slow")
        executor = made(server)
        slow = group("slow", "slow", "after")
        assert await act(executor, slow, group("a"), group("b"), held="slow")
        assert sorted(server.log) == ["a", "b"]
        assert await act(executor, slow, group("c"), held="slow")
        assert sorted(server.log) == ["a", "b", "c"], "the slow one is left alone meanwhile"
        server.go.set()
        while "after" not in server.log:
            await asyncio.sleep(0.01)
        assert server.log.count("slow") == 1
        assert server.log.index("slow") < server.log.index("after")

    asyncio.run(run())


def test_only_so_many_are_written_at_a_time() -> None:
    async def run() -> None:
        server = SlowServer()
        await act(made(server), *(group(f"g{n}") for n in range(40)))
        assert len(server.log) == 40
        assert 1 < server.most <= AT_ONCE

    asyncio.run(run())


def test_a_group_stops_where_it_fails_and_the_others_go_on() -> None:
    async def run() -> None:
        server = SlowServer()
        executor = made(server)
        assert await act(executor, group("x", "refused", "never"), group("y"))
        assert sorted(server.log) == ["refused", "y"]
        await act(executor, group("x", "refused", "never"), group("y"))
        assert server.log.count("refused") == 1, "it waits for its turn"

    asyncio.run(run())


def test_a_warning_is_counted_by_its_reason() -> None:
    def event(name: str, *, warning: bool) -> Group:
        ref = Ref("DNS64Policy", name)
        return Group(ref, (Emit(ref, "1", warning, "CorefileRolledBack", "why"),))

    async def run() -> None:
        executor = made(SlowServer())
        await act(executor, event("a", warning=True), event("b", warning=False))

    counted = metrics.WARNINGS.labels("DNS64Policy", "CorefileRolledBack")
    before = counted._value.get()
    asyncio.run(run())
    assert counted._value.get() == before + 1


def test_a_lease_that_ran_out_does_not_stop_the_process() -> None:
    """Nobody has said yet that it is lost: the operator waits, and everything else goes on."""

    class Expired:
        """Held once, and not renewed since."""

        def __init__(self) -> None:
            self.held = asyncio.Event()
            self.held.set()

        holds = False

    async def run() -> int:
        store, kube = Store(SETTINGS), SlowServer()
        loop = Loop(
            kube,  # type: ignore[arg-type]
            store,
            SETTINGS,
            cluster_dns="::1",
            sidecar_dns="",
            probe_zones=(),
            lease=Expired(),  # type: ignore[arg-type]
        )
        task = asyncio.create_task(loop.run())
        turns = 0
        for _ in range(5):
            await asyncio.sleep(0.01)
            turns += 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return turns

    assert asyncio.run(asyncio.wait_for(run(), 60)) == 5


def announce(*, routers: bool) -> Group:
    news = Announce("nat64-system", "default", "x", routers=routers)
    return Group(Ref("NAT64Gateway", f"of {routers}"), (news,))


def test_pods_that_translate_are_told_while_thousands_of_others_still_are() -> None:
    """A node that is to drain must not wait for those that have just been told of another one."""

    class Telling(SlowServer):
        def perform(self, action: Any) -> None:
            if action.routers:
                assert self.go.wait(90)

    async def run() -> None:
        server = Telling()
        executor = made(server)
        announced = executor._store.announced
        await act(executor, announce(routers=True))
        await act(executor, announce(routers=False))
        while "default" not in announced:
            await asyncio.sleep(0.01)
        assert "default.routers" not in announced
        server.go.set()
        while "default.routers" not in announced:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(run(), 90))


SUBJECT = Ref("NAT64Gateway", "default")


def test_a_wish_that_changes_each_time_is_no_fight() -> None:
    """As where a node's labels come and go: it must not stop what else is to be done."""
    backoffs = Backoffs()
    assert not any(backoffs.holds(SUBJECT, [("Apply x", str(n % 2))]) for n in range(3 * OFTEN))


def test_a_list_of_nodes_that_changes_all_the_time_waits_alone() -> None:
    async def run() -> None:
        server = SlowServer()
        executor = made(server)
        others = group("default", "config")
        for number in range(OFTEN + 5):
            manifest = {
                "kind": "ConfigMap",
                "metadata": {"name": "routers", "resourceVersion": str(number)},
                "data": {"x": str(number)},
            }
            await act(executor, Group(Ref("ConfigMap", "routers"), (Apply(manifest),)))
        await act(executor, others)
        assert server.log == ["routers"] * OFTEN + ["config"]

    asyncio.run(asyncio.wait_for(run(), 90))
