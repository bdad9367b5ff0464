"""The process from start to end: health server and CRDs, then the loop, the Lease, the watches."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Sequence

from kubernetes import client

from nat64_operator.api import gateway as gateway_api
from nat64_operator.api import policy as policy_api
from nat64_operator.apiserver import TROUBLE, say
from nat64_operator.edge import health
from nat64_operator.edge.agent_status import AgentStatus
from nat64_operator.edge.kube import Kube
from nat64_operator.edge.lease import Lease
from nat64_operator.edge.loop import Loop
from nat64_operator.edge.store import Store
from nat64_operator.edge.watches import Watches
from nat64_operator.settings import Settings

log = logging.getLogger("nat64_operator")

AGAIN_SECONDS = 3
POLL_SECONDS = 0.05
HAND_OVER_POLLS = 100
"""Together, they are longer than most requests take, and shorter than the pod's grace period."""
LABEL_ATTEMPTS = 5
PSA_LABEL = "pod-security.kubernetes.io"
PSA_MODES = ("enforce", "warn")


async def run(
    kube: Kube,
    settings: Settings,
    *,
    cluster_dns: str,
    sidecar_dns: str,
    probe_zones: Sequence[str],
    health_address: str,
    label_namespace: bool,
) -> int:
    """Run until told to stop by a signal. Returns the exit code."""
    store = Store(settings)
    lease = Lease(kube.separate(), settings.namespace)
    loop = Loop(
        kube,
        store,
        settings,
        cluster_dns=cluster_dns,
        sidecar_dns=sidecar_dns,
        probe_zones=probe_zones,
        lease=lease,
    )
    tasks: list[asyncio.Task[None]] = []
    async with health.serving(health_address, loop, store, tasks):
        await _wait_for_crds(kube, loop)
        if label_namespace:
            await _label_namespace(kube, settings.namespace)
        told = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, told.set)
        tasks.append(asyncio.create_task(loop.run(), name="reconcile loop"))
        agents = AgentStatus(store, lease)
        tasks.append(asyncio.create_task(agents.run(), name="the nodes' warnings"))
        tasks.append(asyncio.create_task(lease.run(), name="lease"))
        watches = Watches(store, settings.namespace, loop.lists_again)
        tasks.append(asyncio.create_task(watches.run(), name="watches"))
        try:
            await told.wait()
            return 0
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await _hand_over(kube, lease)


async def _hand_over(kube: Kube, lease: Lease) -> None:
    """Release the Lease once no request is running: a thread can't be cancelled."""
    for _ in range(HAND_OVER_POLLS):
        if kube.idle:
            await lease.release()
            return
        await asyncio.sleep(POLL_SECONDS)
    log.warning("a request is still under way, so the lease is left to expire")


async def _wait_for_crds(kube: Kube, loop: Loop) -> None:
    """Wait until the API server serves both kinds. Without the CRDs, an empty list would mean that
    there is no gateway. On a node that has just booted, the API server may be unreachable at first.
    """
    said: set[str] = set()
    for kind in (gateway_api.KIND, policy_api.KIND):
        while True:
            loop.touch()
            try:
                if await asyncio.to_thread(kube.serves, kind):
                    break
                problem = f"the API server does not know {kind}: install the chart's CRDs"
            except TROUBLE as error:
                problem = f"the API server can't be asked about {kind}: {say(error)}"
            if problem not in said:
                said.add(problem)
                log.error("%s. Waiting for it", problem)
            await asyncio.sleep(AGAIN_SECONDS)


async def _label_namespace(kube: Kube, namespace: str) -> None:
    """Label the namespace, so that Pod Security admission admits the translators' pods. A label
    that another field manager owns is left alone.
    """
    for mode in PSA_MODES:
        for attempt in range(LABEL_ATTEMPTS):
            try:
                label = f"{PSA_LABEL}/{mode}"
                await asyncio.to_thread(kube.label_namespace, namespace, label, "privileged")
                break
            except client.ApiException as error:
                if error.status == 409:
                    log.warning("a label of namespace %s is left alone: %s", namespace, say(error))
                    break
                problem = say(error)
            except TROUBLE as error:
                problem = say(error)
            log.warning("namespace %s can't be labelled: %s", namespace, problem)
            if attempt + 1 < LABEL_ATTEMPTS:
                await asyncio.sleep(AGAIN_SECONDS)
