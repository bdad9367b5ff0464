"""Asks gateway nodes whether they serve, again and again, by UDP through their own programs.

The probes take the way of all packets: by the route to the prefix, the steering program and the
transport, so what is probed is all of it. One socket for each gateway, so that the kernel sorts the
answers. Everything is on the event loop; none of it waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address

from nat64_dataplane.topology import PROBE_PORT
from nat64_dataplane.translator.steering import probe
from nat64_dataplane.translator.steering.health import Health, State, Thresholds
from nat64_dataplane.translator.steering.places import Places
from nat64_dataplane.translator.steering.statistics import Statistics

_JITTER = 0.1  # of the interval, so that router nodes don't fall into step
_READ_AT_ONCE = 64

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Round:
    """Whom to ask, from where, how often."""

    places: Places
    source: IPv6Address
    """This node's address: others aren't answered."""
    target: IPv6Address
    """The probe address."""
    interface: str
    """With a tunnel, the translator's link, by which answers come in. From pods' links nothing is
    taken: a pod could fill the socket with what looks like answers, so that the true ones are lost.
    Empty for transport Direct, where answers come in by the node's link.
    """
    thresholds: Thresholds


class Prober:
    """Follows a Round, which may change at any time."""

    def __init__(self, changed: Callable[[], None]) -> None:
        """`changed` is called when the state of any gateway does."""
        self._changed = changed
        self._round: Round | None = None
        self._asked: dict[IPv6Address, _Asked] = {}
        self._wake = asyncio.Event()

    @property
    def states(self) -> Mapping[IPv6Address, State]:
        """What is thought of each gateway now."""
        return {address: one.health.state for address, one in self._asked.items()}

    def why(self, address: IPv6Address) -> str:
        """Why a gateway isn't healthy; empty where it is."""
        return self._asked[address].health.why if address in self._asked else ""

    def statistics(self, address: IPv6Address) -> Statistics:
        """What was counted about a gateway."""
        return self._asked[address].statistics if address in self._asked else Statistics()

    def follow(self, now: Round | None, known: Mapping[IPv6Address, State] | None = None) -> None:
        """Ask these from now on; `known` are the states of those that aren't asked yet."""
        if now == self._round:
            return
        self._round = now
        wanted = {address: index for index, address in now.places.items()} if now else {}
        for address in self._asked.keys() - wanted.keys():
            self._asked.pop(address).close()
        for address, index in wanted.items():
            assert now is not None
            one = self._asked.get(address)
            if one is None:
                state = (known or {}).get(address, State.NEW)
                one = self._asked[address] = _Asked(Health(now.thresholds, state), self._changed)
            if one.follow(index, now):
                self._wake.set()

    async def run(self) -> None:
        """Ask, until cancelled."""
        await asyncio.sleep(random.random() * _JITTER)
        try:
            while True:
                self._wake.clear()
                if self._round is None or not self._asked:
                    await self._wake.wait()
                    continue
                for one in list(self._asked.values()):
                    one.ask()
                await self._pause(self._round.thresholds.interval)
        finally:
            for one in self._asked.values():
                one.close()

    async def _pause(self, interval: float) -> None:
        """Wait for the next round. Who is to be asked another way is asked at once: by that,
        gateway nodes hear of it. The round then begins later, so that there is time for an answer.
        """
        clock = asyncio.get_running_loop().time
        pause = interval * random.uniform(1 - _JITTER, 1)
        end = clock() + pause
        while (left := end - clock()) > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), left)
                self._wake.clear()
                for one in [one for one in self._asked.values() if one.is_new_way]:
                    one.ask()
                end = clock() + pause


class _Asked:
    """One gateway node that is asked."""

    def __init__(self, health: Health, changed: Callable[[], None]) -> None:
        self.health = health
        self.statistics = Statistics()
        self._changed = changed
        self._socket: socket.socket | None = None
        self._index = 0
        self._ends: tuple[IPv6Address, IPv6Address, str] | None = None
        self._sent: dict[int, float] = {}
        """Probes without an answer yet: nonce, and when each was sent."""
        self._waiting = False
        """Whether the last probe has no answer yet."""
        self._trouble = ""
        self.is_new_way = True
        """Whether no probe has gone by this way yet."""

    def follow(self, index: int, now: Round) -> bool:
        """Returns whether the gateway is to be asked another way than before."""
        self.health.thresholds = now.thresholds
        self._index = index
        if self._ends == (now.source, now.target, now.interface):
            return False
        self.close()
        self._waiting = False  # for what was asked by the old way
        self.is_new_way = True
        self._ends = (now.source, now.target, now.interface)
        return True

    def close(self) -> None:
        if self._socket:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        self._sent.clear()

    def ask(self) -> None:
        """Read what has come, note it if nothing has, and ask anew."""
        before = self.health.state
        # First what is there: the loop may have been held up, and that is not the gateway's fault.
        self._read()
        if self._waiting:
            self.statistics.missed += 1
            self.health.miss(time.monotonic())
        nonce = secrets.randbits(64)
        self._sent[nonce] = time.monotonic()
        # An answer that is later than it takes to be dead tells nothing about now.
        while len(self._sent) > self.health.thresholds.failure:
            del self._sent[next(iter(self._sent))]
        self._waiting, self.is_new_way = True, False
        self.statistics.sent += 1
        try:
            self._open().send(probe.request(self._index, nonce))
            self._trouble = ""
        except OSError as error:
            self.statistics.failed += 1
            self._note_trouble(error.strerror or str(error))
            self.close()  # the link may have been made anew
        self._note(before)

    def _open(self) -> socket.socket:
        if self._socket is None:
            assert self._ends is not None
            source, target, interface = self._ends
            opened = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            try:
                if interface:
                    device = interface.encode() + b"\0"
                    opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device)
                opened.bind((str(source), 0))
                opened.connect((str(target), PROBE_PORT))
            except OSError:
                opened.close()
                raise
            self._socket = opened
            asyncio.get_running_loop().add_reader(opened, self._on_readable)
        return self._socket

    def _on_readable(self) -> None:
        before = self.health.state
        self._read()
        self._note(before)

    def _read(self) -> None:
        for _ in range(_READ_AT_ONCE):
            if self._socket is None:
                return
            try:
                data = self._socket.recv(64)
            except BlockingIOError:
                return
            except OSError as error:  # an ICMP error about an earlier probe
                self._note_trouble(error.strerror or str(error))
                continue
            answer = probe.read_answer(data)
            asked_at = self._sent.pop(answer[0], None) if answer else None
            if answer is None or asked_at is None:
                continue
            now = time.monotonic()
            self._waiting = False
            self.statistics.note_answer(now - asked_at)
            self.health.answer(answer[1], now)

    def _note(self, before: State) -> None:
        self.statistics.deaths = self.health.deaths
        if self.health.state is not before:
            self._changed()

    def _note_trouble(self, what: str) -> None:
        if what != self._trouble:
            self._trouble = what
            log.debug("probe of gateway %d: %s", self._index, what)
