"""Gathers the facts for each command from the API server and from the agents."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeVar

from nat64_operator.api import gateway as gateway_api
from nat64_operator.api import policy as policy_api
from nat64_operator.api.meta import API_VERSION
from nat64_operator.kubectl import (
    agents,
    cluster_dns,
    doctor,
    doctor_coredns,
    network_policies,
    topology,
    trace,
)
from nat64_operator.kubectl import clat as trace_clat
from nat64_operator.kubectl.agents import DNS64, Agent, Report
from nat64_operator.kubectl.cluster import Cluster
from nat64_operator.kubectl.exec_output import ClusterError, Json

T = TypeVar("T")

GATEWAYS = f"/apis/{API_VERSION}/{gateway_api.PLURAL}"
POLICIES = f"/apis/{API_VERSION}/{policy_api.PLURAL}"
CILIUM_CONFIG = "/api/v1/namespaces/kube-system/configmaps/cilium-config"
CALICO = "/apis/crd.projectcalico.org/v1"
_NODES_DNS = {"Default", "None"}
"""DNS policies of pods that don't ask the cluster's DNS."""


class Target(NamedTuple):
    """What to trace."""

    namespace: str
    pod: str
    host: str
    port: int
    server: str
    """The resolver to ask instead of the cluster's; empty for the cluster's."""


def gateways(cluster: Cluster) -> list[Json]:
    """All NAT64Gateways. Raises ClusterError."""
    return _objects(cluster, GATEWAYS, gateway_api.KIND)


def policies(cluster: Cluster) -> list[Json]:
    """All DNS64Policies. Raises ClusterError."""
    return _objects(cluster, POLICIES, policy_api.KIND)


def statuses(cluster: Cluster, found: list[Agent]) -> list[Report]:
    """What each agent reports about itself."""
    return agents.ask_all(cluster, found, lambda a: ("status", "--name", a.gateway, "-o", "json"))


def pod(cluster: Cluster, namespace: str, name: str) -> Json:
    """A pod. Raises ClusterError."""
    return cluster.get(f"/api/v1/namespaces/{namespace}/pods/{name}")


def pods(cluster: Cluster, node: str = "") -> list[Json]:
    """The pods of a node or of all, as far as the user may see them."""
    query = {"fieldSelector": f"spec.nodeName={node}"} if node else {}
    return some(lambda: cluster.items("/api/v1/pods", **query))


def dns_address(cluster: Cluster) -> str:
    """The address of the cluster's DNS; empty if it is unknown."""
    path = f"/api/v1/namespaces/{cluster_dns.NAMESPACE}/services"
    return cluster_dns.address(
        some(lambda: cluster.items(path, labelSelector=cluster_dns.SELECTOR))
    )


def for_trace(cluster: Cluster, namespace: str, target: Target) -> trace.Facts:
    """Everything that `trace` judges. Raises ClusterError if there is no such pod."""
    found = pod(cluster, target.namespace, target.pod)
    server = target.server or _server_of(cluster, found)
    clat = _clat_report(cluster, namespace, found, target)
    report = _trace_report(cluster, namespace, found, target, server, clat)
    gateway = _gateway_report(cluster, namespace, found, target, report)
    path = f"/apis/networking.k8s.io/v1/namespaces/{target.namespace}/networkpolicies"
    return trace.Facts(
        pod=found,
        host=target.host,
        port=target.port,
        server=server,
        report=report,
        policies=maybe(partial(policies, cluster)),
        network_policies=maybe(partial(cluster.items, path)),
        other_policies=_other_policies(cluster, target.namespace),
        explained=_explained(cluster, namespace, report, target.host, found),
        clat=clat,
        gateway=gateway,
    )


