"""`kubectl nat64 bundle`: one archive for a bug report."""

from __future__ import annotations

import io
import json
import os
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from nat64_operator.kubectl import agents, cluster_dns, doctor, facts, redact, status
from nat64_operator.kubectl.cluster import Cluster
from nat64_operator.kubectl.exec_output import ClusterError, Json
from nat64_operator.kubectl.output import Paint, to_json

SELECTORS = (
    "app.kubernetes.io/part-of=nat64-operator",
    "app.kubernetes.io/managed-by=nat64-operator",
)
KINDS = {
    "deployments": "/apis/apps/v1",
    "daemonsets": "/apis/apps/v1",
    "pods": "/api/v1",
    "services": "/api/v1",
    "configmaps": "/api/v1",
    "endpointslices": "/apis/discovery.k8s.io/v1",
    "leases": "/apis/coordination.k8s.io/v1",
}
NODE_FIELDS = ("addresses", "conditions", "nodeInfo", "allocatable")
OUR_KINDS = {"NAT64Gateway", "DNS64Policy"}
TAIL = 5000
"""Lines of each log."""
README = """\
Made by `kubectl nat64 bundle`.

objects/   objects of the API server; no Secret was read
status.*   what `kubectl nat64 status` says
doctor.*   what `kubectl nat64 doctor` says
nodes/     what each agent says about its node, and what it dropped
logs/      the last {tail} lines of each container, and of the one before it
MISSING    what could not be read, and why

{addresses}
"""
REDACTED = """\
Addresses of pods and of servers, and names in query logs, are replaced by <address-N> and
<name-N>: the same word is the same address everywhere in this archive. Addresses that the
configuration names, and those of nodes and Services, are shown. Read the archive before you give
it away."""
COMPLETE = "Addresses are shown (--with-addresses)."


