"""An instance's run-time directory: its lock, its claims on the node, and its status.

The status file outlives the agent on purpose: an agent that dies changes nothing for packets, and
the DNS64 sidecar, which reads the file, must continue as before.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv4Address
from pathlib import Path

import msgspec

from nat64_dataplane.claims import (
    Claim,
    clash_anywhere,
    clash_at,
    clash_on_a_node,
    written_blocks,
)
from nat64_dataplane.config import Config, parse, render
from nat64_dataplane.errors import ConfigError, HostError
from nat64_dataplane.instance_directory import InstanceDirectory
from nat64_dataplane.translator.node_warning import NodeWarning

DEFAULT_RUN_DIR = Path("/run/nat64-operator")
_CLAIM, _ROLE = "claim.json", "role"


class GatewayStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a router node's agent thinks of one gateway node."""

    node: str
    address: str
    weight: int
    state: str
    """`healthy`, `draining`, `recovering`, `dead` or `new`."""
    why: str = ""
    """Why it is dead or new."""


class Status(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What `status.json` holds. `since` is the Unix time at which packets began to be translated
    like this, or ceased to be.
    """

    prefix: str
    programmed: bool
    reason: str
    """One CamelCase word, then for people what it means here."""
    config_hash: str
    since: float
    warnings: tuple[NodeWarning, ...] = ()
    """What is wrong although packets are translated."""
    advertised: tuple[str, ...] = ()
    """The links on which hosts are offered the prefix by Router Advertisements."""
    role: str = ""
    """In topology Gateway: `Gateway` or `Router`."""
    gateways: tuple[GatewayStatus, ...] = ()
    """On a router node."""

    @classmethod
    def starting(cls, config: Config) -> Status:
        """That of an instance of which nothing is known yet."""
        return cls(
            prefix=str(config.prefix),
            programmed=False,
            reason="Starting: nothing is set up yet",
            config_hash=config.content_hash,
            since=time.time(),
        )

    def same_as(self, other: Status | None) -> bool:
        """Whether nothing but the time differs."""
        return other is not None and msgspec.structs.replace(other, since=self.since) == self

    def same_state(self, other: Status) -> bool:
        """Whether nothing that people see in `reason` and `programmed` differs."""
        return self.same_as(
            msgspec.structs.replace(
                other,
                warnings=self.warnings,
                advertised=self.advertised,
                role=self.role,
                gateways=self.gateways,
            )
        )


class RunDir(InstanceDirectory):
    """`RUN_DIR/NAME`."""

    kind = "translator"
    files = (_CLAIM, "claim.new", _ROLE, "advertised.json", "advertised.new")

    def claim(
        self, config: Config, node_address: Callable[[], Iterable[IPv4Address]] = tuple
    ) -> None:
        """Note what the instance takes on this node, before it takes it. Raises HostError where
        another instance has some of it, also one whose agent doesn't run: what it set up is still
        there. OSError where the note can't be written. `node_address` says what the pool `node`
        stands for; it is asked only where one instance has that and the other a written address.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        content = render(config)
        with _exclusively(self.path.parent):
            for other in sorted(self.path.parent.glob(f"*/{_CLAIM}")):
                if other.parent != self.path:
                    _check_apart(config, other, node_address)
            path = self.path / _CLAIM
            if not path.exists() or path.read_bytes() != content:
                new = path.with_suffix(".new")
                new.write_bytes(content)
                new.replace(path)

    def note_role(self, role: str) -> str | None:
        """Note the role of this node, empty for topology Node; returns the one of before if it was
        another. Raises OSError.
        """
        path = self.path / _ROLE
        before = path.read_text() if path.exists() else None
        if before != role:
            path.write_text(role)
        known = self.status_path.exists() if before is None else True
        return (before or "") if known and (before or "") != role else None

    def read_status(self) -> Status | None:
        """The last status, or None where there is none or it can't be read."""
        try:
            return msgspec.json.decode(self.status_path.read_bytes(), type=Status)
        except (OSError, msgspec.DecodeError):
            return None


def _check_apart(
    config: Config, claimed: Path, node_address: Callable[[], Iterable[IPv4Address]]
) -> None:
    try:
        theirs = parse(claimed.read_bytes())
    except (OSError, ConfigError):  # it has just been removed, or is of another version
        return
    ours, others = Claim.of(config), Claim.of(theirs)
    found = clash_on_a_node(ours, others) or clash_anywhere(ours, others)
    if not found and (written_blocks(ours, others) or written_blocks(others, ours)):
        found = clash_at(ours, others, node_address())
    if found:
        raise HostError(
            "TakenOnNode",
            f"{found.field}: translator {theirs.name!r} has {found.what} on this node already; "
            f"if it is gone for good, run `nat64-translator remove --name {theirs.name}` here",
        )


@contextlib.contextmanager
def _exclusively(folder: Path) -> Iterator[None]:
    """Hold a lock on a folder, which several instances share."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