def for_doctor(cluster: Cluster, namespace: str) -> doctor.Facts:
    """Everything that `doctor` judges. What can't be read is named, and left out."""
    unread: dict[str, str] = {}
    objects = some(partial(gateways, cluster), "gateways", unread)
    wanted = some(partial(policies, cluster), "policies", unread)
    deployments = partial(
        cluster.items,
        f"/apis/apps/v1/namespaces/{namespace}/deployments",
        labelSelector="app.kubernetes.io/name=nat64-operator",
    )
    operator = some(deployments, "operator", unread)
    workloads: list[Json] = []
    for kind in ("DaemonSet", "Deployment"):
        read = partial(cluster.items, f"/apis/apps/v1/{kind.lower()}s")
        workloads += [{**item, "kind": kind} for item in some(read, f"{kind}s", unread)]
    corefiles: dict[tuple[str, str], dict[str, str]] = {}
    places = {doctor_coredns.place_of(policy) for policy in wanted} | set(
        map(doctor_coredns.custom_of, wanted)
    )
    for place in sorted(place for place in places if place is not None):
        get = partial(cluster.get, "/api/v1/namespaces/{}/configmaps/{}".format(*place))
        config_map = maybe(get, "/".join(place), unread)
        if config_map is not None:
            corefiles[place] = config_map.get("data") or {}
    found = some(partial(agents.find, cluster, namespace), "agents", unread)
    inspections = agents.ask_all(cluster, found, lambda _: ("inspect",))
    return doctor.Facts(
        gateways=objects,
        policies=wanted,
        operator=operator,
        nodes=some(partial(cluster.items, "/api/v1/nodes"), "nodes", unread),
        workloads=workloads,
        cilium=maybe(partial(cluster.get, CILIUM_CONFIG)),
        felix=maybe(partial(cluster.get, f"{CALICO}/felixconfigurations/default")),
        ip_pools=some(partial(cluster.items, f"{CALICO}/ippools")),
        corefiles=corefiles,
        inspections=inspections,
        statuses=statuses(cluster, found),
        clats=agents.ask_clats(cluster, found),
        standings=agents.ask_topology(cluster, found),
        probe=_probe(cluster, [r.agent for r in inspections if not r.error]) if wanted else None,
        namespace=namespace,
        unread=unread,
    )


def maybe(read: Callable[[], T], what: str = "", unread: dict[str, str] | None = None) -> T | None:
    """Read; if that fails, note why and continue without it."""
    try:
        return read()
    except ClusterError as error:
        if unread is not None:
            unread[what] = str(error)
        return None


def some(
    read: Callable[[], list[T]], what: str = "", unread: dict[str, str] | None = None
) -> list[T]:
    """The same for a list: empty if it can't be read."""
    return maybe(read, what, unread) or []


def _objects(cluster: Cluster, path: str, kind: str) -> list[Json]:
    try:
        return [{**item, "kind": kind} for item in cluster.items(path)]
    except ClusterError as error:
        if error.status == 404:
            raise ClusterError(
                f"the API server does not know {kind}: the chart's CRDs are not installed", 404
            ) from error
        raise


def _other_policies(cluster: Cluster, namespace: str) -> dict[str, list[str] | None]:
    """Names by kind, None if they can't be read, without the kinds that aren't installed."""
    found: dict[str, list[str] | None] = {}
    served: dict[str, bool] = {}
    for kind, path in network_policies.OTHER_KINDS.items():
        # A user who may not list a kind is refused before the kind is looked up. So discovery says
        # first whether the cluster has it.
        group = "/".join(path.split("/")[:4])
        if group not in served:
            served[group] = maybe(partial(cluster.get, group)) is not None
        if not served[group]:
            continue
        try:
            items = cluster.items(path.format(namespace=namespace))
        except ClusterError as error:
            if error.status != 404:
                found[kind] = None
        else:
            found[kind] = sorted(item["metadata"]["name"] for item in items)
    return found


