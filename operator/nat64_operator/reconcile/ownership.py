"""Which gateway has what on which node, and which specs are carried out.

An address and port, a prefix or a port of the host can be one gateway's only on a node. Whoever has
it keeps it: a spec that would take it from another gateway is not accepted and changes nothing.
Where labels bring two running gateways to one node, the one that is on it stays, and the other is
kept off. A node that is new to both goes to the older one.

What a gateway may have anywhere is known from objects that outlive the operator: the ConfigMaps
with its configs, the DaemonSet, and the record of its nodes and of the spec that was last accepted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

import msgspec

from nat64_dataplane import config
from nat64_dataplane.claims import Claim, Clash, clash_anywhere, clash_at, clash_on_a_node
from nat64_dataplane.errors import ConfigError
from nat64_operator.api import gateway as gateway_api
from nat64_operator.api.gateway import Gateway, GatewaySpec
from nat64_operator.api.meta import Meta
from nat64_operator.errors import InvalidObjectError
from nat64_operator.reconcile import node_record
from nat64_operator.reconcile.world import World
from nat64_operator.render import names
from nat64_operator.render.gateway import node_selector
from nat64_operator.render.removal import nodes_by_name


class Refusal(NamedTuple):
    """Why a gateway's spec is not carried out."""

    reason: str
    message: str


class Effective(NamedTuple):
    """What is carried out for a gateway: its spec, or the last one that was accepted."""

    gateway: Gateway
    translator: config.Config
    kept_off: Mapping[str, str]
    """Nodes that it selects and does not get, with the name of the gateway that is there."""


class Decision(NamedTuple):
    """What became of a gateway's spec."""

    effective: Effective | None
    """None while nothing was ever accepted."""
    refusal: Refusal | None = None


class _Holder(NamedTuple):
    """What a gateway has, or may have, on nodes."""

    name: str
    age: tuple[str, str]
    claims: tuple[Claim, ...]
    host_ports: Mapping[int, str]
    selector: Mapping[str, str]
    """Of the spec that is carried out; where it selects no node, nodes may yet come."""
    nodes: frozenset[str]
    """Where it may be live."""
    on: frozenset[str]
    """Where it stays when another gateway comes."""
    leaving: frozenset[str]
    """Where it may not be clean yet."""

    def rank(self, node: str) -> int:
        """How much of a right to a node it has."""
        return 2 if node in self.on else 1 if node in self.leaving else 0


def decide(
    wanted: Iterable[tuple[Gateway, config.Config | Refusal]], world: World
) -> dict[str, Decision]:
    """Decide about all gateways that can be read. Those of which nothing changes come first, then
    the others by age.
    """
    asked = {gateway.name: (gateway, translator) for gateway, translator in wanted}
    accepted = {name: _accepted(gateway, world) for name, (gateway, _) in asked.items()}
    holders = {holder.name: holder for holder in _holders(asked, accepted, world)}
    decisions: dict[str, Decision] = {}

    def order(name: str) -> tuple[bool, tuple[str, str]]:
        gateway, _ = asked[name]
        before = accepted[name]
        return before is None or before.spec != gateway.spec, gateway.meta.age_order

    for name in sorted(asked, key=order):
        gateway, translator = asked[name]
        before = accepted[name]
        others = [holder for holder in holders.values() if holder.name != name]
        running, old = _config_of(before), None
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
            holders[name] = _with(holders.get(name), effective, world)
    return decisions


class _Placed(NamedTuple):
    """A spec put beside what other gateways have."""

    effective: Effective
    clashes: Mapping[str, Refusal]
    """By the other gateway's name: why the two can't be on one node, or anywhere."""

    def refused_for(self, before: _Placed | None) -> Refusal | None:
        """Why an edit is not accepted. What was so before it is no reason."""
        known = before.clashes.keys() if before else ()
        for name, refusal in self.clashes.items():
            if name not in known:
                return refusal
        lost = self.effective.kept_off.keys() - (before.effective.kept_off if before else {}).keys()
        if lost:
            return self.clashes[self.effective.kept_off[min(lost)]]
        return None


def _place(
    gateway: Gateway,
    translator: config.Config,
    mine: _Holder | None,
    others: Iterable[_Holder],
    world: World,
) -> _Placed:
    claim = Claim.of(translator)
    ports = {port: field for field, port in gateway.ports.all().items()}
    selected = world.select(node_selector(gateway.spec.node_selector))
    kept_off: dict[str, str] = {}
    clashes: dict[str, Refusal] = {}
    for other in sorted(others, key=lambda holder: holder.age):
        shared = selected & other.nodes
        found = _clash(claim, ports, other)
        if found is not None:
            for node in shared:
                if _has_precedence(other, mine, gateway, node):
                    kept_off.setdefault(node, other.name)
            if shared or not _apart(gateway.spec.node_selector, selected, other, world):
                clashes[other.name] = found
            continue
        if found := _clash_anywhere(claim, other):
            clashes[other.name] = found
            continue
        for node in sorted(shared):
            if (found := _clash_at(claim, other, node, world)) is None:
                continue
            clashes[other.name] = found
            if _has_precedence(other, mine, gateway, node):
                kept_off.setdefault(node, other.name)
    return _Placed(Effective(gateway, translator, kept_off), clashes)


def _has_precedence(other: _Holder, mine: _Holder | None, gateway: Gateway, node: str) -> bool:
    """Whether the other gateway stays on a node: who is on it, else who is older."""
    here, there = mine.rank(node) if mine else 0, other.rank(node)
    return there > here if here != there else other.age < gateway.meta.age_order


