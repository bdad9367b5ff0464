"""Hooks: which program runs on which link and direction, by tcx or, before Linux 6.6, by clsact.

Both kinds have the same three operations, so the plan does not depend on the kind: list what is
attached, attach, detach. A tcx link is pinned, so it outlives the agent; a clsact filter belongs to
the link and needs no pin.
"""

from __future__ import annotations

import contextlib
import errno
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from nat64_dataplane.translator.node import bpf_link, tc_dump

CLSACT_INGRESS, CLSACT_EGRESS = 0xFFFFFFF2, 0xFFFFFFF3
"""The parents of the filters for what comes in, and for what goes out."""

Direction = Literal["ingress", "egress", "offload"]
"""`offload` is at ingress, too: a link may have both of these hooks."""
Program = Literal[
    "nat64_ingress",
    "nat64_egress",
    "nat64_offload",
    "nat64_steer",
    "nat64_steer_offload",
    "nat64_encap",
    "nat64_decap",
]
DIRECTIONS: tuple[Direction, ...] = ("ingress", "egress", "offload")

_TCX_TYPES: dict[Direction, int] = {
    "ingress": bpf_link.TCX_INGRESS,
    "egress": bpf_link.TCX_EGRESS,
    "offload": bpf_link.TCX_INGRESS,
}
_CLSACT_PARENTS: dict[Direction, int] = {
    "ingress": CLSACT_INGRESS,
    "egress": CLSACT_EGRESS,
    "offload": CLSACT_INGRESS,
}
_MARKS: dict[Direction, str] = {
    "ingress": "nat64",
    "egress": "nat64",
    "offload": "nat64-offload",
}
"""What the names of our filters begin with, so that others know them."""
_CLSACT_PRIORITY = 1  # before others: ours passes on what is not its own
_ETH_P_ALL = 0x0003


class Hook(NamedTuple):
    """A place where a program runs."""

    ifindex: int
    direction: Direction


class Attacher(Protocol):
    """One way to attach programs."""

    kind: str

    def attached(self, links: Iterable[int]) -> dict[Hook, int]:
        """Our hooks and the ids of their programs; `links` are where to look at least."""

    def ahead(self, hooks: Iterable[Hook]) -> dict[Hook, tuple[int, ...]]:
        """The ids of the programs of others that run before ours, for hooks that have any."""

    def attach(self, hook: Hook, program_fd: int) -> None:
        """Attach, or replace the program without a gap. Raises OSError."""

    def move_first(self, hook: Hook, program_fd: int) -> None:
        """Have ours run first. For an instant it doesn't run. Raises OSError."""

    def detach(self, hook: Hook) -> None:
        """Detach; nothing happens where nothing is attached."""


class Tcx:
    """tcx links (Linux 6.6), pinned under `directory` as INDEX-DIRECTION."""

    kind = "tcx"

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def attached(self, links: Iterable[int]) -> dict[Hook, int]:  # noqa: ARG002
        """Our hooks, by their pins. A link whose interface is gone is reported with program 0."""
        found = {}
        for hook, path in self._pins():
            with bpf_link.opened(path) as fd:
                info = bpf_link.tcx_info(fd)
            live = info is not None and info.ifindex == hook.ifindex
            found[hook] = info.program_id if info and live else 0
        return found

    def attach(self, hook: Hook, program_fd: int) -> None:
        """Update the pinned link in place, or make and pin a new one. Raises OSError."""
        path = self._path(hook)
        if path.exists():
            try:
                with bpf_link.opened(path) as fd:
                    return bpf_link.update(fd, program_fd)
            except OSError as error:
                if error.errno != errno.ENOLINK:
                    raise
                path.unlink()  # detached, or its interface gone: this link can't come back
        self.directory.mkdir(parents=True, exist_ok=True)
        fd = bpf_link.attach_tcx(program_fd, hook.ifindex, _TCX_TYPES[hook.direction])
        try:
            bpf_link.pin(fd, path)
        finally:
            os.close(fd)
        return None

    def ahead(self, hooks: Iterable[Hook]) -> dict[Hook, tuple[int, ...]]:
        """Programs before ours, those of other translators of ours apart. Raises OSError."""
        found = {}
        ours, mine_at = programs_of_all(self.directory.parent.parent), self.attached(())
        for hook in hooks:
            try:
                chain = bpf_link.tcx_chain(hook.ifindex, _TCX_TYPES[hook.direction])
            except OSError as error:
                if error.errno == errno.ENODEV:  # a link that has just gone
                    continue
                raise
            mine = mine_at.get(hook, 0)
            before = chain[: chain.index(mine)] if mine in chain else []
            if strangers := tuple(program for program in before if program not in ours):
                found[hook] = strangers
        return found

    def move_first(self, hook: Hook, program_fd: int) -> None:
        """Detach and attach anew: a program can't be at a hook twice. Raises OSError."""
        with bpf_link.opened(self._path(hook)) as fd:
            bpf_link.detach(fd)
        self.detach(hook)
        self.attach(hook, program_fd)

    def detach(self, hook: Hook) -> None:
        """Remove the pin: the link goes with its last reference."""
        self._path(hook).unlink(missing_ok=True)

    def _path(self, hook: Hook) -> Path:
        return self.directory / f"{hook.ifindex}-{hook.direction}"

    def _pins(self) -> Iterator[tuple[Hook, Path]]:
        for path in sorted(self.directory.iterdir()) if self.directory.is_dir() else ():
            index, _, direction = path.name.partition("-")
            for known in DIRECTIONS:
                if index.isdigit() and direction == known:
                    yield Hook(int(index), known), path


