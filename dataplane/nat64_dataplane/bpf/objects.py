"""A compiled object: opened, its maps sized or replaced by pinned ones, loaded into the kernel."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

from nat64_dataplane.bpf import features, libbpf
from nat64_dataplane.bpf.errors import BpfError, PinMismatchError, VerifierError
from nat64_dataplane.bpf.maps import Map, MapLayout
from nat64_dataplane.bpf.programs import Program
from nat64_dataplane.errors import DataplaneError

LOG_BYTES = 1 << 20


class Object:
    """One `.bpf.o` between open and close; maps and programs it hands out live longer."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise DataplaneError(f"{path} isn't there: `make bpf` compiles it")
        self.path = path
        self._library = libbpf.load()
        options = libbpf.OpenOptions(sz=ctypes.sizeof(libbpf.OpenOptions))
        self._object = libbpf.check_pointer(
            self._library.bpf_object__open_file(os.fsencode(path), ctypes.byref(options)),
            f"reading {path}",
        )
        self._maps = dict(self._walk("map"))
        self._programs = dict(self._walk("program"))

    def _walk(self, kind: str) -> Iterator[tuple[str, int]]:
        following = getattr(self._library, f"bpf_object__next_{kind}")
        name = getattr(self._library, f"bpf_{kind}__name")
        item = following(self._object, None)
        while item:
            if kind == "program" or not self._library.bpf_map__is_internal(item):
                yield name(item).decode(), item
            item = following(self._object, item)

    @property
    def layouts(self) -> dict[str, MapLayout]:
        """Every map that the object declares, by name; the compiler's own (.rodata) not."""
        library = self._library
        return {
            name: MapLayout(
                library.bpf_map__type(pointer),
                library.bpf_map__key_size(pointer),
                library.bpf_map__value_size(pointer),
                library.bpf_map__max_entries(pointer),
                library.bpf_map__map_flags(pointer),
            )
            for name, pointer in self._maps.items()
        }

    def resize(self, name: str, entries: int) -> None:
        """Set how many entries a map may hold. Only before `load`."""
        libbpf.check(
            self._library.bpf_map__set_max_entries(self._maps[name], entries),
            f"sizing map {name} to {entries}",
        )

    def reuse(self, name: str, pinned: Map, path: Path) -> None:
        """Use a pinned map in place of a new one. Raises PinMismatchError, naming differences."""
        differences = self.layouts[name].differences(pinned.layout)
        if differences:
            raise PinMismatchError(str(path), differences)
        libbpf.check(
            self._library.bpf_map__reuse_fd(self._maps[name], pinned.fd), f"reusing map {path}"
        )

    def load(self) -> None:
        """Create the maps and load the programs. Raises VerifierError where one is refused."""
        libbpf.messages.clear()
        result = self._library.bpf_object__load(self._object)
        if result == 0:
            return
        if lacking := features.missing():
            raise BpfError(f"loading {self.path}", -result, features.explain(lacking))
        if not any("BEGIN PROG LOAD LOG" in message for message in libbpf.messages):
            raise BpfError(f"loading {self.path}", -result, "\n".join(libbpf.messages))
        program, log = self._verifier_log()
        raise VerifierError(program, -result, log)

    def _verifier_log(self) -> tuple[str, str]:
        """Load once more for the log alone: libbpf's own report of it is cut short."""
        for name in self._programs:
            if any(f"prog '{name}'" in message for message in libbpf.messages):
                break
        fallback = "\n".join(libbpf.messages)
        other = Object(self.path)
        try:
            log = ctypes.create_string_buffer(LOG_BYTES)
            self._library.bpf_program__set_log_buf(other._programs[name], log, len(log))
            self._library.bpf_program__set_log_level(other._programs[name], 1)
            self._library.bpf_object__load(other._object)
            return name, log.value.decode(errors="replace") or fallback
        finally:
            other.close()

    def map(self, name: str) -> Map:
        """A loaded map, with a descriptor of its own."""
        fd = self._library.bpf_map__fd(self._maps[name])
        return Map(os.dup(libbpf.check(fd, f"taking map {name}")), name)

    def program(self, name: str) -> Program:
        """A loaded program, with a descriptor of its own."""
        fd = self._library.bpf_program__fd(self._programs[name])
        return Program(os.dup(libbpf.check(fd, f"taking program {name}")), name)

    def close(self) -> None:
        """Free libbpf's side; nothing in the kernel that has other owners goes away."""
        if self._object:
            self._library.bpf_object__close(self._object)
            self._object = 0

    def __enter__(self) -> Object:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
