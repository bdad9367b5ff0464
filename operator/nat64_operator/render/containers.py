"""The containers of a gateway's pods: what each runs, and with which rights on the node."""

from __future__ import annotations

from typing import Any

from nat64_dataplane import log_format
from nat64_operator.api.host_ports import Ports
from nat64_operator.render import names
from nat64_operator.settings import Settings

CONFIG_DIR = "/etc/nat64"
NODE_FILE_DIR = "/etc/nat64-nodes"
MEMBERS_DIR = "/etc/nat64-members"
COREFILE_DIR = "/etc/nat64-dns64"
RUN_DIR = "/run/nat64-operator"
BPF_DIR = "/sys/fs/bpf"
DNS64_USER = 65532
"""Any user without rights; the image's other files are readable by all."""

# Every capability is dropped except those that the translator uses: links, routes and tc hooks;
# programs and maps; packet access that the verifier grants only with it.
TRANSLATOR_CAPABILITIES = ("NET_ADMIN", "BPF", "PERFMON")
ADVERTISING_CAPABILITIES = (*TRANSLATOR_CAPABILITIES, "NET_RAW")
"""Router Advertisements need a raw socket: only a translator that sends them may open one."""

NETNS_DIR = "/run/netns"
"""Where the runtimes mount the pods' network namespaces."""
CLAT_RUN_DIR = "/run/nat64-clat"
RUNTIME_DIRS = {
    "containerd": "/run/containerd/io.containerd.runtime.v2.task/k8s.io",
    "crio": "/run/containers/storage/overlay-containers",
}
"""Where the runtimes have the pods' names and annotations."""

# Beside the translator's: entering a network namespace takes SYS_ADMIN, and it is the only thing
# that this is for.
CLAT_CAPABILITIES = ("SYS_ADMIN", *TRANSLATOR_CAPABILITIES)

