"""Nodes, as far as translators share them: who holds which prefix, address and port there."""

import itertools
import random
from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import IPv4Address
from typing import Any

from nat64_dataplane import claims, config, node_file
from nat64_dataplane.claims import Claim
from nat64_dataplane.node_file import NodeFile
from nat64_operator.render import names
from nat64_operator.render.manifest import Ref

Object = dict[str, Any]


def removes(daemon_set: Object) -> bool:
    pod = daemon_set["spec"]["template"]["spec"]
    return "remove" in (pod["containers"][0].get("command") or ())


def gateway_of(daemon_set: Object) -> str:
    name: str = daemon_set["metadata"]["labels"][names.GATEWAY_LABEL]
    return name


KUBELET_SECONDS = 100.0
"""How old a mounted file may be."""
OUTLIVES_SECONDS = 200.0
"""How long a machine may go on whose Node was deleted."""


class Machines:
    """What is in the kernels of the nodes. A pod that ends leaves it there."""

    def __init__(self, *, agents_refuse: bool) -> None:
        self.held: dict[str, dict[str, config.Config]] = {}
        """What translates, by node and gateway."""
        self.runs: dict[tuple[str, str], config.Config] = {}
        """The config that each agent has read."""
        self._files: dict[tuple[str, str], tuple[float, NodeFile]] = {}
        self._gone: dict[str, float] = {}
        self.came_back: set[str] = set()
        """Machines that went on while they had no Node, and then had one again."""
        self._agents_refuse = agents_refuse

    def act(self, simulation: Any, rng: random.Random) -> None:
        """Every pod does its work, in any order."""
        self.came_back |= self._gone.keys() & self.held.keys() & simulation.nodes.keys()
        self._gone = {
            name: self._gone.get(name, simulation.now)
            for name in self.held.keys() - simulation.nodes.keys()
        }
        for gone, since in self._gone.items():
            if rng.random() < 0.2 or simulation.now - since > OUTLIVES_SECONDS:
                self.power_off(gone)
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
                self.runs.pop((node, name), None)
            elif (wanted := mounted(simulation, daemon_set)) is not None:
                others = (theirs for other, theirs in held.items() if other != name)
                addresses = simulation.nodes[node].ipv4
                file = self._mounted_file(simulation, node, wanted, rng)
                self.runs[node, name] = wanted
                wanted = node_file.resolve(wanted, file, node)
                if not wanted.pools:
                    continue  # the agent leaves everything as it is
                if not (self._agents_refuse and any(clash(wanted, o, addresses) for o in others)):
                    held[name] = wanted

    def power_off(self, node: str) -> None:
        """Nothing is left of it, but for what the API server knows."""
        self.came_back.discard(node)
        self.held.pop(node, None)
        self.runs = {key: found for key, found in self.runs.items() if key[0] != node}

    def _mounted_file(
        self, simulation: Any, node: str, wanted: config.Config, rng: random.Random
    ) -> NodeFile:
        """The node file as the pod sees it, which may be an older one unless the pod is new."""
        ref = Ref("ConfigMap", names.node_file(wanted.name), simulation.settings.namespace)
        found = simulation.owned.get(ref)
        at, file = self._files.get((node, wanted.name), (0.0, NodeFile()))
        new = self.runs.get((node, wanted.name)) != wanted
        if found and (new or rng.random() < 0.3 or simulation.now - at > KUBELET_SECONDS):
            file = node_file.parse(found["data"][names.NODE_FILE].encode())
            self._files[node, wanted.name] = simulation.now, file
        return file

    def is_done(self, simulation: Any, daemon_set: Object, node: str) -> bool:
        """Whether a pod is ready."""
        holds = self.held.get(node, {}).get(gateway_of(daemon_set))
        if removes(daemon_set):
            return holds is None
        runs = self.runs.get((node, gateway_of(daemon_set)))
        return holds is not None and runs == mounted(simulation, daemon_set)

    def double_owners(self, simulation: Any) -> Iterator[str]:
        """Each prefix or interface that two translators hold on one node, and each address and port
        that two hold anywhere.
        """
        everywhere = [(node, held) for node, of in self.held.items() for held in of.values()]
        for (node, a), (other, b) in itertools.combinations(everywhere, 2):
            for pool, theirs in itertools.product(a.pools, b.pools):
                if not pool.network or not theirs.network:
                    continue
                if pool.network.overlaps(theirs.network) and pool.port_range.overlaps(
                    theirs.port_range
                ):
                    yield f"{a.name} on {node} and {b.name} on {other}: {pool} {theirs}"
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
