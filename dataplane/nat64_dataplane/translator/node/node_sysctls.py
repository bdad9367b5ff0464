"""The setup that needs a privileged process once: sysctls of the whole node, and bpffs.

`prepare` records the old values before it changes anything. `restore` restores exactly these once
the last instance is gone; it leaves a value alone that somebody else has changed since then. Both
are idempotent. The record is one file for all instances of the node.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
from pyroute2 import IPRoute

from nat64_dataplane.config import Config
from nat64_dataplane.errors import HostError
from nat64_dataplane.port_range import PortRange
from nat64_dataplane.translator.node import facts
from nat64_dataplane.translator.node.facts import Facts

PROC_SYS = Path("/proc/sys")
BPFFS = Path("/sys/fs/bpf")

_BPF_FS_MAGIC = 0xCAFE4A11
_RTPROT_RA = 9
_RESERVED = "net/ipv4/ip_local_reserved_ports"
_FORWARDING = "net/ipv6/conf/all/forwarding"
_RECORD = "prepared.json"

_libc = ctypes.CDLL(None, use_errno=True)


class Change(msgspec.Struct, frozen=True):
    """A sysctl as it was, and as we left it."""

    before: str
    after: str


class Record(msgspec.Struct, kw_only=True):
    """The old values and the changes, for all instances of this node."""

    sysctls: dict[str, Change] = {}
    reserved_before: str | None = None
    reserved: dict[str, str] = {}
    """The ports that each instance had reserved."""


def prepare(
    config: Config, found: Facts, ra_links: frozenset[int], run_dir: Path, sys: Path = PROC_SYS
) -> Iterator[str]:
    """Set what forwarding and the pools need; yields a line for each change.

    `ra_links` are the links that learn routes from router advertisements. Raises HostError.
    """
    with _record(run_dir) as record, _errors("prepare this node"):
        if _get(sys, _FORWARDING) == "0":
            # A kernel that forwards ignores advertisements, and drops the routes learnt from
            # them at once, save on links with accept_ra 2.
            for link in found.links:
                key = f"net/ipv6/conf/{link.name}/accept_ra"
                if link.index in ra_links and _get(sys, key) == "1":
                    yield _set(sys, record, key, "2")
            # IPv4 forwarding stays as it is: the translator's own link has it by netlink, and no
            # other link of this node needs to become a router.
            before = _overwritten(sys)
            yield _set(sys, record, _FORWARDING, "1")
            for name, value in before.items():
                record.sysctls.setdefault(name, Change(value, "1"))
        yield from _reserve(sys, record, config.name, reserved_ports(config, found))


def restore(instance: str, run_dir: Path, sys: Path = PROC_SYS) -> Iterator[str]:
    """Undo `prepare` for one instance; yields a line for each change. Raises HostError."""
    if not (run_dir / _RECORD).exists():
        return
    with _record(run_dir) as record, _errors("restore this node's settings"):
        yield from _reserve(sys, record, instance, set())
        record.reserved.pop(instance, None)
        if record.reserved:
            return
        ours = {k: c for k, c in record.sysctls.items() if _unchanged(sys, k, c)}
        # `all` comes before the links that it overwrites: a record keeps the order of changes.
        for key, change in ours.items():
            if _get(sys, key) != change.before:
                _put(sys, key, change.before)
                yield f"{_dotted(key)} = {change.before}"
        record.sysctls.clear()
        record.reserved_before = None


def missing(config: Config, found: Facts, sys: Path = PROC_SYS) -> str:
    """The ports that `prepare` would have to reserve, for a log; empty if nothing is missing.

    Raises HostError if packets can't be translated without it.
    """
    with _errors("read this node's settings"):
        if _get(sys, _FORWARDING) == "0":
            raise HostError(
                "NotPrepared",
                f"{_dotted(_FORWARDING)} is 0: `nat64-translator prepare` turns it on",
            )
        unreserved = reserved_ports(config, found) - parse_ports(_get(sys, _RESERVED))
    return format_ports(unreserved)


def mount_bpffs(at: Path = BPFFS) -> str | None:
    """Mount bpffs where there is none, and say so. Raises HostError."""
    if _is_bpffs(at):
        return None
    if _libc.mount(b"bpf", os.fsencode(at), b"bpf", 0, b"mode=0700"):
        error = os.strerror(ctypes.get_errno())
        raise HostError("NoBpffs", f"can't mount bpffs at {at}: {error}")
    return f"bpffs mounted at {at}"


def links_with_ra(ipr: IPRoute) -> frozenset[int]:
    """The links that have a route learnt from a router advertisement."""
    routes = ipr.route("dump", family=socket.AF_INET6, table=facts.MAIN_TABLE, proto=_RTPROT_RA)
    return frozenset(r.get("oif") for r in routes if r["proto"] == _RTPROT_RA and r.get("oif"))


def reserved_ports(config: Config, found: Facts) -> set[int]:
    """Ports of the node's own addresses that its sockets must not be given."""
    if config.is_router:
        return set()
    held = {address.address for address in found.addresses}
    ports: set[int] = set()
    for pool in config.pools:
        if pool.network is None or any(address in pool.network for address in held):
            ports.update(range(pool.port_range.first, pool.port_range.last + 1))
    ports.update(static.port for static in config.static_mappings if static.address in held)
    return ports


