"""A gateway's manifests: the immutable config, the DaemonSet that mounts it, and its Service."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Self

from nat64_dataplane import config
from nat64_operator.api.gateway import Gateway, Ports
from nat64_operator.render import names, quantity
from nat64_operator.render.manifest import config_map, finish
from nat64_operator.settings import Settings

CONFIG_DIR = "/etc/nat64"
COREFILE_DIR = "/etc/nat64-dns64"
RUN_DIR = "/run/nat64-operator"
BPF_DIR = "/sys/fs/bpf"
DNS64_USER = 65532
"""Any user without rights; the image's other files are readable by all."""
DNS64_GRACE_SECONDS = 30
"""Longer than the sidecar's lameduck period, in which it answers until CoreDNS has moved on."""

# The kernel charges maps to the container that makes them: so much for each session that there may
# be, and so much more for each that there is (docs/dataplane.md has how it was measured).
BYTES_PER_SESSION_ALLOWED = 48
BYTES_PER_SESSION = 352

# Every capability is dropped but those that the translator uses: links, routes and tc hooks;
# programs and maps; packet access that the verifier grants only with it.
TRANSLATOR_CAPABILITIES = ("NET_ADMIN", "BPF", "PERFMON")


def translator_config(
    gateway: str, translator: config.Config, settings: Settings
) -> dict[str, Any]:
    """The ConfigMap named by its content. Immutable: a rollout can't change under a running pod."""
    return config_map(
        names.translator_config(gateway, translator.content_hash),
        settings.namespace,
        names.labels(gateway),
        {names.TRANSLATOR_FILE: config.render(translator).decode()},
        immutable=True,
    )


def service(gateway: Gateway, settings: Settings) -> dict[str, Any]:
    """The one address of all ready sidecars: what CoreDNS forwards to."""
    port = gateway.ports.dns
    return finish(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": names.dns_service(gateway.name),
                "namespace": settings.namespace,
                "labels": names.labels(gateway.name),
            },
            "spec": {
                "type": "ClusterIP",
                "ipFamilyPolicy": "SingleStack",
                "ipFamilies": ["IPv6"],
                "selector": names.pod_labels(gateway.name),
                "ports": [
                    {"name": "dns", "protocol": "UDP", "port": 53, "targetPort": port},
                    {"name": "dns-tcp", "protocol": "TCP", "port": 53, "targetPort": port},
                ],
            },
        }
    )


def daemon_set(gateway: Gateway, translator: config.Config, settings: Settings) -> dict[str, Any]:
    """The pods that translate and answer DNS on each node of the gateway."""
    pod = _pod(
        settings,
        node_selector(gateway.spec.node_selector),
        gateway.spec.tolerations,
        names.translator_config(gateway.name, translator.content_hash),
    )
    pod["volumes"].append(
        {
            "name": "corefile",
            "projected": {
                "defaultMode": 0o444,
                "sources": [
                    {"configMap": {"name": names.sidecar_config(gateway.name)}},
                    {"configMap": {"name": names.CLIENTS}},
                ],
            },
        }
    )
    pod["initContainers"] = [_on_the_host(settings, "prepare")]
    pod["containers"] = [
        {
            **_translator(settings, gateway.ports.translator, ["run"]),
            "resources": translator_resources(
                settings.translator_resources, translator.limits.sessions
            ),
        },
        _dns64(settings, gateway.ports),
    ]
    return _daemon_set(gateway.name, settings, pod, gateway.spec.update_strategy.max_unavailable)


def node_selector(selector: dict[str, str]) -> dict[str, str]:
    """A gateway's selector as its pods have it."""
    return {"kubernetes.io/os": "linux", **selector}


def translator_resources(resources: dict[str, Any], sessions: int) -> dict[str, Any]:
    """The translator's resources with the memory of its sessions on top: a limit without it would
    refuse connections long before `limits.sessions` does.
    """
    most = sessions * (BYTES_PER_SESSION_ALLOWED + BYTES_PER_SESSION)
    extra = {"requests": sessions * BYTES_PER_SESSION_ALLOWED, "limits": most}
    made = {kind: dict(values) for kind, values in resources.items()}
    for kind, size in extra.items():
        if "memory" in made.get(kind, {}):
            made[kind]["memory"] = quantity.plus(str(made[kind]["memory"]), size)
    return made


