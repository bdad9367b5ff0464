"""The smallest program, loaded without libbpf: it has one verdict for all packets."""

from __future__ import annotations

import ctypes
import struct

from nat64_dataplane.translator.node import bpf_link

_PROG_LOAD = 5
TC, XDP = 3, 6
SHOT, XDP_DROP = 2, 1


def load(verdict: int = -1, kind: int = TC) -> int:
    """Load `return verdict` and return its descriptor. -1 is TC_ACT_UNSPEC: go on."""
    code = struct.pack("=BBhi", 0xB7, 0, 0, verdict) + struct.pack("=BBhi", 0x95, 0, 0, 0)
    instructions = ctypes.create_string_buffer(code)
    license_ = ctypes.create_string_buffer(b"GPL")
    attr = struct.pack("=IIQQ", kind, 2, ctypes.addressof(instructions), ctypes.addressof(license_))
    return bpf_link._bpf(_PROG_LOAD, attr)
