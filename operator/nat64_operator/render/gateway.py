"""A gateway's manifests: the immutable config, the DaemonSet that mounts it, and its Service."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from nat64_dataplane import config
from nat64_operator.api.gateway import Gateway, UpdateType
from nat64_operator.api.topology import Clients
from nat64_operator.render import containers, names
from nat64_operator.render import daemonset as pods
from nat64_operator.render.manifest import config_map, finish
from nat64_operator.render.resources import translator_resources
from nat64_operator.settings import Settings


def translator_config(
    gateway: str, translator: config.Config, settings: Settings
) -> dict[str, Any]:
    """The ConfigMap, named by its content and immutable: a running pod's config can't change."""
    return config_map(
        names.translator_config(gateway, translator.content_hash),
        settings.namespace,
        names.labels(gateway),
        {names.TRANSLATOR_FILE: config.render(translator).decode()},
        immutable=True,
    )


SAME_NODE_SINCE = (1, 35)
"""The Kubernetes version since which `trafficDistribution: PreferSameNode` is always there."""


def service(
    gateway: Gateway,
    settings: Settings,
    *,
    withdrawn: bool = False,
    same_node: bool = False,
    unready: bool = False,
) -> dict[str, Any]:
    """The one address of all ready sidecars, to which CoreDNS forwards. If it is `withdrawn`, it
    has no endpoints, and a client that asks there is refused at once. `same_node` prefers the
    sidecar of the client's own node, so that a sidecar that dies affects no CoreDNS on other nodes.
    `unready`: sidecars count although their pods are not ready.
    """
    port, selector = gateway.ports.dns, names.pod_labels(gateway.name)
    if withdrawn:
        selector = {**selector, names.WITHDRAWN_LABEL: "true"}  # which no pod has
    return finish(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": names.dns_service(gateway.name),
                "namespace": settings.namespace,
                "labels": {**settings.service_labels, **names.labels(gateway.name)},
                "annotations": settings.service_annotations,
            },
            "spec": {
                "type": "ClusterIP",
                "ipFamilyPolicy": "SingleStack",
                "ipFamilies": ["IPv6"],
                "selector": selector,
                **({"trafficDistribution": "PreferSameNode"} if same_node else {}),
                **({"publishNotReadyAddresses": True} if unready else {}),
                "ports": [
                    {"name": "dns", "protocol": "UDP", "port": 53, "targetPort": port},
                    {"name": "dns-tcp", "protocol": "TCP", "port": 53, "targetPort": port},
                ],
            },
        }
    )


def daemon_set(
    gateway: Gateway,
    translator: config.Config,
    settings: Settings,
    kept_off: Collection[str] = (),
    *,
    had_clat: bool = False,
) -> dict[str, Any]:
    """The pods that translate and answer DNS on each node of the gateway, except the nodes that it
    is `kept_off`. `had_clat`: its nodes' pods may have a CLAT from before.
    """
    pod = _pod(gateway, gateway.spec.node_selector, translator, settings, had_clat=had_clat)
    if kept_off:
        pod["affinity"] = pods.affinity({}, kept_off)
    return _daemon_set(
        gateway, settings, names.daemon_set(gateway.name), pod, names.pod_labels(gateway.name)
    )


def routers_daemon_set(
    gateway: Gateway,
    steering: config.Config,
    settings: Settings,
    kept_off: Collection[str] = (),
    *,
    had_clat: bool = False,
) -> dict[str, Any]:
    """The pods on each node that steers to those that translate. They answer no DNS."""
    selector = (gateway.spec.clients or Clients()).node_selector
    pod = _pod(gateway, selector, steering, settings, had_clat=had_clat)
    pod["affinity"] = pods.affinity(gateway.spec.node_selector, kept_off)
    name, match = names.routers(gateway.name), names.router_labels(gateway.name)
    return _daemon_set(gateway, settings, name, pod, match, {names.COMPONENT: names.ROUTER})


def _pod(
    gateway: Gateway,
    selector: dict[str, str],
    translator: config.Config,
    settings: Settings,
    *,
    had_clat: bool,
) -> dict[str, Any]:
    """What pods of both roles have."""
    pod = pods.pod(
        settings,
        node_selector(selector),
        gateway.spec.tolerations,
        names.translator_config(gateway.name, translator.content_hash),
    )
    if not translator.is_router:
        corefile = names.sidecar_config(gateway.name, settings.dataplane_image)
        sources = [{"configMap": {"name": name}} for name in (corefile, names.CLIENTS)]
        projected = {"defaultMode": 0o444, "sources": sources}
        pod["volumes"].append({"name": "corefile", "projected": projected})
    nodes = {"name": names.node_file(gateway.name), "defaultMode": 0o444}
    pod["volumes"].append({"name": "node-file", "configMap": nodes})
    container = containers.with_node_file(
        containers.translator(
            settings,
            gateway.ports.translator,
            ["run"],
            advertises=bool(translator.advertise.interfaces),
        )
    )
    if translator.topology:
        routers = not translator.is_router
        container = containers.with_members(container, routers=routers)
        pod["volumes"].append(containers.members_volume(gateway.name, routers=routers))
    pod["initContainers"] = [containers.privileged(settings, "prepare")]
    sessions = translator.limits.sessions
    resources = translator_resources(settings.translator_resources, sessions)
    pod["containers"] = [{**container, "resources": resources}]
    if not translator.is_router:
        pod["containers"].append(containers.dns64(settings, gateway.ports))
    if translator.clat:
        pod["containers"].append(containers.clat(settings, gateway.ports.clat))
    elif had_clat:
        pod["initContainers"].append(containers.remove_clat(settings, lenient=True))
    if translator.clat or had_clat:
        pod["volumes"] += containers.clat_volumes(runtime=translator.clat is not None)
    return pod


def _daemon_set(
    gateway: Gateway,
    settings: Settings,
    name: str,
    pod: dict[str, Any],
    match: dict[str, str],
    more: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    strategy = gateway.spec.update_strategy
    by_hand = strategy.type is UpdateType.ON_DELETE or strategy.canary is not None
    return pods.daemon_set(
        name,
        settings,
        pod,
        match=match,
        labels={**names.labels(gateway.name), **match, **more},
        max_unavailable=None if by_hand else strategy.max_unavailable,
    )


def node_selector(selector: dict[str, str]) -> dict[str, str]:
    """A gateway's selector as its pods have it."""
    return {"kubernetes.io/os": "linux", **selector}
