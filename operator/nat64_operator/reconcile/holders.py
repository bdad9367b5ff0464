"""What each gateway has, or may still have, on which nodes.

This is known from objects that outlive the operator: the ConfigMaps with a gateway's configs, its
DaemonSet, and the record of its nodes and of the last accepted spec.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

import msgspec

from nat64_dataplane import config
from nat64_dataplane.claims import Claim
from nat64_dataplane.errors import ConfigError
from nat64_operator.api import gateway as gateway_api
from nat64_operator.api.gateway import Gateway, GatewaySpec
from nat64_operator.api.meta import Meta
from nat64_operator.errors import InvalidObjectError
from nat64_operator.reconcile import node_record, roles
from nat64_operator.reconcile.world import World
from nat64_operator.render import names
from nat64_operator.render.gateway import node_selector
from nat64_operator.render.removal import excluded_labels, excluded_nodes, nodes_by_name


class Holder(NamedTuple):
    """What a gateway has, or may have, on nodes."""

    name: str
    age: tuple[str, str]
    claims: tuple[Claim, ...]
    host_ports: Mapping[int, str]
    selector: Mapping[str, str]
    """Whether it belongs to the spec that is carried out. If that selects no node, nodes may come
    later."""
    nodes: frozenset[str]
    """Where it may be live."""
    on: frozenset[str]
    """Where it stays when another gateway comes."""
    leaving: frozenset[str]
    """Where it may not be clean yet."""
    routers: frozenset[str] = frozenset()
    """Those of `nodes` where it steers, and takes no pool."""

    def rank(self, node: str) -> int:
        """How strong its claim to a node is."""
        return 2 if node in self.on else 1 if node in self.leaving else 0


def holders(
    asked: Mapping[str, tuple[Gateway, object]],
    accepted: Mapping[str, Gateway | None],
    world: World,
) -> Iterable[Holder]:
    """What each gateway has now, also those that are being removed, are gone or can't be read."""
    for name in sorted(asked.keys() | world.gateways.keys() | world.gateways_left_behind()):
        gateway = asked[name][0] if name in asked else _unread(name, world)
        before = accepted.get(name) or accepted_spec(gateway, world)
        record = node_record.read(name, world)
        translating, steering = on_nodes(name, world)
        nodes = record.all | translating | steering
        nodes &= world.nodes.keys()
        configs = [found for obj in world.owned_by(name).values() if (found := config_in(obj))]
        carried_out, of_spec = before or gateway, config_of(before)
        configs += [of_spec] if of_spec else []
        if not configs or not (nodes or before):
            continue
        yield Holder(
            name,
            gateway.meta.age_order,
            tuple(dict.fromkeys(map(Claim.of, configs))),
            carried_out.host_ports,
            node_selector(carried_out.spec.node_selector),
            frozenset(nodes),
            record.on,
            record.leaving,
            frozenset(roles.router_nodes(carried_out, world) | steering) - translating,
        )


def with_spec(
    holder: Holder | None,
    gateway: Gateway,
    translator: config.Config,
    kept_off: Iterable[str],
    world: World,
) -> Holder:
    """What a gateway has once its spec is carried out, beside what it may still have."""
    selected = roles.nodes(gateway, world) - set(kept_off)
    routers = roles.router_nodes(gateway, world)
    ports = gateway.host_ports
    selector = node_selector(gateway.spec.node_selector)
    claim = Claim.of(translator)
    age = gateway.meta.age_order
    if holder is None:
        none: frozenset[str] = frozenset()
        return Holder(gateway.name, age, (claim,), ports, selector, selected, none, none, routers)
    return holder._replace(
        claims=tuple(dict.fromkeys((*holder.claims, claim))),
        host_ports={**holder.host_ports, **ports},
        selector=selector,
        nodes=holder.nodes | selected,
        # Where it translated before it may do so still.
        routers=(holder.routers | (routers - holder.nodes)) - roles.gateway_nodes(gateway, world),
    )


def on_nodes(gateway: str, world: World) -> tuple[frozenset[str], frozenset[str]]:
    """The nodes where pods of a gateway may translate, and those where pods may steer."""
    found = world.find("DaemonSet", names.daemon_set(gateway))
    return scheduled(found, world), scheduled(
        world.find("DaemonSet", names.routers(gateway)), world
    )


def scheduled(daemon_set: object, world: World) -> frozenset[str]:
    """The nodes where a DaemonSet's pods may be, by its selector and its affinity."""
    if not isinstance(daemon_set, Mapping):
        return frozenset()
    pod = daemon_set["spec"]["template"]["spec"]
    found = world.select(pod.get("nodeSelector") or {})
    named, excluded = nodes_by_name(daemon_set), excluded_nodes(daemon_set)
    if labels := excluded_labels(daemon_set):
        found -= world.select(labels)
    return frozenset((found & set(named) if named else found) - set(excluded))


def config_of(gateway: Gateway | None) -> config.Config | None:
    """The config of an accepted spec; None where there is none, or this version can't read it."""
    try:
        return gateway.config() if gateway else None
    except InvalidObjectError:
        return None


def accepted_spec(gateway: Gateway, world: World) -> Gateway | None:
    """The gateway with the spec that was last accepted; None where there is none."""
    spec = node_record.read(gateway.name, world).spec
    return None if spec is None else msgspec.structs.replace(gateway, spec=spec)


def _unread(name: str, world: World) -> Gateway:
    """A gateway that is gone or can't be read, as far as it is known."""
    obj = world.gateways.get(name)
    meta = Meta.of(obj) if obj else Meta(name=name)
    slot = node_record.read(name, world).slot
    return Gateway(meta, {}, gateway_api.KIND, GatewaySpec(), slot)


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