def parse_ports(text: str) -> set[int]:
    """Read the kernel's list, as in `8080,61001-65535`. Raises ValueError."""
    ports: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        span = PortRange.from_text(part)
        ports.update(range(span.first, span.last + 1))
    return ports


def format_ports(ports: set[int]) -> str:
    """Write a list as the kernel does: ascending, runs as ranges."""
    runs: list[list[int]] = []
    for port in sorted(ports):
        if runs and runs[-1][1] == port - 1:
            runs[-1][1] = port
        else:
            runs.append([port, port])
    return ",".join(f"{a}-{b}" if a != b else str(a) for a, b in runs)


def _reserve(sys: Path, record: Record, instance: str, ports: set[int]) -> Iterator[str]:
    current_text = _get(sys, _RESERVED)
    current = parse_ports(current_text)
    if record.reserved_before is None:
        record.reserved_before = current_text
    before = parse_ports(record.reserved_before)
    now_ours = {**record.reserved, instance: format_ports(ports)}
    was = _union(record.reserved)
    wanted = (current - was) | (before & was) | _union(now_ours)
    if wanted != current:
        text = record.reserved_before if wanted == before else format_ports(wanted)
        _put(sys, _RESERVED, text)
        yield f"{_dotted(_RESERVED)} = {text or '(none)'}"
    record.reserved = now_ours


def _union(reserved: dict[str, str]) -> set[int]:
    return set().union(*map(parse_ports, reserved.values()))


def _overwritten(sys: Path) -> dict[str, str]:
    """What `all` overwrites when it is set: the default and every link."""
    base = "net/ipv6/conf"
    names = sorted(entry.name for entry in (sys / base).iterdir() if entry.name != "all")
    keys = [f"{base}/{name}/forwarding" for name in names]
    return {key: _get(sys, key) for key in keys}


def _unchanged(sys: Path, key: str, change: Change) -> bool:
    with contextlib.suppress(FileNotFoundError):  # a link that is gone
        return _get(sys, key) == change.after
    return False


def _set(sys: Path, record: Record, key: str, value: str) -> str:
    record.sysctls.setdefault(key, Change(_get(sys, key), value))
    _put(sys, key, value)
    return f"{_dotted(key)} = {value}"


def _get(sys: Path, key: str) -> str:
    return (sys / key).read_text().strip()


def _put(sys: Path, key: str, value: str) -> None:
    (sys / key).write_text(f"{value}\n")


def _dotted(key: str) -> str:
    return key.replace("/", ".")


@contextlib.contextmanager
def _record(run_dir: Path) -> Iterator[Record]:
    """The record, locked; saved afterwards even on an error, and deleted once it is empty."""
    with _errors("keep a record of this node's settings"):
        run_dir.mkdir(parents=True, exist_ok=True)
        path = run_dir / _RECORD
        with (run_dir / f"{_RECORD}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            record = Record()
            if path.exists():
                record = msgspec.json.decode(path.read_bytes(), type=Record)
            try:
                yield record
            finally:
                if record == Record():
                    path.unlink(missing_ok=True)
                    (run_dir / f"{_RECORD}.lock").unlink(missing_ok=True)
                else:
                    new = path.with_suffix(".new")
                    new.write_bytes(msgspec.json.encode(record))
                    new.replace(path)


@contextlib.contextmanager
def _errors(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise HostError("NotPrepared", f"can't {what}: {error.strerror}{where}") from error


def _is_bpffs(path: Path) -> bool:
    # struct statfs begins with the file system's magic number, a long.
    buffer = ctypes.create_string_buffer(256)
    if _libc.statfs(os.fsencode(path), buffer):
        return False
    return ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF == _BPF_FS_MAGIC