TRANSLATOR_READY_TIMING = {"periodSeconds": 1, "timeoutSeconds": 3, "failureThreshold": 10}
"""A translator that is started again is ready as soon as it says so, because its sidecar leaves the
Service meanwhile. One that isn't ready has ten seconds before that is a failure of the pod."""
READY_TIMING = {"periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 2}
"""A sidecar that no longer answers leaves the Service within two seconds. Until then CoreDNS may
ask it, and then ask upstreams that don't synthesize."""


def _container(
    settings: Settings, name: str, command: list[str], capabilities: tuple[str, ...], **rest: Any
) -> dict[str, Any]:
    """A container that runs as root with these capabilities, and no others."""
    return {
        "name": name,
        "image": settings.dataplane_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": command,
        **_log_format(settings),
        "securityContext": {
            "privileged": False,
            # The kernel's rule: with SYS_ADMIN, it can't be false.
            "allowPrivilegeEscalation": "SYS_ADMIN" in capabilities,
            "readOnlyRootFilesystem": True,
            "runAsUser": 0,
            "capabilities": {"drop": ["ALL"], "add": list(capabilities)},
            # The runtimes' default profiles refuse setns, and writes under /sys, where the pins
            # are.
            "appArmorProfile": {"type": "Unconfined"},
            **_selinux(settings),
        },
        **rest,
    }


def privileged(settings: Settings, command: str) -> dict[str, Any]:
    """The init container with all rights, for `prepare` and `remove`. It mounts bpffs on the host,
    sets the node's sysctls and, at the end, restores them.
    """
    return {
        "name": command,
        "image": settings.dataplane_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["nat64-translator", command, "--config", _config_path()],
        **_log_format(settings),
        "securityContext": {
            "privileged": True,
            "readOnlyRootFilesystem": True,
            "runAsUser": 0,
            **_selinux(settings),
        },
        "resources": settings.translator_resources,
        "volumeMounts": [
            {"name": "config", "mountPath": CONFIG_DIR, "readOnly": True},
            # Bidirectional: the bpffs that it mounts must be there for the node, and stay.
            {"name": "bpf", "mountPath": BPF_DIR, "mountPropagation": "Bidirectional"},
            {"name": "run", "mountPath": RUN_DIR},
        ],
    }


def translator(
    settings: Settings, port: int, command: list[str], *, advertises: bool = False
) -> dict[str, Any]:
    """The translator's container. `port` serves its metrics and probes."""
    return _container(
        settings,
        "translator",
        ["nat64-translator", *command, "--config", _config_path()],
        ADVERTISING_CAPABILITIES if advertises else TRANSLATOR_CAPABILITIES,
        ports=[_port("metrics", port)],
        livenessProbe=_probe("/livez", port, periodSeconds=10, failureThreshold=6),
        readinessProbe=_probe("/readyz", port, **TRANSLATOR_READY_TIMING),
        resources=settings.translator_resources,
        volumeMounts=[
            {"name": "config", "mountPath": CONFIG_DIR, "readOnly": True},
            {"name": "bpf", "mountPath": BPF_DIR, "mountPropagation": "HostToContainer"},
            {"name": "run", "mountPath": RUN_DIR},
        ],
    )


def clat(settings: Settings, port: int) -> dict[str, Any]:
    """The container that gives pods their CLAT. It has no token and no address of its own; `port`
    serves its metrics and probes.
    """
    return _container(
        settings,
        names.CLAT,
        ["nat64-clat", "run", "--config", _config_path(), "--listen", f"[::]:{port}"],
        CLAT_CAPABILITIES,
        ports=[_port("clat-metrics", port)],
        livenessProbe=_probe("/livez", port, periodSeconds=10, failureThreshold=6),
        # No readiness: a pod that isn't ready leaves the Service of DNS64, and names matter more
        # than literals. Metrics, `kubectl nat64 status` and `doctor` tell.
        resources=settings.dns64_resources,
        volumeMounts=[
            *_clat_mounts(),
            *(
                {
                    "name": name,
                    "mountPath": path,
                    "readOnly": True,
                    # The root file systems of all containers are mounted below. Without this, each
                    # would stay mounted here when its container is gone.
                    "mountPropagation": "HostToContainer",
                }
                for name, path in RUNTIME_DIRS.items()
            ),
        ],
    )


def remove_clat(settings: Settings, *, lenient: bool) -> dict[str, Any]:
    """The init container that takes the CLAT out of all pods of the node. `lenient`: if that fails,
    the containers after it run all the same, because names matter more.
    """
    how = ["--lenient"] if lenient else []
    return _container(
        settings,
        names.REMOVE_CLAT,
        ["nat64-clat", "remove", "--config", _config_path(), *how],
        CLAT_CAPABILITIES,
        resources=settings.dns64_resources,
        volumeMounts=_clat_mounts(),
    )


def clat_volumes(*, runtime: bool) -> list[dict[str, Any]]:
    """The volumes of `clat`, and without `runtime` those of `remove_clat`."""
    paths = {"netns": NETNS_DIR, "clat-run": CLAT_RUN_DIR, **(RUNTIME_DIRS if runtime else {})}
    return [
        {"name": name, "hostPath": {"path": path, "type": "DirectoryOrCreate"}}
        for name, path in paths.items()
    ]


def _clat_mounts() -> list[dict[str, Any]]:
    return [
        {"name": "config", "mountPath": CONFIG_DIR, "readOnly": True},
        {"name": "bpf", "mountPath": BPF_DIR, "mountPropagation": "HostToContainer"},
        {"name": "clat-run", "mountPath": CLAT_RUN_DIR},
        # HostToContainer: the namespaces of pods that come later must be seen.
        {"name": "netns", "mountPath": NETNS_DIR, "mountPropagation": "HostToContainer"},
    ]


def with_node_file(container: dict[str, Any]) -> dict[str, Any]:
    """The translator's container, told which node it is on, and where what differs by node is."""
    where = {"fieldRef": {"apiVersion": "v1", "fieldPath": "spec.nodeName"}}
    # A folder, not a single file: a file's mount never sees a changed ConfigMap.
    mount = {"name": "node-file", "mountPath": NODE_FILE_DIR, "readOnly": True}
    return {
        **container,
        "env": [
            *container.get("env", ()),
            {"name": "NODE_NAME", "valueFrom": where},
            {"name": "NAT64_NODE_FILE", "value": f"{NODE_FILE_DIR}/{names.NODE_FILE}"},
        ],
        "volumeMounts": [*container["volumeMounts"], mount],
    }


def with_members(container: dict[str, Any], *, routers: bool) -> dict[str, Any]:
    """The translator's container, told where the nodes of its gateway are listed. `routers`: also
    those that steer, which is for those that translate.
    """
    files = {"NAT64_GATEWAYS": names.GATEWAYS_FILE}
    if routers:
        files["NAT64_ROUTERS"] = names.ROUTERS_FILE
    where = {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.hostIP"}}
    mount = {"name": "members", "mountPath": MEMBERS_DIR, "readOnly": True}
    return {
        **container,
        "env": [
            *container["env"],
            *({"name": name, "value": f"{MEMBERS_DIR}/{file}"} for name, file in files.items()),
            # The address that other nodes know it by, and that the tunnel's packets come from.
            {"name": "NODE_ADDRESS", "valueFrom": where},
        ],
        "volumeMounts": [*container["volumeMounts"], mount],
    }


def members_volume(gateway: str, *, routers: bool) -> dict[str, Any]:
    """The volume of these lists, which change in place."""
    maps = [names.gateways(gateway), *([names.routers(gateway)] if routers else [])]
    return {
        "name": "members",
        "projected": {
            "defaultMode": 0o444,
            "sources": [{"configMap": {"name": name}} for name in maps],
        },
    }


def dns64(settings: Settings, ports: Ports) -> dict[str, Any]:
    """The sidecar's container. It has no capability at all."""
    return {
        "name": names.DNS64,
        "image": settings.dataplane_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["nat64-dns64", "run", "--corefile", f"{COREFILE_DIR}/{names.COREFILE}"],
        **_log_format(settings),
        "ports": [
            _port("dns", ports.dns, "UDP"),
            _port("dns-tcp", ports.dns),
            _port("dns-health", ports.dns_health),
            _port("dns-ready", ports.dns_ready),
            _port("dns-metrics", ports.dns_metrics),
        ],
        "livenessProbe": _probe("/health", ports.dns_health, periodSeconds=10, failureThreshold=6),
        "readinessProbe": _probe("/ready", ports.dns_ready, **READY_TIMING),
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


def _log_format(settings: Settings) -> dict[str, Any]:
    # Text is the programs' own default: without the variable, the pod template stays as in earlier
    # versions.
    if settings.log_format == "text":
        return {}
    return {"env": [{"name": log_format.VARIABLE, "value": settings.log_format}]}


def _config_path() -> str:
    return f"{CONFIG_DIR}/{names.TRANSLATOR_FILE}"


def _port(name: str, port: int, protocol: str = "TCP") -> dict[str, Any]:
    # hostPort equal to containerPort is what the API server would fill in on the host network;
    # it makes the scheduler see a clash with another pod.
    return {"name": name, "containerPort": port, "hostPort": port, "protocol": protocol}


def _probe(path: str, port: int, **timing: int) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": port}, **{"timeoutSeconds": 3, **timing}}


def _selinux(settings: Settings) -> dict[str, Any]:
    return {"seLinuxOptions": settings.selinux_options} if settings.selinux_options else {}
