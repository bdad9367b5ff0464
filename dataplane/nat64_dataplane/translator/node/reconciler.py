"""One instance's reconcile pass: read, plan, act, until nothing is left to do. Synchronous."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv6Address
from typing import get_args

from nat64_dataplane.config import Config
from nat64_dataplane.errors import HostError
from nat64_dataplane.translator.fragmentation import fragmentation_mtu
from nat64_dataplane.translator.host_view import ArpAnswer, HostView
from nat64_dataplane.translator.membership import Membership
from nat64_dataplane.translator.node import (
    bpf_link,
    nftables_forward,
    nftables_notrack,
    node_sysctls,
    peer_plan,
    policy_rules,
    pools,
    tc_hooks,
    uplinks_and_pools,
)
from nat64_dataplane.translator.node import plan as planning
from nat64_dataplane.translator.node.actions import (
    Action,
    Apply,
    Attach,
    ConfigureTunnel,
    CreateTunnel,
)
from nat64_dataplane.translator.node.facts import Facts, Link
from nat64_dataplane.translator.node.netlink_host import Host
from nat64_dataplane.translator.node.peer_plan import PeerWays
from nat64_dataplane.translator.node.peer_view import PeerView
from nat64_dataplane.translator.node.plan import Desired, Observed
from nat64_dataplane.translator.node.pools import has_way_out
from nat64_dataplane.translator.node.reconciler_maps import Maps, Peers
from nat64_dataplane.translator.node_warning import NodeWarning, warn

_ROUNDS = 8
_ANNOUNCEMENTS = 2
_MOST_ANNOUNCED = 256  # in one pass

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Settled:
    """The result of a successful pass."""

    view: HostView
    actions: tuple[Action, ...]
    """What was done."""
    warnings: tuple[NodeWarning, ...] = ()
    """What the node needs although it translates now."""
    address: IPv6Address | None = None
    """By which the nodes of the other role know this one."""


def peer_name(instance: str) -> str:
    """The other end of the translator's veth pair."""
    return f"n64p-{hashlib.sha256(instance.encode()).hexdigest()[:8]}"


