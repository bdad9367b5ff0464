"""Takes back at once what agents that no longer run have advertised."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Collection, Iterator
from ipaddress import IPv6Network
from pathlib import Path

from nat64_dataplane.config import Config
from nat64_dataplane.errors import HostError
from nat64_dataplane.translator.advertise import links
from nat64_dataplane.translator.advertise.icmp_socket import IcmpSocket
from nat64_dataplane.translator.advertise.message import advertisement
from nat64_dataplane.translator.advertise.record import RIVAL, Record, Told, now
from nat64_dataplane.translator.advertise.schedule import Schedule


def outdated(told: dict[str, Told], config: Config | None) -> dict[str, frozenset[IPv6Network]]:
    """By link, what `config` does not advertise any more; without a config, everything."""
    found = {}
    for name, each in told.items():
        kept = {config.prefix} if config and name in config.advertise.interfaces else set()
        if gone := each.networks - kept:
            found[name] = frozenset(gone)
    return found


def withdraw(run_dir: Path, config: Config | None = None) -> Iterator[str]:
    """Tell hosts that what `config` does not advertise is no more; yields a line for each link.

    It takes as long as the pauses between advertisements ask: up to nine seconds. Raises
    HostError, OSError; what could not be taken back stays in the record.
    """
    record = Record(run_dir)
    told = record.read()
    gone = outdated(told, config)
    if not gone:
        return
    found = links.read(gone)
    obstacles = {name: found[name].problem or (told[name].quiet and RIVAL) for name in gone}
    usable = {name: prefixes for name, prefixes in gone.items() if not obstacles[name]}
    if usable:
        with contextlib.closing(_open()) as socket:
            schedules = {name: _schedule(told[name], usable[name]) for name in usable}
            while due := {n: s.next_at for n, s in schedules.items() if s.next_at is not None}:
                name = min(due, key=lambda each: due[each])
                time.sleep(max(0.0, due[name] - now()))
                link, schedule = found[name], schedules[name]
                assert link.source
                socket.send(
                    advertisement(schedule.content(), link.source, link.mac),
                    link.index,
                    link.source,
                )
                schedule.sent(now())
    rest = dict(told)
    for name, prefixes in gone.items():
        if name in usable or not found[name].index:
            rest[name] = _without(told[name], prefixes)
            yield f"advertisement of {', '.join(map(str, sorted(prefixes)))} on {name}"
    record.write(rest)
    left = sorted(gone.keys() - usable.keys() - {name for name in gone if not found[name].index})
    if left:
        raise HostError(
            "NotWithdrawn",
            "can't take back what was advertised: "
            + "; ".join(f"{name}: {obstacles[name]}" for name in left),
        )


def _open() -> IcmpSocket:
    try:
        return IcmpSocket()
    except PermissionError as error:
        raise HostError("NotWithdrawn", "taking back advertisements needs CAP_NET_RAW") from error


def _schedule(told: Told, prefixes: Collection[IPv6Network]) -> Schedule:
    schedule = Schedule(random.uniform, prefixes, told.sent_at(now()))
    schedule.offers(now(), None, 0)
    schedule.usable(now(), True)
    return schedule


def _without(told: Told, prefixes: frozenset[IPv6Network]) -> Told:
    return Told(prefixes=tuple(map(str, sorted(told.networks - prefixes))), last=now())
