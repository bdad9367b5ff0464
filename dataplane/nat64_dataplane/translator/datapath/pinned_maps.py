"""Where an instance's maps and programs are pinned, how large they are, and what may be reused.

Everything is under ROOT/NAME/ABI, where ABI is a hash of all map layouts: programs of another
version that have the same layouts take the maps over with every session in them.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from nat64_dataplane.bpf import Map, Object
from nat64_dataplane.bpf.maps import MapLayout
from nat64_dataplane.config import Limits
from nat64_dataplane.translator.datapath import abi

DEFAULT_ROOT = Path("/sys/fs/bpf/nat64-operator")

NOT_ABI = "links"
"""The one directory of an instance that isn't named by an ABI hash: the agent's pinned links."""


LARGEST_CLIENTS = 262_144


def sizes(limits: Limits) -> dict[str, int]:
    """Entries of the maps that the config bounds."""
    return {
        "sessions": limits.sessions,
        "bib4": limits.sessions,
        "bib6": limits.sessions,
        "overloads": limits.sessions,
        "closed": max(limits.sessions // 4, 1024),
        "clients": min(limits.sessions, LARGEST_CLIENTS),
    }


def abi_hash(layouts: Mapping[str, MapLayout]) -> str:
    """Twelve hex digits that change with any map's layout, or with abi.ABI."""
    text = repr((abi.ABI, sorted(layouts.items())))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def reuse_all(program_object: Object, directory: Path) -> set[str]:
    """Replace the object's maps by those pinned in `directory`; return the names of these.

    Raises PinMismatchError, with every difference, where one doesn't fit.
    """
    reused = set()
    for name in program_object.layouts:
        path = directory / name
        if path.exists():
            with Map.open_pinned(path) as pinned:
                program_object.reuse(name, pinned, path)
            reused.add(name)
    return reused


def versions(root: Path, name: str) -> Iterator[Path]:
    """Every ABI's directory of an instance."""
    with suppress(FileNotFoundError):
        for path in sorted((root / name).iterdir()):
            if path.is_dir() and path.name != NOT_ABI:
                yield path


def remove_version(directory: Path) -> None:
    """Unpin all in one ABI's directory. What is still attached lives on without a name."""
    shutil.rmtree(directory, ignore_errors=True)


def remove_others(directory: Path) -> list[Path]:
    """Unpin all other versions of the same instance; return their directories."""
    root, name = directory.parent.parent, directory.parent.name
    others = [path for path in versions(root, name) if path != directory]
    for path in others:
        remove_version(path)
    return others


def remove_instance(root: Path, name: str) -> None:
    """Unpin all of an instance, of every ABI, and its directory where that leaves it empty."""
    for directory in versions(root, name):
        remove_version(directory)
    with suppress(OSError):
        (root / name).rmdir()
    with suppress(OSError):
        root.rmdir()
