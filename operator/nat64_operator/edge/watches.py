"""kopf's watches, in a thread with an event loop of its own, started again when they end.

Why kopf carries only this much: a handler that kopf retries for one object can't decide about many,
and kopf's own progress would be written into the objects. So handlers fill the store, the loop
decides, and what kopf can't see is read beside it: a watch reports no deletion that happened while
it was down, so full lists every ten minutes correct the store (`resync`).

kopf ends all of its watches where one meets what it doesn't expect, as a kind whose CRD is gone, or
a right that was taken away for a moment; and it cancels every task of its event loop then. Hence
the thread. The process goes on, with what it knows, until the watches are back.

kopf cancels a task once and waits for its end without a bound. A watch that waits for the head of
its answer at that moment takes the cancellation for a pause, and then waits for credentials that
nobody gets any more. So its end is bounded here: what is left is cancelled again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, cast

import kopf

from nat64_operator.edge import handlers, metrics
from nat64_operator.edge.backoff import wait_after
from nat64_operator.edge.store import Store

log = logging.getLogger("nat64_operator")

SOUND_SECONDS = 60
"""Watches that ran for so long were sound: the next end is a first one."""
GRACE_SECONDS = 8
"""How long kopf has to end after its first task did; it gives handlers five seconds itself."""
AGAIN_SECONDS, AGAIN_TIMES = 1, 10
"""How often what is left is cancelled after that. Then it is left behind, in its thread."""


class Watches:
    """The watches. `again` is called when they start anew: what they missed must be listed."""

    def __init__(self, store: Store, namespace: str, again: Callable[[], None]) -> None:
        self._store, self._namespace, self._again = store, namespace, again

    async def run(self) -> None:
        """Run until cancelled. Does not wait for the thread's end, which nothing depends on."""
        failures = 0
        while True:
            began = time.monotonic()
            thread = _Thread(self._store, self._namespace)
            metrics.WATCHES_UP.set(1)
            try:
                why = await thread.ended
            finally:
                thread.stop()
                metrics.WATCHES_UP.set(0)
            metrics.FAILURES.labels("watch").inc()
            failures = 0 if time.monotonic() - began > SOUND_SECONDS else failures
            wait = wait_after(failures)
            failures += 1
            log.error("the watches ended, and start again in %d s: %s", wait, why)
            await asyncio.sleep(wait)
            log.info("the watches start again")
            self._again()


class _Thread:
    """One run of kopf."""

    def __init__(self, store: Store, namespace: str) -> None:
        self._store, self._namespace = store, namespace
        self._owner = asyncio.get_running_loop()
        self._own: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._told = False
        self.ended: asyncio.Future[str] = self._owner.create_future()
        threading.Thread(target=self._run, name="watches", daemon=True).start()

    def stop(self) -> None:
        """Tell kopf to end, if it hasn't."""
        self._told = True
        if self._own is not None:
            with contextlib.suppress(RuntimeError):  # its loop is closed: it has ended
                self._own.call_soon_threadsafe(self._stop.set)

    def _run(self) -> None:
        try:
            asyncio.run(self._watch())
            why = "kopf returned"
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
        except asyncio.CancelledError:
            why = "kopf was cancelled"
        self._tell(why)

    def _tell(self, why: str) -> None:
        with contextlib.suppress(RuntimeError):  # the process ends
            self._owner.call_soon_threadsafe(self._note, why)

    def _note(self, why: str) -> None:
        if not self.ended.done():
            self.ended.set_result(why)

    async def _watch(self) -> None:
        self._own = asyncio.get_running_loop()
        if self._told:
            return
        before = asyncio.all_tasks()
        tasks = await kopf.spawn_tasks(
            registry=handlers.registry(self._store, self._owner),
            # The user id of the pod has no name in the image, which kopf would look up for this.
            identity=cast(Any, socket.gethostname()),
            namespaces=[self._namespace],
            standalone=True,
            stop_flag=self._stop,
        )
        running = asyncio.create_task(kopf.run_tasks(tasks, ignored=before))
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({running}, timeout=GRACE_SECONDS)
        for _ in range(AGAIN_TIMES):
            if running.done():
                break
            for task in asyncio.all_tasks() - before - {running}:
                task.cancel()
            await asyncio.wait({running}, timeout=AGAIN_SECONDS)
        if not running.done():
            # What follows may never return, so the owner is told before.
            self._tell("kopf's tasks can't be cancelled")
        await running
