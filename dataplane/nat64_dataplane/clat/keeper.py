"""Visits network namespaces: sees what is there, makes what is missing, takes out what must go.

All of it runs on one thread, which is the only one that enters namespaces.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv6Network
from pathlib import Path
from typing import NamedTuple

from nat64_dataplane.clat import namespace, netlink_changes, netlink_facts, plan
from nat64_dataplane.clat.namespace import Identity
from nat64_dataplane.clat.plan import Direction, LeftAlone, Part, Setup
from nat64_dataplane.clat.programs import SLOTS, Programs, Slot
from nat64_dataplane.errors import HostError

ANY_PREFIX = IPv6Network("64:ff9b:1::/96")
"""For who only takes out: the way to it tells a pod's link, as IPv6-only pods have a default route.
"""


class Slots:
    """Which slot of the programs' table is whose.

    The one that has been free for longest is given next, so that what is left of a pod after its
    end doesn't meet a new pod's.
    """

    def __init__(self, programs: Programs) -> None:
        self._programs = programs
        self.written = programs.slots()
        """What the table holds: at first, from the last agent."""
        self._owners: dict[int, Identity] = {}
        self._free = deque(index for index in range(1, SLOTS) if index not in self.written)

    def claim(self, index: int, owner: Identity, slot: Slot) -> bool:
        """Take over a slot of the last agent's. False if it is another's, or another pod's."""
        if self._owners.get(index, owner) != owner or self.written.get(index) != slot:
            return False
        self._owners[index] = owner
        return True

    def take(self, owner: Identity) -> int:
        """A slot that is free. Raises HostError where there is none."""
        if not self._free:
            raise HostError("TooManyPods", f"all {SLOTS - 1} slots for pods are taken on this node")
        index = self._free.popleft()
        self._owners[index] = owner
        return index

    def write(self, index: int, slot: Slot) -> None:
        """Say what the pod with the slot has."""
        if self.written.get(index) != slot:
            self._programs.write(index, slot)
            self.written[index] = slot

    def give_back(self, index: int) -> None:
        """The pod is gone, or has no CLAT any more."""
        if self._owners.pop(index, None) is not None:
            self._clear(index)

    def clear_unclaimed(self) -> None:
        """Free what no pod has claimed, once all pods have been seen."""
        for index in [index for index in self.written if index not in self._owners]:
            self._clear(index)

    def _clear(self, index: int) -> None:
        if self.written.pop(index, None) is not None:
            self._programs.write(index, None)
        self._free.append(index)


@dataclass
class Pod:
    """A namespace that has been seen."""

    identity: Identity
    monitor: socket.socket
    slot: int = 0
    """0: it has none."""


class Visit(NamedTuple):
    """What a visit has found and done."""

    pod: Pod
    result: Setup | LeftAlone
    made: tuple[Part, ...]
    took: float
    """Seconds of CPU time."""


class Keeper:
    """The visits of one agent. Only for its thread."""

    def __init__(self, instance: str, programs: Programs) -> None:
        self.instance = instance
        self.slots = Slots(programs)
        self._fds: dict[Direction, int] = {
            "egress": programs.egress.fd,
            "ingress": programs.ingress.fd,
        }
        self._ids: dict[Direction, int] = {
            "egress": programs.egress.identity[0],
            "ingress": programs.ingress.identity[0],
        }
        self._host = set(_host_namespaces())

    def visit(
        self, path: Path, known: Pod | None, prefix: IPv6Network, wanted: bool = True
    ) -> Visit:
        """Have the pod whose namespace is mounted at `path` set up, or not if that isn't `wanted`.

        Raises NotANamespaceError, HostError, and OSError for all that fails in the kernel, also
        where the namespace has vanished.
        """
        begun = time.thread_time()
        with namespace.opened(path) as fd:
            identity = namespace.identity(fd)
            if known and known.identity != identity:
                raise FileNotFoundError(f"{path} is another namespace now")
            if identity in self._host:
                raise namespace.NotANamespaceError(f"{path} is the node's own network")
            with namespace.entered(fd):
                # First the monitor: no change after it goes unnoticed.
                pod = known or Pod(identity, namespace.monitor())
                try:
                    result, made = self._settle(pod, prefix, wanted=wanted)
                except BaseException:
                    if known is None:
                        self.forget(pod)
                    raise
        return Visit(pod, result, made, time.thread_time() - begun)

    def forget(self, pod: Pod) -> None:
        """Let go of a namespace: its programs, address and route go with it."""
        pod.monitor.close()
        self._free_slot(pod)

    def _settle(
        self, pod: Pod, prefix: IPv6Network, *, wanted: bool
    ) -> tuple[Setup | LeftAlone, tuple[Part, ...]]:
        facts = netlink_facts.read(prefix)
        result = plan.decide(facts, self.instance) if wanted else LeftAlone.OPTED_OUT
        if isinstance(result, LeftAlone):
            # What is only missing for a moment takes nothing out.
            if result in (LeftAlone.OPTED_OUT, LeftAlone.HAS_IPV4):
                if plan.is_set_up(facts, self.instance):
                    netlink_changes.remove(facts, self.instance)
                self._free_slot(pod)
            return result, ()
        slot = Slot(result.address, prefix)
        if not pod.slot:
            pod.slot = self._slot(facts, pod, slot)
        self.slots.write(pod.slot, slot)
        parts = plan.missing(facts, result, self.instance, pod.slot, self._ids)
        if parts:
            netlink_changes.apply(facts, result, parts, self.instance, pod.slot, self._fds)
        if plan.is_elsewhere(facts, result, self.instance):
            netlink_changes.remove_elsewhere(facts, result, self.instance)
        return result, tuple(parts)

    def _slot(self, facts: plan.Facts, pod: Pod, slot: Slot) -> int:
        adopted = plan.adopted_slot(facts, self.instance, self._ids)
        if adopted and self.slots.claim(adopted, pod.identity, slot):
            return adopted
        return self.slots.take(pod.identity)

    def _free_slot(self, pod: Pod) -> None:
        if pod.slot:
            self.slots.give_back(pod.slot)
            pod.slot = 0


def undo(path: Path, instance: str) -> bool:
    """Take everything of an instance out of the namespace at `path`; whether there was anything.

    Raises NotANamespaceError, OSError.
    """
    with namespace.opened(path) as fd, namespace.entered(fd):
        facts = netlink_facts.read(ANY_PREFIX)
        if not plan.is_set_up(facts, instance):
            return False
        netlink_changes.remove(facts, instance)
        return True


def _host_namespaces() -> Iterator[Identity]:
    for path in (namespace.HOME, Path("/proc/1/ns/net")):
        with contextlib.suppress(OSError):
            status = path.stat()
            yield Identity(status.st_dev, status.st_ino)
