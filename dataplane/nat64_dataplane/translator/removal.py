"""Removes one translator instance from a node, and leaves nothing of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from nat64_dataplane.errors import DataplaneError, HostError
from nat64_dataplane.translator.advertise import withdrawal
from nat64_dataplane.translator.datapath import pinned_maps
from nat64_dataplane.translator.node import (
    fact_parts,
    netlink_peers,
    nftables_notrack,
    node_sysctls,
    peer_facts,
    peer_table,
)
from nat64_dataplane.translator.node.actions import DeleteRule
from nat64_dataplane.translator.node.netlink_host import Host
from nat64_dataplane.translator.node.peer_plan import tunnel_aliases
from nat64_dataplane.translator.node.plan import link_alias
from nat64_dataplane.translator.node.reconciler import peer_name
from nat64_dataplane.translator.run_directory import RunDir

_LOCK_SECONDS = 10.0  # an agent that has just been told to stop


class Removal:
    """Does every step, also after one that failed; `failures` says which did."""

    def __init__(self, instance: str, pins: Path, run_dir: Path) -> None:
        self.instance = instance
        self.pins = pins
        self.root = run_dir
        self.failures: list[str] = []
        self.notes: list[str] = []
        """What people should know, though it is no failure."""
        self.unrestored: list[str] = []
        """Sysctls that an unprivileged process can't put back; everything else is gone."""

    def run(self) -> Iterator[str]:
        """Yield a line for each thing removed. Raises BusyError while an agent runs."""
        run_dir = RunDir(self.root, self.instance)
        with run_dir.locked(wait=_LOCK_SECONDS):
            # Hosts are told before they lose it. Then the link goes, and the route with it, so
            # that clients get an error at once.
            for step in (
                self._advertisements,
                self._links,
                self._hooks,
                self._rules,
                self._pins,
                self._settings,
            ):
                yield from self._tried(step)
            run_dir.remove()

    def _tried(self, step: Callable[[], Iterator[str]]) -> Iterator[str]:
        try:
            yield from step()
        except (DataplaneError, OSError, NetlinkError) as error:
            self.failures.append(str(error))

    def _advertisements(self) -> Iterator[str]:
        try:
            yield from withdrawal.withdraw(self.root / self.instance)
        except (HostError, OSError) as error:
            # It must not hold up the rest: hosts forget after the lifetime that they were told.
            self.notes.append(f"not withdrawn, hosts keep it for its lifetime: {error}")

    def _links(self) -> Iterator[str]:
        with IPRoute(strict_check=True) as ipr:
            found = fact_parts.read(ipr)
            for link in found.links:
                peer = found.link_at(link.peer)
                unfinished = peer is not None and peer.name == peer_name(self.instance)
                ours = link_alias(self.instance), *tunnel_aliases(self.instance)
                if link.alias in ours or unfinished:
                    ipr.link("del", index=link.index)
                    yield f"link {link.name}"
            yield from self._ways_to_routers(ipr)

    def _ways_to_routers(self, ipr: IPRoute) -> Iterator[str]:
        table = peer_table.table_of(self.instance)
        found = peer_facts.peers(ipr, table)
        for rule in found.rules:
            netlink_peers.execute(ipr, DeleteRule(rule))
            yield f"rule {rule.priority}: lookup {table}"
        if found.routes:
            # Those by the tunnel have gone with it.
            peer_table.delete(table, found.routes)
            yield f"routes to {len(found.routes)} ranges of router nodes"

    def _hooks(self) -> Iterator[str]:
        host = Host(self.instance, self.pins)
        with contextlib.closing(host):
            for kind, attacher in host.attachers().items():
                for hook in attacher.attached(()):
                    attacher.detach(hook)
                    yield f"{kind} hook, {hook.direction} of link {hook.ifindex}"

    def _rules(self) -> Iterator[str]:
        if nftables_notrack.remove(self.instance):
            yield f"nftables table {nftables_notrack.table_name(self.instance)}"

    def _pins(self) -> Iterator[str]:
        path = self.pins / self.instance
        existed = path.exists()
        pinned_maps.remove_instance(self.pins, self.instance)
        for directory in (path / "links", path, self.pins):
            with contextlib.suppress(OSError):
                directory.rmdir()
        if existed:
            yield f"pins under {path}"

    def _settings(self) -> Iterator[str]:
        try:
            yield from node_sysctls.restore(self.instance, self.root)
        except HostError as error:
            self.unrestored.append(str(error))
