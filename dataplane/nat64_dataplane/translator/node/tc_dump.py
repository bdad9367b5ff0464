"""Queueing disciplines and filters of the node's links, read in bulk: each pod may have some."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from nat64_dataplane.translator.node.netlink_dump import attributes, dump

INGRESS = 0xFFFFFFF1
"""The parent of a link's one discipline for what comes in, clsact or ingress."""

_ROOT = 0xFFFFFFFF

_RTM_GETQDISC, _RTM_GETTFILTER = 38, 46
_TCMSG = struct.Struct("=BxxxiIII")
_TCA_KIND, _TCA_OPTIONS, _TCA_INGRESS_BLOCK, _TCA_EGRESS_BLOCK, _TCA_BPF_NAME = 1, 2, 13, 14, 7


class Qdisc(NamedTuple):
    """A discipline for what comes in; clsact has filters for what goes out, too."""

    ifindex: int
    kind: str
    shared: bool
    """Whether its filters are those of a block that several links share."""
    shared_out: bool = False
    """The same for what goes out."""


def qdiscs() -> list[Qdisc]:
    """All disciplines at the hook of clsact and ingress. Raises OSError."""
    return dump(_RTM_GETQDISC, _TCMSG.pack(0, 0, 0, 0, 0), _qdisc)


def queued() -> set[int]:
    """The links, by interface index, with a discipline for what goes out. Raises OSError."""
    return set(dump(_RTM_GETQDISC, _TCMSG.pack(0, 0, 0, 0, 0), _queue))


def filters(ifindex: int, parent: int) -> list[str]:
    """The names of a link's filters; empty for those without a name. Raises OSError."""
    return dump(_RTM_GETTFILTER, _TCMSG.pack(0, ifindex, 0, parent, 0), _filter)


def _qdisc(data: bytes, at: int, end: int) -> Qdisc | None:
    _, ifindex, _, parent, _ = _TCMSG.unpack_from(data, at)
    if parent != INGRESS:
        return None
    found = dict(_values(data, at + _TCMSG.size, end))
    return Qdisc(
        ifindex,
        _text(found.get(_TCA_KIND)),
        _TCA_INGRESS_BLOCK in found,
        _TCA_EGRESS_BLOCK in found,
    )


def _queue(data: bytes, at: int, end: int) -> int | None:
    _, ifindex, _, parent, _ = _TCMSG.unpack_from(data, at)
    kind = dict(_values(data, at + _TCMSG.size, end)).get(_TCA_KIND)
    return ifindex if parent == _ROOT and _text(kind) != "noqueue" else None


def _filter(data: bytes, at: int, end: int) -> str | None:
    _, _, handle, _, _ = _TCMSG.unpack_from(data, at)
    if not handle:  # the chain's priority itself
        return None
    found = dict(_values(data, at + _TCMSG.size, end))
    options = found.get(_TCA_OPTIONS, b"")
    if _text(found.get(_TCA_KIND)) != "bpf":
        return ""
    return _text(dict(_values(options, 0, len(options))).get(_TCA_BPF_NAME))


def _values(data: bytes, at: int, end: int) -> Iterator[tuple[int, bytes]]:
    for kind, first, last in attributes(data, at, end):
        yield kind, data[first:last]


def _text(value: bytes | None) -> str:
    return value.rstrip(b"\0").decode(errors="replace") if value else ""