class Reconciler:
    """Remembers what was applied, so that a pass without changes writes nothing."""

    def __init__(self, host: Host, maps: Maps, peers: Peers) -> None:
        self.host = host
        self.maps = maps
        self.peers = peers
        self.fds: dict[tc_hooks.Program, int] = {
            name: maps.program_fd(name) for name in get_args(tc_hooks.Program)
        }
        self.attacher = host.choose_attacher(self.fds["nat64_ingress"])
        self._ids: dict[tc_hooks.Program, int] = {
            name: bpf_link.program_id(fd) for name, fd in self.fds.items()
        }
        self._announced: dict[ArpAnswer, int] = {}
        self._applied: tuple[Config, HostView] | None = None
        self._viewed: tuple[Facts, Config, HostView] | None = None
        self._looked: Facts | None = None
        self._no_tunnel = 0
        """The port that the tunnel can't have."""

    def reconcile(self, config: Config, membership: Membership | None = None) -> Settled:
        """Bring the node to `config`. Raises HostError, or DatapathError from `apply`.

        What was done before an error stays; the next pass goes on from there. `membership` is for
        topology Gateway.
        """
        known = membership or Membership()
        peers = self._possible(PeerView.of(config, known, self.host))
        done: list[Action] = []
        for _ in range(_ROUNDS):
            tunnel = peers.ways.tunnel
            observed = self.host.observe(config.interface, self._applied_view(config), tunnel)
            self._retry_refused(observed.facts)
            way_out = has_way_out(config, observed.facts)
            if not way_out:
                self.peers.serve(config, way_out=False, draining=False)
            desired, view = self._wanted(config, observed, peers.ways)
            warnings = (
                *self._warnings(config, observed),
                *peers.warnings(config, observed.refused),
            )
            actions = planning.plan(desired, observed, view)
            self._follow_pod_links(config, observed.facts)
            link = observed.facts.link(tunnel) if tunnel else None
            self.peers.follow_membership(
                config,
                known,
                peers.address,
                link.index if link else 0,
                offload=link in self._tunnel_in(config, observed.facts),
                ready=not actions,
            )
            if not actions and view:
                self._announce(view)
                if not config.is_router:
                    pools.require_default(config, observed.facts)
                self.peers.serve(config, way_out=way_out, draining=known.draining)
                return Settled(view, tuple(done), warnings, peers.address)
            if any(isinstance(a, Attach) and a.program == "nat64_egress" for a in actions):
                # From its first probe on the program is to say what is true.
                self.peers.serve(config, way_out=way_out, draining=known.draining)
            for action in actions:
                if isinstance(action, Apply):
                    self.maps.apply(config, action.view)
                    self._applied = (config, action.view)
                elif not self._execute(action, peers.ways):
                    peers = self._possible(peers)
                    break
                done.append(action)
        raise HostError(
            "Unsettled",
            "the node does not stay as set up; someone undoes this: "
            + ", ".join(map(str, done[-3:])),
        )

    def _execute(self, action: Action, ways: PeerWays) -> bool:
        """Returns False where there is no tunnel, and the node does without. Raises HostError."""
        try:
            self.host.execute(action, self.fds)
        except HostError as error:
            if not (ways.direct and isinstance(action, CreateTunnel | ConfigureTunnel)):
                raise
            log.warning("a change of the transport will interrupt clients, no tunnel: %s", error)
            self._no_tunnel = ways.port
            return False
        return True

    def _possible(self, peers: PeerView) -> PeerView:
        """Without the tunnel where Direct is asked for and the tunnel can't be."""
        if peers.ways.direct and peers.ways.port == self._no_tunnel:
            return replace(peers, ways=peers.ways.without_tunnel())
        return peers

    def _retry_refused(self, facts: Facts) -> None:
        """What the kernel wouldn't take is tried again once the node has changed."""
        if self.host.refused and facts is not self._looked:
            self.host.try_refused_again()
        self._looked = facts

    def _announce(self, view: HostView) -> None:
        """Announce the addresses that are new on this node, twice, because the first may be lost
        (RFC 5227).
        """
        self._announced = {a: n for a, n in self._announced.items() if a in view.arp_answers}
        new = sorted(a for a in view.arp_answers if self._announced.get(a, 0) < _ANNOUNCEMENTS)
        for answer in new[:_MOST_ANNOUNCED]:
            self._announced[answer] = self._announced.get(answer, 0) + 1
        self.maps.announce(new[:_MOST_ANNOUNCED])

    def _follow_pod_links(self, config: Config, facts: Facts) -> None:
        straight = self.host.places.straight(uplinks_and_pools.ways_to_one_pod(config, facts))
        self.maps.follow_pod_links(uplinks_and_pools.pod_links(config, facts), straight)

    def _applied_view(self, config: Config) -> HostView | None:
        if self._applied and self._applied[0] == config:
            return self._applied[1]
        return None

    def _warnings(self, config: Config, observed: Observed) -> Iterator[NodeWarning]:
        """Raises HostError where the node can't translate at all as it is set."""
        if unreserved := node_sysctls.missing(config, observed.facts):
            yield warn("PortsNotReserved", unreserved)
        found = [
            f"{hook.direction} of {_link_name(observed, hook)}: program {', '.join(map(str, ids))}"
            for hook, ids in sorted(self.host.ahead.items())
            if hook not in observed.ahead
        ]
        if found:
            yield warn("HookNotFirst", *found)
        if self.host.notrack_error:
            yield warn("NoNftables", self.host.notrack_error)
        if self.host.fib_error:
            yield warn("NoReversePathRule", self.host.fib_error)
        if dropping := nftables_forward.dropping(config.interface):
            yield warn("ForwardingDropped", *dropping)
        if away := self.host.led_away(config.prefixes, observed.facts, config.interface):
            yield warn("PrefixRoutedElsewhere", *away)
        if rules := policy_rules.not_followed(observed.facts.rules):
            yield warn("RuleNotFollowed", *rules)
        if too_many := pools.left_out(config, observed.facts):
            yield warn("TooManyWaysOut", *map(str, too_many))

    def _wanted(
        self, config: Config, observed: Observed, ways: PeerWays
    ) -> tuple[Desired, HostView | None]:
        facts = observed.facts
        wanted_rules = nftables_notrack.rules(
            config.prefixes,
            config.interface,
            () if config.is_router else pools.pool_networks(config, facts),
            ways.port,
            tracking=observed.tracking,
            by_uplink=config.is_router,
        )
        if self.host.fib_error:
            wanted_rules = nftables_notrack.without_lookups(wanted_rules)
        if config.is_router:
            mtu = ways.mtu
        else:
            mtu = uplinks_and_pools.route_mtu(uplinks_and_pools.uplinks(config, facts))
        desired = Desired(
            instance=config.name,
            interface=config.interface,
            peer=peer_name(config.name),
            prefixes=config.prefixes,
            mtu=mtu,
            fragment_mtu=fragmentation_mtu(config),
            programs=self._ids,
            rules=None if self.host.notrack_error else wanted_rules,
            ranges=frozenset() if config.is_router else pools.owned_ranges(config, facts),
            offload=self._offload(config, observed),
            translates=not config.is_router,
            peers=ways,
        )
        link = planning.own_link(facts, desired.interface, desired.peer, desired.alias)
        # Resolved even without the link: a node that can't translate gets no link.
        tunnel = peer_plan.own_tunnel(facts, ways)
        view = self._view(config, facts, link, tunnel.index if tunnel else 0, mtu)
        return desired, view if link else None

    def _offload(self, config: Config, observed: Observed) -> tuple[Link, ...]:
        from_pods = uplinks_and_pools.ways_in(config, observed.facts)
        from_routers = uplinks_and_pools.ways_from_routers(config, observed.facts)
        ways_in = {link.index: link for link in (*from_pods, *from_routers)}.values()
        tunnel = uplinks_and_pools.tunnel_in(config, observed.facts)
        return self.host.unobserved(ways_in, observed.hooks, beside=tunnel)

    def _tunnel_in(self, config: Config, facts: Facts) -> tuple[Link, ...]:
        """The tunnel's link, if nobody else looks at what it brings."""
        return self.host.places.unwatched(uplinks_and_pools.tunnel_in(config, facts))

    def _view(
        self, config: Config, facts: Facts, link: Link | None, tunnel: int, mtu: int
    ) -> HostView:
        """What the maps need; concluded anew only from another reading of the node."""
        if not (self._viewed and self._viewed[0] is facts and self._viewed[1] == config):
            see = uplinks_and_pools.router_view if config.is_router else uplinks_and_pools.host_view
            self._viewed = facts, config, see(config, facts, link, tunnel)
        return replace(self._viewed[2], route_mtu=mtu)


def _link_name(observed: Observed, hook: tc_hooks.Hook) -> str:
    link = observed.facts.link_at(hook.ifindex)
    return link.name if link else f"link {hook.ifindex}"
