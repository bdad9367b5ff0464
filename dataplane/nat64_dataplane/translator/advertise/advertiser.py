"""Advertises on the links that the config names, for as long as packets are translated.

The agent says after each pass what it has found; the rest happens on its event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Iterator, Mapping
from ipaddress import IPv6Network

from nat64_dataplane.config import Config
from nat64_dataplane.translator.advertise.counters import Counters
from nat64_dataplane.translator.advertise.icmp_socket import IcmpSocket, Received
from nat64_dataplane.translator.advertise.links import AdvertisingLink
from nat64_dataplane.translator.advertise.message import (
    ROUTER_SOLICITATION,
    Offer,
    advertisement,
    makes_default_router,
    refusal,
)
from nat64_dataplane.translator.advertise.record import RIVAL, Record, Told, now
from nat64_dataplane.translator.advertise.schedule import Draw, Schedule
from nat64_dataplane.translator.node_warning import NodeWarning, warn

_MOST_AT_ONCE = 64
_REST_SECONDS = 0.05
"""Solicitations that are read in one go, and the pause after so many: a flood must not hold up the
rest of the agent."""
_SOLICITATION = bytes([ROUTER_SOLICITATION])
_RIVAL_SECONDS = 3 * 1800.0
"""No router is silent for longer than 1800 s (RFC 4861 section 6.2.1)."""

log = logging.getLogger(__name__)


class Advertiser:
    """One instance's. It is used on the event loop only."""

    def __init__(self, record: Record, counters: Counters, draw: Draw = random.uniform) -> None:
        self._record = record
        self._counters = counters
        self._draw = draw
        self._links: Mapping[str, AdvertisingLink] = {}
        self._schedules: dict[str, Schedule] = {}
        self._before = record.read()
        self._socket: IcmpSocket | None = None
        self._wake = asyncio.Event()
        self._wanted: tuple[str, ...] = ()
        self._socket_error = ""
        self._rivals: dict[str, float] = {}
        self._nobody: tuple[str, ...] = ()

    def names(self, config: Config) -> tuple[str, ...]:
        """The links that it must know of: the config's, and those where something was said."""
        return tuple(dict.fromkeys((*config.advertise.interfaces, *self._before, *self._schedules)))

    @property
    def advertised(self) -> tuple[str, ...]:
        """The links on which hosts are offered the prefix now."""
        return tuple(
            name
            for name, schedule in self._schedules.items()
            if schedule.offer and not self._obstacle(name)
        )

    @property
    def warnings(self) -> Iterator[NodeWarning]:
        """What keeps hosts from learning of the prefix, or from using it."""
        found = [f"{name}: {problem}" for name in self._wanted if (problem := self._obstacle(name))]
        if found:
            yield warn("NotAdvertised", *found)
        if self._nobody:
            yield warn("AdvertisedToNobody", *self._nobody)

    def follow(
        self,
        config: Config,
        links: Mapping[str, AdvertisingLink],
        *,
        healthy: bool,
        strangers: frozenset[int] = frozenset(),
    ) -> None:
        """Take in a pass: the links of `names`, whether packets are translated, and behind which
        links, by index, hosts are served only if the policy names them.
        """
        self._note_links(links)
        section = config.advertise
        self._wanted = section.interfaces
        offer = Offer(config.prefix, section.seconds_of_route, section.seconds_of_prefix)
        time, names = now(), self.names(config)
        self._open_socket(needed=bool(names))
        for name in names:
            schedule = self._schedules.get(name) or self._schedule(name)
            wanted = offer if healthy and name in section.interfaces else None
            had = schedule.offer
            schedule.offers(time, wanted, section.interval)
            schedule.usable(time, not self._obstacle(name))
            if had != wanted:
                _log_change(name, had, wanted, healthy=healthy)
        self._forget()
        if self._socket:
            self._socket.listen_on({links[name].index for name in self.advertised})
        self._nobody = self._unserved(config, strangers)
        self._write()
        self._wake.set()

    def _unserved(self, config: Config, strangers: frozenset[int]) -> tuple[str, ...]:
        if config.policy.allowed_sources:
            return ()
        return tuple(name for name in self.advertised if self._links[name].index in strangers)

    async def run(self) -> None:
        """Send what is due, until cancelled."""
        try:
            while True:
                self._wake.clear()
                due = [s.next_at for s in self._schedules.values() if s.next_at is not None]
                pause = max(0.0, min(due) - now()) if due else None
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), pause)
                self._send_due()
        finally:
            # Nothing is withdrawn: packets are translated whether an agent runs or not.
            self._close_socket()
            self._write(last=True)

    def _send_due(self) -> None:
        ended = False
        for name, schedule in self._schedules.items():
            if schedule.next_at is None or schedule.next_at > now():
                continue
            self._send(name, schedule)
            ended = ended or not schedule.known
        if ended:
            self._forget()
            self._write()

    def _send(self, name: str, schedule: Schedule) -> None:
        link = self._links[name]
        assert self._socket  # else no link is usable
        assert link.source
        message = advertisement(schedule.content(), link.source, link.mac)
        try:
            self._socket.send(message, link.index, link.source)
        except OSError as error:
            self._counters.failed[name] += 1
            log.warning("can't advertise on %s: %s", name, error.strerror)
        else:
            self._counters.sent[name, schedule.kind] += 1
        schedule.sent(now())

    def _hear(self) -> None:
        socket = self._socket
        assert socket
        by_index = {link.index: name for name, link in self._links.items() if not link.problem}
        for _ in range(_MOST_AT_ONCE):
            try:
                got = socket.receive()
            except OSError as error:
                log.warning("can't hear solicitations: %s", error.strerror)
                return
            if got is None:
                return
            name = by_index.get(got.link)
            if name is None or name not in self._schedules:
                continue
            if got.data[:1] == _SOLICITATION:
                self._solicited(name, got)
            elif got.source == self._links[name].source and makes_default_router(
                got.data, got.source, got.destination, got.hop_limit
            ):
                self._give_way(name)
        self._rest(socket)

    def _give_way(self, name: str) -> None:
        """Another program makes this node a default router here, by the same address. Ours say that
        it is none: hosts would drop their default route each time.
        """
        if name not in self._rivals:
            log.warning("no longer advertising on %s: %s", name, RIVAL)
        self._rivals[name] = now()
        self._schedules[name].usable(now(), False)

    def _rival(self, name: str) -> str:
        heard = self._rivals.get(name)
        if heard is not None and now() - heard > _RIVAL_SECONDS:
            del self._rivals[name]
        return RIVAL if name in self._rivals else ""

    def _obstacle(self, name: str) -> str:
        """Why nothing can be sent on a link; empty if something can."""
        return self._links[name].problem or self._socket_error or self._rival(name)

    def _solicited(self, name: str, got: Received) -> None:
        if not self._schedules[name].offer:
            return
        self._counters.received[name] += 1
        if why := refusal(got.data, got.source, got.destination, got.hop_limit):
            self._counters.dropped[name, why] += 1
            return
        self._schedules[name].solicited(now())
        self._wake.set()

    def _rest(self, socket: IcmpSocket) -> None:
        """Leave a flood to the kernel for a moment. One answer serves all who ask meanwhile."""
        loop = asyncio.get_running_loop()

        def go_on() -> None:
            if self._socket is socket:
                loop.add_reader(socket, self._hear)

        loop.remove_reader(socket)
        loop.call_later(_REST_SECONDS, go_on)

    def _note_links(self, links: Mapping[str, AdvertisingLink]) -> None:
        for name, link in links.items():
            before = self._links.get(name)
            replaced = before and (before.index, before.source) != (link.index, link.source)
            if replaced and name in self._schedules:
                # Another link of the same name, or another address: it is told everything anew.
                self._schedules[name].usable(now(), False)
        self._links = dict(links)

    def _schedule(self, name: str) -> Schedule:
        told = self._before.pop(name, None)
        before: frozenset[IPv6Network] = told.networks if told else frozenset()
        last = told.sent_at(now()) if told else None
        if told and told.quiet:
            self._rivals[name] = now()
        self._schedules[name] = Schedule(self._draw, before, last)
        return self._schedules[name]

    def _forget(self) -> None:
        """Drop the links on which nothing is offered, and nothing is left to take back."""
        for name in [n for n, s in self._schedules.items() if n not in self._wanted]:
            gone = self._links[name].index == 0
            if gone or not self._schedules[name].known:
                del self._schedules[name]

    def _open_socket(self, *, needed: bool) -> None:
        if not needed:
            self._close_socket()
            return
        if self._socket:
            return
        try:
            self._socket = IcmpSocket()
        except OSError as error:
            self._socket_error = f"{error.strerror} (it needs CAP_NET_RAW)"
            return
        self._socket_error = ""
        asyncio.get_running_loop().add_reader(self._socket, self._hear)

    def _close_socket(self) -> None:
        if self._socket:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def _write(self, *, last: bool = False) -> None:
        told = {
            name: Told(
                prefixes=tuple(map(str, sorted(schedule.known))),
                last=schedule.last if last else None,
                quiet=name in self._rivals,
            )
            for name, schedule in self._schedules.items()
        }
        try:
            self._record.write({**self._before, **told})
        except OSError as error:
            log.error("can't note what is advertised: %s", error.strerror)


def _log_change(name: str, had: Offer | None, wanted: Offer | None, *, healthy: bool) -> None:
    if wanted:
        log.info(
            "advertising %s on %s, route for %d s, prefix for %d s",
            wanted.prefix,
            name,
            wanted.route_lifetime,
            wanted.prefix_lifetime,
        )
    elif had:
        why = "it is no longer to be advertised here" if healthy else "packets aren't translated"
        log.warning("withdrawing %s on %s: %s", had.prefix, name, why)
