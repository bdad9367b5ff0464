"""The condition `Degraded` of a gateway: the warnings of its nodes, and what the operator sees
itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from nat64_dataplane import config
from nat64_operator.api.conditions import Condition
from nat64_operator.api.gateway import Gateway
from nat64_operator.reconcile import node_warnings, roles
from nat64_operator.reconcile.node_warnings import NodeWarning
from nat64_operator.reconcile.readiness import some
from nat64_operator.reconcile.world import World


def warnings(
    gateway: Gateway,
    running: config.Config | None,
    world: World,
    kept_off: Mapping[str, str],
    failing: Sequence[Condition] = (),
    short: Sequence[NodeWarning] = (),
) -> Iterator[Condition]:
    """What is wrong, or will be, although the gateway translates; nothing before its nodes were
    asked. `failing`: conditions that say which nodes fail. `short`: what their ranges lack.
    """
    more = list(short)
    for prefix in running.prefixes if running else ():
        if (found := world.cluster_ranges.overlap(prefix)) is not None:
            more.append(
                NodeWarning(
                    "PrefixOverlapsCluster",
                    f"{prefix} overlaps {found}: packets for it are translated",
                    "use a prefix that nothing else in the cluster uses",
                )
            )
    if running and (lost := _nobodys(gateway, running, world)):
        more.append(
            NodeWarning(
                "MappingOnSeveralNodes",
                f"{some(lost)} of spec.staticMappings is on several nodes, and its packets come "
                "to one of them at most",
                "add a range with it to spec.pools, or select one node",
            )
        )
    if kept_off:
        others = ", ".join(repr(name) for name in sorted(set(kept_off.values())))
        more.append(
            NodeWarning(
                "KeptOffNodes",
                f"kept off {some(list(kept_off))}, where NAT64Gateway {others} is",
                "set a nodeSelector that keeps the gateways apart",
            )
        )
    for condition in failing:
        more.append(NodeWarning(condition.reason, condition.message, "see status.nodes.failing"))
    asked = world.asked.get(gateway.name)
    if more or asked is not None:
        yield node_warnings.condition(asked or node_warnings.Asked(), more)


def _nobodys(gateway: Gateway, running: config.Config, world: World) -> list[str]:
    """Addresses of static mappings that are in no shared range and no node's own."""
    nodes = roles.gateway_nodes(gateway, world)
    if len(nodes) < 2:
        return []
    own = {address for name in nodes for address in world.nodes[name].ipv4}
    shared = [pool.network for pool in running.pools if pool.network]
    found = {mapping.address for mapping in running.static_mappings} - own
    return [str(a) for a in sorted(found) if not any(a in network for network in shared)]