class Where(NamedTuple):
    """The nodes of a DaemonSet: by labels, or each by its name."""

    selector: dict[str, str]
    tolerations: tuple[dict[str, Any], ...]
    nodes: tuple[str, ...] = ()

    @classmethod
    def by_name(cls, nodes: Iterable[str]) -> Self:
        """These nodes, whatever their labels and taints."""
        return cls({}, ({"operator": "Exists"},), tuple(sorted(nodes)))


def removal(
    gateway: str, where: Where, config_name: str, port: int, settings: Settings
) -> dict[str, Any]:
    """The same DaemonSet in its last form: each pod removes what the translator left on its node,
    sysctls included, and turns ready once that is done. All nodes at once; there is nothing left
    to keep up.
    """
    pod = _pod(settings, where.selector, where.tolerations, config_name)
    pod["initContainers"] = [_on_the_host(settings, "remove")]
    pod["containers"] = [_translator(settings, port, ["remove", "--hold"])]
    if where.nodes:
        terms = [
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
            for node in where.nodes
        ]
        required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
        pod["affinity"] = {"nodeAffinity": required}
    return _daemon_set(gateway, settings, pod, "100%")


def nodes_by_name(daemon_set: Any) -> tuple[str, ...]:
    """The nodes that a DaemonSet names; none where it goes by labels."""
    pod = daemon_set["spec"]["template"]["spec"] if daemon_set else {}
    affinity = (pod.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    terms = required.get("nodeSelectorTerms") or ()
    fields = (field for term in terms for field in term.get("matchFields") or ())
    return tuple(value for field in fields for value in field.get("values") or ())


def leaving(
    gateway: str,
    nodes: Sequence[str],
    config_name: str,
    port: int,
    settings: Settings,
) -> dict[str, Any]:
    """What cleans nodes that a gateway is no longer on: the removal, on these nodes alone."""
    manifest = removal(gateway, Where.by_name(nodes), config_name, port, settings)
    spec = manifest["spec"]
    labels = {**names.labels(gateway), **names.leaving_labels(gateway)}
    spec["selector"] = {"matchLabels": names.leaving_labels(gateway)}
    spec["template"]["metadata"]["labels"] = labels
    metadata = {**manifest["metadata"], "name": names.leaving(gateway), "labels": labels}
    del metadata["annotations"]
    return finish({**manifest, "metadata": metadata})


def nodes_record(gateway: str, nodes: Iterable[str], settings: Settings) -> dict[str, Any]:
    """The ConfigMap that remembers which nodes a gateway was on: a pod that is gone can't tell."""
    return config_map(
        names.nodes_record(gateway),
        settings.namespace,
        names.labels(gateway),
        {names.NODES_KEY: "\n".join(sorted(nodes))},
    )


def _daemon_set(
    gateway: str, settings: Settings, pod: dict[str, Any], max_unavailable: int | str
) -> dict[str, Any]:
    return finish(
        {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {
                "name": names.daemon_set(gateway),
                "namespace": settings.namespace,
                "labels": names.labels(gateway),
            },
            "spec": {
                "selector": {"matchLabels": names.pod_labels(gateway)},
                "revisionHistoryLimit": 3,
                "updateStrategy": {
                    "type": "RollingUpdate",
                    "rollingUpdate": {"maxUnavailable": max_unavailable, "maxSurge": 0},
                },
                "template": {
                    "metadata": {
                        "labels": names.labels(gateway),
                        "annotations": {
                            "kubectl.kubernetes.io/default-container": "translator",
                        },
                    },
                    "spec": pod,
                },
            },
        }
    )


def _pod(
    settings: Settings,
    selector: dict[str, str],
    tolerations: tuple[dict[str, Any], ...],
    config_name: str,
) -> dict[str, Any]:
    pod: dict[str, Any] = {
        "hostNetwork": True,
        # The node's resolvers: cluster DNS must not depend on itself.
        "dnsPolicy": "Default",
        "priorityClassName": settings.priority_class,
        "serviceAccountName": settings.service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": DNS64_GRACE_SECONDS,
        "nodeSelector": selector,
        "tolerations": list(tolerations),
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "volumes": [
            {"name": "config", "configMap": {"name": config_name, "defaultMode": 0o444}},
            {"name": "bpf", "hostPath": {"path": BPF_DIR, "type": "DirectoryOrCreate"}},
            {"name": "run", "hostPath": {"path": RUN_DIR, "type": "DirectoryOrCreate"}},
        ],
    }
    if settings.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    return pod


def _on_the_host(settings: Settings, command: str) -> dict[str, Any]:
    """What only a privileged container may: mount bpffs on the host, set the node's sysctls and,
    in the end, put them back.
    """
    return {
        "name": command,
        "image": settings.dataplane_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["nat64-translator", command, "--config", _config_path()],
        "securityContext": {
            "privileged": True,
            "readOnlyRootFilesystem": True,
            "runAsUser": 0,
        },
        "resources": settings.translator_resources,
        "volumeMounts": [
            {"name": "config", "mountPath": CONFIG_DIR, "readOnly": True},
            # Bidirectional: the bpffs that it mounts must be there for the node, and stay.
            {"name": "bpf", "mountPath": BPF_DIR, "mountPropagation": "Bidirectional"},
            {"name": "run", "mountPath": RUN_DIR},
        ],
    }


def _translator(settings: Settings, port: int, command: list[str]) -> dict[str, Any]:
    return {
        "name": "translator",
        "image": settings.dataplane_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["nat64-translator", *command, "--config", _config_path()],
        "ports": [_port("metrics", port)],
        "livenessProbe": _probe("/livez", port, periodSeconds=10, failureThreshold=6),
        "readinessProbe": _probe("/readyz", port, periodSeconds=5, failureThreshold=2),
        "resources": settings.translator_resources,
        "securityContext": {
            "privileged": False,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsUser": 0,
            "capabilities": {"drop": ["ALL"], "add": list(TRANSLATOR_CAPABILITIES)},
            # The runtimes' default profile refuses writes under /sys, where the pins are.
            "appArmorProfile": {"type": "Unconfined"},
        },
        "volumeMounts": [
            {"name": "config", "mountPath": CONFIG_DIR, "readOnly": True},
            {"name": "bpf", "mountPath": BPF_DIR, "mountPropagation": "HostToContainer"},
            {"name": "run", "mountPath": RUN_DIR},
        ],
    }


def _dns64(settings: Settings, ports: Ports) -> dict[str, Any]:
    return {
        "name": names.DNS64,
        "image": settings.dataplane_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["nat64-dns64", "run", "--corefile", f"{COREFILE_DIR}/{names.COREFILE}"],
        "ports": [
            _port("dns", ports.dns, "UDP"),
            _port("dns-tcp", ports.dns),
            _port("dns-health", ports.dns_health),
            _port("dns-ready", ports.dns_ready),
            _port("dns-metrics", ports.dns_metrics),
        ],
        "livenessProbe": _probe("/health", ports.dns_health, periodSeconds=10, failureThreshold=6),
        "readinessProbe": _probe("/ready", ports.dns_ready, periodSeconds=5, failureThreshold=2),
        "resources": settings.dns64_resources,
        "securityContext": {
            "privileged": False,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "runAsUser": DNS64_USER,
            "runAsGroup": DNS64_USER,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            # A folder, not a single file: a file's mount never sees a changed ConfigMap.
            {"name": "corefile", "mountPath": COREFILE_DIR, "readOnly": True},
            {"name": "run", "mountPath": RUN_DIR, "readOnly": True},
        ],
    }


def _config_path() -> str:
    return f"{CONFIG_DIR}/{names.TRANSLATOR_FILE}"


def _port(name: str, port: int, protocol: str = "TCP") -> dict[str, Any]:
    # hostPort equal to containerPort is what the API server would fill in on the host network;
    # it makes the scheduler see a clash with another pod.
    return {"name": name, "containerPort": port, "hostPort": port, "protocol": protocol}


def _probe(path: str, port: int, **timing: int) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": port}, "timeoutSeconds": 3, **timing}
