"""The CLAT's programs, pinned with their maps so that the next agent adopts them."""

from __future__ import annotations

import hashlib
import shutil
import struct
from contextlib import suppress
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import NamedTuple

from nat64_dataplane.bpf import CLAT_OBJECT, Map, Object, Program
from nat64_dataplane.translator.datapath import counters

DEFAULT_PINS = Path("/sys/fs/bpf/nat64-clat")
"""Beside the translator's: that one takes every directory of an instance for a version of its own.
"""

SLOTS = 4096
"""MAX_CLAT_PODS. Slot 0 is nobody's: it is what a filter without a class id asks for."""

EGRESS, INGRESS = "clat_egress", "clat_ingress"
_MAPS = ("clat_pods", "counters")
_SLOT = struct.Struct("=16s12sI")


class Slot(NamedTuple):
    """struct clat_pod: what the programs know of one pod."""

    address: IPv6Address
    """The pod's."""
    prefix: IPv6Network
    """The CLAT's, a /96."""

    def pack(self) -> bytes:
        """The bytes that the programs read."""
        return _SLOT.pack(self.address.packed, self.prefix.network_address.packed[:12], 1)

    @classmethod
    def unpack(cls, value: bytes) -> Slot | None:
        """None where no pod has the slot."""
        address, prefix, used = _SLOT.unpack(value)
        if not used:
            return None
        return cls(IPv6Address(address), IPv6Network((prefix + bytes(4), 96)))


class Programs:
    """Both programs and their maps; `close` closes descriptors, and leaves what is pinned."""

    def __init__(self, egress: Program, ingress: Program, pods: Map, counted: Map) -> None:
        self.egress = egress
        self.ingress = ingress
        self._pods = pods
        self._counted = counted

    @classmethod
    def load(cls, pins: Path | None = None) -> Programs:
        """Load anew, and pin under `pins` if given. Raises BpfError, VerifierError."""
        with Object(CLAT_OBJECT) as program_object:
            program_object.load()
            built = cls(
                program_object.program(EGRESS),
                program_object.program(INGRESS),
                *(program_object.map(name) for name in _MAPS),
            )
        if pins:
            pins.mkdir(parents=True)
            for name, table in zip(_MAPS, (built._pods, built._counted), strict=True):
                table.pin(pins / name)
            built.ingress.pin(pins / INGRESS)
            built.egress.pin(pins / EGRESS)  # the last one: with it, the directory is complete
        return built

    @classmethod
    def open(cls, root: Path, instance: str) -> Programs:
        """Those that an agent of the same version has pinned, or new ones. Raises BpfError.

        Others' stay pinned until `remove_others`: pods may still use them.
        """
        directory = root / instance / version()
        if not (directory / EGRESS).exists():
            shutil.rmtree(directory, ignore_errors=True)
            return cls.load(directory)
        return cls(
            Program.open_pinned(directory / EGRESS),
            Program.open_pinned(directory / INGRESS),
            *(Map.open_pinned(directory / name) for name in _MAPS),
        )

    def slots(self) -> dict[int, Slot]:
        """All slots that are used."""
        found = {}
        for key, value in self._pods.items():
            if slot := Slot.unpack(value):
                found[int(struct.unpack("=I", key)[0])] = slot
        return found

    def write(self, index: int, slot: Slot | None) -> None:
        """Give a slot to a pod, or to nobody."""
        value = slot.pack() if slot else bytes(_SLOT.size)
        self._pods.set(struct.pack("=I", index), value)

    def counters(self) -> dict[str, int]:
        """`NAME_DIRECTION` to count, of all pods; `4to6` is out of them."""
        value = self._counted.get(bytes(4))
        assert value is not None, "an array has all its entries"
        return counters.read(value)

    def close(self) -> None:
        """Close the descriptors."""
        for one in (self.egress, self.ingress, self._pods, self._counted):
            one.close()


def version() -> str:
    """Twelve hex digits that change with any byte of the compiled object."""
    return hashlib.sha256(CLAT_OBJECT.read_bytes()).hexdigest()[:12]


def remove_others(root: Path, instance: str) -> None:
    """Unpin other versions. What is still attached lives on without a name."""
    with suppress(FileNotFoundError):
        for path in (root / instance).iterdir():
            if path.name != version():
                shutil.rmtree(path, ignore_errors=True)


def remove_all(root: Path, instance: str) -> bool:
    """Unpin everything of an instance; whether there was anything."""
    existed = (root / instance).exists()
    shutil.rmtree(root / instance, ignore_errors=True)
    with suppress(OSError):
        root.rmdir()
    return existed
