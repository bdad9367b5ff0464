"""Which gateway has what on which node, and which specs are carried out.

On a node, an address and port, a prefix or a port of the host can belong to one gateway only. The
gateway that has it keeps it: a spec that would take it from another gateway is not accepted and
changes nothing. If labels bring two running gateways to one node, the one that is already there
stays, and the other is kept off. A node that is new to both goes to the older one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from nat64_dataplane import config
from nat64_dataplane.claims import Claim, Clash, clash_anywhere, clash_at, clash_on_a_node
from nat64_operator.api.gateway import Gateway, full_name
from nat64_operator.reconcile import roles
from nat64_operator.reconcile.holders import Holder, accepted_spec, config_of, with_spec
from nat64_operator.reconcile.holders import holders as find_holders
from nat64_operator.reconcile.world import World


class Refusal(NamedTuple):
    """Why a gateway's spec is not carried out."""

    reason: str
    message: str


class Effective(NamedTuple):
    """The spec that is carried out for a gateway: its own, or the last one that was accepted."""

    gateway: Gateway
    translator: config.Config
    kept_off: Mapping[str, str]
    """Nodes that it selects and does not get, with the name of the gateway that is there."""


class Decision(NamedTuple):
    """The decision about a gateway's spec."""

    effective: Effective | None
    """None if no spec was ever accepted."""
    refusal: Refusal | None = None


def decide(
    wanted: Iterable[tuple[Gateway, config.Config | Refusal]], world: World
) -> dict[str, Decision]:
    """Decide about all gateways that can be read. Those that don't change come first, then the
    others by age.
    """
    asked = {gateway.name: (gateway, translator) for gateway, translator in wanted}
    accepted = {name: accepted_spec(gateway, world) for name, (gateway, _) in asked.items()}
    holders = {holder.name: holder for holder in find_holders(asked, accepted, world)}
    decisions: dict[str, Decision] = {}

    def order(name: str) -> tuple[bool, tuple[str, str]]:
        gateway, _ = asked[name]
        before = accepted[name]
        return before is None or before.spec != gateway.spec, gateway.meta.age_order

    for name in sorted(asked, key=order):
        gateway, translator = asked[name]
        before = accepted[name]
        others = [holder for holder in holders.values() if holder.name != name]
        running, old = config_of(before), None
        if before is not None and running is not None:
            old = _place(before, running, holders.get(name), others, world)
        if gateway.meta.deleting:
            why = Refusal("Deleting", "it is being deleted")
            decisions[name] = Decision(old and old.effective, why)
            continue
        if isinstance(translator, Refusal):
            decisions[name] = Decision(old and old.effective, translator)
            continue
        new = _place(gateway, translator, holders.get(name), others, world)
        if before is not None and before.spec == gateway.spec:
            decisions[name] = Decision(new.effective)
        elif found := new.refused_for(old):
            decisions[name] = Decision(old and old.effective, found)
        else:
            decisions[name] = Decision(new.effective)
        effective = decisions[name].effective
        if effective is not None:
            holders[name] = with_spec(holders.get(name), *effective, world)
    return decisions


class _Placed(NamedTuple):
    """A spec, compared with what other gateways have."""

    effective: Effective
    clashes: Mapping[tuple[str, str], Refusal]
    """By the other gateway's name, and by where the two conflict: on a `node`, `anywhere`, or `at`
    a node with a certain address."""

    def refused_for(self, before: _Placed | None) -> Refusal | None:
        """Why an edit is not accepted. A conflict that existed before the edit is no reason."""
        known = before.clashes.keys() if before else ()
        for which, refusal in self.clashes.items():
            if which not in known:
                return refusal
        lost = self.effective.kept_off.keys() - (before.effective.kept_off if before else {}).keys()
        if lost:
            name = self.effective.kept_off[min(lost)]
            return next(refusal for (other, _), refusal in self.clashes.items() if other == name)
        return None


