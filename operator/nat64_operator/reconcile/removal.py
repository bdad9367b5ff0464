"""How a gateway is removed from its nodes: in an order that leaves nothing behind, and without
blocking for ever.

First CoreDNS stops asking the sidecars. Then the DaemonSet rolls to its last form, in which each
pod removes what its node has. Then the objects are deleted. Nodes that are not ready can't clean
themselves, and the removal doesn't wait for them. After a time limit the finalizer is removed
anyway, and an Event names the nodes that were not seen clean.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from nat64_dataplane import config
from nat64_operator.api.host_ports import derived_ports
from nat64_operator.reconcile import node_record
from nat64_operator.reconcile.actions import Action, Apply, Delete, Emit
from nat64_operator.reconcile.drift import repair
from nat64_operator.reconcile.holders import config_in, scheduled
from nat64_operator.reconcile.world import World, get
from nat64_operator.render import names
from nat64_operator.render import removal as render
from nat64_operator.render.manifest import Ref, config_map


class Step(NamedTuple):
    """What to do now; `done` when only the finalizer is left."""

    actions: tuple[Action, ...]
    message: str
    done: bool = False
    unseen: tuple[str, ...] = ()
    """Nodes that were not seen clean."""

    def events(self, subject: Ref, uid: str) -> list[Action]:
        """What to tell a person at the end."""
        if not self.unseen:
            return []
        return [
            Emit(
                subject,
                uid,
                True,
                "NodesNotCleaned",
                "removed before these nodes were known to be clean: "
                f"{', '.join(self.unseen[:20])}. Once one is back, run there: "
                "nat64-translator remove --name NAME, or restart it",
            )
        ]


def step(gateway: str, wired: bool, since: float, world: World) -> Step:
    """The next step. `wired`: CoreDNS still forwards to this gateway's sidecars."""
    # CoreDNS's time limit runs before that of the nodes.
    limit = world.settings.drain_seconds + world.settings.removal_seconds
    overdue = world.now - since > limit
    if wired and not overdue:
        return Step((), "waiting until CoreDNS no longer asks the sidecars")
    owned = world.owned_by(gateway)
    live = world.find("DaemonSet", names.daemon_set(gateway))
    steering = world.find("DaemonSet", names.routers(gateway))
    cleaning = world.find("DaemonSet", names.leaving(gateway))
    if cleaning is not None and not overdue and not _has_cleaned(cleaning):
        return Step((), "waiting for nodes that the gateway has left to be clean")
    # A pod may have come to a node whose labels the operator did not hear of.
    seen = {pod.node for pod in world.pods.get(gateway, ())} | set(render.nodes_by_name(live))
    nodes = (node_record.read(gateway, world).all | seen) & world.nodes.keys()
    if live is None and steering is None and not nodes:
        return _delete(owned, ())
    # Each DaemonSet cleans the nodes that it is on, so that none has to name thousands.
    steered = scheduled(steering, world)
    applying = _roll(gateway, live, nodes - steered, world) if nodes - steered or live else []
    if steering is not None:
        applying += _roll(gateway, steering, nodes & steered, world, router=True)
    if applying and not overdue:
        return Step(tuple(applying), "removing the translator from the nodes")
    unseen, waiting = _unclean(gateway, (live, steering), nodes, world)
    if waiting and not overdue:
        return Step((), waiting)
    return _delete(owned, tuple(unseen))


def _has_cleaned(daemon_set: Any) -> bool:
    seen = get(daemon_set, "status") or {}
    return bool(
        seen.get("observedGeneration") == get(daemon_set, "metadata", "generation")
        and seen.get("numberReady", 0) >= seen.get("desiredNumberScheduled", 0)
    )


def _roll(
    gateway: str, live: Any, nodes: frozenset[str], world: World, *, router: bool = False
) -> list[Action]:
    pod = get(live, "spec", "template", "spec") or {}
    mounted = [v for v in pod.get("volumes") or () if v["name"] == "config"]
    name = get(mounted[0], "configMap", "name") if mounted else None
    source = world.find("ConfigMap", name or "")
    where = _where(live, nodes, world)
    actions: list[Action] = []
    translator = config_in(source)
    if translator is None:
        # Someone deleted the config. The name is enough to find what is on the node.
        translator = config.Config(name=gateway)
        source = config_map(
            names.translator_config(gateway, translator.content_hash),
            world.settings.namespace,
            names.labels(gateway),
            {names.TRANSLATOR_FILE: config.render(translator).decode()},
            immutable=True,
        )
        actions.append(Apply(source))
    assert source is not None, "a config that was read has a source"
    wanted = render.removal(
        gateway,
        where,
        source["metadata"]["name"],
        int(translator.listen.rpartition(":")[2] or derived_ports(gateway)[0]),
        world.settings,
        # Without the DaemonSet nobody knows.
        clat=live is None or render.has_clat(live),
        router=router,
    )
    return actions + repair(wanted, live)


def _where(live: Any, nodes: frozenset[str], world: World) -> render.Where:
    """The nodes of the DaemonSet, if these are all nodes that the gateway was on; else those nodes
    by name. They may differ: its selector was edited, or it is gone, or a node has got a taint
    since.
    """
    pod = get(live, "spec", "template", "spec") or {}
    where = render.Where(
        dict(pod.get("nodeSelector") or {}),
        tuple(pod.get("tolerations") or ()),
        avoided=render.excluded_labels(live),
    )
    tolerates_all = any(not t.get("key") and not t.get("effect") for t in where.tolerations)
    by_labels = live is not None and not render.nodes_by_name(live) and tolerates_all
    selected = world.select(where.selector)
    if where.avoided:
        selected -= world.select(where.avoided)
    if not nodes or (by_labels and nodes <= selected):
        return where
    return render.Where.by_name(nodes)


def _unclean(
    gateway: str, made: tuple[Any, ...], nodes: frozenset[str], world: World
) -> tuple[list[str], str]:
    """Nodes that were not seen clean, and what to wait for; empty for nothing."""
    pods = world.pods.get(gateway, ())
    clean = {pod.node for pod in pods if pod.removing and pod.ready}
    # Nodes that it was told to be on, and those where it is seen.
    held = nodes | {pod.node for pod in pods if pod.node}
    dirty = sorted(held - clean)
    dead = [name for name in dirty if name not in world.nodes or not world.nodes[name].ready]
    alive = [name for name in dirty if name not in dead]
    if any(
        get(live, "status", "observedGeneration") != get(live, "metadata", "generation")
        for live in made
    ):
        return dirty, "waiting for the DaemonSet controller"
    if alive:
        return dirty, f"{len(clean)} of {len(held)} nodes are clean; waiting for {alive[0]}"
    return dirty, ""


def _delete(owned: dict[Ref, Any], unseen: tuple[str, ...]) -> Step:
    order = {"DaemonSet": 0, "Service": 1, "ConfigMap": 2}
    refs = sorted(owned, key=lambda ref: (order.get(ref.kind, 3), ref))
    deletions = tuple(
        Delete(ref, owned[ref]["metadata"]["uid"])
        for ref in refs
        if not owned[ref]["metadata"].get("deletionTimestamp")
    )
    return Step(deletions, "deleting the objects that were made for it", done=True, unseen=unseen)