class Clsact:
    """Filters of a clsact queueing discipline, told from others' by name and handle."""

    kind = "clsact"

    def __init__(self, ipr: Callable[[], IPRoute], instance: str) -> None:
        self._ipr = ipr
        self._instance = instance

    def attached(self, links: Iterable[int]) -> dict[Hook, int]:  # noqa: ARG002
        """Our filters, wherever there is a clsact. The name carries the program's id."""
        found = {}
        for index in self._with_clsact():
            for direction in DIRECTIONS:
                mark = self._mark(direction)
                for name in tc_dump.filters(index, _CLSACT_PARENTS[direction]):
                    if name.startswith(mark):
                        found[Hook(index, direction)] = int(name.removeprefix(mark))
        return found

    def attach(self, hook: Hook, program_fd: int) -> None:
        """Replace our filter of that handle in place, or add it. Raises OSError."""
        with _as_os_error():
            if hook.ifindex not in self._with_clsact():
                self._ipr().tc("add", "clsact", hook.ifindex)
            self._ipr().tc(
                "replace-filter",
                "bpf",
                hook.ifindex,
                self._handle(hook.direction),
                fd=program_fd,
                name=f"{self._mark(hook.direction)}{bpf_link.program_id(program_fd)}",
                parent=_CLSACT_PARENTS[hook.direction],
                prio=_CLSACT_PRIORITY,
                direct_action=True,
            )

    def detach(self, hook: Hook) -> None:
        """Remove our filter, and the clsact once nobody has a filter in it."""
        if hook not in self.attached((hook.ifindex,)):
            return
        with _as_os_error():
            self._ipr().tc(
                "del-filter",
                "bpf",
                hook.ifindex,
                self._handle(hook.direction),
                parent=_CLSACT_PARENTS[hook.direction],
                prio=_CLSACT_PRIORITY,
            )
            parents = set(_CLSACT_PARENTS.values())
            if not any(True for p in parents for _ in tc_dump.filters(hook.ifindex, p)):
                self._ipr().tc("del", "clsact", hook.ifindex)

    def ahead(self, hooks: Iterable[Hook]) -> dict[Hook, tuple[int, ...]]:  # noqa: ARG002
        """Nothing: no filter has a lower priority than ours."""
        return {}

    def move_first(self, hook: Hook, program_fd: int) -> None:
        """Attach anew. Raises OSError."""
        self.attach(hook, program_fd)

    def _with_clsact(self) -> set[int]:
        return {qdisc.ifindex for qdisc in tc_dump.qdiscs() if qdisc.kind == "clsact"}

    def _mark(self, direction: Direction) -> str:
        return f"{_MARKS[direction]}:{self._instance}:"

    def _handle(self, direction: Direction) -> int:
        # That of ingress and egress is what it has always been, so that an upgrade replaces them.
        name = f"{self._instance}/offload" if direction == "offload" else self._instance
        return zlib.crc32(name.encode()) & 0x7FFFFFFF or 1


def is_ours(name: str) -> bool:
    """Whether a filter of that name is a translator's of ours, whichever."""
    return name.partition(":")[0] in _MARKS.values()


def programs_of_all(pins: Path) -> set[int]:
    """The programs that any translator pinned below `pins` has at a tcx hook."""
    found = set()
    for path in pins.glob("*/links/*"):
        with contextlib.suppress(OSError), bpf_link.opened(path) as fd:
            if info := bpf_link.tcx_info(fd):
                found.add(info.program_id)
    return found


def supports_tcx(program_fd: int) -> bool:
    """Whether this kernel attaches by tcx. Raises OSError where it may not say."""
    try:
        # No interface has index 2^31-1: a kernel that knows tcx answers ENODEV, others EINVAL.
        os.close(bpf_link.attach_tcx(program_fd, 0x7FFFFFFF, bpf_link.TCX_INGRESS))
    except OSError as error:
        if error.errno == errno.EINVAL:
            return False
        if error.errno == errno.ENODEV:
            return True
        raise
    return True


@contextlib.contextmanager
def _as_os_error() -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        raise OSError(error.code, os.strerror(error.code)) from error
