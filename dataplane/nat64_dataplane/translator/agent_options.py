"""Where an agent finds things: what its command line says."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path

from nat64_dataplane.translator.node.netlink_host import AttachBy
from nat64_dataplane.translator.run_directory import DEFAULT_RUN_DIR

DEFAULT_PINS = Path("/sys/fs/bpf/nat64-operator")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Where things are; the config file says what to do."""

    config: Path
    pins: Path = DEFAULT_PINS
    run_dir: Path = DEFAULT_RUN_DIR
    attach_by: AttachBy = "auto"
    node_file: Path | None = None
    node: str = ""
    """This node, as the node file and the membership files name it."""
    gateways: Path | None = None
    routers: Path | None = None
    node_address: IPv6Address | None = None
    """This node's own, as the operator knows it; None: the kernel says."""