class Bundle:
    """Files of an archive, by name; it lists what could not be read."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}
        self.missing: dict[str, str] = {}
        self.known: list[str] = []
        """Texts whose addresses may be shown."""

    def add(self, name: str, read: Callable[[], str], *, known: bool = False) -> None:
        """Add a file, or note why it is missing."""
        try:
            text = read()
        except ClusterError as error:
            self.missing[name] = str(error)
            return
        self.files[name] = text
        if known:
            self.known.append(text)

    def write(self, target: Path, *, with_addresses: bool) -> None:
        """Write the archive. Raises ClusterError."""
        redactor = redact.Redactor(self.known)
        root = target.name.removesuffix(".tar.gz")
        about = COMPLETE if with_addresses else REDACTED
        missing = "".join(f"{name}: {why}\n" for name, why in sorted(self.missing.items()))
        files = {
            "README": README.format(tail=TAIL, addresses=about),
            "MISSING": missing,
            **self.files,
        }
        new = target.with_name(target.name + ".new")
        try:
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as out, tarfile.open(fileobj=out, mode="w:gz") as tar:
                for name, text in files.items():
                    raw = (text if with_addresses else redactor.text(text)).encode()
                    info = tarfile.TarInfo(f"{root}/{name}")
                    info.size, info.mtime, info.mode = len(raw), int(time.time()), 0o600
                    tar.addfile(info, io.BytesIO(raw))
            new.replace(target)
        except OSError as error:
            raise ClusterError(f"{target}: {error.strerror}") from error


def gather(cluster: Cluster, namespace: str, say: Callable[[str], None]) -> Bundle:
    """Read everything that may be read. Never raises ClusterError."""
    bundle = Bundle()
    say("reading objects")
    _objects(bundle, cluster, namespace)
    say("asking the nodes")
    try:
        found = agents.find(cluster, namespace)
    except ClusterError as error:
        bundle.missing["nodes"] = str(error)
        found = []
    _nodes(bundle, cluster, found)
    say("running doctor")
    _conclusions(bundle, cluster, namespace, found)
    say("reading logs")
    _logs(bundle, cluster, namespace)
    return bundle


def _objects(bundle: Bundle, cluster: Cluster, namespace: str) -> None:
    for kind, read in (("nat64gateways", facts.gateways), ("dns64policies", facts.policies)):
        bundle.add(f"objects/{kind}.yaml", lambda r=read: _yaml(r(cluster)), known=True)  # type: ignore[misc]
    for kind, group in KINDS.items():
        path = f"{group}/namespaces/{namespace}/{kind}"
        # The addresses of pods are clients' addresses; those of the agents' pods are their nodes'.
        bundle.add(
            f"objects/{kind}.yaml",
            partial(_labelled, cluster, path),
            known=kind in ("services", "configmaps"),
        )
    bundle.add(
        "objects/nodes.yaml", lambda: _yaml(map(_node, cluster.items("/api/v1/nodes"))), known=True
    )
    bundle.add("objects/events.yaml", lambda: _yaml(_events(cluster, namespace)))
    dns = f"/api/v1/namespaces/{cluster_dns.NAMESPACE}"
    bundle.add("objects/coredns-configmaps.yaml", lambda: _yaml(_corefiles(cluster)), known=True)
    bundle.add(
        "objects/coredns-services.yaml",
        lambda: _yaml(cluster.items(f"{dns}/services", labelSelector=cluster_dns.SELECTOR)),
        known=True,
    )
    bundle.add(
        "objects/coredns-pods.yaml",
        lambda: _yaml(cluster.items(f"{dns}/pods", labelSelector=cluster_dns.SELECTOR)),
    )
    bundle.add("version.json", lambda: to_json(cluster.get("/version")))


def _labelled(cluster: Cluster, path: str) -> str:
    found: dict[str, Json] = {}
    for selector in SELECTORS:
        for item in cluster.items(path, labelSelector=selector):
            found[item["metadata"]["name"]] = item
    return _yaml(found[name] for name in sorted(found))


def _node(obj: Json) -> Json:
    """The interesting part of a node: not its images and annotations."""
    metadata, spec, state = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    return {
        "metadata": {"name": metadata["name"], "labels": metadata.get("labels") or {}},
        "spec": spec,
        "status": {key: state[key] for key in NODE_FIELDS if key in state},
    }


def _events(cluster: Cluster, namespace: str) -> Iterator[Json]:
    yield from cluster.items(f"/api/v1/namespaces/{namespace}/events")
    for event in cluster.items("/api/v1/namespaces/default/events"):
        if (event.get("involvedObject") or {}).get("kind") in OUR_KINDS:
            yield event


def _corefiles(cluster: Cluster) -> Iterator[Json]:
    places = {("kube-system", "coredns"), ("kube-system", "coredns-custom")}
    for policy in facts.some(partial(facts.policies, cluster)):
        dns = policy["spec"].get("coreDNS") or {}
        where = dns.get("namespace") or cluster_dns.NAMESPACE
        places |= {(where, dns[k]) for k in ("configMapName", "customConfigMapName") if k in dns}
    for where, name in sorted(places):
        try:
            yield cluster.get(f"/api/v1/namespaces/{where}/configmaps/{name}")
        except ClusterError as error:
            if error.status != 404:
                raise


def _nodes(bundle: Bundle, cluster: Cluster, found: list[agents.Agent]) -> None:
    for command, argv in (
        ("inspect", ("inspect",)),
        ("status", ("status", "-o", "json")),
        ("drops", ("drops", "-o", "json")),
    ):
        for report in agents.ask_all(cluster, found, partial(_named, command, argv)):
            name = f"nodes/{report.agent.node}/{report.agent.gateway}-{command}.json"
            if report.error:
                bundle.missing[name] = report.error
            else:
                bundle.files[name] = to_json(report.data)


def _named(command: str, argv: tuple[str, ...], agent: agents.Agent) -> tuple[str, ...]:
    return argv if command == "inspect" else (*argv, "--name", agent.gateway)


def _conclusions(
    bundle: Bundle, cluster: Cluster, namespace: str, found: list[agents.Agent]
) -> None:
    paint = Paint(False)

    def conclude() -> dict[str, Any]:
        policies = facts.some(partial(facts.policies, cluster))
        reports, clats = facts.statuses(cluster, found), agents.ask_clats(cluster, found)
        return status.build(facts.gateways(cluster), policies, reports, clats)

    try:
        built = conclude()
    except ClusterError as error:
        bundle.missing["status"] = str(error)
    else:
        bundle.files["status.txt"] = status.render(built, paint) + "\n"
        bundle.files["status.json"] = to_json(built)
    sections = doctor.judge(facts.for_doctor(cluster, namespace))
    bundle.files["doctor.txt"] = doctor.text(sections, paint) + "\n"
    bundle.files["doctor.json"] = to_json(doctor.plain(sections))


def _logs(bundle: Bundle, cluster: Cluster, namespace: str) -> None:
    places = [(namespace, selector) for selector in SELECTORS]
    places.append((cluster_dns.NAMESPACE, cluster_dns.SELECTOR))
    for where, selector in places:
        try:
            pods = cluster.items(f"/api/v1/namespaces/{where}/pods", labelSelector=selector)
        except ClusterError as error:
            bundle.missing[f"logs/{where}"] = str(error)
            continue
        for pod in pods:
            name = pod["metadata"]["name"]
            states = pod.get("status") or {}
            for state in (
                *(states.get("initContainerStatuses") or ()),
                *(states.get("containerStatuses") or ()),
            ):
                read = partial(cluster.log, where, name, state["name"], TAIL)
                bundle.add(f"logs/{name}/{state['name']}.log", read)
                if state.get("restartCount"):
                    before = partial(read, previous=True)
                    bundle.add(f"logs/{name}/{state['name']}.previous.log", before)


def _yaml(objects: Iterable[Json]) -> str:
    plain = json.loads(json.dumps([redact.clean(obj) for obj in objects]))
    return yaml.safe_dump_all(plain, sort_keys=False, width=120)
