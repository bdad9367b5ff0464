"""Maps: typed by layout only. What their bytes mean is the caller's business."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from nat64_dataplane.bpf import libbpf
from nat64_dataplane.bpf.errors import BpfError

BATCH = 4096
PER_CPU_TYPES = frozenset({5, 6, 10})  # PERCPU_HASH, PERCPU_ARRAY, LRU_PERCPU_HASH

TYPE_NAMES = {
    1: "hash",
    2: "array",
    5: "percpu_hash",
    6: "percpu_array",
    9: "lru_hash",
    10: "lru_percpu_hash",
    11: "lpm_trie",
}


@functools.cache
def possible_cpus() -> int:
    """How many values a per-CPU map holds for a key."""
    return libbpf.check(libbpf.load().libbpf_num_possible_cpus(), "counting CPUs")


class MapLayout(NamedTuple):
    """What must agree before a pinned map may be used in place of a new one."""

    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int

    def differences(self, other: MapLayout) -> list[str]:
        """Each field that differs, for a person: `self` is what is needed, `other` what is."""
        found = []
        for field, needed, is_ in zip(self._fields, self, other, strict=True):
            if needed != is_:
                if field == "type":
                    found.append(
                        f"type is {TYPE_NAMES.get(is_, is_)}, needed is "
                        f"{TYPE_NAMES.get(needed, needed)}"
                    )
                else:
                    found.append(f"{field} is {is_}, needed is {needed}")
        return found


class Map:
    """A map by its file descriptor, which it owns: `close` closes it."""

    def __init__(self, fd: int, name: str, layout: MapLayout | None = None) -> None:
        self.fd = fd
        self.name = name
        self.layout = layout or _layout_of(fd)
        self._library = libbpf.load()
        cpus = possible_cpus() if self.layout.type in PER_CPU_TYPES else 1
        self._per_cpu = self.layout.type in PER_CPU_TYPES
        self._value_bytes = (
            cpus * ((self.layout.value_size + 7) // 8 * 8)
            if self._per_cpu
            else self.layout.value_size
        )

    @classmethod
    def open_pinned(cls, path: Path) -> Map:
        """Open the map pinned at `path`."""
        fd = libbpf.check(
            libbpf.load().bpf_obj_get(os.fsencode(path)), f"opening pinned map {path}"
        )
        return cls(fd, path.name)

    def pin(self, path: Path) -> None:
        """Give the map a name that outlives this process."""
        libbpf.check(
            self._library.bpf_obj_pin(self.fd, os.fsencode(path)), f"pinning map at {path}"
        )

    def close(self) -> None:
        """Close the descriptor; the map lives on if pinned or used by a program."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Map:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get(self, key: bytes) -> bytes | None:
        """The value of `key`; for a per-CPU map all of them, each padded to eight bytes."""
        value = ctypes.create_string_buffer(self._value_bytes)
        result = self._library.bpf_map_lookup_elem(self.fd, self._key(key), value)
        if result == -errno.ENOENT:
            return None
        libbpf.check(result, f"reading map {self.name}")
        return value.raw

    def set(self, key: bytes, value: bytes, flags: int = libbpf.BPF_ANY) -> None:
        """Insert or replace. Raises BpfError: E2BIG when full, EEXIST under BPF_NOEXIST."""
        assert len(value) == self._value_bytes, (self.name, len(value), self._value_bytes)
        libbpf.check(
            self._library.bpf_map_update_elem(self.fd, self._key(key), value, flags),
            f"writing map {self.name}",
        )

    def add(self, key: bytes, value: bytes) -> bool:
        """Insert only; False where the key is there already."""
        try:
            self.set(key, value, libbpf.BPF_NOEXIST)
        except BpfError as error:
            if error.errno != errno.EEXIST:
                raise
            return False
        return True

    def delete(self, key: bytes) -> bool:
        """Delete; False where there was nothing to delete."""
        result = self._library.bpf_map_delete_elem(self.fd, self._key(key))
        if result == -errno.ENOENT:
            return False
        libbpf.check(result, f"deleting from map {self.name}")
        return True

    def keys(self) -> list[bytes]:
        """Every key. For small maps, and the tries, which have no batch operations."""
        found: list[bytes] = []
        size = self.layout.key_size
        current: ctypes.Array[ctypes.c_char] | None = None
        while True:
            following = ctypes.create_string_buffer(size)
            result = self._library.bpf_map_get_next_key(self.fd, current, following)
            if result == -errno.ENOENT or len(found) > self.layout.max_entries:
                return found
            libbpf.check(result, f"walking map {self.name}")
            found.append(following.raw)
            current = following

    def first_key(self) -> bytes | None:
        """Some key, or None where the map is empty."""
        following = ctypes.create_string_buffer(self.layout.key_size)
        result = self._library.bpf_map_get_next_key(self.fd, None, following)
        if result == -errno.ENOENT:
            return None
        libbpf.check(result, f"walking map {self.name}")
        return following.raw

    def batches(self) -> Iterator[tuple[bytes, bytes]]:
        """All keys and all values in blocks, packed end to end, without a call per entry.

        The map may change meanwhile: an entry may be missed or seen twice, as always.
        """
        size, value_size = self.layout.key_size, self._value_bytes
        batch = BATCH
        position = ctypes.create_string_buffer(max(size, 4))
        following = ctypes.create_string_buffer(max(size, 4))
        first = True
        while True:
            keys = ctypes.create_string_buffer(size * batch)
            values = ctypes.create_string_buffer(value_size * batch)
            count = ctypes.c_uint32(batch)
            result = self._library.bpf_map_lookup_batch(
                self.fd,
                None if first else position,
                following,
                keys,
                values,
                ctypes.byref(count),
                None,
            )
            if result == -errno.ENOSPC:  # a bucket holds more than the whole batch
                batch *= 4
                continue
            if result not in (0, -errno.ENOENT):
                libbpf.check(result, f"reading map {self.name} in batches")
            if count.value:
                yield keys.raw[: count.value * size], values.raw[: count.value * value_size]
            if result == -errno.ENOENT:
                return
            position, following = following, position
            first = False

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Every key with its value, read in batches."""
        size, value_size = self.layout.key_size, self._value_bytes
        for keys, values in self.batches():
            for index in range(len(keys) // size):
                yield (
                    keys[index * size : (index + 1) * size],
                    values[index * value_size : (index + 1) * value_size],
                )

    def set_batch(self, keys: bytes, values: bytes) -> None:
        """Insert or replace many at once; both packed end to end."""
        count = ctypes.c_uint32(len(keys) // self.layout.key_size)
        if count.value:
            libbpf.check(
                self._library.bpf_map_update_batch(
                    self.fd, keys, values, ctypes.byref(count), None
                ),
                f"writing map {self.name} in a batch",
            )

    def _key(self, key: bytes) -> bytes:
        assert len(key) == self.layout.key_size, (self.name, len(key), self.layout.key_size)
        return key


def _layout_of(fd: int) -> MapLayout:
    info = libbpf.MapInfo()
    size = ctypes.c_uint32(ctypes.sizeof(info))
    libbpf.check(
        libbpf.load().bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size)),
        "asking for a map's layout",
    )
    return MapLayout(info.type, info.key_size, info.value_size, info.max_entries, info.map_flags)
