"""The agents' pods, and what they report about their nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol, TypeVar

from nat64_operator.kubectl.exec_output import ClusterError, Json, Output, parse_output
from nat64_operator.render import names

T = TypeVar("T")

TRANSLATOR, DNS64 = "translator", "dns64"
SELECTOR = (
    f"{names.NAME} in ({names.GATEWAY_NAME}, {names.ROUTER_NAME}),"
    f"{names.COMPONENT} in ({names.DATAPLANE}, {names.ROUTER})"
)
AT_ONCE = 16
"""How many commands run at a time: more would only queue at the API server."""


class Access(Protocol):
    """The part of `Cluster` that finds and asks agents."""

    def items(self, path: str, **query: str) -> list[Json]:
        """A list of objects. Raises ClusterError."""

    def exec(self, namespace: str, pod: str, container: str, argv: Sequence[str]) -> Output:
        """Run a command in a pod. Raises ClusterError."""


class Agent(NamedTuple):
    """A gateway's pod on a node."""

    gateway: str
    node: str
    namespace: str
    pod: str
    why_not: str
    """Why no command can run in it; empty if one can."""
    clat: bool = False
    """Whether it gives pods a CLAT."""
    router: bool = False
    """Whether it steers to gateway nodes, and translates nothing."""
    topology: bool = False
    """Whether its gateway has nodes that steer."""


class Report(NamedTuple):
    """The answer of a command in an agent's pod, or why there is none."""

    agent: Agent
    data: Any
    error: str
    forbidden: bool = False
    """Whether the user may not run commands there: the agent itself may be well."""


def parse(pod: Json) -> Agent:
    """Read a pod."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    containers = pod["spec"].get("containers") or ()
    mounts = {v["name"] for one in containers for v in one.get("volumeMounts") or ()}
    return Agent(
        gateway=metadata["labels"].get(names.GATEWAY_LABEL, ""),
        node=pod["spec"].get("nodeName") or "",
        namespace=metadata["namespace"],
        pod=metadata["name"],
        why_not=_why_not(status),
        clat=any(one["name"] == names.CLAT for one in containers),
        router=metadata["labels"].get(names.NAME) == names.ROUTER_NAME,
        topology="members" in mounts,
    )


def find(cluster: Access, namespace: str, node: str = "", gateway: str = "") -> list[Agent]:
    """The agents of a node, a gateway, or all. Raises ClusterError."""
    query = {"labelSelector": SELECTOR + (f",{names.GATEWAY_LABEL}={gateway}" if gateway else "")}
    if node:
        query["fieldSelector"] = f"spec.nodeName={node}"
    pods = cluster.items(f"/api/v1/namespaces/{namespace}/pods", **query)
    return sorted(parse(pod) for pod in pods if not pod["metadata"].get("deletionTimestamp"))


def translating(cluster: Access, namespace: str, found: Iterable[Agent]) -> list[Agent]:
    """Those of the agents that translate, and in place of each that steers the agents that
    translate for it. Raises ClusterError.
    """
    every = list(found)
    made = {agent for agent in every if not agent.router}
    for gateway in sorted({agent.gateway for agent in every if agent.router}):
        made |= {a for a in find(cluster, namespace, gateway=gateway) if not a.router}
    return sorted(made)


def ask(cluster: Access, agent: Agent, argv: Sequence[str]) -> Report:
    """Run a command of the translator that prints JSON. Never raises."""
    return _ask(cluster, agent, TRANSLATOR, ("nat64-translator", *argv))


def ask_topology(cluster: Access, found: Iterable[Agent]) -> list[Report]:
    """How those of the agents whose gateway has two roles stand to nodes of the other one."""
    argv = ("topology", "-o", "json")
    concerned = [agent for agent in found if agent.topology]
    return ask_all(cluster, concerned, lambda agent: (*argv, "--name", agent.gateway))


def ask_clats(cluster: Access, found: Iterable[Agent]) -> list[Report]:
    """What those of the agents that give pods a CLAT know of their pods."""
    return together(
        lambda agent: _ask(
            cluster, agent, names.CLAT, ("nat64-clat", "status", "--name", agent.gateway)
        ),
        [agent for agent in found if agent.clat],
    )


def _ask(cluster: Access, agent: Agent, container: str, words: Sequence[str]) -> Report:
    if agent.why_not:
        return Report(agent, None, agent.why_not)
    try:
        output = cluster.exec(agent.namespace, agent.pod, container, words)
        return Report(agent, parse_output(agent.pod, words, output), "")
    except ClusterError as error:
        return Report(agent, None, str(error), error.status == 403)


def ask_all(
    cluster: Access, found: Iterable[Agent], argv: Callable[[Agent], Sequence[str]]
) -> list[Report]:
    """Ask many at once; the answers are in the order of the agents."""
    return together(lambda agent: ask(cluster, agent, argv(agent)), list(found))


def together(work: Callable[[Any], T], items: Sequence[Any]) -> list[T]:
    """Call `work` for each, a bounded number at a time."""
    if not items:
        return []
    with ThreadPoolExecutor(min(AT_ONCE, len(items))) as pool:
        return list(pool.map(work, items))


def _why_not(status: Json) -> str:
    for container in status.get("containerStatuses") or ():
        if container["name"] == TRANSLATOR:
            state = container.get("state") or {}
            if "running" in state:
                return ""
            waiting = state.get("waiting") or state.get("terminated") or {}
            reason = waiting.get("reason") or "unknown"
            return f"the translator's container does not run: {reason}"
    for container in status.get("initContainerStatuses") or ():
        state = container.get("state") or {}
        stopped = state.get("waiting") or state.get("terminated") or {}
        if stopped and stopped.get("reason") not in ("Completed", "PodInitializing"):
            return f"its init container {container['name']}: {stopped.get('reason')}"
    return f"its pod is {status.get('phase') or 'unknown'}: containers have not started"
