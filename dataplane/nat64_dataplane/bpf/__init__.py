"""eBPF in the kernel, by libbpf through ctypes; the compiled objects lie beside this file.

Imports nothing but the errors that all share; must never know what a map or a program is for.
"""

from __future__ import annotations

from pathlib import Path

from nat64_dataplane.bpf.maps import Map, MapLayout
from nat64_dataplane.bpf.objects import Object
from nat64_dataplane.bpf.programs import Program, RunResult

OBJECT = Path(__file__).with_name("nat64.bpf.o")
"""The translator's programs, compiled by `make bpf`."""

CLAT_OBJECT = Path(__file__).with_name("clat.bpf.o")
"""The CLAT's programs, likewise."""

__all__ = ["CLAT_OBJECT", "OBJECT", "Map", "MapLayout", "Object", "Program", "RunResult"]
