"""The DaemonSets that remove a translator from nodes: when a whole gateway is removed, and when a
gateway has left some nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Self

from nat64_operator.render import containers, names
from nat64_operator.render.daemonset import EXCLUDING, affinity, daemon_set, pod
from nat64_operator.settings import Settings

ALL_AT_ONCE = "100%"
"""maxUnavailable of a removal: there is no service left to keep running."""


class Where(NamedTuple):
    """The nodes of a DaemonSet: by labels, or each by its name."""

    selector: dict[str, str]
    tolerations: tuple[dict[str, Any], ...]
    nodes: tuple[str, ...] = ()
    avoided: Mapping[str, str] = MappingProxyType({})
    """A node with all of these labels is left out."""

    @classmethod
    def by_name(cls, nodes: Iterable[str]) -> Self:
        """These nodes, whatever their labels and taints."""
        return cls({}, ({"operator": "Exists"},), tuple(sorted(nodes)))


def removal(
    gateway: str,
    where: Where,
    config_name: str,
    port: int,
    settings: Settings,
    *,
    clat: bool,
    router: bool = False,
) -> dict[str, Any]:
    """A gateway's DaemonSet in its last form: each pod removes what the translator left on its
    node, sysctls included, and turns ready once that is done. `clat`: first it takes the CLAT out
    of the node's pods. `router`: the DaemonSet of nodes that steer.
    """
    match = names.router_labels(gateway) if router else names.pod_labels(gateway)
    more = {names.COMPONENT: names.ROUTER} if router else {}
    return daemon_set(
        names.routers(gateway) if router else names.daemon_set(gateway),
        settings,
        _removing_pod(where, config_name, port, settings, clat=clat),
        match=match,
        labels={**names.labels(gateway), **match, **more},
        max_unavailable=ALL_AT_ONCE,
    )


def leaving(
    gateway: str,
    nodes: Sequence[str],
    config_name: str,
    port: int,
    settings: Settings,
    *,
    clat: bool,
) -> dict[str, Any]:
    """The DaemonSet that cleans nodes which a gateway has left, beside the one that translates."""
    match = names.leaving_labels(gateway)
    return daemon_set(
        names.leaving(gateway),
        settings,
        _removing_pod(Where.by_name(nodes), config_name, port, settings, clat=clat),
        match=match,
        labels={**names.labels(gateway), **match},
        max_unavailable=ALL_AT_ONCE,
    )


def nodes_by_name(daemon_set: Any) -> tuple[str, ...]:
    """The nodes that a DaemonSet names; none if it selects by labels."""
    return _named(daemon_set, "In")


def excluded_nodes(daemon_set: Any) -> tuple[str, ...]:
    """The nodes that a DaemonSet excludes by their names."""
    return _named(daemon_set, EXCLUDING)


def excluded_labels(daemon_set: Any) -> dict[str, str]:
    """The labels of nodes that a DaemonSet excludes; a node that has all of them is excluded."""
    expressions = (e for term in _terms(daemon_set) for e in term.get("matchExpressions") or ())
    return {
        e["key"]: value
        for e in expressions
        if e.get("operator") == EXCLUDING
        for value in e.get("values") or ()
    }


def _terms(daemon_set: Any) -> Sequence[dict[str, Any]]:
    pod = daemon_set["spec"]["template"]["spec"] if daemon_set else {}
    affinity = (pod.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    return required.get("nodeSelectorTerms") or ()


def _named(daemon_set: Any, operator: str) -> tuple[str, ...]:
    fields = (field for term in _terms(daemon_set) for field in term.get("matchFields") or ())
    chosen = (field for field in fields if field.get("operator") == operator)
    return tuple(value for field in chosen for value in field.get("values") or ())


def has_clat(daemon_set: Any) -> bool:
    """Whether pods on the nodes of a DaemonSet may have a CLAT: its pods set one up, or take it
    away, which not every node need have done.
    """
    pod = daemon_set["spec"]["template"]["spec"] if daemon_set else {}
    made = (*(pod.get("containers") or ()), *(pod.get("initContainers") or ()))
    return any(container.get("name") in (names.CLAT, names.REMOVE_CLAT) for container in made)


def _removing_pod(
    where: Where, config_name: str, port: int, settings: Settings, *, clat: bool
) -> dict[str, Any]:
    made = pod(settings, where.selector, where.tolerations, config_name)
    made["initContainers"] = [containers.privileged(settings, "remove")]
    if clat:
        # First: a literal's packets must not go to a translator that is gone.
        made["initContainers"].insert(0, containers.remove_clat(settings, lenient=False))
        made["volumes"] += containers.clat_volumes(runtime=False)
    made["containers"] = [containers.translator(settings, port, ["remove", "--hold"])]
    if where.nodes:
        terms = [
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
            for node in where.nodes
        ]
        required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
        made["affinity"] = {"nodeAffinity": required}
    elif where.avoided:
        made["affinity"] = affinity(where.avoided, ())
    return made
