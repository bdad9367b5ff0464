"""The thin edge between the plan and the kernel: read the node, carry out one action."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Any, Literal

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from nat64_dataplane import pref64
from nat64_dataplane.errors import HostError
from nat64_dataplane.translator.node import (
    actions,
    fact_parts,
    facts,
    link_sysctls,
    netlink_peers,
    nftables_notrack,
    peer_facts,
    peer_table,
    tc_hooks,
)
from nat64_dataplane.translator.node.fact_cache import FactCache
from nat64_dataplane.translator.node.facts import IFF_NOARP, ROUTE_PROTOCOL, Facts
from nat64_dataplane.translator.node.offload_places import OffloadPlaces
from nat64_dataplane.translator.node.plan import Observed
from nat64_dataplane.translator.node.tc_hooks import Attacher

AttachBy = Literal["auto", "tcx", "clsact"]

_RTNH_F_ONLINK = 4
_RTAX_MTU_LOCK = 1 << 2
_MOST_MOVES, _MOVES_SECONDS = 2, 3600

log = logging.getLogger(__name__)


class Host:
    """One network namespace's netlink sockets. Not for several threads at once."""

    def __init__(self, instance: str, pins: Path, attach_by: AttachBy = "auto") -> None:
        self.instance = instance
        self.pins = pins
        self.attach_by: AttachBy = attach_by
        self.notrack_error: str | None = None
        """Why there are no notrack rules, if the kernel has no nf_tables."""
        self.fib_error = ""
        """Why rules that look up routes are missing, once the kernel has refused them."""
        self.ahead: Mapping[tc_hooks.Hook, tuple[int, ...]] = {}
        """Programs of others that run before ours, as of the last `observe`."""
        self.refused: dict[facts.PeerRoute, int] = {}
        """Routes to router nodes that the kernel won't take, with its errno."""
        self._moves: dict[tc_hooks.Hook, list[float]] = {}
        self.cache = FactCache()
        self._ipr: IPRoute | None = None
        self._attacher: Attacher | None = None
        self.places = OffloadPlaces(pins)

    @property
    def ipr(self) -> IPRoute:
        """The routing socket, opened on first use."""
        if self._ipr is None:
            self._ipr = IPRoute(strict_check=True)
        return self._ipr

    def close(self) -> None:
        """Close the sockets. Nothing that was set up goes away."""
        self.cache.close()
        if self._ipr is not None:
            self._ipr.close()
            self._ipr = None

    def attachers(self) -> dict[str, Attacher]:
        """Every way to attach, by name."""
        return {
            "tcx": tc_hooks.Tcx(self.pins / self.instance / "links"),
            "clsact": tc_hooks.Clsact(lambda: self.ipr, self.instance),
        }

    def choose_attacher(self, program_fd: int) -> Attacher:
        """The way this kernel has, unless one was asked for. Hooks of the other way are removed."""
        ways = self.attachers()
        if self.attach_by == "auto":
            chosen = "tcx" if tc_hooks.supports_tcx(program_fd) else "clsact"
        else:
            chosen = self.attach_by
        for kind, other in ways.items():
            for hook in other.attached(()) if kind != chosen else ():
                other.detach(hook)
        self._attacher = ways[chosen]
        return self._attacher

    def observe(self, interface: str, applied: Any, tunnel: str = "") -> Observed:
        """Read what has changed of all that the plan compares. Raises HostError."""
        with _as_host_error("read the node"):
            found = self.cache.read(self.ipr, interface, peer_table.table_of(self.instance))
            link, tunnel_link = found.link(interface), found.link(tunnel) if tunnel else None
            rules = self._read_rules()
            hooks = self._attacher.attached(()) if self._attacher else {}
            # Where others are ahead of offload, it is no longer wanted: see strangers.py.
            ordered = [hook for hook in hooks if hook.direction != "offload"]
            self.ahead = self._attacher.ahead(ordered) if self._attacher else {}
            return Observed(
                facts=found,
                neighbour=fact_parts.neighbour(self.ipr, link, actions.NEXT_HOP),
                hooks=hooks,
                ahead={h: ids for h, ids in self.ahead.items() if self._may_move(h)},
                rules=rules,
                tracking=nftables_notrack.is_tracking(rules or ()),
                applied=applied,
                tunnel_neighbour=fact_parts.neighbour(self.ipr, tunnel_link, actions.NEXT_HOP),
                refused=frozenset(self.refused),
            )

    def unobserved(
        self,
        links: Collection[facts.Link],
        hooks: Collection[tc_hooks.Hook],
        beside: Collection[facts.Link] = (),
    ) -> tuple[facts.Link, ...]:
        """Those of `links` where only translators look at what comes in, now and once a CNI has
        set the link up. Raises HostError. `places` then knows who looks at what goes out, and at
        the links `beside` them.
        """
        with _as_host_error("find out who looks at what passes the pods' links"):
            self.places.look((*links, *beside))
        clsact = self._attacher is None or self._attacher.kind == "clsact"
        return self.places.for_hooks(links, hooks, clsact=clsact)

    def try_refused_again(self) -> None:
        """Forget which routes the kernel has refused: something may have changed since."""
        self.refused = {}

    def way_to(self, address: IPv6Address) -> peer_facts.Way | None:
        """How the node itself reaches an address; None where it doesn't. Raises HostError."""
        with _as_host_error(f"look up the way to {address}"):
            return peer_facts.way(self.ipr, address)

    def mtus_to(self, addresses: Sequence[IPv6Address]) -> Mapping[IPv6Address, int]:
        """What the ways to these carry, for those that have one. Raises HostError."""
        with _as_host_error("look up the ways to router nodes"):
            return peer_facts.mtus(self.ipr, addresses)

    def led_away(self, prefixes: Iterable[IPv6Network], found: Facts, interface: str) -> list[str]:
        """The prefixes that another route than ours leads elsewhere, and where to. Raises
        HostError.
        """
        link = found.link(interface)
        if link is None:
            return []
        away = []
        with _as_host_error("look up the way to the prefix"):
            for prefix in prefixes:
                way = fact_parts.way_to(self.ipr, pref64.embed(prefix, facts.REST_OF_THE_WORLD))
                if way != link.index:
                    other = found.link_at(way)
                    away.append(f"{prefix} by {other.name if other else 'no link'}")
        return away

    def _may_move(self, hook: tc_hooks.Hook) -> bool:
        """Whether to try once more: another program that also insists on being first must not be
        fought.
        """
        recent = [at for at in self._moves.get(hook, ()) if time.monotonic() - at < _MOVES_SECONDS]
        self._moves[hook] = recent
        return len(recent) < _MOST_MOVES

    def _read_rules(self) -> frozenset[nftables_notrack.Rule] | None:
        try:
            found = nftables_notrack.read(self.instance)
        except OSError as error:
            if self.notrack_error is None:
                log.warning("translated packets stay tracked: %s", error)
            self.notrack_error = str(error)
            return None
        self.notrack_error = None
        return found

    def execute(self, action: actions.Action, program_fds: Mapping[tc_hooks.Program, int]) -> None:
        """Carry out one action other than `Apply`. Raises HostError."""
        with _as_host_error(str(action)):
            self._execute(action, program_fds)

    def _execute(self, action: actions.Action, program_fds: Mapping[tc_hooks.Program, int]) -> None:
        ipr = self.ipr
        match action:
            case actions.CreateLink(name, peer):
                ipr.link("add", ifname=name, kind="veth", peer=peer)
            case actions.DeleteLink(index, _):
                ipr.link("del", index=index)
            case actions.ConfigureLink():
                self._configure(action)
            case actions.AddAddress(index, address):
                ipr.addr("replace", index=index, address=str(address), prefixlen=32, scope=253)
            case actions.Attach(hook, _, program):
                assert self._attacher
                self._attacher.attach(hook, program_fds[program])
            case actions.MoveFirst(hook, _, _, program):
                assert self._attacher
                self._moves.setdefault(hook, []).append(time.monotonic())
                self._attacher.move_first(hook, program_fds[program])
            case actions.Detach(hook):
                assert self._attacher
                self._attacher.detach(hook)
            case actions.WriteRules(rules):
                self.fib_error = nftables_notrack.write(self.instance, rules) or self.fib_error
            case actions.ClaimRange(route):
                ipr.route("replace", **_range_route(route))
            case actions.ReleaseRange(route):
                ipr.route("del", **_range_route(route))
            case actions.ReplaceRoute(route):
                ipr.route("replace", **_prefix_route(route))
            case actions.DeleteRoute(route):
                ipr.route("del", **_prefix_route(route))
            case actions.Apply():
                raise TypeError("the maps are the datapath's")
            case _:
                self.refused |= netlink_peers.execute(ipr, action)

    def _configure(self, action: actions.ConfigureLink) -> None:
        for index in (action.peer, action.index):
            # Before it comes up, because a link-local address would mean neighbour discovery on it.
            self.ipr.link("set", index=index, IFLA_AF_SPEC=netlink_peers.NO_LINK_LOCAL)
        self.ipr.link(
            "set",
            index=action.index,
            mtu=action.mtu,
            IFLA_IFALIAS=action.alias,
            flags=IFF_NOARP,
            change=IFF_NOARP,
        )
        link_sysctls.set_devconf(action.index, action.devconf)
        for index in (action.peer, action.index):
            self.ipr.link("set", index=index, mtu=action.mtu, state="up")


def _prefix_route(route: facts.PrefixRoute) -> dict[str, Any]:
    # Forwarding ignores a route's MTU unless it is locked.
    common = {
        "dst": str(route.prefix),
        "oif": route.ifindex,
        "proto": ROUTE_PROTOCOL,
        "table": facts.MAIN_TABLE,
        "metrics": {"lock": _RTAX_MTU_LOCK, "mtu": route.mtu},
    }
    if route.gateway is None:
        return {"family": socket.AF_INET, "scope": "link", **common}
    gateway = {"gateway": str(route.gateway), "flags": _RTNH_F_ONLINK}
    return {"family": socket.AF_INET6, **gateway, **common}


def _range_route(route: facts.RangeRoute) -> dict[str, Any]:
    return {
        "family": socket.AF_INET,
        "dst": str(route.network),
        "oif": route.ifindex,
        "type": "local",
        "scope": "host",
        "proto": ROUTE_PROTOCOL,
        "table": facts.LOCAL_TABLE,
    }


@contextlib.contextmanager
def _as_host_error(what: str) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        raise HostError("HostSetupFailed", f"can't {what}: {os.strerror(error.code)}") from error
    except OSError as error:
        raise HostError("HostSetupFailed", f"can't {what}: {error.strerror or error}") from error
