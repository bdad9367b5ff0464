"""Find out what the program would do with a packet, by running it on copies of the maps that it
reads.

The same object is loaded once more, with maps of its own that hold the same config, the same ports
and the client's state. A packet that is run there gets the program's own answer, from the node's
own routes, and changes nothing in the real maps.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Mapping
from ipaddress import IPv6Address
from typing import NamedTuple, Self

from nat64_dataplane.bpf.maps import PER_CPU_TYPES, Map
from nat64_dataplane.config import Limits
from nat64_dataplane.translator.datapath import abi
from nat64_dataplane.translator.datapath.datapath import Datapath

_NOT_COPIED = frozenset(
    {"bib4", "bib6", "sessions", "overloads", "clients", "fragments", "held", "moves", "shared"}
    | {"sweep", "sweep_keys", "closed", "affinities"}
)
"""State, of which only the client's own matters; whatever else there is, is config."""
_LPM_TRIE = 11  # BPF_MAP_TYPE_LPM_TRIE
_REDIRECT = 7  # TC_ACT_REDIRECT
_HOP_LIMIT = 63
_EPHEMERAL = 32768


class Decision(NamedTuple):
    """The result for a packet."""

    outcome: str
    """`translated`, `dropped`, or `passed` where the program leaves it to the kernel."""
    reason: str
    """Why it was dropped, as in counters.DROP_REASONS; else empty."""
    way: str
    """`fast` straight to the next link, `kernel` by way of the kernel; empty if not translated."""
    source: str
    """The IPv4 address and port that it leaves with; the port is one of those free now."""
    counters: dict[str, int]
    """All that it was counted as."""


class Rehearsal:
    """A copy of a running datapath for one client. Close it after use."""

    def __init__(self, running: Datapath, maps: Mapping[str, Map], client: IPv6Address) -> None:
        self._client = client
        self._copy = Datapath.open(None, "rehearsal", Limits(sessions=1024))
        try:
            for name, target in self._copy.maps.items():
                if name not in _NOT_COPIED and target.layout.type not in PER_CPU_TYPES:
                    _copy(maps[name], target)
            self._copy_client(running, maps)
        except BaseException:
            self._copy.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._copy.close()

    def syn(self, interface: int, link: int, address: IPv6Address, port: int) -> Decision:
        """Have the client open a TCP connection. Raises BpfError.

        `interface` is the translator's link, `link` the one that the packet came in on (0 for one
        that the node itself sends), both by index.
        """
        source_port = _EPHEMERAL + secrets.randbelow(0x7000)
        before = self._copy.counters()
        frame = _syn(self._client, source_port, address, port)
        result = self._copy.program("nat64_egress").run(
            frame, ifindex=interface, ingress_ifindex=link
        )
        after = self._copy.counters()
        counted = {name: after[name] - before[name] for name in after if after[name] > before[name]}
        dropped = [name for name in counted if name.startswith("dropped_")]
        if dropped:
            reason = dropped[0].removeprefix("dropped_").rpartition("_")[0]
            return Decision("dropped", reason, "", "", counted)
        if result.verdict != _REDIRECT or "translated_6to4" not in counted:
            return Decision("passed", "", "", "", counted)
        mine = (b for b in self._copy.bib() if b.client == self._client)
        source = next((f"{b.address}:{b.port}" for b in mine if b.client_port == source_port), "")
        way = "kernel" if "sent_kernel_6to4" in counted else "fast"
        return Decision("translated", "", way, source, counted)

    def _copy_client(self, running: Datapath, maps: Mapping[str, Map]) -> None:
        """What the client holds, as limits and the choice of its pool address depend on it."""
        key = self._client.packed
        if value := maps["clients"].get(key):
            self._copy.map("clients").set(key, value)
        for binding in running.bib():
            if binding.client != self._client:
                continue
            protocol = abi.PROTOCOLS[binding.protocol]
            names = {
                "bib4": abi.bib4_key(binding.address, binding.port, protocol),
                "bib6": abi.bib6_key(binding.client, binding.client_port, protocol, binding.zone),
            }
            for name, entry in names.items():
                if value := maps[name].get(entry):
                    self._copy.map(name).set(entry, value)


def _copy(source: Map, target: Map) -> None:
    if source.layout.type == _LPM_TRIE:  # has no batches
        for key in source.keys():  # noqa: SIM118  a Map isn't a dict
            if value := source.get(key):
                target.set(key, value)
        return
    for keys, values in source.batches():
        target.set_batch(keys, values)


def _syn(client: IPv6Address, source_port: int, address: IPv6Address, port: int) -> bytes:
    """An Ethernet frame with a TCP SYN, as routing hands it to the translator's link."""
    tcp = struct.pack(">HHIIBBHHH", source_port, port, 1, 0, 5 << 4, 2, 65535, 0, 0)
    pseudo = client.packed + address.packed + struct.pack(">II", len(tcp), abi.TCP)
    total = sum(struct.unpack(f">{len(pseudo + tcp) // 2}H", pseudo + tcp))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    tcp = tcp[:16] + struct.pack(">H", total ^ 0xFFFF) + tcp[18:]
    header = struct.pack(">IHBB", 6 << 28, len(tcp), abi.TCP, _HOP_LIMIT)
    return bytes(12) + b"\x86\xdd" + header + client.packed + address.packed + tcp