def _server_of(cluster: Cluster, found: Json) -> str:
    """The resolver that a pod asks; empty if it isn't the cluster's."""
    spec = found["spec"]
    kind = spec.get("dnsPolicy", "ClusterFirst")
    given = (spec.get("dnsConfig") or {}).get("nameservers") or ()
    if kind == "None" and given:
        return str(given[0])
    if kind in _NODES_DNS or (kind == "ClusterFirst" and spec.get("hostNetwork")):
        return ""
    return dns_address(cluster)


def _clat_report(cluster: Cluster, namespace: str, found: Json, target: Target) -> Report | None:
    """What the agent for CLAT on the pod's node knows, where an IPv4 literal is the target."""
    address, node = trace.literal(target.host), found["spec"].get("nodeName")
    if address is None or address.version == 6 or not node:
        return None
    return next(iter(agents.ask_clats(cluster, agents.find(cluster, namespace, node))), None)


def _trace_report(
    cluster: Cluster,
    namespace: str,
    found: Json,
    target: Target,
    server: str,
    clat: Report | None,
) -> Report | None:
    addresses, node = trace.addresses(found, 6), found["spec"].get("nodeName")
    if not addresses or not node:
        return None
    argv = ["trace", "--client", addresses[0], "--port", str(target.port)]
    address = trace.literal(target.host)
    if address is None and server:
        argv += ["--host", target.host, "--server", server]
    elif address is not None and address.version == 6:
        argv += ["--destination", str(address)]
    elif clat is not None and not clat.error and clat.data["prefix"]:
        argv += ["--destination", trace_clat.literal_in(clat, target.host)]
    reports = agents.ask_all(cluster, agents.find(cluster, namespace, node), lambda _: argv)
    # If a node has several gateways: the one to which the destination belongs.
    for report in reports:
        if not report.error and any(map(_is_ours, report.data["destinations"])):
            return report
    return next((r for r in reports if not r.error), reports[0] if reports else None)


def _is_ours(destination: Json) -> bool:
    return bool(destination["translated"] or destination.get("steered"))


def _gateway_report(
    cluster: Cluster, namespace: str, found: Json, target: Target, report: Report | None
) -> Report | None:
    """What the gateway node says about the packet that the pod's node gives to it."""
    way = topology.steered(report.data) if report and not report.error else None
    node = ((way or {}).get("gateway") or {}).get("node")
    if report is None or way is None or not node:
        return None
    there = agents.find(cluster, namespace, node, report.agent.gateway)
    argv = ("trace", "--client", trace.addresses(found, 6)[0], "--port", str(target.port))
    asked = [agent for agent in there if not agent.router][:1]
    reports = agents.ask_all(cluster, asked, lambda _: (*argv, "--destination", way["address"]))
    return next(iter(reports), None)


def _explained(
    cluster: Cluster, namespace: str, report: Report | None, host: str, found: Json
) -> tuple[str, ...]:
    """The sidecar's answer for a name for which the cluster's DNS gave no address of ours."""
    if report is None or report.error or not report.data["dns"]:
        return ()
    if any(map(_is_ours, report.data["destinations"])):
        return ()
    argv = ("nat64-dns64", "explain", host, "--client", trace.addresses(found, 6)[0])
    agent = report.agent
    if agent.router:  # whose pod has no sidecar
        every = agents.find(cluster, namespace, gateway=agent.gateway)
        there = [one for one in every if not (one.router or one.why_not)]
        if not there:
            return ("no gateway node has a sidecar that can be asked",)
        agent = there[0]
    try:
        said = cluster.exec(agent.namespace, agent.pod, DNS64, argv)
    except ClusterError as error:
        return (str(error),)
    return tuple((said.stdout or said.stderr).rstrip().splitlines())


def _probe(cluster: Cluster, found: list[Agent]) -> Report | None:
    server = dns_address(cluster)
    if not found or not server:
        return None
    argv = ("trace", "--names-only", "--client", "::1", "--host", doctor.PROBE_NAME)
    return agents.ask(cluster, found[0], (*argv, "--server", server))
