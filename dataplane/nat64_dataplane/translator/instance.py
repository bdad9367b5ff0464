"""One translator in the kernel, and the reconciler of its node: opened, updated, reopened."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import IPv6Address
from pathlib import Path

from nat64_dataplane.config import Config
from nat64_dataplane.errors import HostError
from nat64_dataplane.translator.datapath import pinned_maps
from nat64_dataplane.translator.datapath.carry_over import Carrier
from nat64_dataplane.translator.datapath.datapath import Datapath, PoolUsage, SweepResult
from nat64_dataplane.translator.membership import Membership
from nat64_dataplane.translator.node import listeners
from nat64_dataplane.translator.node.netlink_host import AttachBy, Host
from nat64_dataplane.translator.node.reconciler import Reconciler, Settled
from nat64_dataplane.translator.node_warning import NodeWarning, ordered, warn
from nat64_dataplane.translator.peer_maps import PeerMaps
from nat64_dataplane.translator.refusals import Refusals
from nat64_dataplane.translator.steering.decision import Decision
from nat64_dataplane.translator.steering.health import State

_UNANSWERED = 32
"""So many connections without a single reply are no longer a few servers that are down."""

log = logging.getLogger(__name__)


class Instance:
    """A Datapath and its Reconciler. Reading may happen in any thread, the rest in one."""

    def __init__(self, pins: Path, attach_by: AttachBy) -> None:
        self._pins = pins
        self._attach_by: AttachBy = attach_by
        self._opened: tuple[Datapath, Reconciler] | None = None
        self._sessions = 0
        self._carrier: Carrier | None = None
        self._refusals = Refusals()

    @property
    def attached_by(self) -> str:
        """How programs are attached; empty before `open`."""
        return self._opened[1].attacher.kind if self._opened else ""

    @property
    def notrack_error(self) -> str:
        """Why conntrack sees translated packets; empty if it doesn't."""
        return (self._opened[1].host.notrack_error or "") if self._opened else ""

    def open(self, config: Config) -> None:
        """Load the programs, take over what is pinned. Raises DataplaneError, OSError."""
        self._opened, self._carrier = self._load(config)
        self._sessions = config.limits.sessions

    def reconcile(self, config: Config, membership: Membership | None = None) -> Settled:
        """Bring the node to `config`. Raises DataplaneError; what was done stays."""
        if config.limits.sessions != self._sessions:
            return self._resize(config, membership)
        self._datapath.note_route_change()  # it may be why we were woken
        settled = self._reconciler.reconcile(config, membership)
        self._finish_move()
        found = (
            *settled.warnings,
            *self._map_warnings(),
            *listeners.warnings(settled.view.pool),
        )
        return replace(settled, warnings=ordered(found))

    def has_new_strangers(self) -> bool:
        """Whether programs have come to the pods' links, or gone, since the last `reconcile`: the
        kernel doesn't tell. Raises DataplaneError, OSError.
        """
        return self._reconciler.host.places.changed()

    def stop_serving(self, config: Config) -> None:
        """Have probes answered that this node can't serve. Raises DataplaneError."""
        self._peers.serve(config, way_out=False, draining=False)

    def steer(self, decision: Decision) -> None:
        """Have clients go where it says, from one instant on. Raises DataplaneError."""
        self._peers.steer(decision)

    def known_gateways(self) -> Mapping[int, tuple[IPv6Address, State]]:
        """The gateways to which clients are steered now: by index. Raises DataplaneError."""
        return self._peers.known_gateways()

    def sweep(self) -> SweepResult:
        """Take away what has expired, or as much as may go at once. Raises DataplaneError."""
        return self._datapath.begin_sweep()

    def go_on_sweeping(self) -> SweepResult:
        """Take away more of what the last sweep has left. Raises DataplaneError."""
        return self._datapath.go_on_sweeping()

    def counters(self) -> Mapping[str, int]:
        """Every counter as NAME_DIRECTION."""
        return self._datapath.counters()

    def usage(self) -> Iterable[PoolUsage]:
        """Ports of every pool address and protocol."""
        return self._datapath.usage()

    def resting_ports(self) -> Mapping[str, int]:
        """Ports in use that come back when they are needed, by protocol."""
        return self._datapath.resting_ports()

    def session_count(self) -> int:
        """How many sessions there are."""
        return self._datapath.session_count()

    def session_limit(self) -> int:
        """How many sessions there may be."""
        return self._datapath.session_limit()

    def close(self) -> None:
        """Close descriptors and sockets; nothing goes away."""
        if self._opened:
            self._opened[1].host.close()
            self._opened[0].close()
            self._opened = None

    @property
    def _datapath(self) -> Datapath:
        if self._opened is None:
            raise HostError("Starting", "the programs are not loaded yet")
        return self._opened[0]

    @property
    def _reconciler(self) -> Reconciler:
        if self._opened is None:
            raise HostError("Starting", "the programs are not loaded yet")
        return self._opened[1]

    @property
    def _peers(self) -> PeerMaps:
        return PeerMaps(self._datapath.topology)

    def _load(self, config: Config) -> tuple[tuple[Datapath, Reconciler], Carrier | None]:
        before = list(pinned_maps.versions(self._pins, config.name))
        datapath = Datapath.open(self._pins, config.name, config.limits)
        host = Host(config.name, self._pins, self._attach_by)
        try:
            carrier = None
            if before and datapath.directory not in before:
                newest = max(before, key=lambda path: path.stat().st_mtime)
                carrier = self._carry(newest, datapath)
            return (datapath, Reconciler(host, datapath, PeerMaps(datapath.topology))), carrier
        except BaseException:
            host.close()
            datapath.close()
            raise

    def _carry(self, source: Path, datapath: Datapath) -> Carrier | None:
        carrier = Carrier(source, datapath)
        if why := carrier.copy_all():
            log.warning("sessions start anew, those of %s stay behind: %s", source.name, why)
            return None
        log.info("sessions carried over from maps %s", source.name)
        return carrier

    def _map_warnings(self) -> Iterable[NodeWarning]:
        """What the maps show. Raises DataplaneError."""
        silent = [
            f"{count} connections from {name}" if int(name) else f"{count} connections"
            for name, count in self._datapath.unanswered().items()
            if count >= _UNANSWERED
        ]
        if silent:
            yield warn("NoReplies", *silent)
        yield from self._refusals.warnings(self._datapath.counters())

    def _finish_move(self) -> None:
        """Once the new programs run: fetch what the old ones did last, and unpin them."""
        if self._carrier:
            self._carrier.copy_rest()
            self._carrier = None
        for path in self._datapath.prune():
            log.info("unpinned maps %s", path.name)

    def _resize(self, config: Config, membership: Membership | None) -> Settled:
        """Maps keep the size that they were made with: another limit needs other maps."""
        opened, carrier = self._load(config)
        try:
            settled = opened[1].reconcile(config, membership)
        except BaseException:
            opened[1].host.close()
            opened[0].close()
            raise
        self.close()
        self._opened, self._carrier = opened, carrier
        self._sessions = config.limits.sessions
        self._finish_move()
        return settled
