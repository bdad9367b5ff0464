"""The CLAT agent's run-time directory."""

from __future__ import annotations

from pathlib import Path

from nat64_dataplane.instance_directory import InstanceDirectory

DEFAULT_RUN_DIR = Path("/run/nat64-clat")


class RunDir(InstanceDirectory):
    """`RUN_DIR/NAME`."""

    kind = "CLAT"
