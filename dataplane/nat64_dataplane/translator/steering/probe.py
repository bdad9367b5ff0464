"""A probe and its answer, as bytes (dataplane/bpf/probe.h). Pure.

16 bytes over UDP, the same both ways save one byte: the answer has the gateway node's state in it.
The gateway's index tells the router node's own program where the probe is to go.
"""

from __future__ import annotations

import struct

from nat64_dataplane.translator.steering.health import Answer

_LAYOUT = struct.Struct(">4sBBBxQ")
_MAGIC, _VERSION = b"n64p", 1


def request(index: int, nonce: int) -> bytes:
    """A probe for the gateway of that index; `nonce` has 64 bits, and nobody can guess it."""
    return _LAYOUT.pack(_MAGIC, _VERSION, 0, index, nonce)


def read_answer(data: bytes) -> tuple[int, Answer] | None:
    """Nonce and state of an answer; None for anything else."""
    if len(data) != _LAYOUT.size:
        return None
    magic, version, state, _, nonce = _LAYOUT.unpack(data)
    if magic != _MAGIC or version != _VERSION or state not in tuple(Answer):
        return None
    return nonce, Answer(state)
