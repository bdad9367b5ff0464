"""What a reconcile pass tells the programs, by their maps."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv6Address
from typing import Protocol

from nat64_dataplane.config import Config
from nat64_dataplane.translator.host_view import ArpAnswer, HostView
from nat64_dataplane.translator.membership import Membership
from nat64_dataplane.translator.node import tc_hooks


class Maps(Protocol):
    """The part of `Datapath` that a reconcile pass uses."""

    def apply(self, config: Config, host: HostView) -> None:
        """Make the maps follow the config, atomically."""

    def announce(self, answers: Iterable[ArpAnswer]) -> None:
        """Tell the neighbours where pool addresses are."""

    def follow_pod_links(
        self, links: frozenset[int], straight: frozenset[int] = frozenset()
    ) -> None:
        """Tell the programs which links lead to one pod each, and which of these packets may skip
        for a while.
        """

    def program_fd(self, which: tc_hooks.Program) -> int:
        """The descriptor of a loaded program."""


class Peers(Protocol):
    """What a pass tells the programs about topology Gateway."""

    def follow_membership(
        self,
        config: Config,
        membership: Membership,
        address: IPv6Address | None,
        tunnel: int,
        *,
        offload: bool,
        ready: bool,
    ) -> None:
        """Say what this node is, who the others are, and whether known flows go on where they leave
        the tunnel; `ready` once its routes are right.
        """

    def serve(self, config: Config, *, way_out: bool, draining: bool) -> None:
        """Have probes answered accordingly, where this is a gateway node."""