def _place(
    gateway: Gateway,
    translator: config.Config,
    mine: Holder | None,
    others: Iterable[Holder],
    world: World,
) -> _Placed:
    claim, ports = Claim.of(translator), gateway.host_ports
    selected, steering = roles.nodes(gateway, world), roles.router_nodes(gateway, world)
    kept_off: dict[str, str] = {}
    clashes: dict[tuple[str, str], Refusal] = {}
    for other in sorted(others, key=lambda holder: holder.age):
        shared = selected & other.nodes
        one_steers = shared & (steering | other.routers)
        # Pools count where both translate only.
        without = claim._replace(node_pools=())
        for mine_here, nodes in ((claim, shared - one_steers), (without, one_steers)):
            found = _clash(mine_here, ports, other)
            if found is None:
                continue
            for node in nodes:
                if _has_precedence(other, mine, gateway, node):
                    kept_off.setdefault(node, other.name)
            translate = selected - steering, other._replace(nodes=other.nodes - other.routers)
            if nodes or (
                mine_here is claim
                and not shared
                and not _apart(gateway.spec.node_selector, *translate, world)
            ):
                clashes[other.name, "node"] = found
        if found := _clash_anywhere(claim, other):
            clashes[other.name, "anywhere"] = found
        for node in sorted(shared - one_steers):
            if (found := _clash_at(claim, other, node, world)) is None:
                continue
            clashes[other.name, "at"] = found
            if _has_precedence(other, mine, gateway, node):
                kept_off.setdefault(node, other.name)
    return _Placed(Effective(gateway, translator, kept_off), clashes)


def _has_precedence(other: Holder, mine: Holder | None, gateway: Gateway, node: str) -> bool:
    """Whether the other gateway stays on a node: the one that is there, else the older one."""
    here, there = mine.rank(node) if mine else 0, other.rank(node)
    return there > here if here != there else other.age < gateway.meta.age_order


def _clash(claim: Claim, ports: Mapping[int, str], other: Holder) -> Refusal | None:
    for theirs in other.claims:
        if found := clash_on_a_node(claim, theirs):
            return _REFUSALS[found.kind](found, other.name)
    for port, field in ports.items():
        if port in other.host_ports:
            return Refusal(
                "HostPortConflict",
                f"spec.{full_name(field)}: NAT64Gateway {other.name!r} has port {port} "
                f"({other.host_ports[port]}) on the same nodes; set another",
            )
    return None


def _clash_anywhere(claim: Claim, other: Holder) -> Refusal | None:
    for theirs in other.claims:
        if found := clash_anywhere(claim, theirs):
            return _pool_refusal(found, other.name)
    return None


def _clash_at(claim: Claim, other: Holder, node: str, world: World) -> Refusal | None:
    for theirs in other.claims:
        if found := clash_at(claim, theirs, world.nodes[node].ipv4):
            return Refusal(
                "PoolConflict",
                f"spec.pools: NAT64Gateway {other.name!r} has {found.what} {node!r}, with some of "
                "these ports too: a port may be in one only",
            )
    return None


def _prefix_refusal(found: Clash, name: str) -> Refusal:
    return Refusal(
        "PrefixConflict",
        f"spec.{found.field}: NAT64Gateway {name!r} translates {found.what} on the same nodes; set "
        "another prefix, or a nodeSelector that keeps the two apart",
    )


def _clat_refusal(found: Clash, name: str) -> Refusal:
    return Refusal(
        "CLATConflict",
        f"spec.clat.mode: NAT64Gateway {name!r} has {found.what} on the same nodes; a pod has one "
        "CLAT, so set Disabled, or a nodeSelector that keeps the two apart",
    )


def _pool_refusal(found: Clash, name: str) -> Refusal:
    return Refusal(
        "PoolConflict",
        f"spec.{found.field}: NAT64Gateway {name!r} has {found.what} too: a port may be in one "
        "only",
    )


def _interface_refusal(found: Clash, name: str) -> Refusal:
    return Refusal(
        "InterfaceConflict",
        f"spec.interfaceName: NAT64Gateway {name!r} has the interface {found.what} on the same "
        "nodes",
    )


_REFUSALS = {
    "Clat": _clat_refusal,
    "Prefix": _prefix_refusal,
    "Pool": _pool_refusal,
    "Interface": _interface_refusal,
}


def _apart(
    selector: Mapping[str, str], selected: frozenset[str], other: Holder, world: World
) -> bool:
    """Two selectors that could select the same node don't count as apart before any node exists.
    Two that select nodes and share none do.
    """
    if any(other.selector.get(key, value) != value for key, value in selector.items()):
        return True
    theirs = other.nodes | world.select(other.selector)
    return bool(selected) and bool(theirs) and selected.isdisjoint(theirs)
