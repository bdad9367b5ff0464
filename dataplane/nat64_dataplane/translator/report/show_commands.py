"""Commands that show what a translator does. They read pinned maps and need no running agent."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from nat64_dataplane.bpf import OBJECT, Map, MapLayout, Object
from nat64_dataplane.errors import DataplaneError
from nat64_dataplane.translator.datapath import pinned_maps
from nat64_dataplane.translator.datapath.abi import BibEntry, Session
from nat64_dataplane.translator.datapath.counters import DIRECTIONS, DROP_REASONS
from nat64_dataplane.translator.datapath.datapath import Datapath
from nat64_dataplane.translator.report import text_table
from nat64_dataplane.translator.run_directory import RunDir

EXIT_OK, EXIT_FAILED = 0, 1


class NotRunningError(DataplaneError):
    """There is no translator to show."""


def status(options: argparse.Namespace) -> int:
    """Print a line for each translator; the exit code is 1 if one isn't programmed."""
    names = [options.name] if options.name else _instances(options.pins, options.run_dir)
    if not names:
        raise NotRunningError("no translator on this node")
    rows = [_status_row(name, options.pins, options.run_dir) for name in names]
    print(
        text_table.render(
            rows, ("name", "programmed", "prefix", "sessions", "since", "reason"), options.output
        )
    )
    if options.output == "table":
        for row in rows:
            for each in row.get("warnings", ()):
                print(f"warning {each['reason']}: {each['message']}; {each['remedy']}")
    return EXIT_OK if all(row["programmed"] for row in rows) else EXIT_FAILED


def bib(options: argparse.Namespace) -> int:
    """Print every binding, or those of one client."""
    with opened(options) as datapath:
        rows = [
            bib_row(entry)
            for entry in datapath.bib()
            if options.client is None or entry.client == options.client
        ]
    print(
        text_table.render(
            rows, ("protocol", "client", "address", "static", "age", "expires"), options.output
        )
    )
    return EXIT_OK


def sessions(options: argparse.Namespace) -> int:
    """Print every session, or those of one client, or to one range."""
    with opened(options) as datapath:
        rows = [
            session_row(session)
            for session in datapath.sessions()
            if (options.client is None or session.client == options.client)
            and (options.remote is None or session.remote in options.remote)
        ]
    columns = ("protocol", "client", "address", "remote", "state", "age", "expires")
    print(text_table.render(rows, columns, options.output))
    return EXIT_OK


def drops(options: argparse.Namespace) -> int:
    """Print what was translated and what was not, per direction, with the meaning of each."""
    with opened(options) as datapath:
        values = datapath.counters()
    rows = [row for row in _counter_rows(values) if any(row[d] for d in DIRECTIONS)]
    if options.output == "json":
        rows = list(_counter_rows(values))
    print(text_table.render(rows, ("counter", *DIRECTIONS, "meaning"), options.output))
    return EXIT_OK


@contextlib.contextmanager
def opened(options: argparse.Namespace) -> Iterator[Datapath]:
    """The pinned maps of the translator that is meant. Raises NotRunningError."""
    name = options.name or _only_instance(options.pins)
    with Object(OBJECT) as known:
        layouts = known.layouts
    directories = sorted(
        pinned_maps.versions(options.pins, name), key=lambda path: path.stat().st_mtime
    )
    if not directories:
        known_names = ", ".join(_pinned(options.pins)) or "none"
        raise NotRunningError(f"no translator {name!r} on this node; there are: {known_names}")
    with Datapath({}, _maps(directories[-1], layouts), directories[-1]) as datapath:
        yield datapath


def _maps(directory: Path, layouts: Mapping[str, MapLayout]) -> dict[str, Map]:
    """Open the pinned maps; their sizes are the config's business, their layouts are ours."""
    maps: dict[str, Map] = {}
    for name, layout in layouts.items():
        path = directory / name
        if not path.exists():
            raise NotRunningError(f"no map is pinned at {path}: another version runs here")
        maps[name] = Map.open_pinned(path)
        entries = maps[name].layout.max_entries
        if different := layout._replace(max_entries=entries).differences(maps[name].layout):
            raise NotRunningError(f"another version runs here: {path}: {', '.join(different)}")
    return maps


def _only_instance(root: Path) -> str:
    found = _pinned(root)
    if len(found) == 1:
        return found[0]
    if not found:
        raise NotRunningError(f"no translator on this node (nothing is pinned under {root})")
    raise NotRunningError(f"several translators on this node: choose one by --name: {found}")


def _pinned(root: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return sorted(path.name for path in root.iterdir() if path.is_dir())
    return []


def _instances(pin_root: Path, run_dir: Path) -> list[str]:
    running = {path.parent.name for path in run_dir.glob("*/status.json")}
    return sorted(running | set(_pinned(pin_root)))


def _status_row(name: str, pin_root: Path, run_dir: Path) -> dict[str, Any]:
    options = argparse.Namespace(name=name, pins=pin_root)
    found = RunDir(run_dir, name).read_status()
    row: dict[str, Any] = {"name": name, "programmed": False, "reason": "no agent has run"}
    if found:
        row |= msgspec.to_builtins(found)
        row["since"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(found.since))
    try:
        with opened(options) as datapath:
            row |= {
                "sessions": datapath.session_count(),
                "sessionLimit": datapath.session_limit(),
                "running": datapath.applied_hash(),
                "pools": [usage._asdict() for usage in datapath.usage()],
                "drops": list(drops_by_reason(datapath.counters())),
            }
    except DataplaneError as error:
        row["programmed"] = False
        row["reason"] = str(error)
    return row


def bib_row(entry: BibEntry) -> dict[str, Any]:
    """A binding: text for people, and the same as numbers for programs."""
    return {
        "protocol": entry.protocol,
        "client": f"[{entry.client}]:{entry.client_port}",
        "address": f"{entry.address}:{entry.port}",
        "static": entry.static,
        "age": text_table.seconds(entry.age),
        "expires": "never" if entry.static else text_table.seconds(max(entry.expires_in, 0)),
        "ageSeconds": entry.age,
        "expiresInSeconds": None if entry.static else entry.expires_in,
    }


def session_row(session: Session) -> dict[str, Any]:
    """A session: text for people, and the same as numbers for programs."""
    return {
        "protocol": session.protocol,
        "client": f"[{session.client}]:{session.client_port}",
        "address": f"{session.address}:{session.port}",
        "remote": f"{session.remote}:{session.remote_port}",
        "state": session.state or "-",
        "age": text_table.seconds(session.age),
        "expires": text_table.seconds(max(session.expires_in, 0)),
        "ageSeconds": session.age,
        "expiresInSeconds": session.expires_in,
    }


def drops_by_reason(values: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """What was dropped since the maps were made, both directions together; no zeros."""
    for reason, meaning in DROP_REASONS.items():
        total = sum(values[f"dropped_{reason}_{direction}"] for direction in DIRECTIONS)
        if total:
            yield {"reason": reason, "packets": total, "meaning": meaning}


def _counter_rows(values: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    names = dict.fromkeys(key.rpartition("_")[0] for key in values)
    for name in names:
        reason = name.removeprefix("dropped_")
        yield {
            "counter": name,
            **{direction: values[f"{name}_{direction}"] for direction in DIRECTIONS},
            "meaning": DROP_REASONS.get(reason, "") if reason != name else "",
        }