def _clash(claim: Claim, ports: Mapping[int, str], other: _Holder) -> Refusal | None:
    for theirs in other.claims:
        if found := clash_on_a_node(claim, theirs):
            return _REFUSALS[found.kind](found, other.name)
    for port, field in ports.items():
        if port in other.host_ports:
            return Refusal(
                "HostPortConflict",
                f"spec.hostPorts.{field}: NAT64Gateway {other.name!r} has port {port} "
                f"({other.host_ports[port]}) on the same nodes; set another",
            )
    return None


def _clash_anywhere(claim: Claim, other: _Holder) -> Refusal | None:
    for theirs in other.claims:
        if found := clash_anywhere(claim, theirs):
            return _pool_refusal(found, other.name)
    return None


def _clash_at(claim: Claim, other: _Holder, node: str, world: World) -> Refusal | None:
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
        f"spec.prefix: NAT64Gateway {name!r} translates {found.what} on the same nodes; set "
        "another prefix, or a nodeSelector that keeps the two apart",
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
    "Prefix": _prefix_refusal,
    "Pool": _pool_refusal,
    "Interface": _interface_refusal,
}


def _apart(
    selector: Mapping[str, str], selected: frozenset[str], other: _Holder, world: World
) -> bool:
    """Two selectors that could select one node are not apart before such a node exists, but two
    that select nodes and share none are.
    """
    if any(other.selector.get(key, value) != value for key, value in selector.items()):
        return True
    theirs = other.nodes | world.select(other.selector)
    return bool(selected) and bool(theirs) and selected.isdisjoint(theirs)


def _holders(
    asked: Mapping[str, tuple[Gateway, object]],
    accepted: Mapping[str, Gateway | None],
    world: World,
) -> Iterable[_Holder]:
    """What each gateway has now, also those that are being removed, are gone or can't be read."""
    for name in sorted(asked.keys() | world.gateways.keys() | world.gateways_left_behind()):
        gateway = asked[name][0] if name in asked else _unread(name, world)
        before = accepted.get(name) or _accepted(gateway, world)
        record = node_record.read(name, world)
        daemon_set = world.find("DaemonSet", names.daemon_set(name))
        nodes = record.all | scheduled(daemon_set, world)
        nodes &= world.nodes.keys()
        configs = [found for obj in world.owned_by(name).values() if (found := config_in(obj))]
        carried_out, of_spec = before or gateway, _config_of(before)
        configs += [of_spec] if of_spec else []
        if not configs or not (nodes or before):
            continue
        yield _Holder(
            name,
            gateway.meta.age_order,
            tuple(dict.fromkeys(map(Claim.of, configs))),
            {port: field for field, port in carried_out.ports.all().items()},
            node_selector(carried_out.spec.node_selector),
            frozenset(nodes),
            record.on,
            record.leaving,
        )


def _with(holder: _Holder | None, effective: Effective, world: World) -> _Holder:
    """What a gateway has once its spec is carried out, beside what it may still have."""
    gateway, translator, kept_off = effective
    selected = world.select(node_selector(gateway.spec.node_selector)) - kept_off.keys()
    ports = {port: field for field, port in gateway.ports.all().items()}
    selector = node_selector(gateway.spec.node_selector)
    claim = Claim.of(translator)
    age = gateway.meta.age_order
    if holder is None:
        none: frozenset[str] = frozenset()
        return _Holder(gateway.name, age, (claim,), ports, selector, selected, none, none)
    return holder._replace(
        claims=tuple(dict.fromkeys((*holder.claims, claim))),
        host_ports={**holder.host_ports, **ports},
        selector=selector,
        nodes=holder.nodes | selected,
    )


def scheduled(daemon_set: object, world: World) -> frozenset[str]:
    """The nodes where a DaemonSet's pods may be, by its selector and its affinity."""
    if not isinstance(daemon_set, Mapping):
        return frozenset()
    pod = daemon_set["spec"]["template"]["spec"]
    found = world.select(pod.get("nodeSelector") or {})
    named, excluded = nodes_by_name(daemon_set), nodes_by_name(daemon_set, "NotIn")
    return frozenset((found & set(named) if named else found) - set(excluded))


def _config_of(gateway: Gateway | None) -> config.Config | None:
    try:
        return gateway.config() if gateway else None
    except InvalidObjectError:
        return None


def _accepted(gateway: Gateway, world: World) -> Gateway | None:
    """The gateway with the spec that was last accepted; None where there is none."""
    spec = node_record.read(gateway.name, world).spec
    return None if spec is None else Gateway(gateway.meta, gateway.status, gateway.kind, spec)


def _unread(name: str, world: World) -> Gateway:
    """A gateway that is gone or can't be read, as far as it is known."""
    obj = world.gateways.get(name)
    meta = Meta.of(obj) if obj else Meta(name=name)
    return Gateway(meta, {}, gateway_api.KIND, GatewaySpec())


def config_in(config_map: object) -> config.Config | None:
    """The translator's config that a ConfigMap holds; None where it holds none."""
    data = config_map.get("data") if isinstance(config_map, Mapping) else None
    text = (data or {}).get(names.TRANSLATOR_FILE)
    return config_from(text) if text else None


@lru_cache(maxsize=256)
def config_from(text: str) -> config.Config | None:
    """Read a config; None where it can't be read."""
    try:
        return config.parse(text)
    except (ConfigError, msgspec.MsgspecError):
        return None
