"""Nodes, as far as translators share them: who holds which prefix, address and port there."""

import itertools
import random
from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import IPv4Address
from typing import Any

from nat64_dataplane import claims, config
from nat64_dataplane.claims import Claim
from nat64_operator.render import names
from nat64_operator.render.manifest import Ref

Object = dict[str, Any]


def removes(daemon_set: Object) -> bool:
    pod = daemon_set["spec"]["template"]["spec"]
    return "remove" in (pod["containers"][0].get("command") or ())


def gateway_of(daemon_set: Object) -> str:
    name: str = daemon_set["metadata"]["labels"][names.GATEWAY_LABEL]
    return name


class Machines:
    """What is in the kernels of the nodes. A pod that ends leaves it there."""

    def __init__(self, *, agents_refuse: bool) -> None:
        self.held: dict[str, dict[str, config.Config]] = {}
        self._agents_refuse = agents_refuse

    def act(self, simulation: Any, rng: random.Random) -> None:
        """Every pod does its work, in any order."""
        for gone in self.held.keys() - simulation.nodes.keys():
            del self.held[gone]
        pods = [
            (obj, node)
            for obj in simulation.owned.values()
            if obj["kind"] == "DaemonSet"
            for node in simulation.scheduled(obj)
        ]
        rng.shuffle(pods)
        for daemon_set, node in pods:
            held, name = self.held.setdefault(node, {}), gateway_of(daemon_set)
            if removes(daemon_set):
                held.pop(name, None)
            elif (wanted := mounted(simulation, daemon_set)) is not None:
                others = (theirs for other, theirs in held.items() if other != name)
                addresses = simulation.nodes[node].ipv4
                if not (self._agents_refuse and any(clash(wanted, o, addresses) for o in others)):
                    held[name] = wanted

    def is_done(self, simulation: Any, daemon_set: Object, node: str) -> bool:
        """Whether a pod is ready."""
        holds = self.held.get(node, {}).get(gateway_of(daemon_set))
        if removes(daemon_set):
            return holds is None
        return holds is not None and holds == mounted(simulation, daemon_set)

    def double_owners(self, simulation: Any) -> Iterator[str]:
        """Each address, port, prefix or interface that two translators hold on one node."""
        for node, held in self.held.items():
            addresses = simulation.nodes[node].ipv4 if node in simulation.nodes else ()
            for a, b in itertools.combinations(held.values(), 2):
                if found := clash(a, b, addresses):
                    yield f"{node}: {a.name} and {b.name}: {found}"


@lru_cache(maxsize=1024)
def parsed(text: str) -> config.Config:
    return config.parse(text)


def mounted(simulation: Any, daemon_set: Object) -> config.Config | None:
    """The config that a DaemonSet's pods read; None while there is no such ConfigMap."""
    for volume in daemon_set["spec"]["template"]["spec"]["volumes"]:
        if volume["name"] == "config":
            namespace = daemon_set["metadata"]["namespace"]
            ref = Ref("ConfigMap", volume["configMap"]["name"], namespace)
            found = simulation.owned.get(ref)
            return parsed(found["data"][names.TRANSLATOR_FILE]) if found else None
    return None


def clash(
    a: config.Config, b: config.Config, addresses: Iterable[IPv4Address]
) -> claims.Clash | None:
    """What two translators can't both have on one node."""
    mine, theirs = Claim.of(a), Claim.of(b)
    return (
        claims.clash_on_a_node(mine, theirs)
        or claims.clash_anywhere(mine, theirs)
        or claims.clash_at(mine, theirs, addresses)
    )
